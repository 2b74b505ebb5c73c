"""NumPy's archives of arrays, of which nothing is unpacked before it is known how much it is."""

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.untrusted import require_ratio, require_size

_MOST_DIRECTORY_BYTES = 1 << 20
_MOST_HEADER_BYTES = 1 << 16
_UNPACKED = "save it with np.savez, uncompressed"


class NpzArchive:
    """The archive at `path`, which `file` has open. `names`: those of its arrays. Raises TooLarge, and what reading a damaged
    directory raises."""

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
    """An array of an archive: its shape, order and type, and where in its file it begins."""

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
