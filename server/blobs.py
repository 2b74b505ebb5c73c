"""Large byte strings on disk, named by their sha256.

A blob is written to a temporary file, synced and renamed, and its folder synced, before any event names it: a blob
that has its name is whole. Uploads grow in a spool beside the blobs, where a broken one waits to be resumed.
"""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 20


class BlobError(Exception):
    """A blob is missing or is not what its name says."""


class Blobs:
    """The blobs below `root`, made where it does not exist."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._spool = root / "spool"
        self._spool.mkdir(parents=True, exist_ok=True)

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
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._adopt(temporary, sha256)
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
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(offset)
            file.write(chunk)

    def finish(self, name: str, sha256: str) -> None:
        """Make a whole upload a blob. Raises BlobError, and drops it, where it is not what it claimed to be."""
        path = self._spool / name
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            path.unlink()
            raise BlobError(f"the upload's sha256 is {digest.hexdigest()}, its header said {sha256}: send it again")
        self._adopt(path, sha256)

    def sweep(self, keep: Collection[str], before: float) -> None:
        """Remove what was last written before a unix time, uploads that never became whole among it, but not `keep`."""
        for file in (*self._root.iterdir(), *self._spool.iterdir()):
            if file.is_file() and file.name not in keep and file.stat().st_mtime < before:
                file.unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        (self._root / sha256).unlink(missing_ok=True)

    def _adopt(self, path: Path, sha256: str) -> None:
        os.replace(path, self._root / sha256)
        folder = os.open(self._root, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
