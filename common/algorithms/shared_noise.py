"""Noise that the devices of a round add together: the sum of all is private, which is all that secure aggregation shows of them.

Device i, with n_i examples that count as w_i <= n_i, adds to the sum, in whole steps t of one grid,

    a_i  =  round(w_i / n_i sum_j v_ij / t)  +  round(N(0, (s D)^2 / P) / t)               t = s D / (2^16 sqrt(P))

v_ij being its examples' vectors, clipped to the norm C, D = 2 C and s the noise multiplier that the sum is to have. P is how many
add noise at least and do not tell it: the fewest that a sum may be of, less those who may be in league with who sees it. What a
client would send in the place of a sum (squares, ratios, values clipped against others') is no sum of examples, so nothing of the kind is
added up; what a step needs besides is computed from the sum.

**Sensitivity.** Another example in the place of one, whichever client's, moves one a_i, and its sum by D at most before it is rounded, as no
example counts more than once. C is lowered for the rounding as `private_release` says, for the coarsest grid that there may be (P = 1).

**Noise.** A device's noise has 2^16 steps in its standard deviation, so its own part is as private as one with the multiplier
s / sqrt(P), by the argument there. Of the sum: round(N) of a normal variate N is distributed as the density of N + U at whole
numbers, U uniform on a step, but for less than exp(-2 pi^2 2^32). So the sum of P of them is distributed as the density of N(0, (s D)^2) and P
such U at whole numbers, a Gaussian variate and more, which cannot be less private (compare arXiv 2102.06387, of discrete Gaussian
variates). That it lies on whole numbers changes delta by parts in 2^32: the error of a sum over them in the place of an integral.

Whoever drops out before the sum takes its noise along, which is why P counts none but those who must be in it. Nothing here draws.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.private_release import STEPS, Mechanism

FURTHEST = 9
"""Standard deviations: no variate of 53 random bits is further."""


@dataclass(frozen=True, slots=True)
class NoiseShares:
    """How the devices of one round add noise together.

    Args:
        clip: As `Mechanism` has it.
        multiplier: The standard deviation over 2 C of the noise that `fewest` of them add together, above 0.
        fewest: P, at least 1.
    """

    clip: float
    multiplier: float
    fewest: int

    def step(self, count: int) -> float:
        """The grid's, for so many scalars."""
        return self._own.step(count)

    def added(
        self, clipped: NDArray[np.float64], weight: int, examples: int, normal: NDArray[np.float64]
    ) -> NDArray[np.uint64]:
        """What a device adds to the sum.

        Args:
            clipped: Of its examples, `Mechanism.clipped` with `clip` and `multiplier`, float64 (m,).
            weight: What they count with together, 1 to `examples`.
            examples: How many they are.
            normal: Standard normal variates that nobody else can know, float64 (m,).

        Returns:
            Whole steps modulo 2^64, (m,).

        Raises:
            ValueError: They count with more than they are.
        """
        if not 1 <= weight <= examples:
            raise ValueError(f"{examples} examples cannot count as {weight}: the noise is for at most one each")
        found = np.rint(clipped * (weight / examples) / self.step(clipped.size)) + np.rint(STEPS * normal)
        return found.astype(np.int64).view(np.uint64)

    def mean(self, sums: NDArray[np.uint64], weight: int, devices: int) -> NDArray[np.float64]:
        """The noised mean over the examples of all.

        Args:
            sums: Of what the devices added, modulo 2^64, (m,).
            weight: What the examples of those that are in it count with together.
            devices: How many these are.

        Returns:
            Float64 (m,), in the unit of a scalar.

        Raises:
            ValueError: A sum is beyond what can have been added.
        """
        step, whole = self.step(sums.size), sums.view(np.int64).astype(np.float64)
        most = weight * self._own.norm(sums.size) / step + devices * (FURTHEST * STEPS + 1)
        if not (np.abs(whole) <= most).all():
            raise ValueError("the sum is beyond what can have been given: a device added something else than its part")
        return whole * (step / weight)

    @property
    def _own(self) -> Mechanism:
        """Of one device by itself."""
        return Mechanism(self.clip, self.multiplier / math.sqrt(self.fewest), np.zeros)
