"""Bounds on one contribution's influence: one set by the other contributions, and one by the model.

What a client sends has a length: the root mean square of its scalars, the norm of its delta. One that is longer than
`clip` times the reference is scaled down to that; nothing is dropped, so a client that is merely unusual still counts,
and its values keep their proportions. The reference is a trimmed mean: the root mean square over all clients but the
quarter, and at least the one, with the longest. So many can send anything without raising it beyond what honest clients
sent. It is taken over clients, since the values of one client are of one kind, whether honest or not. It is no median, nor
a median absolute deviation: half of the clients and more may fit the model already, as they often do where the data differ,
and a median is then nearly zero and says nothing about the others. The order in which clients come plays no part.

Of fewer than three nobody can say which is the outlier. For deltas a bound of another kind always holds, therefore: the root
mean square of a delta's values is scaled down to that of the model's weights (`furthest`). How far scalars move the model the
learning rate bounds, whoever sent them (`step_builder.held`).
"""

import math
from collections.abc import Sequence

FEWEST_LENGTHS = 3
SHARE = 4
"""One in so many clients, and at least one, does not count for the reference."""
SMALLEST_MODEL = 2.0**-5
"""A model whose weights are smaller than this, root mean square, counts as one whose are: from zeros one must get away."""


def reference(lengths: Sequence[float], floor: float = 0.0) -> float:
    """The root mean square of all lengths but the longest quarter.

    Args:
        lengths: One for each client's contribution, at least 0, in any order.
        floor: Lengths of at most this say nothing about others: they are left out.

    Returns:
        In the unit of the lengths, above `floor`; infinity with fewer than 3, among which no one is an outlier.
    """
    telling = sorted(length for length in lengths if length > floor)
    if len(telling) < FEWEST_LENGTHS:
        return math.inf
    kept = telling[: -max(1, len(telling) // SHARE)]
    # By the largest, so that no square vanishes or overflows.
    return kept[-1] * math.sqrt(math.fsum((length / kept[-1]) ** 2 for length in kept) / len(kept))


def furthest(model: float) -> float:
    """The largest root mean square of a delta's values that counts in full.

    Args:
        model: That of the weights to which it is added.

    Returns:
        In the same unit. Honest deltas on the digits were at most 0.4 times as large at usual rates (docs/method.md).
    """
    return max(model, SMALLEST_MODEL)


def scales(lengths: Sequence[float], clip: float, floor: float = 0.0, most: float = math.inf) -> tuple[float, ...]:
    """The factor for each length, at most 1, that leaves none above `clip` times the `reference`, nor above `most`. All are 1
    with `clip` 0."""
    limit = min(clip * reference(lengths, floor), most) if clip else math.inf
    return tuple(limit / length if length > limit else 1.0 for length in lengths)
