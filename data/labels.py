"""Stored labels as class numbers, or the sentence that says what to store."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.settings.data_card import CLASS_LIMIT
from zowarmup.data.dataset import DataError


def class_numbers(y: NDArray[Any], examples: int, where: str) -> NDArray[np.int64]:
    """The labels of so many examples.

    Args:
        y: what is stored as labels, of any shape and type.
        examples: how many there are.
        where: what to call the labels in a sentence.

    Returns:
        int64 (examples,), each 0 to CLASS_LIMIT - 1.

    Raises:
        DataError: with one sentence that says what to store instead.
    """
    if y.ndim != 1 or len(y) != examples:
        remedy = ""
        if y.ndim == 2 and len(y) == examples:
            remedy = (
                ", a class number: store y.ravel()" if y.shape[1] == 1 else ", a class number: store y.argmax(axis=1)"
            )
        raise DataError(
            f"{where} has shape {y.shape}: it must be one label for each of the {examples} examples in x{remedy}"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{where} is {y.dtype}{_unlike_integers(y)}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= CLASS_LIMIT:
        remedy = "; leave examples without a class out" if low == -1 else ""
        raise DataError(f"{where} goes from {low} to {high}: labels must be 0 to {CLASS_LIMIT - 1}{remedy}")
    return y.astype(np.int64)


def _unlike_integers(y: NDArray[Any]) -> str:
    """What labels of another type hold, and what to store."""
    must = "labels must be integers from 0"
    if y.dtype.kind in "US":
        return (
            f" and holds {str(y[0])[:40]!r}: {must}; number the classes, or use folder: or csv:, which have class names"
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        return f" and holds a value that is not finite: {must}; leave examples without a class out"
    return f": {must}; store y.astype(int)"
