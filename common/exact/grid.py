"""The dyadic grid that committed weights lie on.

Weights are whole ticks of 2^-exponent, fewer than 2^23 either way, and every probe and step is whole ticks too. Sums of
such numbers below 2^24 ticks are exact in float32, so they can be added in any order, taken back in place without a
second copy, and come out alike on every machine. What would leave the grid is refused, never rounded or wrapped.

A vector's blocks may lie on grids of different exponents, so that the large weights of one do not make the ticks of
another coarse. What moves several of them at once is in ticks of the coarsest, which are whole ticks of each.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

LIMIT = 1 << 23
"""Weights are strictly fewer ticks than this, either way."""
FINEST, COARSEST = 23, -64
"""The exponents a grid may have. At the finest, weights still have room up to 1, however small they begin; within both,
no weight on the grid is subnormal, so machines that flush those to zero agree with those that do not."""
WORTH_BITS = 3
"""A block has an exponent of its own where it can be finer by this many bits, a factor of 8, than the coarsest block's."""


class HeadroomExceeded(ArithmeticError):
    """A weight, or what is to be added to it, does not fit the grid: it needs a coarser one (a smaller exponent)."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Multiples of 2^-exponent below 2^(23 - exponent) in magnitude.

    Args:
        exponent: A tick is 2^-exponent, in units of a weight; COARSEST to FINEST.
        ranges: Pairs (place, exponent), in ascending order of the place in the flat vector from which on another
            exponent holds; none, where one holds for all.

    Raises:
        ValueError: An exponent is outside COARSEST .. FINEST, or the places are not above 0 and ascending.
    """

    exponent: int
    ranges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for (place, _), (other, _) in pairwise(((0, self.exponent), *self.ranges)):
            if other <= place:
                raise ValueError(f"grid ranges = {self.ranges}: places must be above 0 and ascend")
        for exponent in (self.exponent, *(exponent for _, exponent in self.ranges)):
            if not COARSEST <= exponent <= FINEST:
                raise ValueError(f"grid exponent = {exponent}: must be {COARSEST} to {FINEST}")

    def within(self, start: int, stop: int) -> Iterator[tuple[int, int, Self]]:
        """Split a range of the flat vector into the parts that have one exponent each.

        Args:
            start: First place.
            stop: Place after the last.

        Yields:
            Start, stop and grid of each part, in ascending order.
        """
        if not self.ranges:
            yield start, stop, self
            return
        places = (0, *(place for place, _ in self.ranges), max(stop, self.ranges[-1][0]))
        for (low, high), exponent in zip(
            pairwise(places), (self.exponent, *(exponent for _, exponent in self.ranges)), strict=True
        ):
            if max(low, start) < min(high, stop):
                yield max(low, start), min(high, stop), type(self)(exponent)

    def over(self, start: int, stop: int) -> Self:
        """The grid in whose ticks a range moves as a whole: that of the coarsest exponent there.

        Args:
            start: First place.
            stop: Place after the last.

        Returns:
            A grid of one exponent.
        """
        if not self.ranges:
            return self
        return type(self)(_extremes(self, start, stop)[0])

    def bits_over(self, start: int, stop: int) -> int:
        """By how many bits the finest exponent in a range is above the coarsest.

        Args:
            start: First place.
            stop: Place after the last.

        Returns:
            At least 0; always 0 where one exponent holds for all.
        """
        if not self.ranges:
            return 0
        coarsest, finest = _extremes(self, start, stop)
        return finest - coarsest

    def coarser(self, bits: int) -> Self:
        """The grid whose ticks are 2^bits times as large everywhere.

        Args:
            bits: At least 0.

        Raises:
            ValueError: An exponent would be below COARSEST.
        """
        return type(self)(self.exponent - bits, tuple((place, exponent - bits) for place, exponent in self.ranges))

    @property
    def tick(self) -> float:
        """The distance between neighbours, in units of a weight. Raises ValueError where it differs within the vector."""
        if self.ranges:
            raise ValueError("a grid of several exponents has several ticks: ask `over` a range")
        return 2.0**-self.exponent

    @property
    def limit(self) -> float:
        """What every weight stays below in magnitude: LIMIT ticks, in units of a weight."""
        return LIMIT * self.tick

    @classmethod
    def choose(cls, weights: NDArray[np.float32], headroom: float = 8.0, edges: Sequence[int] = ()) -> Self:
        """The finest grid on which the largest weights could grow.

        Args:
            weights: Of any shape, float32; flat where there are edges.
            headroom: By what factor they could grow, at least 1.
            edges: Places, above 0 and ascending, from which on the exponent may be another: where that is finer by
                WORTH_BITS.

        Raises:
            HeadroomExceeded: A weight is not finite or no grid is coarse enough.
            ValueError: `headroom` is below 1 or not finite.
        """
        if edges:
            bounds = (0, *edges, weights.size)
            chosen = [cls.choose(weights[low:high], headroom).exponent for low, high in pairwise(bounds)]
            coarsest = min(chosen)
            first, *others = (own if own - coarsest >= WORTH_BITS else coarsest for own in chosen)
            last, ranges = first, list[tuple[int, int]]()
            for place, exponent in zip(edges, others, strict=True):
                if exponent != last:
                    ranges.append((place, exponent))
                last = exponent
            return cls(first, tuple(ranges))
        if not 1 <= headroom < math.inf:
            raise ValueError(f"headroom = {headroom}: must be at least 1, and finite")
        low, high = float(weights.min(initial=0.0)), float(weights.max(initial=0.0))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise HeadroomExceeded("weights are not finite: no grid holds them")
        # The mantissa is in [0.5, 1), so 2^power is the smallest power of two strictly above.
        _, power = math.frexp(max(-low, high) * headroom)
        if 23 - power < COARSEST:
            raise HeadroomExceeded(f"weights as large as {max(-low, high):.3g} fit no grid")
        return cls(min(23 - power, FINEST))

    def quantise(self, values: ArrayLike, start: int = 0) -> NDArray[np.float32]:
        """Round values to the nearest places of the grid, ties to even. Zero is always +0.

        Args:
            values: Float32 or float64, of any shape; flat where there are ranges.
            start: Place of the first value in the flat vector, where there are ranges.

        Returns:
            A new float32 array of the same shape.

        Raises:
            HeadroomExceeded: A result is not below `limit` in magnitude, or not finite.
        """
        given = np.asarray(values)
        if self.ranges:
            parts = self.within(start, start + given.size)
            return np.concatenate([part.quantise(given[low - start : high - start]) for low, high, part in parts])
        precision = np.float64 if given.dtype == np.float64 else np.float32
        ticks: NDArray[np.floating] = np.multiply(given, 2.0**self.exponent, dtype=precision)
        np.rint(ticks, out=ticks)
        # NaN fails both comparisons.
        if ticks.size and not (ticks.min() > -LIMIT and ticks.max() < LIMIT):
            raise HeadroomExceeded(f"values reach beyond {self.limit:g}, the limit of the grid 2^-{self.exponent}")
        ticks += 0.0  # -0 becomes +0: a weight that moves and comes back must have its bits again
        ticks *= self.tick
        return ticks.astype(np.float32, copy=False)

    def contains(self, weights: NDArray[np.float32]) -> bool:
        """Whether all weights lie on the grid and within its limit.

        Args:
            weights: Float32, of any shape; flat where there are ranges.
        """
        try:
            return bool((self.quantise(weights).view(np.uint32) == weights.view(np.uint32)).all())
        except HeadroomExceeded:
            return False

    def whole_ticks(self, length: float) -> int:
        """A length as ticks.

        Args:
            length: In units of a weight.

        Returns:
            The nearest whole number, and at least 1.

        Raises:
            ValueError: The length is not positive and finite.
            HeadroomExceeded: It is more than LIMIT ticks.
        """
        if not 0 < length < math.inf:
            raise ValueError(f"length = {length}: must be positive and finite")
        if length > self.limit:
            raise HeadroomExceeded(f"a length of {length:g} is beyond {self.limit:g}, the limit of the grid")
        return max(1, round(length * 2.0**self.exponent))


@lru_cache(maxsize=64)
def _extremes(grid: Grid, start: int, stop: int) -> tuple[int, int]:
    """The coarsest and the finest exponent of a grid with ranges in [start, stop). Asked at every probe."""
    exponents = [part.exponent for _, _, part in grid.within(start, stop)]
    return min(exponents), max(exponents)
