"""Checks that all readers of data share: a file opens, labels are class numbers, the examples fit into memory.

Each raises DataError with the sentence that says why not.
"""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.settings.data_card import CLASS_LIMIT
from zowarmup.common.system.files import open_given
from zowarmup.common.system.memory import memory_here
from zowarmup.common.text import amount
from zowarmup.common.untrusted import require_ratio
from zowarmup.data.dataset import DataError

_COUNTED_BYTES = 1 << 20


def opened(path: Path) -> io.BufferedReader:
    """Raises DataError where there is no such file, it may not be read, or it is none."""
    try:
        return open_given(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except PermissionError:
        raise DataError(f"{path}: this file may not be read: change its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}): check its path"
        ) from None


def lines_in(path: Path, file: io.BufferedReader | gzip.GzipFile) -> int:
    """At least as many as there are examples: the ends of lines, whichever kind they are of, and the last one. Raises TooLarge
    where the file unpacks to too much."""
    found, held = [0, 0], path.stat().st_size
    while piece := file.read(_COUNTED_BYTES):
        require_ratio(str(path), file.tell(), held, "unpack it with gunzip, and name that file")
        for place, end in enumerate((b"\n", b"\r")):
            found[place] += piece.count(end)
    return max(found) + 1


@contextmanager
def unpacked(path: Path) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    """The bytes of a file, unpacked where gzip has compressed it. Raises DataError where it does not open."""
    with opened(path) as raw:
        if raw.peek(2)[:2] != b"\x1f\x8b":
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as unpacked:
            yield unpacked


def class_numbers(y: NDArray[Any], examples: int, where: str) -> NDArray[np.int64]:
    """Labels, checked.

    Args:
        y: What is stored as labels, of any shape and type.
        examples: How many there are.
        where: What to call the labels in a sentence.

    Returns:
        int64 (examples,), each 0 to CLASS_LIMIT - 1.

    Raises:
        DataError: With one sentence that says what to store instead.
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


def require_memory(what: str, needed: int, remedy: str) -> None:
    """Refuse data that does not fit, before it is read.

    Args:
        what: The file or spec, as the sentence begins.
        needed: Bytes that the examples take in memory.
        remedy: What to do, as the sentence ends.

    Raises:
        DataError: This device has less memory than `needed`; the sentence has both sizes.
    """
    here = memory_here()
    if needed > here.bytes:
        raise DataError(
            f"{what}: its examples take {amount(needed)} of memory and this device has {amount(here.bytes)} "
            f"({here.source}): {remedy}"
        )
