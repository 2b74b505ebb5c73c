"""What one contribution may do to a round: bounds that the other contributions set.

Values that lie far from the round's median, counted in robust standard deviations, are moved to the bound; nothing is
dropped, so a client that is merely unusual still counts. Up to half of a round's values can be anything without moving
the median or the median absolute deviation beyond the others (Huber, Robust Statistics, 1981). A clipped value keeps its
place in the order, so clipping twice is clipping once, and the order of the values plays no part.
"""

import math
from collections.abc import Sequence

DEVIATION = 1.4826
"""Median absolute deviations of a normal distribution are this much smaller than its standard deviation."""
FEWEST_VALUES = 4
FEWEST_LENGTHS = 3


def bounds(values: Sequence[float], clip: float) -> tuple[float, float]:
    """What lies within `clip` robust standard deviations of the median. Everything does with `clip` 0, with fewer than
    4 values, or where more than half of them are equal."""
    if not clip or len(values) < FEWEST_VALUES:
        return -math.inf, math.inf
    middle = median(values)
    reach = clip * DEVIATION * median([abs(value - middle) for value in values])
    return (middle - reach, middle + reach) if reach > 0 else (-math.inf, math.inf)


def scales(lengths: Sequence[float], clip: float) -> tuple[float, ...]:
    """The factor for each length, at most 1, that leaves none above `clip` times the median. All are 1 with `clip` 0,
    with fewer than 3 lengths, or where the median is 0."""
    limit = clip * median(lengths) if clip and len(lengths) >= FEWEST_LENGTHS else 0.0
    return tuple(limit / length if 0 < limit < length else 1.0 for length in lengths)


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the middle two. Raises IndexError without values."""
    ascending = sorted(values)
    half = len(ascending) // 2
    return ascending[half] if len(ascending) % 2 else (ascending[half - 1] + ascending[half]) / 2
