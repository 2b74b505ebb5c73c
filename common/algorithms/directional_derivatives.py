"""Directional derivatives: finite differences (SPSA) by forward passes, exact ones of a gradient, and Gaussian
directions.

A probe moves the weights in place and back, MeZO's way (arXiv 2305.17333), made exact: on the grid, what it adds it
takes back, whatever is raised in between. The derivative along z is (L(w + eps z) - L(w - eps z)) / (2 eps), L the mean
loss over the probe's own examples. The head's gradient comes with the same forward passes where it is asked for.

z . g is what a probe along z would find if its length went to zero and it saw no noise. So a client that has a gradient
can send projections of it in the place of probes, and whoever aggregates them need not care (Ferret, arXiv 2409.06277).

Directions with approximately normal entries, for the paper's ablation, are made of sign vectors. Normal variates need a
logarithm or an exponential, and those differ between machines in the last bit. A quarter of the sum of 16 random signs
needs nothing: it has mean 0, variance 1 and a binomial distribution, whose fourth moment is 2.875 where the normal
one's is 3 (and a sign's 1). Gaussian direction k is the sum of the directions 16 k ... 16 k + 15 of its stream, and a
step along it is a step along those: as exact and as portable as signs are, at 16 ticks in a commit instead of one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.protocol import Forward, ForwardByExample, ForwardEach, LossAndGradient
from zowarmup.common.algorithms.step_builder import Move
from zowarmup.common.exact.directions import DIRECTIONS_PER_GROUP, walk
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block
from zowarmup.common.exact.steps import PIECE, Direction, Step, Weights, apply_steps, perturb, swap_direction


def project(gradient: NDArray[np.float64], seed: int, block: Block, count: int, first: int = 0) -> list[float]:
    """Exact directional derivatives z_k . g along directions of one stream.

    Args:
        gradient: g, float64 (block.size,).
        seed: Of the stream, 0 to 2^64 - 1.
        block: The parameters that `gradient` is of.
        count: Number of directions.
        first: The first of them.

    Returns:
        For each direction k = first .. first + count - 1, in the unit of the gradient.
    """
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


def project_each(gradients: NDArray[np.float64], seed: int, block: Block, count: int) -> NDArray[np.float64]:
    """As `project`, of several gradients.

    Args:
        gradients: Float64 (n, block.size).
        seed: Of the stream.
        block: The parameters that they are of.
        count: Number of directions, from the first on.

    Returns:
        Float64 (n, count).
    """
    found = np.empty((len(gradients), count))
    for first in range(0, count, DIRECTIONS_PER_GROUP):
        sums = np.zeros((len(gradients), DIRECTIONS_PER_GROUP))
        for start, lane in walk(seed, first // DIRECTIONS_PER_GROUP, block.start, block.stop, PIECE):
            piece = gradients[:, start - block.start : start - block.start + lane.size]
            signs = 2.0 * np.unpackbits(lane[:, None], axis=1, bitorder="little") - 1
            sums += piece @ signs
        found[:, first : first + DIRECTIONS_PER_GROUP] = sums[:, : count - first]
    return found


def as_float32(values: Sequence[float]) -> tuple[float, ...]:
    """What the wire carries."""
    with np.errstate(over="ignore"):  # becomes infinite, which Scalars refuses
        return tuple(np.array(values, dtype=np.float64).astype(np.float32).tolist())


GAUSSIAN_SIGNS = 2 * DIRECTIONS_PER_GROUP
"""The signs in an entry: whole groups, so that a direction costs two look-ups."""
GAUSSIAN_ROOT = math.isqrt(GAUSSIAN_SIGNS)


def over_signs(move: Move) -> list[Move]:
    """A move along a Gaussian direction as moves along its signs."""
    first = GAUSSIAN_SIGNS * move.direction
    return [move._replace(direction=first + part, length=move.length / GAUSSIAN_ROOT) for part in range(GAUSSIAN_SIGNS)]


def summed_signs(projections: Sequence[float]) -> list[float]:
    """Projections on Gaussian directions, from those on their signs, one direction after another."""
    return [
        math.fsum(projections[start : start + GAUSSIAN_SIGNS]) / GAUSSIAN_ROOT
        for start in range(0, len(projections), GAUSSIAN_SIGNS)
    ]


def displace(weights: Weights, grid: Grid, directions: Sequence[tuple[Direction, int]]) -> None:
    """Move the weights along Gaussian directions, in one walk, in place.

    Args:
        weights: Float32 (size,), or a device's vector.
        grid: That the weights lie on.
        directions: Pairs of a Gaussian direction and the ticks to move by along each of its signs.

    Raises:
        HeadroomExceeded: A weight would leave the grid; nothing is changed.
    """
    steps = [
        Step(d.seed, d.block, (0,) * (GAUSSIAN_SIGNS * d.index) + (ticks,) * GAUSSIAN_SIGNS) for d, ticks in directions
    ]
    apply_steps(weights, grid, steps)


@dataclass(frozen=True, eq=False, slots=True)
class Probe:
    """A direction, and the examples to try it on.

    Args:
        direction: Along which the weights are moved to either side.
        examples: Indices into the local data, int64 (n,), at least one.
    """

    direction: Direction
    examples: NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Measured:
    """What probes have found.

    Args:
        derivatives: The directional derivative of each probe, nats per unit of weight.
        head_gradient: The mean gradient of the head, float64 (head block's size,); None where it was not asked for.
    """

    derivatives: list[float]
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
    """Measure directional derivatives by finite differences, one probe after another, or several in one pass where the model lets each
    example have parameters of its own (MobiZO, arXiv 2409.15520).

    The derivative along z is (L(w + eps z) - L(w - eps z)) / (2 eps), L the mean loss over the probe's examples (MeZO,
    arXiv 2305.17333). `weights` are bit for bit what they were when this returns or raises. What `forward` raises is
    passed on.

    Args:
        weights: Float32 (layout.size,), or a device's vector; on `grid` in the probed block, moved in place under
            `forward`.
        grid: That they lie on.
        forward: The model's forward pass at `weights` as they are when it is called.
        probes: At least one, in the order to take them, with directions of one block.
        eps: How far to either side, in units of a weight; rounded to whole ticks, at least one.
        head: Whether to collect the head's gradient, from the same forward passes.
        normal: Whether the directions are Gaussian ones, whose every sign moves by whole ticks.

    Returns:
        A derivative for each probe. The head's gradient is averaged over both sides of every probe, which leaves an
        error of the order of eps^2.

    Raises:
        HeadroomExceeded: `eps` is beyond the grid.
    """
    root = GAUSSIAN_ROOT if normal else 1
    block = probes[0].direction.block
    unit = grid.over(block.start, block.stop)
    ticks = unit.whole_ticks(eps / root)
    if isinstance(weights, np.ndarray) and isinstance(forward, ForwardEach) and not normal and forward.at_once(block):
        return _measure_together(weights, grid, forward, probes, ticks, head)

    def evaluate(index: int, above: bool) -> LossAndGradient:
        return forward.evaluate(probes[index].examples, head)

    found = differences(weights, grid, [probe.direction for probe in probes], ticks, normal, evaluate)
    derivatives = [
        difference / len(probe.examples) / (2 * root * ticks * unit.tick)
        for difference, probe in zip(found.differences, probes, strict=True)
    ]
    # Averaged over both sides of every probe, which leaves an error of the order of eps^2.
    total = 2 * sum(len(probe.examples) for probe in probes)
    return Measured(derivatives, None if found.head_gradient_sum is None else found.head_gradient_sum / total)


def measure_each(
    weights: Weights,
    grid: Grid,
    forward: ForwardByExample,
    directions: Sequence[Direction],
    eps: float,
    normal: bool,
    found: NDArray[np.float64],
) -> None:
    """Measure the derivative of each example's loss along some directions, as `measure` does of a mean.

    Args:
        weights: As there; bit for bit what they were when this returns or raises.
        grid: That they lie on.
        forward: The model's forward pass over the local data.
        directions: At least one, of one block.
        eps: How far to either side, in units of a weight.
        normal: Whether the directions are Gaussian ones.
        found: Float64 (examples, m) of zeros, of which a column is filled for each direction: nats per unit of weight; not finite
            where a loss is not.

    Raises:
        HeadroomExceeded: `eps` is beyond the grid.
    """
    root, block = GAUSSIAN_ROOT if normal else 1, directions[0].block
    unit = grid.over(block.start, block.stop)
    ticks = unit.whole_ticks(eps / root)

    def evaluate(index: int, above: bool) -> LossAndGradient:
        with np.errstate(invalid="ignore"):
            for part in forward.by_example(False):
                found[part.examples, index] += part.losses if above else -part.losses
        return LossAndGradient(0.0, None)

    differences(weights, grid, directions, ticks, normal, evaluate)
    found[:, : len(directions)] /= 2 * root * ticks * unit.tick


@dataclass(frozen=True, eq=False, slots=True)
class Differences:
    """What a loss is on the two sides of some directions.

    Args:
        differences: Of each direction the loss above it, summed over the examples, less that below it, nats.
        head_gradient_sum: The head's gradient, summed over the examples of both sides of all directions, float64 (head block's
            size,); None where it was not asked for.
    """

    differences: list[float]
    head_gradient_sum: NDArray[np.float64] | None


def differences(
    weights: Weights,
    grid: Grid,
    directions: Sequence[Direction],
    ticks: int,
    normal: bool,
    evaluate: Callable[[int, bool], LossAndGradient],
) -> Differences:
    """Evaluate a loss on the two sides of one direction after another. `weights` are bit for bit what they were when this returns
    or raises; what `evaluate` raises is passed on.

    Args:
        weights: Float32 (layout.size,), or a device's vector; on `grid` in the directions' block, moved in place.
        grid: That they lie on.
        directions: At least one, of one block.
        ticks: How far to either side, of the grid over the block; along each sign of a Gaussian direction.
        normal: Whether the directions are Gaussian ones.
        evaluate: Asked with the place of a direction, and whether the weights are above.

    Raises:
        HeadroomExceeded: `ticks` is beyond the grid.
    """
    found: list[float] = []
    gradient: NDArray[np.float64] | float = 0.0
    previous, displaced = directions[0], 0
    try:
        for index, direction in enumerate(directions):
            _enter(weights, grid, previous if index else None, direction, ticks, normal)
            previous, displaced = direction, ticks
            above = evaluate(index, True)
            move_along(weights, grid, direction, -2 * ticks, normal)
            displaced = -ticks
            below = evaluate(index, False)
            found.append(above.loss_sum - below.loss_sum)
            if above.head_gradient_sum is not None and below.head_gradient_sum is not None:
                gradient = gradient + above.head_gradient_sum + below.head_gradient_sum
    finally:
        if displaced:
            move_along(weights, grid, previous, -displaced, normal)
    return Differences(found, gradient if isinstance(gradient, np.ndarray) else None)


def _measure_together(
    weights: NDArray[np.float32],
    grid: Grid,
    forward: ForwardEach,
    probes: Sequence[Probe],
    ticks: int,
    head: bool,
) -> Measured:
    """As `measure`, with both sides of several probes in one pass: the weights stay as they are."""
    block = probes[0].direction.block
    tick, most = grid.over(block.start, block.stop).tick, forward.at_once(block)
    derivatives: list[float] = []
    gradient: NDArray[np.float64] | float = 0.0
    for first in range(0, len(probes), most // 2):
        some = probes[first : first + most // 2]
        vectors = np.empty((2 * len(some), weights.size), np.float32)
        vectors[:] = weights
        for index, vector in enumerate(vectors):
            perturb(vector, grid, some[index // 2].direction, -ticks if index % 2 else ticks)
        found = forward.evaluate_each(vectors, [probe.examples for probe in some for _ in range(2)], head)
        counts = np.array([len(probe.examples) for probe in some])
        derivatives += ((found.loss_sums[::2] - found.loss_sums[1::2]) / counts / (2 * ticks * tick)).tolist()
        if found.head_gradient_sum is not None:
            gradient = gradient + found.head_gradient_sum
    total = 2 * sum(len(probe.examples) for probe in probes)
    return Measured(derivatives, np.asarray(gradient) / total if head else None)


def head_gradient(forward: Forward, examples: int) -> NDArray[np.float64]:
    """The gradient of the mean loss over all of the local data by the head's parameters, from one forward pass.

    Args:
        forward: The model's.
        examples: How many the client holds, at least 1.

    Returns:
        Float64 (head block's size,).
    """
    found = forward.evaluate(np.arange(examples, dtype=np.int64), True).head_gradient_sum
    assert found is not None
    return found / examples


def move_along(weights: Weights, grid: Grid, direction: Direction, ticks: int, normal: bool) -> None:
    """Move the weights along a direction, or along each sign of a Gaussian one, in place.

    Args:
        weights: Float32 (size,), or a device's vector.
        grid: That they lie on.
        direction: Along which.
        ticks: Of the grid over its block, of either sign.
        normal: Whether it is a Gaussian one.

    Raises:
        HeadroomExceeded: They are beyond the grid; nothing is changed.
    """
    if normal:
        displace(weights, grid, [(direction, ticks)])
    else:
        perturb(weights, grid, direction, ticks)


def _enter(
    weights: Weights, grid: Grid, leaving: Direction | None, entering: Direction, ticks: int, normal: bool
) -> None:
    """To the upper side of a direction, from the lower side of the one before, if there is one."""
    if leaving is None:
        move_along(weights, grid, entering, ticks, normal)
    elif normal:
        displace(weights, grid, [(leaving, ticks), (entering, ticks)])
    else:
        swap_direction(weights, grid, leaving, entering, ticks)
