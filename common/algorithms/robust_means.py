"""Weights of contributions, and robust means: trimmed means and medians.

How many examples a client holds is its own claim, which nobody can check. In a mean weighted by examples it therefore
counts with no more than the run allows, and with no more than a few times the median of what the round's contributors
claim: with up to half of them lying, some honest client's claim is at least that median. The coordinate-wise trimmed mean and median (Yin et al.,
arXiv 1803.01498) go without weights, so claims have no part in them; they are for contributions whose coordinates mean the
same from every client. The order of the clients plays no part in any of this.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.settings import Weighting
from zowarmup.common.algorithms.step_builder import Move
from zowarmup.common.exact.layout import Block

FEWEST_TO_TRIM = 3
"""Of fewer values none can be called an extreme."""


class Trimming(Protocol):
    """Settings that say how values are aggregated: "mean", "trimmed" (with `trim`) or "median"."""

    @property
    def aggregate(self) -> str: ...

    @property
    def trim(self) -> float: ...


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
    """How many of so many values the trimmed mean or the median leaves out at either end; 0 for the mean."""
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
        Float64 (coordinates,): the same bits on every machine, since each sum goes from the lowest value to the highest.
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
        One move for each direction that a client has probed. Where only some have, the value is among these, and counts as
        their share of the round, as it does in the mean. Where these are fewer than 3, and the round has more, it is 0: nothing
        would bound it.
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
