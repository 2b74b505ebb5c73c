"""Accounting of releases by the Gaussian mechanism: what privacy some releases leave, and how much noise a budget needs.

A release adds noise N(0, (m D)^2) to each number of a vector that one example moves by at most D (Euclidean norm): m is the *noise
multiplier*. T such releases, each of which may depend on those before, tell as much of an example as one whose multiplier is
m / sqrt(T) (Dong, Roth, Su, *Gaussian Differential Privacy*, arXiv 1905.02383, corollary 3.3), and one is (epsilon, delta)-private
exactly where

    delta >= F(1 / 2m - epsilon m) - e^epsilon F(-1 / 2m - epsilon m)          F: the standard normal distribution

(Balle, Wang, arXiv 1805.06530, theorem 8). So nothing has to be bounded: what is said here is what is so, and what an accountant
that adds up privacy losses comes to (`dp-accounting`; the tests compare). A device needs no package for it. Rounds draw only some of
the clients, and nothing is claimed for that: a device knows when it took part, and so may who asks it.
"""

import math
from collections.abc import Callable

MOST_EPSILON = 500.0
"""Beyond it, where e^epsilon leaves float64 soon, nothing is protected."""
_STEPS = 200
"""Of a bisection, which ends with the last bit."""


def delta_of(epsilon: float, multiplier: float, releases: int) -> float:
    """The smallest delta with which releases are (epsilon, delta)-private.

    Args:
        epsilon: At least 0, at most MOST_EPSILON.
        multiplier: The noise multiplier of each, above 0.
        releases: How many, at least 0.

    Returns:
        0 to 1.
    """
    if not releases:
        return 0.0
    one = multiplier / math.sqrt(releases)
    half, shift = 1 / (2 * one), epsilon * one
    return max(0.0, _below(half - shift) - math.exp(epsilon) * _below(-half - shift))


def epsilon_of(multiplier: float, releases: int, delta: float) -> float:
    """The smallest epsilon with which releases are (epsilon, delta)-private.

    Args:
        multiplier: The noise multiplier of each, above 0.
        releases: How many, at least 0.
        delta: Above 0 and below 1.

    Returns:
        At least 0, rounded up; infinite where it is more than MOST_EPSILON.
    """
    if delta_of(0.0, multiplier, releases) <= delta:
        return 0.0
    if delta_of(MOST_EPSILON, multiplier, releases) > delta:
        return math.inf
    return _least(0.0, MOST_EPSILON, lambda epsilon: delta_of(epsilon, multiplier, releases) <= delta)


def multiplier_for(epsilon: float, delta: float, releases: int) -> float:
    """The smallest noise multiplier with which releases are (epsilon, delta)-private.

    Args:
        epsilon: Above 0, at most MOST_EPSILON.
        delta: Above 0 and below 1.
        releases: How many, at least 1.

    Returns:
        Above 0, rounded up.
    """
    enough = 1.0
    while delta_of(epsilon, enough, releases) > delta:
        enough *= 2
    return _least(0.0, enough, lambda multiplier: delta_of(epsilon, multiplier, releases) <= delta)


def _below(value: float) -> float:
    """How likely a standard normal variate is below a value."""
    return math.erfc(-value / math.sqrt(2)) / 2


def _least(low: float, high: float, enough: Callable[[float], bool]) -> float:
    """The least value that is enough, between one that is not and one that is; never less than that."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
