"""Large byte strings on disk: the coordinator's own by their sha256, uploads by client and digest.

A blob is written to a temporary file, synced and renamed, and its folder synced, before any event names it: a blob
that has its name is whole. Uploads grow in a spool beside the blobs, where a broken one waits to be resumed; whole,
they are kept apart from the coordinator's own blobs, so that no upload can name, or free, what the coordinator wrote.
What lasts has a sha256. An upload lasts for a round, and is digested like a replica, in a tenth of the time.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import digesting
from zowarmup.common.system.files import open_given
from zowarmup.server.store.file_reuse import ReusableFiles
from zowarmup.server.store.files import BlobError, DiskRefused, UploadError, adopt, disk, write
from zowarmup.server.store.upload_files import UploadFiles

__all__ = [
    "BlobError",
    "Blobs",
    "DiskRefused",
    "Draft",
    "Stored",
    "UploadError",
    "digest_of",
    "sha256_of",
]

_PIECE = 1 << 20
_DRAFT = ".put-"
"""How the coordinator's own files in the spool begin; no client's name does."""


class Blobs:
    """The blobs below `root`, made where it does not exist. Writing raises DiskRefused where the disk refuses."""

    def __init__(self, root: Path) -> None:
        self._root, self._spool, self._uploads, self._bin = root, root / "spool", root / "uploads", root / "bin"
        self._reusable = ReusableFiles(self._bin)
        self.reusable = True
        """Whether there may be files to reuse or to remove."""
        self._parts = UploadFiles(self._spool, self._reusable)
        self._numbers = itertools.count()
        with disk(root):
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
        temporary = self._spool / f"{_DRAFT}{self._unique()}"
        over = self._reusable.take(len(data), temporary)
        with ThreadPoolExecutor(1) as beside:
            hashing = beside.submit(hashlib.sha256, data)
            with self._making_room(), disk(temporary, leave=False):
                with temporary.open("r+b" if over else "wb", buffering=0) as file:
                    for start in range(0, len(data), _PIECE):
                        write(file.fileno(), start, data[start : start + _PIECE])
                    os.fsync(file.fileno())
                sha256 = hashing.result().hexdigest()
                if self.has(sha256):
                    temporary.unlink()
                else:
                    adopt(temporary, self._root / sha256)
        return sha256

    @contextlib.contextmanager
    def draft(self) -> Iterator["Draft"]:
        """A blob to be written piece by piece; `keep` makes it one, or else it goes with the end of the block."""
        draft = Draft(self._spool / f"{_DRAFT}{self._unique()}")
        try:
            yield draft
        finally:
            draft.close()

    def keep(self, draft: "Draft") -> str:
        """Make what has been written a blob, durably; its sha256 in hex."""
        with disk(draft.path):
            sha256 = draft.finish()
            if not self.has(sha256):
                adopt(draft.path, self._root / sha256)
        return sha256

    def flat(self, sha256: str) -> "Stored":
        """A blob as a flat vector, of which only the slices that are asked for are read. Raises BlobError."""
        return Stored(self.path(sha256))

    def vector(self, sha256: str) -> NDArray[np.float32]:
        """A blob of little-endian float32 as a read-only view of the file, paged in as it is read."""
        return np.memmap(self.path(sha256), dtype="<f4", mode="r")

    def reuse(self, name: str, size_bytes: int) -> None:
        """Begin an upload of that size over a spare file, unless it has begun or there is none."""
        self._parts.reuse(name, size_bytes)

    def spooled(self, name: str, size_bytes: int) -> int:
        """How many bytes of an upload are on disk; an upload that outgrew its size is begun anew."""
        return self._parts.have(name, size_bytes)

    def spool(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
        """Put the next chunks of an upload at their offset."""
        with self._making_room():
            self._parts.put(name, offset, *chunks)

    def spooled_bytes(self, name: str, offset: int, count: int) -> bytes:
        """What an upload has brought, from an offset on."""
        return self._parts.read(name, offset, count)

    def drop_part(self, name: str) -> None:
        self._parts.drop(name)

    def finish(self, name: str, digest: str, found: str = "") -> bool:
        """Make a spooled upload a whole one; whether it did: where one of that name is whole already, that one stays and
        this one goes. `digest`: what its header said, in hex; `found`: its own, where that was computed as it came. Raises
        BlobError, and drops it, where they differ."""
        path = self._parts.complete(name)
        if not found:
            with disk(path):
                found = digest_of(path)
        if found != digest:
            path.unlink()
            raise UploadError(f"the upload's digest is {found}, its header said {digest}: send it again")
        with disk(path):
            if self.has_upload(name):
                path.unlink()
                return False
            adopt(path, self._uploads / name)
        return True

    def has_upload(self, name: str) -> bool:
        """Whether this upload is here whole."""
        return (self._uploads / name).exists()

    def upload(self, name: str) -> Path:
        """The file of a whole upload. Raises BlobError where there is none."""
        path = self._uploads / name
        if not path.exists():
            raise BlobError(f"{path} is missing: restore it from a backup of the data directory")
        return path

    def stored(self, name: str) -> "Stored":
        """A whole upload, of which only the slices that are asked for are read. Raises BlobError where there is none."""
        return Stored(self.upload(name))

    def drop_upload(self, name: str) -> None:
        """It is no longer there; `empty_reusable` says what becomes of its file."""
        self._discard(self._uploads / name)

    def drop_uploads(self, named: Collection[str]) -> None:
        """Drop every upload that is not whole or not among those named."""
        for path in self._uploads.iterdir():
            if path.name not in named:
                self._discard(path)
        for path in self._spool.iterdir():
            if not path.name.startswith(_DRAFT):
                self._discard(path)

    def empty_reusable(self, keep: int = 0, size_bytes: int = 0) -> None:
        """Remove what was dropped, but for `keep` files of a size, which the next ones are written over. For a thread: a
        large file takes its time to go."""
        self.reusable = keep > 0
        try:
            self._reusable.empty(keep, size_bytes)
        except OSError:
            self.reusable = True
            raise

    def remove(self, sha256: str) -> None:
        """As `drop_upload`, for a blob: by its sha256."""
        self._discard(self._root / sha256)

    def sweep(self, named: Collection[str], uploads: Collection[str], spooling: bool) -> int:
        """Remove what a crash has left: blobs and whole uploads that are not among those named, and the spool unless
        uploads may still be resumed (`spooling`). How many files went."""
        stale = [path for path in self._root.iterdir() if path.is_file() and path.name not in named]
        if not spooling:
            stale += [path for path in self._uploads.iterdir() if path.name not in uploads]
        stale += [path for path in self._spool.iterdir() if not spooling or path.name.startswith(_DRAFT)]
        self.empty_reusable()
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    @contextlib.contextmanager
    def _making_room(self) -> Iterator[None]:
        """What is spare is in nobody's way: where the disk refuses, it goes, for whoever tries again."""
        try:
            yield
        except DiskRefused:
            with contextlib.suppress(OSError):
                self._reusable.empty()
            raise

    def _discard(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, self._bin / self._unique())
            self.reusable = True

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
