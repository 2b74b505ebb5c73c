"""FedAvg: the warm-up phase, in which clients of the high tier train locally and send their full deltas.

McMahan et al., arXiv 1602.05629, as Legate et al., arXiv 2509.03503, use it before the pivot: the model moves by
`server_rate` times the example-weighted mean of the deltas, w + server_rate sum_i (n_i / N) delta_i, or another aggregate
of them (`aggregation`). Buffers (running mean and variance of BatchNorm) are part of the vector and averaged with it. A delta
far longer than the others', or than the model itself, is scaled down first (`robust`): one client, broken or hostile, cannot
lead the model away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.layout import Layout
from zowarmup.common.methods import robust, rough
from zowarmup.common.methods.aggregation import counted, left_out, trimmed_mean
from zowarmup.common.methods.vector import Each, Optimiser, Vector
from zowarmup.common.phases import WarmUp
from zowarmup.common.submodel import Submodel
from zowarmup.common.work import Delta, Tier, Work

PIECE = 1 << 18
"""Parameters averaged at a time: what is held beyond the result is a few pieces, whatever the model and the clients."""
LEAST_PIECE = 1 << 10
"""Where every client's values are held at once, a piece is shorter the more clients there are, down to this."""
Given = tuple[tuple[int, Vector], float]
"""What a client counts with, its delta, and the factor that its delta counts by."""


@dataclass(frozen=True, slots=True)
class FedAvg:
    """The warm-up of one run, as the coordinator sees it; local training is `tasks.classification`."""

    spec: WarmUp
    layout: Layout

    @property
    def remembered(self) -> int:
        """How many float32 values it needs from the round before."""
        return 0

    def check(self, work: Work, examples: int, delta: Delta) -> None:
        """Raises ValueError, saying what is wrong, where this is no answer to that work by a client of so many
        examples. The vector itself is checked as it is uploaded."""
        if delta.round != work.round:
            raise ValueError(f"delta: it is for round {delta.round}, the work was for round {work.round}")
        if delta.examples != examples:
            raise ValueError(f"delta: trained on {delta.examples} examples, the client said that it holds {examples}")

    def submodel(self, tier: Tier) -> Submodel | None:
        """What a client of that tier trains and uploads; None: all of the model."""
        return None

    def scales(self, lengths: Sequence[float], sizes: Sequence[int], model: float) -> tuple[float, ...]:
        """The factor for each delta: less than 1 where it is too long beside the others, or beside the model.

        Args:
            lengths: The deltas' Euclidean norms (`Length`).
            sizes: How many values each has.
            model: The norm of the weights that they are added to.
        """
        return robust.scales(lengths, self.spec.clip, most=self._most(model) * math.sqrt(self.layout.size))

    def takes_whole(self, lengths: Sequence[float | None], sizes: Sequence[int], model: float) -> bool:
        """Whether `scales` are certainly all 1, by what is roughly known of the lengths (`RoughLength`)."""
        return rough.none_too_long(lengths, self.spec.clip, self._most(model) * math.sqrt(self.layout.size))

    def _most(self, model: float) -> float:
        """The largest root mean square of a delta beside weights of that norm."""
        return robust.furthest(model / math.sqrt(self.layout.size))

    def combine(
        self,
        weights: NDArray[np.float32],
        deltas: Sequence[tuple[int, Vector]],
        scales: Sequence[float] | None = None,
        each: Each = map,
        optimiser: Optimiser | None = None,
    ) -> NDArray[np.float32]:
        """The next weights, a new float32 (layout.size,) array that is not yet on a grid.

        `deltas`: (claimed examples, float32 (layout.size,)), read piece by piece, so that those on disk stay there; aggregated in
        float64, summed in the order given, each times its scale (`scales` where they are known already). `each`: goes through
        the pieces, such as `map` of a pool of threads. `optimiser`: where the method remembers something, `remembered`
        values. Raises ValueError without deltas or where a vector has another shape or type.
        """
        if not deltas:
            raise ValueError("a round without deltas has no mean")
        allowed = {(part.layout if part else self.layout).size for part in map(self.submodel, Tier)}
        self._check(weights, {self.layout.size})
        for _, delta in deltas:
            self._check(delta, allowed)
        if scales is None:
            lengths, sizes = [length(delta) for _, delta in deltas], [delta.shape[0] for _, delta in deltas]
            scales = self.scales(lengths, sizes, length(weights))
        counts = counted([examples for examples, _ in deltas], self.spec)
        vectors = [delta for _, delta in deltas]
        given = list(zip(zip(counts, vectors, strict=True), scales, strict=True))
        extent = PIECE if self.spec.aggregate == "mean" else max(LEAST_PIECE, PIECE // len(deltas))
        moved = np.empty_like(weights)

        def move(start: int) -> None:
            piece = slice(start, min(start + extent, weights.size))
            mean = self.step(piece, self.aggregate(piece, given), optimiser)
            mean += weights[piece]
            with np.errstate(over="ignore"):  # becomes infinite
                moved[piece] = mean

        for _ in each(move, range(0, weights.size, extent)):
            pass
        return moved

    def _check(self, vector: Vector, sizes: set[int]) -> None:
        if vector.shape not in {(size,) for size in sizes} or vector.dtype != np.float32:
            allowed = " or ".join(f"({size},)" for size in sorted(sizes))
            raise ValueError(f"{self.spec.method}: a vector is {vector.dtype} {vector.shape}, not float32 {allowed}")

    def aggregate(self, piece: slice, given: Sequence[Given]) -> NDArray[np.float64]:
        """What the deltas, each times its scale, come to in a piece of the weights."""
        if self.spec.aggregate == "mean":
            return self.mean(piece, given)
        return self.trimmed([(delta[piece], scale) for (_, delta), scale in given])

    def trimmed(self, given: Sequence[tuple[NDArray[np.float32], float]]) -> NDArray[np.float64]:
        """The trimmed mean, or the median, of at least one client's values, float32 (n,) of each, times its scale."""
        values = np.empty((len(given), given[0][0].size))
        for row, (delta, scale) in zip(values, given, strict=True):
            np.multiply(delta, scale, out=row, dtype=np.float64)
        return trimmed_mean(values, left_out(len(given), self.spec))

    def mean(self, piece: slice, given: Sequence[Given]) -> NDArray[np.float64]:
        """The mean delta in a piece of the weights, by what clients count with, each times its scale."""
        total = sum(examples for (examples, _), _ in given)
        mean = np.zeros(piece.stop - piece.start)
        part = np.empty_like(mean)
        for (examples, delta), scale in given:
            part[:] = delta[piece]
            part *= scale * (examples / total)
            mean += part
        return mean

    def step(self, piece: slice, mean: NDArray[np.float64], optimiser: Optimiser | None) -> NDArray[np.float64]:
        """How far a piece of the weights moves, given the mean delta there, which may be written to."""
        mean *= self.spec.server_rate
        return mean


class Length:
    """The Euclidean norm of a flat float32 vector that comes in parts, the same however it is parted. numpy's own sum and
    no BLAS, whose order differs by machine."""

    def __init__(self) -> None:
        self._squares: list[float] = []
        self._rest: NDArray[np.float32] = np.empty(0, np.float32)

    def add(self, values: NDArray[np.float32]) -> None:
        """The next values, float32 (n,)."""
        if self._rest.size:
            values = np.concatenate((self._rest, values))
        whole = values.size - values.size % PIECE
        self._squares += [_square_sum(values[start : start + PIECE]) for start in range(0, whole, PIECE)]
        self._rest = values[whole:].copy()

    @property
    def value(self) -> float:
        return math.sqrt(math.fsum((*self._squares, _square_sum(self._rest))))


def length(vector: Vector) -> float:
    """The Euclidean norm of a vector, read piece by piece."""
    whole = Length()
    for start in range(0, vector.shape[0], PIECE):
        whole.add(vector[start : start + PIECE])
    return whole.value


def _square_sum(values: NDArray[np.float32]) -> float:
    wide = values.astype(np.float64)
    wide *= wide
    return float(wide.sum())
