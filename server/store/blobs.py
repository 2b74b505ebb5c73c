"""Blobs: byte strings by name that are too large for the event log.

`BlobStore` is the contract, which every implementation is tested against. `blob_files` keeps blobs in a folder; `MemoryBlobs`
keeps them in the process, for tests and simulations. A blob is written as a part, which grows by offset, and gets its name once
it is whole and durable, before any event names it: a blob that has a name is whole.

The coordinator's own blobs are named by their sha256. Uploads are in a store of their own (`uploads`), so no upload can name or
free what the coordinator wrote.
"""

import contextlib
import hashlib
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import digesting
from zowarmup.server.store.event_log import Fenced

PIECE = 1 << 20


class BlobError(Exception):
    """A blob is missing or is not what its name says."""


class MissingBlob(BlobError):
    """There is no blob of that name, or none any more."""


class UploadError(BlobError):
    """An upload is not what its client said; the sentence names no file, and is for the client."""


class DiskRefused(BlobError):
    """The disk cannot take it now: it is full, or failing; or the database is, or is away. Nothing has changed; trying again may
    help."""


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
        """A blob for reading. Raises MissingBlob where there is none."""
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


class FiledBlobs(BlobStore, Protocol):
    """A store whose blobs are also to be had as files, for what is mapped into memory."""

    def path(self, name: str) -> Path:
        """The file of a blob, which is not to be written. Raises BlobError where there is none."""
        ...


class SharedBlobs(BlobStore, Protocol):
    """Blobs that several coordinators share. Everyone may add some, and drop a part; only who leads may `delete`, which raises Fenced
    here."""

    def leading(self, epoch: int) -> BlobStore:
        """The same blobs for whoever leads in that epoch of the lease: `delete`, `drop` and so `sweep` raise Fenced where the lease
        is of another epoch by then."""
        ...


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
            raise MissingBlob(f"blob {name} is missing")
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
                raise dropped()
            held = self._parts.setdefault(part, bytearray())
            for chunk in chunks:
                held.extend(bytes(max(0, offset - len(held))))
                held[offset : offset + len(chunk)] = chunk
                offset += len(chunk)

    def finish(self, part: str, name: str) -> bool:
        with self._lock:
            if (data := self._parts.pop(part, None)) is None:
                raise dropped()
            return self._blobs.setdefault(name, whole := bytes(data)) is whole

    def drop(self, part: str) -> None:
        self._parts.pop(part, None)


class MemorySharedBlobs(MemoryBlobs):
    """Shared blobs that last as long as the object. `leading`: as `MemorySharedLog` has it."""

    def __init__(self, leading: Callable[[int], AbstractContextManager[None]]) -> None:
        super().__init__()
        self._leading = leading

    def leading(self, epoch: int) -> BlobStore:
        """See `SharedBlobs`."""
        return _LeadersBlobs(self, lambda: self._leading(epoch))

    def delete(self, name: str) -> None:
        raise follower_deletes()


class _LeadersBlobs(MemoryBlobs):
    """What `like` holds, for the leader."""

    def __init__(self, like: MemoryBlobs, lead: Callable[[], AbstractContextManager[None]]) -> None:
        self._blobs, self._parts, self._lock, self._lead = like._blobs, like._parts, like._lock, lead

    def delete(self, name: str) -> None:
        with self._lead():
            super().delete(name)

    def drop(self, part: str) -> None:
        with self._lead():
            super().drop(part)


class _OpenBytes:
    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read(self, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]


def missing(path: Path) -> MissingBlob:
    """The refusal of a blob that is not there."""
    return MissingBlob(f"{path} is missing: restore it from a backup of the data directory")


def follower_deletes() -> Fenced:
    """The refusal of a deletion by a coordinator that does not lead."""
    return Fenced("only the coordinator that leads deletes blobs")


def dropped() -> UploadError:
    """The refusal of an upload whose part is gone."""
    return UploadError("what had come of this upload has been dropped")


def pieces_of(blob: OpenBlob) -> Iterator[bytes]:
    """All of a blob, in order."""
    for start in range(0, blob.size, PIECE):
        yield blob.read(start, PIECE)


def sha256_of_blob(blob: OpenBlob) -> str:
    """In hex."""
    sha256 = hashlib.sha256()
    for piece in pieces_of(blob):
        sha256.update(piece)
    return sha256.hexdigest()


def digest_of_blob(blob: OpenBlob) -> str:
    """The digest of a blob of float32, in hex: what `layout.digest` says of the vector."""
    digest = digesting()
    for piece in pieces_of(blob):
        digest.update(piece)
    return digest.hexdigest()
