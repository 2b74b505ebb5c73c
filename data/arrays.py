"""npz:PATH: a NumPy archive with the examples in `x` and their labels in `y`.

What `x` holds follows from its axes: rows (n, features), or images. Sequences have as many axes as grey images, so the
spec says that it means them: npz:PATH,kind=sequence. Inputs become channels first, as convolutions read them.

An archive larger than this device's memory is mapped where its examples are not compressed, as np.savez writes them, and
then read from the disk batch by batch.
"""

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.data_card import CHANNELS, LENGTH
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.labels import class_numbers
from zowarmup.data.memory import memory_here, require_memory
from zowarmup.data.opening import opened

_CHANNELS = (1, 3, 4)  # how many images have
_BYTE = 255.0
_CHECKED_BYTES = 1 << 22  # of examples looked at together, so that checking needs little memory
_SHAPES = "(n, features), (n, H, W), (n, C, H, W) or (n, H, W, C)"


def read(path: Path, sequence: bool = False) -> Dataset:
    """The examples of an archive.

    Args:
        path: the archive. x (n, features), (n, H, W), (n, C, H, W) or (n, H, W, C), uint8 (divided by 255) or float32 (as
            it is); y (n,) integers from 0. Of four axes the last has the channels if it is 1, 3 or 4 long and the second is
            not, else the second.
        sequence: x is (n, length, channels) or (n, length).

    Returns:
        Inputs (n, features), (n, channels, length) or (n, C, H, W); the classes are the largest label + 1.

    Raises:
        DataError: with one sentence that names the file and the remedy.
    """
    x, y = _arrays(path)
    if x.dtype not in (np.uint8, np.float32):
        raise DataError(f"{path}: x is {x.dtype}: store it as uint8 (0 to 255) or float32")
    if 0 in x.shape or x.ndim not in ((2, 3) if sequence else (2, 3, 4)):
        allowed = (
            "(n, length, channels) with kind=sequence" if sequence else f"{_SHAPES}; sequences need ,kind=sequence"
        )
        raise DataError(f"{path}: x has shape {x.shape}: it must be {allowed}")
    labels = class_numbers(y, len(x), f"{path}: y")
    if x.dtype == np.float32:
        _check_finite(path, x)
    scale = _BYTE if x.dtype == np.uint8 else 1.0
    axes = (CHANNELS, LENGTH) if sequence else ()
    return Dataset(_channels_first(x, sequence), labels, int(labels.max()) + 1, scale, axes=axes)


def _channels_first(x: NDArray[Any], sequence: bool) -> NDArray[Any]:
    """A view: batches are made contiguous as they are drawn."""
    if sequence:
        return np.moveaxis(x, 2, 1) if x.ndim == 3 else x[:, np.newaxis]
    if x.ndim == 3:
        return x[:, np.newaxis]
    if x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        return np.moveaxis(x, 3, 1)
    return x


def _check_finite(path: Path, x: NDArray[Any]) -> None:
    each = max(1, _CHECKED_BYTES // x[:1].nbytes)
    for start in range(0, len(x), each):
        if not np.isfinite(x[start : start + each]).all():
            raise DataError(f"{path}: x holds a value that is not finite among examples {start} and following")


def _arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with opened(path) as file:
            start = file.read(6)
            if start == b"\x93NUMPY":
                raise DataError(f"{path}: this is a single array: make an npz with np.savez(path, x=..., y=...)")
            if start[:2] != b"PK":
                raise DataError(f"{path}: this is not an npz file: make one with np.savez(path, x=..., y=...)")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                if missing := {"x", "y"} - set(archive.files):
                    found = ", ".join(sorted(archive.files)) or "none"
                    raise DataError(f"{path}: there is no array {min(missing)!r} (found: {found}): it needs x and y")
                mapped = _mapped(path, archive.zip)
                return archive["x"] if mapped is None else mapped, archive["y"]
    except (DataError, MemoryError):
        raise
    except Exception as error:  # what unpacking a damaged file raises is anything
        raise DataError(f"{path}: this file is damaged, or x or y is no plain array: make it again") from error


def _mapped(path: Path, archive: zipfile.ZipFile) -> NDArray[Any] | None:
    """x on the disk, where it does not fit into memory; None where it does. Raises DataError where it is compressed."""
    info = archive.getinfo("x.npy" if "x.npy" in archive.namelist() else "x")
    with archive.open(info) as member:
        shape, fortran, kind = _header(member)
        needed = kind.itemsize * int(np.prod(shape, dtype=object))
        if info.compress_type == zipfile.ZIP_STORED and needed > info.file_size:
            raise ValueError(f"{info.filename} is shorter than its header says")
        if needed <= memory_here().bytes:
            return None
        if info.compress_type != zipfile.ZIP_STORED or kind.hasobject:
            require_memory(str(path), needed, "save it with np.savez, uncompressed, and it is read as it is needed")
            return None
        begins = member.tell()
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        local = file.read(30)  # then the member's name and extra field, whose lengths stand at its end
    offset = info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    return np.memmap(path, kind, "r", offset + begins, shape, "F" if fortran else "C")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type of an array in NumPy's format. Raises ValueError."""
    reading = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(member)
    if version not in reading:
        raise ValueError(f"version {version} of NumPy's format")
    return reading[version](member)
