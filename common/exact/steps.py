"""Committed steps and probes, applied to the flat vector in place, exactly.

All of it is whole ticks of the grid, so sums are exact: steps may be applied in any order and grouping and give the
same bits, and what a probe adds it can take back without a copy. Both walk the vector in pieces that stay in the cache,
reading signs off their streams as they go.

Steps are added up by NumPy or, in a process that allows it (`allow_compiled`) and where Numba is installed, by compiled
code: whole numbers either way, so the bits are the same. Loading that takes a while, so a process does it once NumPy
has taken as long: it then never takes more than twice the time of knowing beforehand which would be better.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.directions import DIRECTIONS_PER_GROUP, KEY_LIMIT, lanes, walk
from zowarmup.common.exact.grid import LIMIT, Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Block

REGION = 1 << 18
"""Parameters whose sums of ticks are held at a time. Larger, a stream's seek costs less; smaller, they stay in cache."""
PIECE = 1 << 15
"""Parameters that one NumPy call works on, so that its scratch stays in the nearest caches."""

_SUMMED = 1 << 62
"""Sums of ticks stay below this, well within 64 bits."""

LOADING = 3_000_000_000
"""Signs' bytes that NumPy adds up in about the time that loading and compiling takes, a few seconds."""

AddUp = Callable[[NDArray[Any], int, int, int, NDArray[Any]], None]
"""Add table[b] to sums in place, for the bytes b of stream (seed, group) from start on: (sums, seed, group, start,
table); sums (n,) and table (256,) are both int32 or both int64."""

_BIT = np.uint8(1)
# Row b: the signs that byte b carries.
_SIGNS = 2 * ((np.arange(256, dtype=np.int64)[:, None] >> np.arange(DIRECTIONS_PER_GROUP)) & 1) - 1
_STILL = np.zeros(256, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Step:
    """Move the parameters of a block along the directions of one stream.

    Args:
        seed: Of the stream, 0 to 2^64 - 1.
        block: The parameters that move.
        ticks: ticks[k] is how far along direction k, in whole ticks of the grid over the block (`Grid.over`). Their
            magnitudes add up to fewer than 2^31.

    Raises:
        ValueError: `seed` does not fit 64 bits, or `ticks` are not such integers.
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
    def reverse(self) -> "Step":
        """The step that takes this one back."""
        return Step(self.seed, self.block, tuple(-tick for tick in self.ticks))

    @property
    def reach(self) -> int:
        """The most ticks by which this can move a parameter."""
        return sum(map(abs, self.ticks))


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a stream, restricted to a block.

    Args:
        seed: Of the stream, 0 to 2^64 - 1.
        index: Which of its directions, at least 0.
        block: The parameters that it moves.

    Raises:
        ValueError: `seed` or `index` is out of its range.
    """

    seed: int
    index: int
    block: Block

    def __post_init__(self) -> None:
        if not (0 <= self.seed < KEY_LIMIT and self.index >= 0):
            raise ValueError(f"direction: seed {self.seed} must fit 64 bits and index {self.index} be at least 0")


class DeviceVector(Protocol):
    """A flat vector of weights that is not NumPy's, such as one on an accelerator, and moves as this file says."""

    def perturb(self, grid: Grid, direction: Direction, ticks: int) -> None:
        """Add `ticks` ticks times a direction to its block, as the function `perturb` does.

        Args:
            grid: That the weights lie on.
            direction: Along which to move.
            ticks: Of the grid over the block (`Grid.over`), of either sign.

        Raises:
            HeadroomExceeded: `ticks` are more than LIMIT either way, counted in ticks of the block's finest part.
            ValueError: The block ends beyond the vector.
        """
        ...

    def part(self, start: int, stop: int) -> NDArray[np.float32]:
        """A copy of the weights [start, stop), float32."""
        ...

    def cross(self, grid: Grid, leaving: Direction, entering: Direction, ticks: int) -> None:
        """Go from one direction's lower side to another's upper side, as `swap_direction` does.

        Args:
            grid: That the weights lie on.
            leaving: The direction z that the weights are displaced along, by -ticks.
            entering: The direction z' to displace them along, by +ticks; of the same block.
            ticks: Of the grid over the block (`Grid.over`), of either sign.

        Raises:
            HeadroomExceeded: `ticks` are more than LIMIT either way, counted in ticks of the block's finest part.
            ValueError: The block ends beyond the vector, or the directions are of two blocks.
        """
        ...

    def apply_steps(self, grid: Grid, steps: Sequence[Step]) -> None:
        """Apply steps, as the function `apply_steps` does.

        Args:
            grid: That the weights lie on.
            steps: In any order.

        Raises:
            HeadroomExceeded: A parameter would end at LIMIT ticks or beyond, or the steps are longer than 64 bits hold
                in ticks of a block's finest part.
            ValueError: A block ends beyond the vector.
        """
        ...


Weights = NDArray[np.float32] | DeviceVector


def part_of(weights: Weights, start: int, stop: int) -> NDArray[np.float32]:
    """The weights [start, stop) of a vector, float32; not to be written."""
    return weights[start:stop] if isinstance(weights, np.ndarray) else weights.part(start, stop)


class _Compiled:
    """Whether this process may load compiled code, after how many bytes of signs, and how many it has added up without."""

    allowed = False
    after = LOADING
    walked = 0


def allow_compiled(after: int = LOADING) -> bool:
    """From now on let this process load compiled code, some 100 MB, when that pays: once it has added up `after` bytes of
    signs. Whether it is installed."""
    _Compiled.after = after
    _Compiled.allowed = importlib.util.find_spec("numba") is not None
    return _Compiled.allowed


def apply_steps(weights: Weights, grid: Grid, steps: Sequence[Step]) -> None:
    """Apply steps to the weights in place, in one pass.

    Where this raises, the weights are bit for bit what they were.

    Args:
        weights: Float32 (size,), or a device's vector; on `grid` wherever a step moves them.
        grid: That the weights lie on.
        steps: In any order, which plays no part in the result.

    Raises:
        HeadroomExceeded: A parameter would end at LIMIT ticks or beyond, or the steps are longer than 64 bits hold in
            ticks of a block's finest part.
        ValueError: A block ends beyond the vector, or `weights` are something else.
    """
    if not isinstance(weights, np.ndarray):
        weights.apply_steps(grid, steps)
        return
    _check_vector(weights)
    check_steps(weights.size, steps)
    regions = list(_regions(steps, grid))
    exponents = step_exponents(steps, grid)
    add_up = _cheaper(_work(steps))
    for done, (start, stop, here) in enumerate(regions):
        moved = _moves(here, steps, start, stop, add_up, exponents)
        moved += weights[start:stop]
        # The sums may be beyond what float32 holds exactly, but rounding never brings one back below the limit.
        if not (moved.min() > -here.limit and moved.max() < here.limit):
            # The same exact sums, taken back, undo what is done.
            for low, high, there in regions[:done]:
                weights[low:high] -= _moves(there, steps, low, high, add_up, exponents)
            raise HeadroomExceeded(f"a weight would reach {here.limit:g}, the limit of the grid 2^-{here.exponent}")
        weights[start:stop] = moved


def perturb(weights: Weights, grid: Grid, direction: Direction, ticks: int) -> None:
    """Add `ticks` ticks times a direction to its block of the weights, in place.

    Exact for weights on the grid, so that the opposite ticks restore every bit. Where this raises, nothing is changed.

    Args:
        weights: Float32 (size,), or a device's vector.
        grid: That the weights lie on.
        direction: Along which to move.
        ticks: Of the grid over the block (`Grid.over`), of either sign.

    Raises:
        HeadroomExceeded: `ticks` are more than LIMIT either way, counted in ticks of the block's finest part.
        ValueError: The block ends beyond the vector, or `weights` are something else.
    """
    if isinstance(weights, np.ndarray):
        _add(weights, grid, ticks, direction)
    else:
        weights.perturb(grid, direction, ticks)


def swap_direction(weights: Weights, grid: Grid, leaving: Direction, entering: Direction, ticks: int) -> None:
    """Go from w - ticks z to w + ticks z', along two directions of one block, in one walk, in place.

    The result is that of `perturb` along the one, then along the other. Where this raises, nothing is changed.

    Args:
        weights: Float32 (size,), or a device's vector; they are w - ticks z.
        grid: That the weights lie on.
        leaving: The direction z.
        entering: The direction z'.
        ticks: Of the grid over the block (`Grid.over`), of either sign.

    Raises:
        HeadroomExceeded: `ticks` are more than LIMIT either way, counted in ticks of the block's finest part.
        ValueError: The block ends beyond the vector, the directions are of two blocks, or `weights` are something else.
    """
    if isinstance(weights, np.ndarray):
        _add(weights, grid, ticks, leaving, entering)
    else:
        weights.cross(grid, leaving, entering, ticks)


def mean_square(steps: Sequence[Step]) -> float:
    """How far `steps`, of one block each alike, move a parameter of it: the mean square, in ticks, the same on every
    machine.

    Raises ValueError where they can move one by 2^23 ticks or more: squares are summed exactly, in 64 bits.
    """
    block, reach = steps[0].block, sum(step.reach for step in steps)
    if reach >= LIMIT:
        raise ValueError(f"steps reach {reach} ticks: squares below {LIMIT} are summed")
    add_up = _cheaper(_work(steps))
    total = 0
    for start, stop, here in _regions(steps, Grid(0)):
        sums = _sums(here, steps, start, stop, add_up, {}).astype(np.int64)
        total += sum(int(piece @ piece) for piece in np.split(sums, range(PIECE, sums.size, PIECE)))
    return total / block.size


def spans(steps: Sequence[Step], grid: Grid) -> Iterator[tuple[int, int, Grid]]:
    """Find the ranges that some step moves, cut so that a step moves all of a range or nothing of it.

    Args:
        steps: In any order.
        grid: That the weights lie on.

    Yields:
        Start and stop of a range and the grid there, in ascending order. Ranges are cut at every block's edges and
        where the grid's exponent changes.
    """
    blocks = {step.block for step in steps}
    edges = sorted({edge for block in blocks for edge in (block.start, block.stop)})
    for low, high in pairwise(edges):
        if any(block.start <= low < block.stop for block in blocks):
            yield from grid.within(low, high)


def step_exponents(steps: Sequence[Step], grid: Grid) -> dict[Block, int]:
    """Find the exponent in whose ticks the steps of each block are, where the grid has several.

    Args:
        steps: In any order.
        grid: That the weights lie on.

    Returns:
        By block; nothing where the grid has one exponent.

    Raises:
        HeadroomExceeded: Steps are longer than 64 bits hold in ticks of the finest part that they move.
    """
    if not grid.ranges:
        return {}
    blocks = {step.block for step in steps}
    for block in blocks:
        reach = sum(step.reach for step in steps if step.block == block)
        if reach << grid.bits_over(block.start, block.stop) >= _SUMMED // max(1, len(blocks)):
            raise HeadroomExceeded(f"steps of {reach} ticks are too long for the finest part of block {block.name}")
    return {block: grid.over(block.start, block.stop).exponent for block in blocks}


def tables(step: Step) -> Iterator[NDArray[np.int64]]:
    """For one group of its directions after another, the ticks by which each byte of signs moves: int64 (256,)."""
    for first in range(0, len(step.ticks), DIRECTIONS_PER_GROUP):
        ticks = step.ticks[first : first + DIRECTIONS_PER_GROUP]
        yield _SIGNS[:, : len(ticks)] @ np.array(ticks, dtype=np.int64) if any(ticks) else _STILL


def check_steps(size: int, steps: Sequence[Step]) -> None:
    """Refuse steps that a vector has no room for.

    Args:
        size: Number of weights in the vector.
        steps: In any order.

    Raises:
        ValueError: A block ends beyond the vector.
    """
    for step in steps:
        _check_block(size, step.block)


def check_probe(size: int, grid: Grid, ticks: int, directions: Sequence[Direction]) -> tuple[Block, float]:
    """Refuse a move along directions that a vector cannot make at once.

    Args:
        size: Number of weights in the vector.
        grid: That the weights lie on.
        ticks: Of the grid over the directions' block (`Grid.over`), of either sign.
        directions: At least one, all of one block.

    Returns:
        The block, and the length of `ticks` in units of a weight.

    Raises:
        HeadroomExceeded: `ticks` are more than LIMIT either way, counted in ticks of the block's finest part.
        ValueError: The directions are of two blocks, or the block ends beyond the vector.
    """
    blocks = sorted({direction.block for direction in directions}, key=lambda block: block.start)
    if len(blocks) > 1:
        raise ValueError(f"cross: directions of two blocks, {blocks[0].name} and {blocks[1].name}")
    _check_block(size, blocks[0])
    start, stop = blocks[0].start, blocks[0].stop
    if abs(ticks) << grid.bits_over(start, stop) > LIMIT:
        raise HeadroomExceeded(f"a probe of {ticks} ticks is beyond {LIMIT}, the limit of a grid")
    return blocks[0], ticks * grid.over(start, stop).tick


def _regions(steps: Sequence[Step], grid: Grid) -> Iterator[tuple[int, int, Grid]]:
    for low, high, here in spans(steps, grid):
        for start in range(low, high, REGION):
            yield start, min(start + REGION, high), here


def _work(steps: Sequence[Step]) -> int:
    """The bytes of signs that `steps` read."""
    return sum(step.block.size * -(-len(step.ticks) // DIRECTIONS_PER_GROUP) for step in steps)


def _cheaper(work: int) -> AddUp:
    """The function that adds up `work` bytes of signs."""
    if not _Compiled.allowed:
        return _by_numpy
    _Compiled.walked += work
    if _Compiled.walked < _Compiled.after:
        return _by_numpy
    try:
        from zowarmup.common.exact.compiled import add_up
    except (ImportError, OSError):  # as Numba says that it does not know this NumPy, or may not make code
        _Compiled.allowed = False
        return _by_numpy
    return add_up


def _moves(
    here: Grid, steps: Sequence[Step], start: int, stop: int, add_up: AddUp, exponents: Mapping[Block, int]
) -> NDArray[np.float32]:
    """What `steps` add to the parameters start .. stop - 1, a range of `_regions` whose grid is `here`: float32
    (stop - start,). `exponents`: `step_exponents`."""
    moves = _sums(here, steps, start, stop, add_up, exponents).astype(np.float32)
    moves *= np.float32(here.tick)
    return moves


def _sums(
    here: Grid, steps: Sequence[Step], start: int, stop: int, add_up: AddUp, exponents: Mapping[Block, int]
) -> NDArray[Any]:
    """The same in ticks of `here`: int32 or int64 (stop - start,)."""
    active = [
        (step, here.exponent - exponents.get(step.block, here.exponent))
        for step in steps
        if step.block.start <= start < step.block.stop
    ]
    integer = np.int32 if sum(step.reach << finer for step, finer in active) < 1 << 31 else np.int64
    sums = np.zeros(stop - start, dtype=integer)
    for step, finer in active:
        for group, table in enumerate(tables(step)):
            if table is _STILL:
                continue  # of a pool's many directions a step moves along few
            add_up(sums, step.seed, group, start, (table << finer if finer else table).astype(integer))
    return sums


def _by_numpy(sums: NDArray[Any], seed: int, group: int, start: int, table: NDArray[Any]) -> None:
    """See `AddUp`."""
    signs = lanes(seed, group, start, sums.size)
    looked_up = np.empty(min(sums.size, PIECE), dtype=sums.dtype)
    places = np.empty(looked_up.size, dtype=np.intp)
    for low in range(0, sums.size, PIECE):
        piece = signs[low : low + PIECE]
        place, found = places[: piece.size], looked_up[: piece.size]
        np.copyto(place, piece)
        # "wrap" skips the buffer with which "raise" guards `out`; a byte is never outside the table.
        np.take(table, place, out=found, mode="wrap")
        total = sums[low : low + PIECE]
        np.add(total, found, out=total)


def _add(weights: NDArray[np.float32], grid: Grid, ticks: int, *directions: Direction) -> None:
    """Add `ticks` ticks times the sum of `directions`, which share one block, in one walk."""
    _check_vector(weights)
    block, moved = check_probe(weights.size, grid, ticks, directions)
    length = np.float32(moved)
    # Neighbouring directions mostly share a stream: each is walked once.
    keys = [(direction.seed, direction.index // DIRECTIONS_PER_GROUP) for direction in directions]
    bits = [np.uint8(direction.index % DIRECTIONS_PER_GROUP) for direction in directions]
    walks = {key: walk(*key, block.start, block.stop, PIECE) for key in keys}
    scratch = np.empty(min(block.size, PIECE), dtype=np.float32)
    for pieces in zip(*walks.values(), strict=True):
        signs = dict(zip(walks, pieces, strict=True))
        start, piece = pieces[0]
        positive = (signs[keys[0]][1] >> bits[0]) & _BIT
        for key, bit in zip(keys[1:], bits[1:], strict=True):
            positive += (signs[key][1] >> bit) & _BIT
        # p of n directions positive: (2 p - n) times the length, each product and difference exact.
        move = scratch[: piece.size]
        np.copyto(move, positive)
        move *= 2 * length
        move -= len(directions) * length
        weights[start : start + piece.size] += move


def _check_vector(weights: NDArray[np.float32]) -> None:
    if weights.dtype != np.float32 or weights.ndim != 1:
        raise ValueError(f"weights are {weights.dtype} of shape {weights.shape}: must be one flat float32 vector")


def _check_block(size: int, block: Block) -> None:
    if block.stop > size:
        raise ValueError(f"block {block.name} ends at {block.stop}, the weights at {size}")
