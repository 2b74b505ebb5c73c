"""Robust aggregation: what a client counts with, trimmed means and medians, and bounds on one contribution's influence.

How many examples a client holds is its own claim, which nobody can check. In a mean weighted by examples it therefore
counts with no more than the run allows, and with no more than a few times the median of what the round's contributors
claim: with up to half of them lying, some honest client's claim is at least that median. The coordinate-wise trimmed
mean and median (Yin et al., arXiv 1803.01498) go without weights, so claims have no part in them; they are for
contributions whose coordinates mean the same from every client.

What a client sends has a norm: the root mean square of its scalars, the Euclidean norm of its delta. One larger than
`clip` times the reference is scaled down to that; nothing is dropped, so a client that is merely unusual still counts,
and its values keep their proportions. The reference is a trimmed mean: the root mean square over all clients but the
quarter, and at least the one, with the largest. So many can send anything without raising it beyond what honest clients
sent. It is taken over clients, since the values of one client are of one kind, whether honest or not. It is no median,
nor a median absolute deviation: half of the clients and more may fit the model already, as they often do where the data
differ, and a median is then nearly zero and says nothing about the others.

Of fewer than three nobody can say which is the outlier. For deltas a bound of another kind always holds, therefore: the
root mean square of a delta's values is scaled down to that of the model's weights (`largest_unclipped`). How far
scalars move the model the learning rate bounds, whoever sent them (`step_builder.held`). The order of the clients plays
no part in any of this.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.settings import Weighting
from zowarmup.common.algorithms.step_builder import Move
from zowarmup.common.algorithms.vectors import LARGEST, SMALLEST, TOLERANCE
from zowarmup.common.exact.layout import Block
from zowarmup.common.messages.values import Scalars

FEWEST_TO_TRIM = 3
"""Of fewer values none can be called an extreme."""


class Trimming(Protocol):
    """Settings that say how values are aggregated."""

    @property
    def aggregate(self) -> str:
        """How values are aggregated: "mean", "trimmed" or "median"."""
        ...

    @property
    def trim(self) -> float:
        """The share that "trimmed" leaves out at either end, above 0 and below 0.5."""
        ...


def counted(examples: Sequence[int], spec: Weighting) -> list[int]:
    """What each client of a round counts with in the mean.

    Args:
        examples: How many examples each claims to hold, at least 1, in any order.
        spec: The phase's settings.

    Returns:
        As many whole numbers, at least 1, in the same order. The median is the lower one of two.
    """
    if spec.weighting == "uniform":
        return [1] * len(examples)
    limits = [max(examples, default=0)]
    if spec.most_examples:
        limits.append(spec.most_examples)
    if spec.most_times_median and examples:
        median = sorted(examples)[(len(examples) - 1) // 2]
        limits.append(math.floor(spec.most_times_median * median))
    limit = min(limits)
    return [min(claim, limit) for claim in examples]


def left_out(values: int, spec: Trimming) -> int:
    """How many values the trimmed mean or the median leaves out at either end.

    Args:
        values: How many there are.
        spec: The phase's settings.

    Returns:
        0 for the mean, and where there are fewer than FEWEST_TO_TRIM values.
    """
    most = (values - 1) // 2 if values >= FEWEST_TO_TRIM else 0
    match spec.aggregate:
        case "mean":
            return 0
        case "median":
            return most
        case _:
            return min(most, math.ceil(spec.trim * values - 1e-9))


def trimmed_mean(values: NDArray[np.float64], out: int) -> NDArray[np.float64]:
    """For each coordinate the mean of the values that are left when `out` are left out at either end.

    Args:
        values: Float64 (clients, coordinates), a row for each client, in any order; sorted in place.
        out: As `left_out` says.

    Returns:
        Float64 (coordinates,): the same bits on every machine, since each sum goes from the lowest value to the
        highest.
    """
    values.sort(axis=0)
    kept = values[out : len(values) - out]
    mean = np.zeros(values.shape[1])
    for row in kept:
        mean += row
    mean /= len(kept)
    return mean


def trimmed_moves(each: Sequence[Sequence[Move]], spec: Trimming) -> list[Move]:
    """For each direction the trimmed mean, or the median, of how far the clients would move along it.

    Args:
        each: A client's moves, of every client of the round, in any order.
        spec: The phase's settings; `aggregate` is not the mean.

    Returns:
        One move for each direction that a client has probed. Where only some have, the value is among these, and counts
        as their share of the round, as it does in the mean. Where these are fewer than 3, and the round has more, it is
        0: Nothing would bound it.
    """
    along: dict[tuple[int, Block, int], list[float]] = {}
    for moves in each:
        own: dict[tuple[int, Block, int], list[float]] = {}
        for seed, block, direction, length in moves:
            own.setdefault((seed, block, direction), []).append(length)
        for place, lengths in own.items():
            along.setdefault(place, []).append(math.fsum(lengths))
    enough = min(FEWEST_TO_TRIM, len(each))
    found = []
    for (seed, block, direction), values in along.items():
        out = left_out(len(values), spec)
        kept = sorted(values)[out : len(values) - out]
        mean = math.fsum(kept) / len(kept) if len(values) >= enough else 0.0
        found.append(Move(seed, block, direction, mean * len(values) / len(each)))
    return found


FEWEST_NORMS = 3
LARGEST_SHARE = 4
"""One in so many clients, and at least one, does not count for the reference."""
SMALLEST_MODEL = 2.0**-5
"""A model whose weights are smaller than this, root mean square, counts as one whose are: from zeros one must get away."""


def reference_norm(norms: Sequence[float], floor: float = 0.0) -> float:
    """The root mean square of all norms but the largest quarter.

    Args:
        norms: One for each client's contribution, at least 0, in any order.
        floor: Norms of at most this say nothing about others: they are left out.

    Returns:
        In the unit of the norms, above `floor`; infinity with fewer than 3, among which no one is an outlier.
    """
    telling = sorted(norm for norm in norms if norm > floor)
    if len(telling) < FEWEST_NORMS:
        return math.inf
    kept = telling[: -max(1, len(telling) // LARGEST_SHARE)]
    # By the largest, so that no square vanishes or overflows.
    return kept[-1] * math.sqrt(math.fsum((norm / kept[-1]) ** 2 for norm in kept) / len(kept))


def largest_unclipped(model: float) -> float:
    """The largest root mean square of a delta's values that counts in full.

    Args:
        model: That of the weights to which it is added.

    Returns:
        In the same unit. Honest deltas on the digits were at most 0.4 times as large at usual rates (docs/method.md).
    """
    return max(model, SMALLEST_MODEL)


def clip_factors(norms: Sequence[float], clip: float, floor: float = 0.0, most: float = math.inf) -> tuple[float, ...]:
    """The factors that bound the norms of a round's contributions.

    Args:
        norms: One for each client's contribution, at least 0, in any order.
        clip: No norm stays above this many times the `reference_norm`; 0: nothing is scaled down.
        floor: As for `reference_norm`.
        most: No norm stays above this either.

    Returns:
        One for each norm, in the same order, at most 1.
    """
    limit = min(clip * reference_norm(norms, floor), most) if clip else math.inf
    return tuple(limit / norm if norm > limit else 1.0 for norm in norms)


def none_clipped(approximate: Sequence[float | None], clip: float, most: float = math.inf) -> bool:
    """Whether `clip_factors` of the exact norms are certainly all 1.

    Args:
        approximate: A `ApproximateNorm` of each, None where it is not known.
        clip: As there.
        most: As there, within TOLERANCE.
    """
    if not clip:
        return True
    known = [norm for norm in approximate if norm is not None and SMALLEST <= norm <= LARGEST]
    if len(known) < len(approximate):
        return False
    limit = min(clip * reference_norm(known), most) * (1 - TOLERANCE)
    return max(known) * (1 + TOLERANCE) <= limit


def clip_scalars(parts: Sequence[ClientScalars], limit: float, floor: float) -> tuple[tuple[ClientScalars, ...], int]:
    """Scale outlying clients' scalars down: probes by what the round's clients have for probes, projections likewise.

    Args:
        parts: Of a round, one for each client.
        limit: As `clip_factors` has `clip`.
        floor: As there.

    Returns:
        The parts in the same order, and how many scalars were scaled.
    """
    factors = zip(
        clip_factors([root_mean_square(part.scalars.probes) for part in parts], limit, floor),
        clip_factors([root_mean_square(part.scalars.projections) for part in parts], limit, floor),
        strict=True,
    )
    clipped = 0
    bounded: list[ClientScalars] = []
    for part, scales in zip(parts, factors, strict=True):
        given = part.scalars.probes, part.scalars.projections
        outlying = [scale < 1 for scale in scales]
        if any(outlying):
            clipped += sum(len(values) for values, beyond in zip(given, outlying, strict=True) if beyond)
            probes, projections = (
                tuple(scale * value for value in values) for scale, values in zip(scales, given, strict=True)
            )
            part = part._replace(scalars=Scalars(part.scalars.round, probes, projections))
        bounded.append(part)
    return tuple(bounded), clipped


def root_mean_square(values: Sequence[float]) -> float:
    """In the unit of the values; 0 where there are none."""
    return math.sqrt(math.fsum([value * value for value in values]) / len(values)) if values else 0.0
