"""Large byte strings on disk, named by their sha256.

A blob is written to a temporary file, synced and renamed, and its folder synced, before any event names it: a blob
that has its name is whole. Uploads grow in a spool beside the blobs, where a broken one waits to be resumed; whole,
they are kept apart from the coordinator's own blobs, so that no upload can name, or free, what the coordinator wrote.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 20
_AHEAD = 8 << 20


class BlobError(Exception):
    """A blob is missing or is not what its name says."""


class DiskRefused(BlobError):
    """The disk cannot take it now: it is full, or failing. Nothing has changed; trying again may help."""


class Blobs:
    """The blobs below `root`, made where it does not exist. Writing raises DiskRefused where the disk refuses."""

    def __init__(self, root: Path) -> None:
        self._root, self._spool, self._uploads, self._bin = root, root / "spool", root / "uploads", root / "bin"
        self._numbers = itertools.count()
        with _disk(root):
            for folder in (self._spool, self._uploads, self._bin):
                folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a blob is, or raise BlobError."""
        path = self._root / sha256
        if not path.exists():
            raise BlobError(f"{path} is missing: restore it from a backup of the data directory")
        return path

    def has(self, sha256: str) -> bool:
        return (self._root / sha256).exists()

    def put(self, data: memoryview | bytes) -> str:
        """Store bytes durably; their sha256 in hex. They are hashed while they are written."""
        temporary = self._spool / f"put-{self._unique()}"
        with ThreadPoolExecutor(1) as beside:
            hashing = beside.submit(hashlib.sha256, data)
            with _disk(temporary, leave=False):
                with temporary.open("wb", buffering=0) as file:
                    for start in range(0, len(data), _PIECE):
                        _write(file, start, data[start : start + _PIECE])
                    os.fsync(file.fileno())
                sha256 = hashing.result().hexdigest()
                if self.has(sha256):
                    temporary.unlink()
                else:
                    _adopt(temporary, self._root / sha256)
        return sha256

    @contextlib.contextmanager
    def draft(self) -> Iterator["Draft"]:
        """A blob to be written piece by piece; `keep` makes it one, or else it goes with the end of the block."""
        draft = Draft(self._spool / f"put-{self._unique()}")
        try:
            yield draft
        finally:
            draft.close()

    def keep(self, draft: "Draft") -> str:
        """Make what has been written a blob, durably; its sha256 in hex."""
        with _disk(draft.path):
            sha256 = draft.finish()
            if not self.has(sha256):
                _adopt(draft.path, self._root / sha256)
        return sha256

    def flat(self, sha256: str) -> "Stored":
        """A blob as a flat vector, of which only the slices that are asked for are read. Raises BlobError."""
        return Stored(self.path(sha256))

    def vector(self, sha256: str) -> NDArray[np.float32]:
        """A blob of little-endian float32 as a read-only view of the file, paged in as it is read."""
        return np.memmap(self.path(sha256), dtype="<f4", mode="r")

    def spooled(self, name: str, size_bytes: int) -> int:
        """How many bytes of an upload are on disk; an upload that outgrew its size is begun anew."""
        path = self._spool / name
        have = path.stat().st_size if path.exists() else 0
        if have > size_bytes:
            path.unlink()
            return 0
        return have

    def spool(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
        """Put the next chunks of an upload at their offset."""
        path = self._spool / name
        with _disk(path), path.open("r+b" if path.exists() else "wb", buffering=0) as file:
            for chunk in chunks:
                _write(file, offset, chunk)
                offset += len(chunk)

    def spooled_bytes(self, name: str, offset: int, count: int) -> bytes:
        """What an upload has brought, from an offset on."""
        path = self._spool / name
        with _disk(path), path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(count)

    def drop_part(self, name: str) -> None:
        (self._spool / name).unlink(missing_ok=True)

    def finish(self, name: str, sha256: str, found: str = "") -> None:
        """Make a spooled upload a whole one. `found`: its sha256, where it was computed as it came. Raises BlobError,
        and drops it, where it is not what it claimed to be."""
        path = self._spool / name
        with _disk(path), path.open("rb") as file:
            found = found or hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if found != sha256:
            path.unlink()
            raise BlobError(f"the upload's sha256 is {found}, its header said {sha256}: send it again")
        with _disk(path):
            _adopt(path, self._uploads / sha256)

    def has_upload(self, sha256: str) -> bool:
        """Whether an upload of this sha256 is here whole."""
        return (self._uploads / sha256).exists()

    def upload(self, sha256: str) -> NDArray[np.float32]:
        """A whole upload, as `vector`. Raises BlobError where there is none."""
        path = self._uploads / sha256
        if not path.exists():
            raise BlobError(f"{path} is missing: restore it from a backup of the data directory")
        return np.memmap(path, dtype="<f4", mode="r")

    def stored(self, sha256: str) -> "Stored":
        """A whole upload, of which only the slices that are asked for are read. Raises BlobError where there is none."""
        if not self.has_upload(sha256):
            raise BlobError(f"{self._uploads / sha256} is missing: restore it from a backup of the data directory")
        return Stored(self._uploads / sha256)

    def drop_upload(self, sha256: str) -> None:
        """It is no longer there; its room on disk is free once `empty_bin` has been called."""
        self._discard(self._uploads / sha256)

    def drop_uploads(self, named: Collection[str]) -> None:
        """Drop every upload, whole or not, that is not among those named."""
        for path in (*self._uploads.iterdir(), *self._spool.iterdir()):
            if path.name not in named and not path.name.startswith("put-"):
                self._discard(path)

    def empty_bin(self) -> None:
        """Remove what was dropped. For a thread: a large file takes its time to go."""
        for path in self._bin.iterdir():
            path.unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        (self._root / sha256).unlink(missing_ok=True)

    def sweep(self, named: Collection[str], uploads: Collection[str], spooling: bool) -> int:
        """Remove what a crash has left: blobs and whole uploads that are not among those named, and the spool unless
        uploads may still be resumed (`spooling`). How many files went."""
        stale = [path for path in self._root.iterdir() if path.is_file() and path.name not in named]
        if not spooling:
            stale += [path for path in self._uploads.iterdir() if path.name not in uploads]
        stale += [path for path in self._spool.iterdir() if not spooling or path.name.startswith("put-")]
        self.empty_bin()
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _discard(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, self._bin / self._unique())

    def _unique(self) -> str:
        return f"{os.getpid()}-{id(self):x}-{next(self._numbers)}"


class Draft:
    """A blob in the making, at `path`: threads may write their parts of it in any order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _disk(path, leave=False):
            self._file = path.open("w+b", buffering=0)

    def write(self, offset: int, data: memoryview) -> None:
        """Raises DiskRefused."""
        with _disk(self.path):
            while data:
                written = os.pwrite(self._file.fileno(), data, offset)
                offset, data = offset + written, data[written:]

    def finish(self) -> str:
        """Everything on disk; its sha256 in hex."""
        os.fsync(self._file.fileno())
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def close(self) -> None:
        """Remove it, unless it has become a blob."""
        self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class Stored:
    """A file of little-endian float32 as a flat vector. A slice is a copy, so that the file's pages are never this
    process's memory; threads may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shape = (path.stat().st_size // 4,)
        self.dtype = np.dtype("<f4")

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        start, stop, _ = part.indices(self.shape[0])
        return np.fromfile(self._path, self.dtype, stop - start, offset=4 * start)


def _write(file: FileIO, offset: int, data: memoryview | bytes) -> None:
    """At the offset. What fills another so many bytes is sent on to the disk, so that little is left for the sync."""
    file.seek(offset)
    view, written = memoryview(data), 0
    while written < len(view):
        written += file.write(view[written:])
    behind = (offset + len(view)) // _AHEAD * _AHEAD
    if behind > offset and hasattr(os, "posix_fadvise"):
        # Begins to write these pages out; they stay in memory while they are dirty.
        os.posix_fadvise(file.fileno(), max(0, behind - _AHEAD), _AHEAD, os.POSIX_FADV_DONTNEED)


def _adopt(path: Path, name: Path) -> None:
    os.replace(path, name)
    folder = os.open(name.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _disk(path: Path, leave: bool = True) -> Iterator[None]:
    """The system's refusals as DiskRefused; what was half written goes where it is of no use (`leave` is false)."""
    try:
        yield
    except OSError as error:
        if not leave:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise DiskRefused(f"{path} cannot be written: {error.strerror or error}") from error
