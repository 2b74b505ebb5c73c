"""The dyadic grid that committed weights lie on.

Weights are whole ticks of 2^-exponent, fewer than 2^23 either way, and every probe and step is whole ticks too. Sums of
such numbers below 2^24 ticks are exact in float32, so they can be added in any order, taken back in place without a
second copy, and come out alike on every machine. What would leave the grid is refused, never rounded or wrapped.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

LIMIT = 1 << 23
"""Weights are strictly fewer ticks than this, either way."""
FINEST, COARSEST = 23, -64
"""The exponents a grid may have. At the finest, weights still have room up to 1, however small they begin; within both,
no weight on the grid is subnormal, so machines that flush those to zero agree with those that do not."""


class HeadroomExceeded(ArithmeticError):
    """A weight, or what is to be added to it, does not fit the grid: it needs a coarser one (a smaller exponent)."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Multiples of 2^-exponent below 2^(23 - exponent) in magnitude. Raises ValueError outside COARSEST .. FINEST."""

    exponent: int

    def __post_init__(self) -> None:
        if not COARSEST <= self.exponent <= FINEST:
            raise ValueError(f"grid exponent = {self.exponent}: must be {COARSEST} to {FINEST}")

    @property
    def tick(self) -> float:
        """The distance between neighbours, in units of a weight."""
        return 2.0**-self.exponent

    @property
    def limit(self) -> float:
        """What every weight stays below in magnitude: LIMIT ticks, in units of a weight."""
        return LIMIT * self.tick

    @classmethod
    def choose(cls, weights: NDArray[np.float32], headroom: float = 8.0) -> Self:
        """The finest grid on which the largest of `weights` (any shape) could grow by `headroom` (at least 1).

        Raises HeadroomExceeded where a weight is not finite or no grid is coarse enough.
        """
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

    def quantise(self, values: ArrayLike) -> NDArray[np.float32]:
        """`values` (float32 or float64, any shape) at the nearest places of the grid, ties to even: a new array.

        Zero is always +0. Raises HeadroomExceeded where a result is not below `limit` in magnitude, or not finite.
        """
        given = np.asarray(values)
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
        """Whether all of `weights` (float32, any shape) lie on the grid and within its limit."""
        try:
            return bool((self.quantise(weights).view(np.uint32) == weights.view(np.uint32)).all())
        except HeadroomExceeded:
            return False

    def whole_ticks(self, length: float) -> int:
        """A positive length, in units of a weight, as ticks: the nearest whole number, and at least 1.

        Raises ValueError where it is not positive and finite, HeadroomExceeded where it is more than LIMIT ticks.
        """
        if not 0 < length < math.inf:
            raise ValueError(f"length = {length}: must be positive and finite")
        if length > self.limit:
            raise HeadroomExceeded(f"a length of {length:g} is beyond {self.limit:g}, the limit of the grid")
        return max(1, round(length * 2.0**self.exponent))
