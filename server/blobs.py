"""Large byte strings on disk, named by their sha256.

A blob is written to a temporary file, synced and renamed, and its folder synced, before any event names it: a blob
that has its name is whole. Uploads grow in a spool beside the blobs, where a broken one waits to be resumed; whole,
they are kept apart from the coordinator's own blobs, so that no upload can name, or free, what the coordinator wrote.
"""

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 20


class BlobError(Exception):
    """A blob is missing or is not what its name says."""


class DiskRefused(BlobError):
    """The disk cannot take it now: it is full, or failing. Nothing has changed; trying again may help."""


class Blobs:
    """The blobs below `root`, made where it does not exist. Writing raises DiskRefused where the disk refuses."""

    def __init__(self, root: Path) -> None:
        self._root, self._spool, self._uploads = root, root / "spool", root / "uploads"
        with _disk(root):
            for folder in (self._spool, self._uploads):
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
        """Store bytes durably; their sha256 in hex."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256):
            temporary = self._spool / f"put-{sha256}"
            with _disk(temporary, leave=False):
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                _adopt(temporary, self._root / sha256)
        return sha256

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

    def spool(self, name: str, offset: int, chunk: bytes) -> None:
        """Put the next chunk of an upload at its offset."""
        path = self._spool / name
        with _disk(path), path.open("r+b" if path.exists() else "wb") as file:
            file.seek(offset)
            file.write(chunk)

    def part(self, name: str) -> NDArray[np.float32]:
        """What an upload has brought so far, as `vector`."""
        with _disk(self._spool / name):
            return np.memmap(self._spool / name, dtype="<f4", mode="r")

    def drop_part(self, name: str) -> None:
        (self._spool / name).unlink(missing_ok=True)

    def finish(self, name: str, sha256: str) -> None:
        """Make a spooled upload a whole one. Raises BlobError, and drops it, where it is not what it claimed to be."""
        path = self._spool / name
        digest = hashlib.sha256()
        with _disk(path), path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            path.unlink()
            raise BlobError(f"the upload's sha256 is {digest.hexdigest()}, its header said {sha256}: send it again")
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

    def drop_upload(self, sha256: str) -> None:
        (self._uploads / sha256).unlink(missing_ok=True)

    def drop_uploads(self, named: Collection[str]) -> None:
        """Remove every upload, whole or not, that is not among those named."""
        for path in (*self._uploads.iterdir(), *self._spool.iterdir()):
            if path.name not in named and not path.name.startswith("put-"):
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
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)


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
