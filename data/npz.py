"""npz:PATH: a NumPy archive with the examples in `x` and their labels, or targets, in `y`.

What they are is in `data.arrays`. Sequences have as many axes as grey images, so the spec says that it means them:
npz:PATH,kind=sequence.

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

from zowarmup.common.system.memory import memory_here
from zowarmup.common.untrusted import TooLarge, require_ratio, require_size
from zowarmup.data.arrays import dataset_of
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.reading import opened, require_memory

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
        path: The archive, with x and y as `dataset_of` takes them.
        sequence: Whether x is sequences.

    Raises:
        DataError: With one sentence that names the file and the remedy.
    """
    return dataset_of(path, *_arrays(path), sequence)


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
