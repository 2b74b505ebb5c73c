"""Moves along directions, and the steps on the grid that they add up to."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zowarmup.common.grid import Grid, HeadroomExceeded
from zowarmup.common.layout import Block
from zowarmup.common.steps import Step, mean_square

_MEASURED_BITS = 22
_MARGIN = 2.0**-13
"""What the measuring, in numbers of so many bits, may be wrong by."""


class Move(NamedTuple):
    """So far, in units of a weight, along direction `direction` of stream `seed` in `block`."""

    seed: int
    block: Block
    direction: int
    length: float


def steps_of(moves: Iterable[Move], grid: Grid) -> tuple[Step, ...]:
    """A step for each stream and block, in the order in which they first occur. Moves along one direction are summed
    before they are rounded, and the order in which they come plays no part in that. Raises HeadroomExceeded where a
    step is too long for `grid`."""
    return tuple(Step(seed, block, _whole_ticks(lengths, grid)) for (seed, block), lengths in _gathered(moves).items())


def held(moves: Sequence[Move], limit: float) -> list[Move]:
    """The moves, made shorter where together they would move a block's parameters too far.

    Args:
        moves: In any order; their blocks do not overlap.
        limit: In units of a weight, for the root mean square over a block's parameters.

    Returns:
        As many moves in the same order, those in one block scaled alike. How far they go is found in whole numbers, within
        a ten-thousandth, so the order of the moves plays no part.
    """
    blocks = {move.block for move in moves}
    factors = {block: _factor([move for move in moves if move.block == block], limit) for block in blocks}
    return [move._replace(length=move.length * factors[move.block]) for move in moves]


def _factor(moves: Sequence[Move], limit: float) -> float:
    gathered = _gathered(moves)
    furthest = math.fsum(abs(length) for lengths in gathered.values() for length in lengths)
    if furthest <= limit * (1 + _MARGIN):  # no parameter goes further
        return 1.0
    unit = math.ldexp(1.0, math.frexp(furthest)[1] - _MEASURED_BITS)
    steps = [
        Step(seed, block, tuple(round(length / unit) for length in lengths))
        for (seed, block), lengths in gathered.items()
    ]
    return min(1.0, limit / (unit * math.sqrt(mean_square(steps)) * (1 + _MARGIN) or math.inf))


def _gathered(moves: Iterable[Move]) -> dict[tuple[int, Block], list[float]]:
    """By stream and block, in the order in which these first occur: the length along each direction, from the first on.
    Of a pool's many directions, a client's own step goes along few."""
    gathered: dict[tuple[int, Block], dict[int, list[float]]] = {}
    for seed, block, direction, length in moves:
        gathered.setdefault((seed, block), {}).setdefault(direction, []).append(length)
    return {
        stream: [math.fsum(along.get(direction, ())) for direction in range(max(along) + 1)]
        for stream, along in gathered.items()
    }


def _whole_ticks(lengths: list[float], grid: Grid) -> tuple[int, ...]:
    """The nearest whole ticks, ties to even."""
    tick = grid.tick
    exact = [length / tick for length in lengths]
    if not math.fsum(map(abs, exact)) < (1 << 31) - len(exact):
        raise HeadroomExceeded(
            f"a step of {math.fsum(map(abs, lengths)):.3g} is too long for the grid 2^-{grid.exponent}"
        )
    return tuple(map(round, exact))
