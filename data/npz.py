"""npz:PATH: a NumPy archive with the examples in `x` and their labels, or targets, in `y`.

What `x` holds follows from its axes: rows (n, features), or images. Sequences have as many axes as grey images, so the
spec says that it means them: npz:PATH,kind=sequence. Inputs become channels first, as convolutions read them.

Nothing of an archive is unpacked before it is known how much it is. One larger than this device's memory is mapped
where its examples are not compressed, as np.savez writes them, and then read from the disk batch by batch.
"""

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.settings.data_card import CHANNELS, LENGTH
from zowarmup.common.system.memory import memory_here
from zowarmup.common.untrusted import TooLarge, require_ratio, require_size
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.reading import class_numbers, opened, require_memory

_CHANNELS = (1, 3, 4)  # how many images have
_BYTE = 255.0
_CHECKED_BYTES = 1 << 18  # of examples looked at together, so that checking needs little memory
_SHAPES = "(n, features), (n, H, W), (n, C, H, W) or (n, H, W, C)"
_MOST_DIRECTORY_BYTES = 1 << 20
_MOST_HEADER_BYTES = 1 << 16
_UNPACKED = "save it with np.savez, uncompressed"


class NpzArchive:
    """An open NumPy archive; `names` are those of its arrays.

    Args:
        path: Where it is.
        file: The same file, open for reading.

    Raises:
        TooLarge: The list of its entries is too long.
        ValueError: It has no directory. Reading a damaged one may raise other errors, too.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if end is None:
            raise ValueError("it has no directory")
        require_size(f"{path}: the list of its entries", end[5], _MOST_DIRECTORY_BYTES, "make it again with np.savez")
        self.path, self.zip = path, zipfile.ZipFile(file)
        self.names = tuple(name.removesuffix(".npy") for name in self.zip.namelist())

    def member(self, name: str) -> "Member":
        """An array, not read yet. Raises TooLarge where it would unpack to too much, ValueError or what else unpacking a
        damaged file raises."""
        info = self.zip.getinfo(f"{name}.npy" if f"{name}.npy" in self.zip.namelist() else name)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename} is compressed as NumPy does not")
        if info.header_offset + info.compress_size > self.path.stat().st_size:
            raise ValueError(f"{info.filename} is longer than the file")
        with self.zip.open(info) as opened:
            head = io.BytesIO(opened.read(_MOST_HEADER_BYTES))
        shape, fortran, kind = _header(head)
        size = kind.itemsize * math.prod(shape)
        if head.tell() + size > info.file_size or (stored(info) and info.file_size != info.compress_size):
            raise ValueError(f"{info.filename} is shorter than its header says")
        require_ratio(f"{self.path}: {info.filename}", info.file_size, info.compress_size, _UNPACKED)
        return Member(self, info, shape, fortran, kind, head.tell())


@dataclass(frozen=True, slots=True)
class Member:
    """An array of an archive, not read yet.

    Args:
        archive: The archive.
        info: The array's entry in it.
        shape: Of the array.
        fortran: Whether it is stored column by column (Fortran's order).
        dtype: Of its values.
        begins: Bytes of NumPy's header, before the values.
    """

    archive: NpzArchive
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    begins: int

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def mappable(self) -> bool:
        return stored(self.info) and not self.dtype.hasobject

    def read(self) -> NDArray[Any]:
        with self.archive.zip.open(self.info) as opened:
            found: NDArray[Any] = np.lib.format.read_array(opened, allow_pickle=False)
            return found

    def mapped(self) -> NDArray[Any]:
        """The array on the disk, where it is not compressed."""
        with open(self.archive.path, "rb") as file:
            file.seek(self.info.header_offset)
            local = file.read(30)  # then the member's name and extra field, whose lengths stand at its end
        lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        offset = self.info.header_offset + 30 + lengths + self.begins
        return np.memmap(self.archive.path, self.dtype, "r", offset, self.shape, "F" if self.fortran else "C")


def stored(info: zipfile.ZipInfo) -> bool:
    return info.compress_type == zipfile.ZIP_STORED


def _header(member: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type of an array in NumPy's format. Raises ValueError."""
    reading = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(member)
    if version not in reading:
        raise ValueError(f"version {version} of NumPy's format")
    return reading[version](member)


def read(path: Path, sequence: bool = False) -> Dataset:
    """The examples of an archive.

    Args:
        path: The archive. x (n, features), (n, H, W), (n, C, H, W) or (n, H, W, C), uint8 (divided by 255) or float32
            (as it is); y (n,) integers from 0, or (n,) or (n, k) floats, targets that are numbers. Of four axes the
            last has the channels if it is 1, 3 or 4 long and the second is not, else the second.
        sequence: x is (n, length, channels) or (n, length).

    Returns:
        Inputs (n, features), (n, channels, length) or (n, C, H, W); the classes are the largest label + 1, or 0 where y
        is numbers.

    Raises:
        DataError: With one sentence that names the file and the remedy.
    """
    x, y = _arrays(path)
    if x.dtype not in (np.uint8, np.float32):
        raise DataError(f"{path}: x is {x.dtype}: store it as uint8 (0 to 255) or float32")
    if 0 in x.shape or x.ndim not in ((2, 3) if sequence else (2, 3, 4)):
        allowed = (
            "(n, length, channels) with kind=sequence" if sequence else f"{_SHAPES}; sequences need ,kind=sequence"
        )
        raise DataError(f"{path}: x has shape {x.shape}: it must be {allowed}")
    targets, classes = _targets(path, y, len(x))
    if x.dtype == np.float32:
        _check_finite(path, x)
    scale = _BYTE if x.dtype == np.uint8 else 1.0
    axes = (CHANNELS, LENGTH) if sequence else ()
    return Dataset(_channels_first(x, sequence), targets, classes, scale, axes=axes)


def _targets(path: Path, y: NDArray[Any], examples: int) -> tuple[NDArray[Any], int]:
    """Labels and how many classes there are, or numbers and 0: floats that are not all whole are no labels."""
    if y.dtype.kind != "f" or y.ndim not in (1, 2) or len(y) != examples or (y == np.floor(y)).all():
        labels = class_numbers(y, examples, f"{path}: y")
        return labels, int(labels.max()) + 1
    with np.errstate(over="ignore"):
        numbers = y.astype(np.float32).reshape(examples, -1)
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: y holds a value that is not finite in 32 bits: leave examples without a target out")
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
            archive = NpzArchive(path, file)
            if missing := {"x", "y"} - set(archive.names):
                found = ", ".join(sorted(archive.names)[:20]) or "none"
                raise DataError(f"{path}: there is no array {min(missing)!r} (found: {found}): it needs x and y")
            return _inputs(archive.member("x")), archive.member("y").read()
    except TooLarge as error:
        raise DataError(str(error)) from error
    except (DataError, MemoryError):
        raise
    except Exception as error:  # what unpacking a damaged file raises is anything
        raise DataError(f"{path}: this file is damaged, or x or y is no plain array: make it again") from error


def _inputs(x: Member) -> NDArray[Any]:
    """In memory, or on the disk where it does not fit. Raises DataError where it does not fit and is compressed."""
    if x.nbytes > memory_here().bytes:
        if x.mappable:
            return x.mapped()
        remedy = "save it with np.savez, uncompressed, and it is read as it is needed"
        require_memory(str(x.archive.path), x.nbytes, remedy)
    return x.read()
