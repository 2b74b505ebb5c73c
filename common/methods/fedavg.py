"""FedAvg: the warm-up phase, in which clients of the high tier train locally and send their full deltas.

McMahan et al., arXiv 1602.05629, as Legate et al., arXiv 2509.03503, use it before the pivot: the model moves by
`server_rate` times the example-weighted mean of the deltas, w + server_rate sum_i (n_i / N) delta_i. Buffers (running
mean and variance of BatchNorm) are part of the vector and averaged with it. A delta far longer than the round's median
is scaled down first (`robust`): one client, broken or hostile, cannot lead the model away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.layout import Layout
from zowarmup.common.methods import robust
from zowarmup.common.run import WarmUp
from zowarmup.common.work import Delta, Work

PIECE = 1 << 18
"""Parameters averaged at a time: what is held beyond the result is a few pieces, whatever the model and the clients."""


@dataclass(frozen=True, slots=True)
class FedAvg:
    """The warm-up of one run, as the coordinator sees it; local training is `tasks.classification`."""

    spec: WarmUp
    layout: Layout

    def check(self, work: Work, examples: int, delta: Delta) -> None:
        """Raises ValueError, saying what is wrong, where this is no answer to that work by a client of so many
        examples. The vector itself is checked as it is uploaded."""
        if delta.round != work.round:
            raise ValueError(f"delta: it is for round {delta.round}, the work was for round {work.round}")
        if delta.examples != examples:
            raise ValueError(f"delta: trained on {delta.examples} examples, the client said that it holds {examples}")

    def scales(self, deltas: Sequence[tuple[int, NDArray[np.float32]]]) -> tuple[float, ...]:
        """The factor for each delta, less than 1 where it is too long beside the others."""
        if not self.spec.clip or len(deltas) < robust.FEWEST_LENGTHS:
            return (1.0,) * len(deltas)
        return robust.scales([_length(delta) for _, delta in deltas], self.spec.clip)

    def combine(
        self,
        weights: NDArray[np.float32],
        deltas: Sequence[tuple[int, NDArray[np.float32]]],
        scales: Sequence[float] | None = None,
    ) -> NDArray[np.float32]:
        """The next weights, a new float32 (layout.size,) array that is not yet on a grid.

        `deltas`: (examples, float32 (layout.size,)), read piece by piece, so that memory maps stay on disk; summed in
        float64 in the order given, each times its scale (`scales` where they are known already). Raises ValueError without deltas or where a vector has another shape or type.
        """
        if not deltas:
            raise ValueError("a round without deltas has no mean")
        for vector in (weights, *(delta for _, delta in deltas)):
            if vector.shape != (self.layout.size,) or vector.dtype != np.float32:
                raise ValueError(
                    f"fedavg: a vector is {vector.dtype} {vector.shape}, not float32 ({self.layout.size},)"
                )
        if scales is None:
            scales = self.scales(deltas)
        total = sum(examples for examples, _ in deltas)
        moved = np.empty_like(weights)
        for start in range(0, weights.size, PIECE):
            piece = slice(start, start + PIECE)
            mean = np.zeros(weights[piece].size)
            for (examples, delta), scale in zip(deltas, scales, strict=True):
                mean += np.multiply(delta[piece], scale * (examples / total), dtype=np.float64)
            moved[piece] = weights[piece] + self.spec.server_rate * mean
        return moved


def _length(vector: NDArray[np.float32]) -> float:
    """The Euclidean norm, read piece by piece. numpy's own sum and no BLAS, whose order differs by machine."""
    pieces = (vector[start : start + PIECE].astype(np.float64) for start in range(0, vector.size, PIECE))
    return math.sqrt(math.fsum(float(np.sum(piece * piece)) for piece in pieces))
