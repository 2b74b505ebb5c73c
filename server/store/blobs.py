"""Blobs: byte strings by name that are too large for the event log.

`BlobStore` is the contract, which every implementation is tested against. `BlobFiles` keeps blobs in a folder; `MemoryBlobs`
keeps them in the process, for tests and simulations. A blob is written as a part, which grows by offset, and gets its name once
it is whole and durable, before any event names it: a blob that has a name is whole.

The coordinator's own blobs are named by their sha256. Uploads are in a store of their own (`uploads`), so no upload can name or
free what the coordinator wrote.
"""

import contextlib
import hashlib
import os
import threading
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import digesting
from zowarmup.common.system.files import open_given, sync

PIECE = 1 << 20
_AHEAD = 8 << 20


class BlobError(Exception):
    """A blob is missing or is not what its name says."""


class UploadError(BlobError):
    """An upload is not what its client said; the sentence names no file, and is for the client."""


class DiskRefused(BlobError):
    """The disk cannot take it now: it is full, or failing. Nothing has changed; trying again may help."""


class OpenBlob(Protocol):
    """A blob that stays readable though it be deleted. Used by any thread."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from an offset on, or as many as there are."""
        ...


class BlobStore(Protocol):
    """Blobs by name, and parts by names of their own, each part with one writer at a time but for a draft's. Used by any
    thread. Writing raises DiskRefused where the disk refuses."""

    def names(self) -> set[str]:
        """Of every blob."""
        ...

    def has(self, name: str) -> bool: ...

    def open(self, name: str) -> OpenBlob:
        """A blob for reading. Raises BlobError where there is none."""
        ...

    def delete(self, name: str) -> None:
        """The blob is no longer there, if it was. Takes no time: `free` gives back its room."""
        ...

    def free(self) -> None:
        """Give back the room of what was deleted or dropped. Takes time: call it in a thread."""
        ...

    def parts(self) -> set[str]:
        """The names of what is not whole yet."""
        ...

    def received(self, part: str) -> int:
        """How many bytes of a part are there."""
        ...

    def read_part(self, part: str, offset: int, count: int) -> bytes:
        """As `OpenBlob.read`."""
        ...

    def write(self, part: str, offset: int, *chunks: bytes | memoryview) -> None:
        """Put chunks into a part, from an offset on; one at offset 0 begins it. Raises UploadError where what came before has
        been dropped."""
        ...

    def finish(self, part: str, name: str) -> bool:
        """Make a part the blob of that name, durably.

        Returns:
            Whether it is that blob now. Where one of that name was there before, that one stays and this one goes.

        Raises:
            UploadError: It had been dropped.
            DiskRefused: It is dropped where the disk refuses to sync it: what is in memory then says nothing of the disk,
                whatever the next sync says.
        """
        ...

    def drop(self, part: str) -> None:
        """As `delete`, for a part."""
        ...

    # What follows is made of the above.

    def put(self, data: memoryview | bytes) -> str:
        """Store bytes durably, once; their sha256 in hex. They are hashed while they are written."""
        view = memoryview(data)
        with ThreadPoolExecutor(1) as beside, self.draft() as part:
            hashing = beside.submit(hashlib.sha256, data)
            for start in range(0, len(view), PIECE):
                self.write(part, start, view[start : start + PIECE])
            sha256 = hashing.result().hexdigest()
            self.finish(part, sha256)
        return sha256

    @contextlib.contextmanager
    def draft(self) -> Iterator[str]:
        """A part of which threads may write pieces in any order. The block makes it a blob by `keep` or `finish`; it goes with
        an error."""
        part = f"put-{uuid.uuid4().hex}"
        try:
            self.write(part, 0)
            yield part
        except Exception:
            with contextlib.suppress(OSError):
                self.drop(part)
                self.free()
            raise

    def keep(self, part: str) -> str:
        """Make a draft a blob, durably; its sha256 in hex."""
        sha256 = hashlib.sha256()
        for start in range(0, self.received(part), PIECE):
            sha256.update(self.read_part(part, start, PIECE))
        self.finish(part, sha256.hexdigest())
        return sha256.hexdigest()

    def vector(self, name: str) -> "BlobVector":
        """A blob of little-endian float32. Raises BlobError."""
        return BlobVector(self, name)

    def sweep(self, named: Collection[str]) -> int:
        """Remove what a crash has left: every part, and every blob that is not among those named. How many went."""
        stale, parts = self.names().difference(named), self.parts()
        for name in stale:
            self.delete(name)
        for part in parts:
            self.drop(part)
        self.free()
        return len(stale) + len(parts)


class BlobVector:
    """A blob of little-endian float32 as a flat vector, of which only the slices that are asked for are read; they are not to
    be written. Threads may share it."""

    def __init__(self, store: BlobStore, name: str) -> None:
        self._store, self._name = store, name
        self.shape = (store.open(name).size // 4,)
        self.dtype = np.dtype("<f4")

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        start, stop, _ = part.indices(self.shape[0])
        return np.frombuffer(self._store.open(self._name).read(4 * start, 4 * (stop - start)), self.dtype)

    def load(self) -> NDArray[np.float32]:
        """All of it, as an array of its own."""
        whole = np.empty(self.shape, np.float32)
        for start in range(0, len(whole), PIECE // 4):
            piece = self[start : start + PIECE // 4]
            whole[start : start + len(piece)] = piece
        return whole


class MemoryBlobs(BlobStore):
    """Blobs that last as long as the object. `like`: begins with what that one holds now."""

    def __init__(self, like: "MemoryBlobs | None" = None) -> None:
        self._blobs: dict[str, bytes] = dict(like._blobs) if like else {}
        parts = like._parts if like else {}
        self._parts: dict[str, bytearray] = {part: bytearray(data) for part, data in parts.items()}
        self._lock = threading.Lock()

    def names(self) -> set[str]:
        return set(self._blobs)

    def has(self, name: str) -> bool:
        return name in self._blobs

    def open(self, name: str) -> OpenBlob:
        if (data := self._blobs.get(name)) is None:
            raise BlobError(f"blob {name} is missing")
        return _OpenBytes(data)

    def delete(self, name: str) -> None:
        self._blobs.pop(name, None)

    def free(self) -> None:
        pass

    def parts(self) -> set[str]:
        return set(self._parts)

    def received(self, part: str) -> int:
        return len(self._parts.get(part, b""))

    def read_part(self, part: str, offset: int, count: int) -> bytes:
        return bytes(self._parts[part][offset : offset + count])

    def write(self, part: str, offset: int, *chunks: bytes | memoryview) -> None:
        with self._lock:
            if offset and part not in self._parts:
                raise _dropped()
            held = self._parts.setdefault(part, bytearray())
            for chunk in chunks:
                held.extend(bytes(max(0, offset - len(held))))
                held[offset : offset + len(chunk)] = chunk
                offset += len(chunk)

    def finish(self, part: str, name: str) -> bool:
        with self._lock:
            if (data := self._parts.pop(part, None)) is None:
                raise _dropped()
            return self._blobs.setdefault(name, whole := bytes(data)) is whole

    def drop(self, part: str) -> None:
        self._parts.pop(part, None)


class BlobFiles(BlobStore):
    """Blobs in the folder `root`, made where it does not exist: files by name, parts in `parts`, and in `bin` what is to be
    removed."""

    def __init__(self, root: Path) -> None:
        self._root, self._parts, self._bin = root, root / "parts", root / "bin"
        with _disk(root):
            for folder in (self._parts, self._bin):
                folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """The file of a blob. Raises BlobError where there is none."""
        path = self._root / name
        if not path.exists():
            raise _missing(path)
        return path

    def names(self) -> set[str]:
        return {path.name for path in self._root.iterdir() if path.is_file()}

    def has(self, name: str) -> bool:
        return (self._root / name).exists()

    def open(self, name: str) -> OpenBlob:
        try:
            return _OpenFile(os.open(self._root / name, os.O_RDONLY))
        except FileNotFoundError:
            raise _missing(self._root / name) from None

    def delete(self, name: str) -> None:
        self._discard(self._root / name)

    def free(self) -> None:
        for path in self._bin.iterdir():
            path.unlink(missing_ok=True)

    def parts(self) -> set[str]:
        return {path.name for path in self._parts.iterdir()}

    def received(self, part: str) -> int:
        try:
            return (self._parts / part).stat().st_size
        except FileNotFoundError:
            return 0

    def read_part(self, part: str, offset: int, count: int) -> bytes:
        path = self._parts / part
        with _disk(path):
            return _OpenFile(os.open(path, os.O_RDONLY)).read(offset, count)

    def write(self, part: str, offset: int, *chunks: bytes | memoryview) -> None:
        path, begun = self._parts / part, offset
        with _disk(path):
            try:
                descriptor = os.open(path, os.O_WRONLY | (0 if offset else os.O_CREAT), 0o666)
            except FileNotFoundError:
                raise _dropped() from None
            try:
                for chunk in chunks:
                    view = memoryview(chunk)
                    while view:
                        written = os.pwrite(descriptor, view, offset)
                        offset, view = offset + written, view[written:]
                behind, before = offset // _AHEAD * _AHEAD, begun // _AHEAD * _AHEAD
                if behind > before and hasattr(os, "posix_fadvise"):
                    # Begins to write these pages out, so that little is left for the sync; they stay in memory while dirty.
                    os.posix_fadvise(descriptor, before, behind - before, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    def finish(self, part: str, name: str) -> bool:
        path, blob = self._parts / part, self._root / name
        if not path.exists():
            raise _dropped()
        with _disk(path):
            try:
                sync(path)
            except OSError:
                with contextlib.suppress(OSError):
                    path.unlink()
                raise
            if blob.exists():
                path.unlink()
                return False
            os.replace(path, blob)
            try:
                sync(self._root)
            except OSError:
                with contextlib.suppress(OSError):
                    os.replace(blob, path)
                raise
        return True

    def drop(self, part: str) -> None:
        self._discard(self._parts / part)

    def _discard(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, self._bin / uuid.uuid4().hex)


class _OpenBytes:
    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read(self, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]


class _OpenFile:
    """Its descriptor is closed with the object, when no thread reads any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset)

    def __del__(self) -> None:
        os.close(self._descriptor)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """The system's refusals as DiskRefused."""
    try:
        yield
    except OSError as error:
        raise DiskRefused(f"{path} cannot be written: {error.strerror or error}") from error


def _missing(path: Path) -> BlobError:
    return BlobError(f"{path} is missing: restore it from a backup of the data directory")


def _dropped() -> UploadError:
    return UploadError("what had come of this upload has been dropped")


def sha256_of(path: Path) -> str:
    """In hex."""
    with open_given(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(path: Path) -> str:
    """The digest of a file of float32, in hex: what `layout.digest` says of the vector."""
    digest = digesting()
    with open_given(path) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
