"""The private release of a round's scalars: each example's are clipped together, and their sum gets Gaussian noise.

All scalars that a client sends in a round are one vector, and each is a mean over all of its n examples: example j has a vector
v_j of contributions, which is scaled down to the norm C where it is longer, and what leaves is (sum_j v_j + noise) / n. Another
example in the place of one moves the sum by 2 C at most; n is public, as a client says how many examples it holds. What is not
finite counts as nothing, so whether a client contributes does not depend on its data.

**On a grid.** What floating-point numbers a sum plus a floating-point variate can be depends on the sum in its last bits, and these
tell it (Mironov, *On significance of the least significant bits for differential privacy*, 2012). So the sum is rounded to
whole steps of which the noise's standard deviation has 2^16, and so is the noise, before they are added: the integer that
comes out is that of a real sum plus exact noise, rounded, which is as private as that. Each coordinate's rounding moves it by a
half at most, so C is lowered by sqrt(m) / 2 steps, and the bound of 2 C holds for what is rounded. Between two neighbouring
integers there are more than 2^30 of the variates that are rounded, so which of those exist shows no more; how likely
an integer is, is right up to some parts in 2^30 and, of the far tail, 2^-50 in all. A discrete Gaussian (Canonne, Kamath, Steinke,
arXiv 2004.00010) needs no such argument, and a sampler of it in Python or a library of many megabytes.

Where the noise comes from is the caller's: nothing here draws.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS = 1 << 16
"""Of the grid in a standard deviation of the noise."""
_SLACK = 1 - 1e-9
"""Norms are computed in float64: far more than what that leaves open, and nothing else."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """How scalars are released.

    Args:
        clip: The most that the root mean square of an example's scalars counts, nats per unit of weight, above 0: C is this
            times the square root of how many they are.
        multiplier: The standard deviation of the noise over 2 C, above 0.
        noise: Gives as many standard normal variates, independent of each other, of all else and of what anybody can know.
    """

    clip: float
    multiplier: float
    noise: Callable[[int], NDArray[np.float64]]

    def norm(self, count: int) -> float:
        """C, for so many scalars."""
        return self.clip * math.sqrt(count)

    def step(self, count: int) -> float:
        """The grid's, for so many scalars."""
        return 2 * self.norm(count) * self.multiplier / STEPS

    def clipped(self, contributions: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of clipped examples, not yet on the grid: two inputs that differ in one example have sums whose distance is less than
        2 C, by what rounding to the grid may add.

        Args:
            contributions: Of each example its scalars, float64 (n, m), m at least 1.

        Returns:
            Float64 (m,), in the unit of a scalar.
        """
        count = contributions.shape[1]
        step = self.step(count)
        most = max(0.0, self.norm(count) - step * math.sqrt(count) / 2) * _SLACK
        kept = contributions.copy()
        kept[~np.isfinite(kept).all(1)] = 0.0
        largest = np.abs(kept).max(axis=1, initial=0.0)
        kept /= np.where(largest > 0, largest, 1.0)[:, None]  # the square of what is large is not finite
        lengths = np.sqrt((kept * kept).sum(axis=1))  # 1 to sqrt(m), or 0
        kept *= np.minimum(largest, most / np.where(lengths > 0, lengths, 1.0))[:, None]
        found: NDArray[np.float64] = kept.sum(axis=0)
        return found

    def summed(self, contributions: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum that is protected, before its noise: two inputs that differ in one example have sums whose distance is at most 2 C.

        Args:
            contributions: As for `clipped`.

        Returns:
            Whole steps of the grid, float64 (m,).
        """
        return np.rint(self.clipped(contributions) / self.step(contributions.shape[1]))

    def release(self, contributions: NDArray[np.float64]) -> NDArray[np.float64]:
        """What may leave: the noised mean.

        Args:
            contributions: Of each example its scalars, float64 (n, m), n and m at least 1.

        Returns:
            Float64 (m,), in the unit of a scalar.
        """
        examples, count = contributions.shape
        noised = self.summed(contributions)
        noised += np.rint(STEPS * self.noise(count))
        noised *= self.step(count) / examples
        return noised
