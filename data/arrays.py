"""npz:PATH: a NumPy archive with the examples in `x` and their labels in `y`."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.data.dataset import DataError, Dataset

_CHANNELS = (1, 3, 4)
_BYTE = 255.0
_CHECKED = 1024  # examples looked at together, so that checking needs little memory
_CLASS_LIMIT = 1 << 16


def read(path: Path) -> Dataset:
    """x (n, H, W), (n, C, H, W) or (n, H, W, C), uint8 (divided by 255) or float32 (as it is); y (n,) integers from 0.

    Channels are taken to be last if the last axis is 1, 3 or 4 long and the second is not, else first. The classes
    are the largest label + 1.
    """
    x, y = _arrays(path)
    if x.dtype not in (np.uint8, np.float32):
        raise DataError(f"{path}: x is {x.dtype}: store it as uint8 (0 to 255) or float32")
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise DataError(f"{path}: x has shape {x.shape}: it must be (n, H, W), (n, C, H, W) or (n, H, W, C)")
    if y.ndim != 1 or len(y) != len(x):
        raise DataError(f"{path}: y has shape {y.shape}: it must be one label for each of the {len(x)} examples in x")
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{path}: y is {y.dtype}: labels must be integers from 0")
    if y.min() < 0 or y.max() >= _CLASS_LIMIT:
        raise DataError(f"{path}: y goes from {y.min()} to {y.max()}: labels must be 0 to {_CLASS_LIMIT - 1}")
    for start in range(0, len(x), _CHECKED) if x.dtype == np.float32 else ():
        if not np.isfinite(x[start : start + _CHECKED]).all():
            raise DataError(f"{path}: x holds a value that is not finite among examples {start} and following")
    if x.ndim == 3:
        x = x[:, np.newaxis]
    elif x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        x = np.moveaxis(x, 3, 1)  # a view: batches are made contiguous as they are drawn
    labels = y.astype(np.int64)
    return Dataset(x, labels, int(labels.max()) + 1, _BYTE if x.dtype == np.uint8 else 1.0)


def _arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        with open(path, "rb") as file:
            start = file.read(6)
        if start == b"\x93NUMPY":
            raise DataError(f"{path}: this is a single array: make an npz with np.savez(path, x=..., y=...)")
        if start[:2] != b"PK":
            raise DataError(f"{path}: this is not an npz file: make one with np.savez(path, x=..., y=...)")
        with np.load(path, allow_pickle=False) as archive:
            if missing := {"x", "y"} - set(archive.files):
                found = ", ".join(sorted(archive.files)) or "none"
                raise DataError(f"{path}: there is no array {min(missing)!r} (found: {found}): it needs x and y")
            return archive["x"], archive["y"]
    except PermissionError as error:
        raise DataError(f"{path}: this file may not be read: change its permissions") from error
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: this file is damaged, or x or y is no plain array: make it again") from error
