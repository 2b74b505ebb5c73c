"""Large byte strings on disk that the coordinator wrote, named by their sha256.

A blob is written to a temporary file, synced and renamed, and its folder synced, before any event names it: a blob
that has its name is whole. A file that is no longer needed may be written over by the next of its size (`spares`), a blob or an upload.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.layout import digesting
from zowarmup.common.system.given_file import open_given
from zowarmup.server.disk import BlobError, DiskRefused, UploadError, adopt, disk, write
from zowarmup.server.spares import Spares

__all__ = ["BlobError", "Blobs", "DiskRefused", "Draft", "Stored", "UploadError", "digest_of", "sha256_of"]

_PIECE = 1 << 20
DRAFT = ".put-"
"""How the coordinator's own files in the spool begin; no client's name does."""


class Blobs:
    """The blobs below `root`, made where it does not exist. Writing raises DiskRefused where the disk refuses."""

    def __init__(self, root: Path) -> None:
        self.root, self._spool = root, root / "spool"
        self._numbers = itertools.count()
        with disk(root):
            self._spool.mkdir(parents=True, exist_ok=True)
        self.spares = Spares(root / "bin")

    def path(self, sha256: str) -> Path:
        """Where a blob is, or raise BlobError."""
        path = self.root / sha256
        if not path.exists():
            raise BlobError(f"{path} is missing: restore it from a backup of the data directory")
        return path

    def open(self, sha256: str) -> BinaryIO:
        """See `BlobStore`."""
        return self.path(sha256).open("rb")

    def names(self) -> set[str]:
        """See `BlobStore`."""
        return {path.name for path in self.root.iterdir() if path.is_file()}

    def has(self, sha256: str) -> bool:
        return (self.root / sha256).exists()

    def put(self, data: memoryview | bytes) -> str:
        """See `BlobStore`. Bytes are hashed while they are written."""
        temporary = self._spool / f"{DRAFT}{self._unique()}"
        over = self.spares.take(len(data), temporary)
        with ThreadPoolExecutor(1) as beside:
            hashing = beside.submit(hashlib.sha256, data)
            with self.spares.making_room(), disk(temporary, leave=False):
                with temporary.open("r+b" if over else "wb", buffering=0) as file:
                    for start in range(0, len(data), _PIECE):
                        write(file.fileno(), start, data[start : start + _PIECE])
                    os.fsync(file.fileno())
                sha256 = hashing.result().hexdigest()
                if self.has(sha256):
                    temporary.unlink()
                else:
                    adopt(temporary, self.root / sha256)
        return sha256

    @contextlib.contextmanager
    def draft(self) -> Iterator["Draft"]:
        """A blob to be written piece by piece; `keep` makes it one, or else it goes with the end of the block."""
        draft = Draft(self._spool / f"{DRAFT}{self._unique()}")
        try:
            yield draft
        finally:
            draft.close()

    def keep(self, draft: "Draft") -> str:
        """Make what has been written a blob, durably; its sha256 in hex."""
        with disk(draft.path):
            sha256 = draft.finish()
            if not self.has(sha256):
                adopt(draft.path, self.root / sha256)
        return sha256

    def flat(self, sha256: str) -> "Stored":
        """A blob as a flat vector, of which only the slices that are asked for are read. Raises BlobError."""
        return Stored(self.path(sha256))

    def vector(self, sha256: str) -> NDArray[np.float32]:
        """A blob of little-endian float32 as a read-only view of the file, paged in as it is read."""
        return np.memmap(self.path(sha256), dtype="<f4", mode="r")

    def delete(self, sha256: str) -> None:
        """See `BlobStore`. `Spares.empty` says what becomes of the file."""
        self.spares.discard(self.root / sha256)

    def sweep(self, named: Collection[str]) -> int:
        """Remove what a crash has left: blobs that are not among those named, drafts, spare files. How many of the first two."""
        stale = [self.root / name for name in self.names() if name not in named]
        stale += [path for path in self._spool.iterdir() if path.name.startswith(DRAFT)]
        self.spares.empty()
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _unique(self) -> str:
        return f"{os.getpid()}-{id(self):x}-{next(self._numbers)}"


def sha256_of(path: Path) -> str:
    """In hex."""
    with open_given(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(path: Path) -> str:
    """The digest of a file of float32, in hex: what `layout.digest` says of the vector."""
    digest = digesting()
    with open_given(path) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


class Draft:
    """A blob in the making, at `path`: threads may write their parts of it in any order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk(path, leave=False):
            self._file = path.open("w+b", buffering=0)

    def write(self, offset: int, data: memoryview) -> None:
        """Raises DiskRefused."""
        with disk(self.path):
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
