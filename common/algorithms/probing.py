"""Finite-difference directional derivatives (SPSA): the weights are moved in place and back.

MeZO's way (arXiv 2305.17333), made exact: on the grid, what a probe adds it takes back, whatever is raised in between.
The slope along z is (L(w + eps z) - L(w - eps z)) / (2 eps), L the mean loss over the probe's own examples. The head's
gradient comes with the same forward passes where it is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms import gaussian
from zowarmup.common.algorithms.protocol import Forward
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.steps import Direction, Weights, perturb, swap_direction


@dataclass(frozen=True, eq=False, slots=True)
class Probe:
    """A direction, and the examples (indices into the local data, at least one) to try it on."""

    direction: Direction
    examples: NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Measured:
    """A slope for each probe, nats per unit of weight; the mean gradient of the head, float64, where it was asked for."""

    slopes: list[float]
    head_gradient: NDArray[np.float64] | None


def measure(
    weights: Weights,
    grid: Grid,
    forward: Forward,
    probes: Sequence[Probe],
    eps: float,
    head: bool,
    normal: bool = False,
) -> Measured:
    """Probe in order, with directions of one block, by the whole ticks that are nearest to `eps`. `normal`: along
    Gaussian directions (`gaussian`), whose every sign moves by whole ticks.

    `weights`, on `grid` in that block, are bit for bit what they were when this returns or raises. Raises
    HeadroomExceeded where eps is beyond the grid, and whatever `forward` raises.
    """
    root = gaussian.ROOT if normal else 1
    block = probes[0].direction.block
    unit = grid.over(block.start, block.stop)
    ticks = unit.whole_ticks(eps / root)
    slopes: list[float] = []
    gradient: NDArray[np.float64] | float = 0.0
    previous, displaced = probes[0], 0
    try:
        for index, probe in enumerate(probes):
            leaving = previous.direction if index else None
            _enter(weights, grid, leaving, probe.direction, ticks, normal)
            previous, displaced = probe, ticks
            above = forward.evaluate(probe.examples, head)
            _move(weights, grid, probe.direction, -2 * ticks, normal)
            displaced = -ticks
            below = forward.evaluate(probe.examples, head)
            slopes.append((above.loss_sum - below.loss_sum) / len(probe.examples) / (2 * root * ticks * unit.tick))
            if above.head_gradient_sum is not None and below.head_gradient_sum is not None:
                gradient = gradient + above.head_gradient_sum + below.head_gradient_sum
    finally:
        if displaced:
            _move(weights, grid, previous.direction, -displaced, normal)
    # Averaged over both sides of every probe, which leaves an error of the order of eps^2.
    total = 2 * sum(len(probe.examples) for probe in probes)
    return Measured(slopes, np.asarray(gradient) / total if head else None)


def _move(weights: Weights, grid: Grid, direction: Direction, ticks: int, normal: bool) -> None:
    if normal:
        gaussian.displace(weights, grid, [(direction, ticks)])
    else:
        perturb(weights, grid, direction, ticks)


def _enter(
    weights: Weights, grid: Grid, leaving: Direction | None, entering: Direction, ticks: int, normal: bool
) -> None:
    """To the upper side of a direction, from the lower side of the one before, if there is one."""
    if leaving is None:
        _move(weights, grid, entering, ticks, normal)
    elif normal:
        gaussian.displace(weights, grid, [(leaving, ticks), (entering, ticks)])
    else:
        swap_direction(weights, grid, leaving, entering, ticks)
