"""Probes of a model that is cut in two, on a device: directions above the cut on activations that are computed once.

The replica is bit for bit what it was, whatever is raised: what a side of a direction adds is taken back before anything else moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.directional_derivatives import GAUSSIAN_ROOT, Measured, differences, move_along
from zowarmup.common.algorithms.protocol import CutForward, LossAndGradient
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.steps import Direction, Weights


@dataclass(frozen=True, eq=False, slots=True)
class Nest:
    """Directions above the cut that are probed on the same activations.

    Args:
        lower: The direction below the cut along which the activations are displaced, to the same side as above; None: they are not.
        upper: At least one direction above the cut.
        examples: Indices into the local data, int64 (n,), at least one.
    """

    lower: Direction | None
    upper: tuple[Direction, ...]
    examples: NDArray[np.int64]


def measure_nests(
    weights: Weights,
    grid: Grid,
    forward: CutForward,
    nests: Sequence[Nest],
    eps: float,
    head: bool,
    normal: bool = False,
) -> Measured:
    """Measure directional derivatives by finite differences, one nest after another.

    That of a direction z above the cut, in a nest with y below it, is (L(w + eps y + eps z) - L(w - eps y - eps z)) / (2 eps). `weights`
    are bit for bit what they were when this returns or raises. What `forward` raises is passed on.

    Args:
        weights: Float32 (layout.size,), or a device's vector; on `grid` in what moves, moved in place under `forward`.
        grid: That they lie on.
        forward: The model's forward pass at `weights` as they are when it is called.
        nests: At least one.
        eps: How far to either side, in units of a weight; rounded to whole ticks of the coarser of the two blocks, at least one.
        head: Whether to collect the head's gradient, from the same forward passes.
        normal: Whether the directions are Gaussian ones, whose every sign moves by whole ticks.

    Returns:
        A derivative for each direction above, nest after nest, and the head's gradient averaged over both sides of all.

    Raises:
        HeadroomExceeded: `eps` is beyond the grid.
    """
    root = GAUSSIAN_ROOT if normal else 1
    blocks = [direction.block for nest in nests for direction in (nest.lower, *nest.upper) if direction]
    # As far in both blocks, or a derivative would be of neither.
    common = grid.over(min(block.start for block in blocks), max(block.stop for block in blocks))
    length = common.whole_ticks(eps / root) * common.tick

    def ticks(direction: Direction) -> int:
        return round(length / grid.over(direction.block.start, direction.block.stop).tick)

    def displaced(direction: Direction | None, piece: NDArray[np.int64]) -> tuple[Any, Any]:
        """What crosses the cut on the upper side of a direction below it, and on the lower side."""
        if direction is None:
            held = forward.lower(piece)
            return held, held
        sides, at = list[Any](), 0
        try:
            for side in (ticks(direction), -ticks(direction)):
                move_along(weights, grid, direction, side - at, normal)
                at = side
                sides.append(forward.lower(piece))
        finally:
            if at:
                move_along(weights, grid, direction, -at, normal)
        return sides[0], sides[1]

    def measured(nest: Nest, piece: NDArray[np.int64]) -> tuple[list[float], NDArray[np.float64] | None]:
        sides = displaced(nest.lower, piece)

        def evaluate(_: int, above: bool) -> LossAndGradient:
            return forward.upper(sides[0] if above else sides[1], head)

        found = differences(weights, grid, nest.upper, ticks(nest.upper[0]), normal, evaluate)
        return found.differences, found.head_gradient_sum

    derivatives: list[float] = []
    gradient: NDArray[np.float64] | float = 0.0
    for nest in nests:
        sums = np.zeros(len(nest.upper))
        for piece in forward.pieces(nest.examples):
            found, part = measured(nest, piece)
            sums += found
            gradient = gradient if part is None else gradient + part
        derivatives += (sums / len(nest.examples) / (2 * root * length)).tolist()
    total = 2 * sum(len(nest.examples) * len(nest.upper) for nest in nests)
    return Measured(derivatives, gradient / total if isinstance(gradient, np.ndarray) else None)
