"""Directions with approximately normal entries, made of sign vectors: for the paper's ablation.

Normal variates need a logarithm or an exponential, and those differ between machines in the last bit, so directions of
them could not be replayed by a fleet that is not all of a kind. A sum of random signs needs nothing: a quarter of 16 of
them has mean 0, variance 1 and a binomial distribution, whose fourth moment is 2.875 where the normal one's is 3 (and a
sign's 1), which is what the noise of a probe can tell of it. Gaussian direction k is the sum of the directions
16 k ... 16 k + 15 of its stream, and a step along it is a step along those. It is as exact and as portable as signs are;
it costs 16 ticks in a commit instead of one.
"""

import math
from collections.abc import Sequence

from zowarmup.common.algorithms.step_builder import Move
from zowarmup.common.exact.directions import DIRECTIONS_PER_GROUP
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.steps import Direction, Step, Weights, apply_steps

SIGNS = 2 * DIRECTIONS_PER_GROUP
"""The signs in an entry: whole groups, so that a direction costs two look-ups."""
ROOT = math.isqrt(SIGNS)


def spread(move: Move) -> list[Move]:
    """A move along a Gaussian direction as moves along its signs."""
    first = SIGNS * move.direction
    return [move._replace(direction=first + part, length=move.length / ROOT) for part in range(SIGNS)]


def summed(projections: Sequence[float]) -> list[float]:
    """Projections on Gaussian directions, from those on their signs, one direction after another."""
    return [math.fsum(projections[start : start + SIGNS]) / ROOT for start in range(0, len(projections), SIGNS)]


def displace(weights: Weights, grid: Grid, directions: Sequence[tuple[Direction, int]]) -> None:
    """Add `ticks` ticks of each sign of every (direction, ticks), in one walk. Raises HeadroomExceeded, nothing changed,
    where a weight would leave the grid."""
    steps = [Step(d.seed, d.block, (0,) * (SIGNS * d.index) + (ticks,) * SIGNS) for d, ticks in directions]
    apply_steps(weights, grid, steps)
