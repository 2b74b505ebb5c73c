"""Examples as arrays x and y: what x holds follows from its axes, and what y is from its values.

Rows are (n, features) and images (n, H, W), (n, C, H, W) or (n, H, W, C). Sequences have as many axes as grey images, so
whoever has some says so. Inputs become channels first, as convolutions read them.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.settings.data_card import CHANNELS, LENGTH
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.reading import class_numbers

_CHANNELS = (1, 3, 4)  # how many images have
_BYTE = 255.0
_CHECKED_BYTES = 1 << 18  # of examples looked at together, so that checking needs little memory
_SHAPES = "(n, features), (n, H, W), (n, C, H, W) or (n, H, W, C)"


def dataset_of(
    where: Path | str,
    x: NDArray[Any],
    y: NDArray[Any],
    sequence: bool = False,
    said: str = "sequences need ,kind=sequence",
) -> Dataset:
    """The examples of two arrays.

    Args:
        where: What to call them in a sentence.
        x: (n, features), (n, H, W), (n, C, H, W) or (n, H, W, C), uint8 (divided by 255) or float32 (as it is). Of four axes
            the last has the channels if it is 1, 3 or 4 long and the second is not, else the second.
        y: (n,) integers from 0, or (n,) or (n, k) floats, targets that are numbers.
        sequence: x is (n, length, channels) or (n, length).
        said: How it is said that x is, for a sentence.

    Returns:
        Inputs (n, features), (n, channels, length) or (n, C, H, W); the classes are the largest label + 1, or 0 where y
        is numbers.

    Raises:
        DataError: With one sentence that names the arrays and the remedy.
    """
    if x.dtype not in (np.uint8, np.float32):
        raise DataError(f"{where}: x is {x.dtype}: store it as uint8 (0 to 255) or float32")
    if 0 in x.shape or x.ndim not in ((2, 3) if sequence else (2, 3, 4)):
        allowed = "(n, length, channels) with kind=sequence" if sequence else f"{_SHAPES}; {said}"
        raise DataError(f"{where}: x has shape {x.shape}: it must be {allowed}")
    targets, classes = _targets(where, y, len(x))
    if x.dtype == np.float32:
        _check_finite(where, x)
    scale = _BYTE if x.dtype == np.uint8 else 1.0
    axes = (CHANNELS, LENGTH) if sequence else ()
    return Dataset(_channels_first(x, sequence), targets, classes, scale, axes=axes)


def _targets(where: Path | str, y: NDArray[Any], examples: int) -> tuple[NDArray[Any], int]:
    """Labels and how many classes there are, or numbers and 0: floats that are not all whole are no labels."""
    if y.dtype.kind != "f" or y.ndim not in (1, 2) or len(y) != examples or (y == np.floor(y)).all():
        labels = class_numbers(y, examples, f"{where}: y")
        return labels, int(labels.max()) + 1
    with np.errstate(over="ignore"):
        numbers = y.astype(np.float32).reshape(examples, -1)
    if not np.isfinite(numbers).all():
        raise DataError(f"{where}: y holds a value that is not finite in 32 bits: leave examples without a target out")
    return numbers, 0


def _channels_first(x: NDArray[Any], sequence: bool) -> NDArray[Any]:
    """A view: batches are made contiguous as they are drawn."""
    if sequence:
        return np.moveaxis(x, 2, 1) if x.ndim == 3 else x[:, np.newaxis]
    if x.ndim == 3:
        return x[:, np.newaxis]
    if x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        return np.moveaxis(x, 3, 1)
    return x


def _check_finite(where: Path | str, x: NDArray[Any]) -> None:
    each = max(1, _CHECKED_BYTES // x[:1].nbytes)
    for start in range(0, len(x), each):
        if not np.isfinite(x[start : start + each]).all():
            raise DataError(f"{where}: x holds a value that is not finite among examples {start} and following")
