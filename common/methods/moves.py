"""Moves along directions, and the steps on the grid that they add up to."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from zowarmup.common.grid import Grid, HeadroomExceeded
from zowarmup.common.layout import Block
from zowarmup.common.steps import Step


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
    gathered: dict[tuple[int, Block], dict[int, list[float]]] = {}
    for seed, block, direction, length in moves:
        gathered.setdefault((seed, block), {}).setdefault(direction, []).append(length)
    return tuple(Step(seed, block, _whole_ticks(_summed(along), grid)) for (seed, block), along in gathered.items())


def _summed(along: dict[int, list[float]]) -> list[float]:
    """By direction; of a pool's many directions, a client's own step goes along few."""
    lengths = [0.0] * (max(along) + 1)
    for direction, some in along.items():
        lengths[direction] = math.fsum(some)
    return lengths


def _whole_ticks(lengths: list[float], grid: Grid) -> tuple[int, ...]:
    """The nearest whole ticks, ties to even."""
    tick = grid.tick
    exact = [length / tick for length in lengths]
    if not math.fsum(map(abs, exact)) < (1 << 31) - len(exact):
        raise HeadroomExceeded(
            f"a step of {math.fsum(map(abs, lengths)):.3g} is too long for the grid 2^-{grid.exponent}"
        )
    return tuple(map(round, exact))
