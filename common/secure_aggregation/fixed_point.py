"""Numbers of a sum as whole ones modulo 2^64, each times the weight of who gives it.

The unit of each place follows from what everybody knows: the limit of a value there and the sum of all weights. So the sum
of all is below 2^SUM_BITS in magnitude and cannot overflow, whoever drops out, and every value has all the bits that are left.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SUM_BITS = 62
WEIGHT_BITS = 32
FINEST = 200
"""No unit is below 2^-FINEST."""


def whole_weights(counts: Sequence[int]) -> list[int]:
    """What each counts with in a sum: `counts`, or where these add up to WEIGHT_BITS bits or more, a power of two less.

    Args:
        counts: At least 1 each.

    Returns:
        As many whole numbers, at least 1, that add up to 2^WEIGHT_BITS at most, and one more for each.
    """
    shift = max(0, sum(counts).bit_length() - WEIGHT_BITS)
    return [max(1, count >> shift) for count in counts]


def exponents(limits: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """The unit of each place is 2 to the minus this.

    Args:
        limits: The largest magnitude of a value at each place, above 0, float64 (n,).
        total: The sum of all weights.

    Returns:
        Int64 (n,).
    """
    # limit < 2^exponent of frexp; half a unit more by rounding, for each of the weights, is in the last bit.
    _, above = np.frexp(limits)
    return np.minimum(SUM_BITS - 1 - total.bit_length() - above.astype(np.int64), FINEST)


def encoded(values: NDArray[np.float64], limits: NDArray[np.float64], weight: int, total: int) -> NDArray[np.uint64]:
    """A device's values, rounded to the unit, times its weight.

    Args:
        values: Float64 (n,).
        limits: As for `exponents`.
        weight: The device's, at least 1.
        total: The sum of all weights.

    Returns:
        Modulo 2^64, (n,).

    Raises:
        ValueError: A value is not finite, or beyond its limit.
    """
    if not (np.abs(values) <= limits).all():
        raise ValueError("a value is not finite, or beyond the limit of its place in the sum")
    whole = np.rint(np.ldexp(values, exponents(limits, total))).astype(np.int64)
    return whole.view(np.uint64) * np.uint64(weight)


def decoded(sums: NDArray[np.uint64], limits: NDArray[np.float64], total: int, present: int) -> NDArray[np.float64]:
    """The weighted mean of those who are in a sum.

    Args:
        sums: Modulo 2^64, (n,).
        limits: As for `exponents`.
        total: The sum of the weights of all who might have been in it.
        present: The sum of the weights of those who are.

    Returns:
        Float64 (n,).

    Raises:
        ValueError: A sum is beyond what values within their limits can add up to: a device gave something else.
    """
    means = np.ldexp(sums.view(np.int64).astype(np.float64), -exponents(limits, total)) / present
    if not (np.abs(means) <= limits * (1 + 2.0**-20)).all():
        raise ValueError("the sum is beyond what can have been given: a device gave something else than its scalars")
    return means
