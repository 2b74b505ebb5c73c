"""Approximate Euclidean norms of deltas: enough to tell that a round has no outlier, which is nearly always so.

The exact norm (`fedavg.norm`) is the same on every machine and costs a pass in float64. This one is a third of that:
squares are summed in float32, in the order that the machine likes best, by rows so short that it is within TOLERANCE
of the exact one. No weight depends on it: where it cannot rule an outlier out, the exact norms are taken.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.outliers import reference

ROW = 4096
TOLERANCE = 1e-3
"""Relative, four times what ROW roundings of 2^-24 can come to."""
SMALLEST, LARGEST = 2.0**-30, 2.0**60
"""Between these the squares that count neither vanish nor overflow."""


class ApproximateNorm:
    """The norm of a flat float32 vector that comes in parts, within TOLERANCE where `value` is from SMALLEST to LARGEST."""

    def __init__(self) -> None:
        self._squares = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """The next values, float32 (n,)."""
        if not values.flags.aligned:
            values = values.copy()
        whole = values.size - values.size % ROW
        rows, rest = values[:whole].reshape(-1, ROW), values[whole:]
        with np.errstate(over="ignore"):  # becomes infinite
            self._squares += float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64))
            self._squares += float(np.einsum("i,i->", rest, rest))

    @property
    def value(self) -> float:
        return float(self._squares**0.5)


def none_too_long(rough: Sequence[float | None], clip: float, most: float = math.inf) -> bool:
    """Whether `robust.scales` of the exact norms are certainly all 1.

    Args:
        rough: A `ApproximateNorm` of each, None where it is not known.
        clip: As there.
        most: As there, within TOLERANCE.
    """
    if not clip:
        return True
    known = [length for length in rough if length is not None and SMALLEST <= length <= LARGEST]
    if len(known) < len(rough):
        return False
    limit = min(clip * reference(known), most) * (1 - TOLERANCE)
    return max(known) * (1 + TOLERANCE) <= limit


def approximate_norm(vector: NDArray[np.float32]) -> float:
    """The norm of a flat float32 vector that is held whole."""
    whole = ApproximateNorm()
    whole.add(vector)
    return whole.value
