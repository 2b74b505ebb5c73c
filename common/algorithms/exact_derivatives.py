"""Exact directional derivatives of a gradient, encoded as the scalars of probes are.

z . g is what a probe along z would find if its length went to zero and it saw no noise. So a client that has a gradient
can send projections of it in the place of probes, and whoever combines them need not care (Ferret, arXiv 2409.06277).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.directions import DIRECTIONS_PER_GROUP, walk
from zowarmup.common.exact.layout import Block
from zowarmup.common.exact.steps import PIECE


def project(gradient: NDArray[np.float64], seed: int, block: Block, count: int, first: int = 0) -> list[float]:
    """z_k . g for `count` directions k = first, first + 1, ... of stream `seed` in `block`; `gradient` is float64
    (block.size,)."""
    found: list[float] = []
    begin = first // DIRECTIONS_PER_GROUP
    for group in range(begin, -(-(first + count) // DIRECTIONS_PER_GROUP)):
        sums = np.zeros(DIRECTIONS_PER_GROUP)
        for start, lane in walk(seed, group, block.start, block.stop, PIECE):
            piece = gradient[start - block.start : start - block.start + lane.size]
            positive = np.unpackbits(lane[:, None], axis=1, bitorder="little")
            # A sign is twice its bit less one.
            sums += 2 * (piece @ positive) - piece.sum()
        found += sums.tolist()
    return found[first - begin * DIRECTIONS_PER_GROUP :][:count]


def as_float32(values: Sequence[float]) -> tuple[float, ...]:
    """What the wire carries."""
    with np.errstate(over="ignore"):  # becomes infinite, which Scalars refuses
        return tuple(np.array(values, dtype=np.float64).astype(np.float32).tolist())
