"""Merging of steps along the same directions.

Ticks are whole numbers, so many steps of one stream and block are one step, exactly: what a run along a pool of
directions has done in any number of rounds is a tick for each of the pool.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import Block
from zowarmup.common.exact.steps import Step

_REACH = 1 << 31


def merged(steps: Sequence[Step]) -> list[Step]:
    """Steps that move the weights as `steps` do, at most one for each stream and block, in the order in which those
    first occur; more only where the sums do not fit a step."""
    gathered: dict[tuple[int, Block], list[Step]] = {}
    for step in steps:
        gathered.setdefault((step.seed, step.block), []).append(step)
    found: list[Step] = []
    for (seed, block), alike in gathered.items():
        if len(alike) == 1:
            found += alike
            continue
        total: NDArray[np.int64] = np.zeros(max(len(step.ticks) for step in alike), dtype=np.int64)
        for step in alike:
            total[: len(step.ticks)] += step.ticks
        fits = int(np.abs(total).sum()) < _REACH
        found += [Step(seed, block, tuple(total.tolist()))] if fits else alike
    return found
