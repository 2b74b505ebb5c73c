"""Rows and sequences on one scale: each feature or channel less its mean, over its deviation.

A coordinator computes both once, from the held-out set, and they are the run's for good: every device is given them in the
run's data card and computes none of its own. Images keep the scale of their pixels.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.settings.data_card import IMAGE
from zowarmup.data.dataset import Dataset

_VALUES = 1 << 18  # read together, so that a large set needs little memory
# Below this share of its mean a feature's deviation is what float32 rounds away: it is taken to be constant.
_CONSTANT = 1e-6


def standardised(data: Dataset) -> Dataset:
    """Rows or sequences with the mean and deviation of each feature or channel over all examples; images, and what has them
    already, as they are. A feature that is constant has the deviation 1."""
    if len(data.shape) >= len(IMAGE) or data.mean:
        return data
    along = data.mean_shape.index(-1) + 1
    others = tuple(axis for axis in range(data.inputs.ndim) if axis != along)
    each = data.inputs.size // data.shape[along - 1]
    mean = sum(rows.sum(axis=others, dtype=np.float64) for rows in _batches(data)) / each
    centre = np.reshape(mean, data.mean_shape)
    squares = sum(np.square(rows - centre).sum(axis=others) for rows in _batches(data))
    deviation = np.sqrt(squares / each).astype(np.float32)
    deviation[deviation <= _CONSTANT * np.abs(mean)] = 1
    return replace(data, mean=tuple(map(float, mean.astype(np.float32))), deviation=tuple(map(float, deviation)))


def _batches(data: Dataset) -> Iterator[NDArray[np.float32]]:
    batch = max(1, _VALUES // data.inputs[0].size)
    for start in range(0, len(data), batch):
        yield data.batch(np.arange(start, min(start + batch, len(data)), dtype=np.int64)).inputs
