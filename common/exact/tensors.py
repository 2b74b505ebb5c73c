"""The exact core on torch tensors, on any device: directions, perturbations, steps.

The same bits as `directions` and `steps`, which remain the definition: Philox4x64-10 (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", 2011) by int64 arithmetic that wraps, one counter step an element, and whole ticks in
float32, which no order of adding and no fused multiply-add can change. A device has room, so the bytes of the last
stream are kept: eight neighbouring directions, and both sides of a probe, draw them once.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from zowarmup.common.exact.directions import DIRECTIONS_PER_GROUP, KEY_LIMIT
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Block
from zowarmup.common.exact.steps import Direction, Step, check_probe, check_steps, spans, step_exponents, tables

_COUNTER = 32  # bytes of one counter step
_ROUNDS = 10
_LOW = 0xFFFFFFFF


def _signed(word: int) -> int:
    """A uint64 as the int64 of the same bits."""
    word %= KEY_LIMIT
    return word - KEY_LIMIT if word >= KEY_LIMIT // 2 else word


# Of the counter's words 0 and 2.
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_INCREMENTS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def lanes(seed: int, group: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """Read a range of bytes of a stream on a device: the same as `directions.lanes`.

    Args:
        seed: Of the stream, 0 to 2^64 - 1.
        group: Of the stream, 0 to 2^64 - 1.
        start: Place of the first byte, at least 0.
        count: Number of bytes, at least 0.
        device: Where they are drawn.

    Returns:
        The bytes start .. start + count - 1: uint8 (count,) on `device`.

    Raises:
        ValueError: An argument is out of its range.
    """
    if not (0 <= seed < KEY_LIMIT and 0 <= group < KEY_LIMIT and start >= 0 and count >= 0):
        raise ValueError(f"stream ({seed}, {group}) from {start}, {count} bytes: out of bounds")
    first, last = start // _COUNTER, -(-(start + count) // _COUNTER)
    words = _draw(seed, group, first + 1, last - first, device)  # the generator counts before it draws
    return words.view(torch.uint8).flatten()[start - first * _COUNTER :][:count]


def _draw(seed: int, group: int, counter: int, count: int, device: torch.device) -> torch.Tensor:
    """The words of `count` counter steps: int64 (count, 4)."""
    multiplier = torch.tensor([[_signed(word)] for word in _MULTIPLIERS], device=device)
    low, high = multiplier & _LOW, (multiplier >> 32) & _LOW
    # Words 0 and 2 of every counter step are multiplied, words 1 and 3 are not: a row each.
    multiplied = torch.zeros((2, count), dtype=torch.int64, device=device)
    torch.arange(counter, counter + count, out=multiplied[0])
    carried = torch.zeros_like(multiplied)
    for number in range(_ROUNDS):
        keys = [[_signed(key + number * step)] for key, step in zip((seed, group), _INCREMENTS, strict=True)]
        upper = _upper(multiplied, low, high)
        lower = multiplied * multiplier
        multiplied = upper.flip(0) ^ carried ^ torch.tensor(keys, device=device)
        carried = lower.flip(0)
    return torch.stack((multiplied[0], carried[0], multiplied[1], carried[1]), dim=1)


def _upper(value: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The upper 64 bits of the product of `value` and a constant, unsigned, by products of their 32-bit halves."""
    value_low, value_high = value & _LOW, (value >> 32) & _LOW
    cross = value_low * high
    other = value_high * low
    middle = (((value_low * low) >> 32) & _LOW) + (cross & _LOW) + (other & _LOW)
    return value_high * high + ((cross >> 32) & _LOW) + ((other >> 32) & _LOW) + (middle >> 32)


class TorchVector:
    """A flat vector of weights on a device, at zeros until `load`; a `DeviceVector`.

    `tensor`, float32 (size,), is changed in place and stays where it is.

    Args:
        size: Number of weights.
        device: Where they are.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.tensor = torch.zeros(size, dtype=torch.float32, device=device)
        self._key: tuple[int, int, int, int] | None = None
        self._lanes = torch.empty(0, dtype=torch.uint8, device=device)

    def load(self, weights: NDArray[np.float32]) -> None:
        """Take the values of `weights`, float32 (size,)."""
        self.tensor.copy_(torch.from_numpy(weights))

    def perturb(self, grid: Grid, direction: Direction, ticks: int) -> None:
        """See `steps.perturb`."""
        self._add(grid, ticks, direction)

    def part(self, start: int, stop: int) -> NDArray[np.float32]:
        """See `steps.DeviceVector`."""
        found: NDArray[np.float32] = self.tensor[start:stop].cpu().numpy()
        return found

    def cross(self, grid: Grid, leaving: Direction, entering: Direction, ticks: int) -> None:
        """See `steps.cross`."""
        self._add(grid, ticks, leaving, entering)

    def apply_steps(self, grid: Grid, steps: Sequence[Step]) -> None:
        """See `steps.apply_steps`."""
        check_steps(len(self.tensor), steps)
        exponents = step_exponents(steps, grid)
        moved = [
            (start, stop, here, self._moved(here, steps, start, stop, exponents))
            for start, stop, here in spans(steps, grid)
        ]
        for _, _, here, part in moved:
            low, high = (float(end) for end in torch.aminmax(part))
            if not (low > -here.limit and high < here.limit):
                raise HeadroomExceeded(f"a weight would reach {here.limit:g}, the limit of the grid 2^-{here.exponent}")
        for start, stop, _, part in moved:
            self.tensor[start:stop] = part

    def _moved(
        self, here: Grid, steps: Sequence[Step], start: int, stop: int, exponents: Mapping[Block, int]
    ) -> torch.Tensor:
        """What the weights start .. stop - 1, one of the steps' `spans`, are after them."""
        active = [
            (step, here.exponent - exponents.get(step.block, here.exponent))
            for step in steps
            if step.block.start <= start < step.block.stop
        ]
        integer = torch.int32 if sum(step.reach << finer for step, finer in active) < 1 << 31 else torch.int64
        sums = torch.zeros(stop - start, dtype=integer, device=self.tensor.device)
        for step, finer in active:
            for group, table in enumerate(tables(step)):
                if not table.any():
                    continue
                places = self._lanes_of(step.seed, group, start, stop - start).int()
                sums += torch.from_numpy(table << finer).to(self.tensor.device, integer).index_select(0, places)
        moved = sums.to(torch.float32)
        moved *= here.tick
        moved += self.tensor[start:stop]
        return moved

    def _add(self, grid: Grid, ticks: int, *directions: Direction) -> None:
        block, length = check_probe(len(self.tensor), grid, ticks, directions)
        positive = torch.zeros(block.size, dtype=torch.uint8, device=self.tensor.device)
        for direction in directions:
            group, bit = divmod(direction.index, DIRECTIONS_PER_GROUP)
            positive += (self._lanes_of(direction.seed, group, block.start, block.size) >> bit) & 1
        # p of n directions positive: (2 p - n) times the length, each product and difference exact.
        move = positive.to(torch.float32)
        move *= 2 * length
        move -= len(directions) * length
        self.tensor[block.start : block.stop] += move

    def _lanes_of(self, seed: int, group: int, start: int, count: int) -> torch.Tensor:
        key = (seed, group, start, count)
        if key != self._key:
            self._lanes, self._key = lanes(*key, self.tensor.device), key
        return self._lanes
