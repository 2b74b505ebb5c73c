"""From an estimate to a step: weighted moves along directions, Adam's size of them, and their rounding to the grid.

Adam (Kingma and Ba, arXiv 1412.6980; on a server: Reddi et al., arXiv 2003.00295) divides each parameter's step by the
root of a running mean of its squared gradient. Here the gradient of parameter p is an estimate, the sum over directions
of c_k z_kp with random signs z, whose mean square is the sum of c_k^2 and nearly the same for every p of a block: what
distinguishes the parameters, the square of their own gradient, is smaller by the number of parameters over that of
directions. So the diagonal that Adam would learn is a number for each block, and with a number the step stays a step:
ticks along seeded directions, exact, and no larger on the wire. (Adam-mini, arXiv 2406.16793, shares second moments
over blocks for its own reasons.) A first moment would have to be a vector, or the directions of all rounds that it
still remembers in every commit; it was tried on this estimate without gain (docs/method.md), and is left out.

The moments are the share of the past that is still missing (1 before the first round, for the bias correction) and then
one second moment for each block. They are part of a commit's event, so that a restart goes on with the same bits.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Block
from zowarmup.common.exact.steps import Step, mean_square

Moments = tuple[float, ...]
"""A server optimizer's state, where it is a few numbers: part of a commit's event."""
_MEASURED_BITS = 22
_MARGIN = 2.0**-13
"""What the measuring, in numbers of so many bits, may be wrong by."""
_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 times the golden section, odd."""
_STEP_BYTES = 12
"""Of a serialised step's seed, block, and tag of the ticks."""


class Move(NamedTuple):
    """A length along one direction.

    Args:
        seed: Of the direction's stream.
        block: The parameters that move.
        direction: Which of the stream's directions.
        length: In units of a weight.
    """

    seed: int
    block: Block
    direction: int
    length: float


class CommitCost(NamedTuple):
    """What a round's commit costs each who applies it, expected on average over the rounds.

    Args:
        bytes: Of its serialised steps, or of the whole model that takes their place.
        walks: How often applying goes through all parameters, each time along up to 8 directions.
    """

    bytes: float
    walks: float


def steps_of(moves: Iterable[Move], grid: Grid, turn: int) -> tuple[Step, ...]:
    """The steps that moves make on a grid.

    Moves along one direction are summed before they are rounded, and the order in which they come plays no part in
    that. A length between two whole ticks becomes either of them, so that it is itself in the mean: of a tenth of a
    tick, one in ten is a tick. Which it becomes follows from the stream, the block, the direction and the turn, and
    from nothing else.

    Args:
        moves: In units of a weight.
        grid: That the weights they move lie on.
        turn: Of the rounds, or local steps, that follow each other with moves of the same streams; at least 0.

    Returns:
        One for each stream and block, in the order in which these first occur.

    Raises:
        HeadroomExceeded: A step is too long for `grid`.
    """
    gathered = _gathered(moves)
    thresholds = _thresholds(((seed, block, len(lengths)) for (seed, block), lengths in gathered.items()), turn)
    return tuple(
        Step(seed, block, _whole_ticks(lengths, grid.over(block.start, block.stop), above))
        for ((seed, block), lengths), above in zip(gathered.items(), thresholds, strict=True)
    )


def held(moves: Sequence[Move], limit: float) -> list[Move]:
    """The moves, made shorter where together they would move a block's parameters too far.

    Args:
        moves: In any order; their blocks do not overlap.
        limit: In units of a weight, for the root mean square over a block's parameters.

    Returns:
        As many moves in the same order, those in one block scaled alike. How far they go is found in whole numbers,
        within a ten-thousandth, so the order of the moves plays no part.
    """
    within: dict[Block, list[Move]] = {}
    for block, some in groupby(moves, attrgetter("block")):
        within.setdefault(block, []).extend(some)
    factors = {block: _factor(some, limit) for block, some in within.items()}
    if all(factor == 1 for factor in factors.values()):
        return list(moves)
    return [Move(seed, block, index, length * factors[block]) for seed, block, index, length in moves]


def _factor(moves: Sequence[Move], limit: float) -> float:
    if math.fsum(abs(move.length) for move in moves) <= limit:  # even if no two opposed each other
        return 1.0
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
    for stream, some in groupby(moves, attrgetter("seed", "block")):
        along = gathered.setdefault(stream, {})
        for _, _, direction, length in some:
            along.setdefault(direction, []).append(length)
    return {
        stream: [math.fsum(along.get(direction, ())) for direction in range(max(along) + 1)]
        for stream, along in gathered.items()
    }


def _whole_ticks(lengths: list[float], grid: Grid, thresholds: NDArray[np.uint64]) -> tuple[int, ...]:
    """Of each length the whole ticks below or, where the rest is above the threshold, above it."""
    exact = np.array(lengths) / grid.tick
    if not math.fsum(np.abs(exact)) < (1 << 31) - len(lengths):
        raise HeadroomExceeded(
            f"a step of {math.fsum(map(abs, lengths)):.3g} is too long for the grid 2^-{grid.exponent}"
        )
    below = np.floor(exact)
    # The upper 53 bits, as a number from 0 to below 1.
    up = (thresholds >> np.uint64(11)) * 2.0**-53 < exact - below
    return tuple((below.astype(np.int64) + up).tolist())


def _thresholds(streams: Iterable[tuple[int, Block, int]], turn: int) -> Iterator[NDArray[np.uint64]]:
    """For each stream's seed, block and count, uniform 64-bit numbers for its directions 0, 1, ...: uint64 (count,).

    They come from the stream's seed, far from the places that its directions and permutations use. From turn to turn
    they advance by the golden section of their range, which spreads those of a stream that is used again and again (a
    pool's) more evenly than chance would.
    """
    # One generator is moved from stream to stream: to make one takes four times as long.
    generator = Philox(key=0)
    state: Any = generator.state
    for seed, block, count in streams:
        state["state"]["key"][:] = seed, 0
        state["state"]["counter"][:] = 0, 0, block.start, 1
        generator.state = state
        yield generator.random_raw(count) + np.uint64(turn * _GOLDEN % (1 << 64))


def expected_cost(moves: Iterable[Move], factors: Sequence[float], grid: Grid, parameters: int) -> CommitCost:
    """An estimate of what steps cost that are not known yet: lengths are taken to be normally distributed and independent.

    Args:
        moves: Their lengths are standard deviations.
        factors: What all lengths are multiplied by, in rounds spread evenly over the phase; at least one.
        grid: That the weights they move lie on.
        parameters: How many are trained.
    """
    squares: dict[tuple[int, Block], dict[int, float]] = {}
    for seed, block, direction, length in moves:
        along = squares.setdefault((seed, block), {})
        along[direction] = along.get(direction, 0.0) + length * length
    size = walks = 0.0
    for (_, block), along in squares.items():
        tick, count = grid.over(block.start, block.stop).tick, max(along) + 1
        ticks = float(count)  # one byte each, and more for those that are larger
        for square, alike in Counter(along.values()).items():
            larger = (_larger_bytes(math.sqrt(square) * factor / tick) for factor in factors)
            ticks += alike * math.fsum(larger) / len(factors)
        step = _STEP_BYTES + _varint_bytes(ticks) + ticks
        size += 1 + _varint_bytes(step) + step
        walks += -(-count // 8) * block.size / parameters
    return CommitCost(size, walks)


def _larger_bytes(deviation: float) -> float:
    """Beyond the first, the expected bytes of a tick with that standard deviation, as a zigzag varint."""
    limits = (1 << 6, 1 << 13, 1 << 20, 1 << 27)
    return sum(math.erfc(limit / (deviation * math.sqrt(2))) for limit in limits) if deviation else 0.0


def _varint_bytes(number: float) -> int:
    return max(1, -(-int(number).bit_length() // 7))


def mean_squares(moves: Iterable[Move], blocks: Sequence[Block]) -> list[float]:
    """For each block the mean square, over all signs, of what the moves do to one of its parameters.

    Args:
        moves: In any order.
        blocks: Those that are asked for.

    Returns:
        One for each of `blocks`, in the square of the moves' unit.
    """
    along: dict[tuple[Block, int, int], list[float]] = {}
    for seed, block, index, length in moves:
        along.setdefault((block, seed, index), []).append(length)
    squares = [(block, math.fsum(lengths) ** 2) for (block, _, _), lengths in along.items()]
    return [math.fsum(square for there, square in squares if there == block) for block in blocks]


def advanced_moments(before: Moments, squares: Sequence[float], beta2: float) -> Moments:
    """The server optimizer's state after a round.

    Args:
        before: The state before it; empty at the first round.
        squares: The round's `mean_squares`, one for each block.
        beta2: Of the running mean, 0 to below 1.

    Returns:
        The share of the past that is still missing, and then a second moment for each block.
    """
    missing, *seconds = before or (1.0, *(0.0 for _ in squares))
    return (missing * beta2, *(beta2 * v + (1 - beta2) * q for v, q in zip(seconds, squares, strict=True)))


def adam_sizes(moments: Moments) -> list[float]:
    """The root of each block's second moment, corrected for the start at 0."""
    missing, *seconds = moments
    return [math.sqrt(second / (1 - missing)) for second in seconds]
