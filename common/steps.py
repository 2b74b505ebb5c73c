"""Moving the weights: committed steps, and the probes that come and go in place.

All of it is whole ticks of the grid, so sums are exact: steps may be applied in any order and grouping and give the
same bits, and what a probe adds it can take back without a copy. Both walk the vector in pieces that stay in the cache,
reading signs off their streams as they go.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.directions import DIRECTIONS_PER_GROUP, KEY_LIMIT, lanes, walk
from zowarmup.common.grid import LIMIT, Grid, HeadroomExceeded
from zowarmup.common.layout import Block

REGION = 1 << 17
"""Parameters whose sums of ticks are held at a time. Larger, a stream's seek costs less; smaller, they stay in cache."""
PIECE = 1 << 15
"""Parameters that one NumPy call works on, so that its scratch stays in the nearest caches."""

# Row b: the signs that byte b carries.
_SIGNS = 2 * ((np.arange(256, dtype=np.int64)[:, None] >> np.arange(DIRECTIONS_PER_GROUP)) & 1) - 1


@dataclass(frozen=True, slots=True)
class Step:
    """Move the parameters of `block` by ticks[k] along direction k of stream `seed`, for every k.

    Raises ValueError where the seed does not fit 64 bits, or the ticks are not integers whose magnitudes add up to
    fewer than 2^31.
    """

    seed: int
    block: Block
    ticks: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.seed < KEY_LIMIT:
            raise ValueError(f"step: seed {self.seed} does not fit 64 bits")
        if not all(isinstance(tick, int) for tick in self.ticks):
            raise ValueError("step: ticks must be whole numbers (int)")
        if self.reach >= 1 << 31:
            raise ValueError(f"step: ticks add up to {self.reach}, the most is 2^31 - 1")

    @property
    def reach(self) -> int:
        """The most ticks by which this can move a parameter."""
        return sum(map(abs, self.ticks))


@dataclass(frozen=True, slots=True)
class Direction:
    """Direction `index` of stream `seed`, restricted to `block`."""

    seed: int
    index: int
    block: Block

    def __post_init__(self) -> None:
        if not (0 <= self.seed < KEY_LIMIT and self.index >= 0):
            raise ValueError(f"direction: seed {self.seed} must fit 64 bits and index {self.index} be at least 0")


def apply_steps(weights: NDArray[np.float32], grid: Grid, steps: Sequence[Step]) -> None:
    """Apply `steps`, in one pass, to `weights`: float32 (size,), on `grid` wherever a step moves them, in place.

    Raises HeadroomExceeded where a parameter would end at LIMIT ticks or beyond, ValueError where a block ends beyond
    the vector; `weights` are then bit for bit what they were.
    """
    _check_vector(weights, [step.block for step in steps])
    regions = list(_regions(steps))
    for done, (start, stop) in enumerate(regions):
        moved = _moves(grid, steps, start, stop)
        moved += weights[start:stop]
        # The sums may be beyond what float32 holds exactly, but rounding never brings one back below the limit.
        if not (moved.min() > -grid.limit and moved.max() < grid.limit):
            # The same exact sums, taken back, undo what is done.
            for low, high in regions[:done]:
                weights[low:high] -= _moves(grid, steps, low, high)
            raise HeadroomExceeded(f"a weight would reach {grid.limit:g}, the limit of the grid 2^-{grid.exponent}")
        weights[start:stop] = moved


def perturb(weights: NDArray[np.float32], grid: Grid, direction: Direction, ticks: int) -> None:
    """Add `ticks` ticks times the direction to its block of `weights`: float32 (size,), in place.

    Exact, so that the opposite ticks restore every bit, for weights on the grid. Raises HeadroomExceeded where `ticks`
    are more than LIMIT either way, ValueError where the block ends beyond the vector; nothing is then changed.
    """
    _add(weights, grid, ticks, direction)


def cross(weights: NDArray[np.float32], grid: Grid, leaving: Direction, entering: Direction, ticks: int) -> None:
    """From w - ticks z of `leaving` to w + ticks z' of `entering`, two directions of one block, in one walk.

    The same as `perturb` along the one, then along the other. Raises as `perturb` does.
    """
    if leaving.block != entering.block:
        raise ValueError(f"cross: directions of two blocks, {leaving.block.name} and {entering.block.name}")
    _add(weights, grid, ticks, leaving, entering)


def _regions(steps: Sequence[Step]) -> Iterator[tuple[int, int]]:
    """The ranges that some step moves, in order, cut at every block's edges: a step moves all of a range or nothing."""
    blocks = {step.block for step in steps}
    edges = sorted({edge for block in blocks for edge in (block.start, block.stop)})
    for low, high in pairwise(edges):
        if any(block.start <= low < block.stop for block in blocks):
            for start in range(low, high, REGION):
                yield start, min(start + REGION, high)


def _moves(grid: Grid, steps: Sequence[Step], start: int, stop: int) -> NDArray[np.float32]:
    """What `steps` add to the parameters start .. stop - 1, a range of `_regions`: float32 (stop - start,)."""
    size = stop - start
    active = [step for step in steps if step.block.start <= start < step.block.stop]
    integer = np.int32 if sum(step.reach for step in active) < 1 << 31 else np.int64
    sums = np.zeros(size, dtype=integer)
    looked_up = np.empty(min(size, PIECE), dtype=integer)
    places = np.empty(min(size, PIECE), dtype=np.intp)
    for step in active:
        for group, ticks in enumerate(_groups(step.ticks)):
            table = (_SIGNS[:, : len(ticks)] @ ticks).astype(integer)
            signs = lanes(step.seed, group, start, size)
            for low in range(0, size, PIECE):
                piece = signs[low : low + PIECE]
                place, found = places[: piece.size], looked_up[: piece.size]
                np.copyto(place, piece)
                # "wrap" skips the buffer with which "raise" guards `out`; a byte is never outside the table.
                np.take(table, place, out=found, mode="wrap")
                total = sums[low : low + PIECE]
                np.add(total, found, out=total)
    moves = sums.astype(np.float32)
    moves *= np.float32(grid.tick)
    return moves


def _groups(ticks: tuple[int, ...]) -> Iterator[NDArray[np.int64]]:
    """The ticks of one group of directions after another."""
    every = np.array(ticks, dtype=np.int64)
    for first in range(0, every.size, DIRECTIONS_PER_GROUP):
        yield every[first : first + DIRECTIONS_PER_GROUP]


def _add(weights: NDArray[np.float32], grid: Grid, ticks: int, *directions: Direction) -> None:
    """Add `ticks` ticks times the sum of `directions`, which share one block, in one walk."""
    block = directions[0].block
    _check_vector(weights, [block])
    if abs(ticks) > LIMIT:
        raise HeadroomExceeded(f"a probe of {ticks} ticks is beyond {LIMIT}, the limit of a grid")
    length = np.float32(ticks * grid.tick)
    # Neighbouring directions mostly share a stream: each is walked once.
    keys = [(direction.seed, direction.index // DIRECTIONS_PER_GROUP) for direction in directions]
    bits = [np.uint8(direction.index % DIRECTIONS_PER_GROUP) for direction in directions]
    walks = {key: walk(*key, block.start, block.stop, PIECE) for key in keys}
    for pieces in zip(*walks.values(), strict=True):
        signs = dict(zip(walks, pieces, strict=True))
        start, piece = pieces[0]
        positive = np.zeros(piece.size, dtype=np.uint8)
        for key, bit in zip(keys, bits, strict=True):
            positive += (signs[key][1] >> bit) & np.uint8(1)
        # p of n directions positive: (2 p - n) times the length, each product and difference exact.
        move = positive.astype(np.float32)
        move *= 2 * length
        move -= len(directions) * length
        weights[start : start + piece.size] += move


def _check_vector(weights: NDArray[np.float32], blocks: Sequence[Block]) -> None:
    if weights.dtype != np.float32 or weights.ndim != 1:
        raise ValueError(f"weights are {weights.dtype} of shape {weights.shape}: must be one flat float32 vector")
    for block in blocks:
        if block.stop > weights.size:
            raise ValueError(f"block {block.name} ends at {block.stop}, the weights at {weights.size}")
