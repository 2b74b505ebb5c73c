"""A validation set, carved out of a training set once and for all.

It is a tenth of the training examples, by a seeded permutation that is the same on every machine, so what is tuned on it
never sees the test set, and shards that are cut `without=validation` share nothing with it.
"""

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.permutation import permutation

SHARE = 10
_SEED, _STREAM = 0, 1


def split(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of `count` training examples the indices that train and those that validate, each ascending."""
    order = permutation(_SEED, _STREAM, count)
    held = count // SHARE
    return np.sort(order[held:]), np.sort(order[:held])
