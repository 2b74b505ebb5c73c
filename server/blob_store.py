"""The contracts for what is too large for an event log: blobs, and uploads that come in piece by piece.

Every implementation is tested against them. `blobs` and `spool` keep both in files; `MemoryBlobs` and `MemoryUploads` keep them in the process, for
tests and simulations.
"""

import hashlib
import io
from collections.abc import Collection
from typing import BinaryIO, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from zowarmup.common.methods.vector import Vector
from zowarmup.server.disk import BlobError, UploadError


class BlobStore(Protocol):
    """Byte strings that are named by their sha256 in hex, and last. Used by any thread."""

    def put(self, data: memoryview | bytes) -> str:
        """Store bytes durably; what is there already is stored once.

        Returns:
            Their sha256, by which they are found from now on.

        Raises:
            DiskRefused: They cannot be stored now. Nothing has changed.
        """
        ...

    def open(self, sha256: str) -> BinaryIO:
        """The bytes as a file for reading, which stays readable though the blob be deleted; closed by whoever opens it.

        Raises:
            BlobError: There is no such blob.
        """
        ...

    def delete(self, sha256: str) -> None:
        """Let a blob go, if it is there."""
        ...

    def names(self) -> Collection[str]:
        """The sha256 of each blob."""
        ...


class ResumableUploads(Protocol):
    """Uploads by name, with one writer for each name at a time: they grow by offset, and are whole once their digest is found right.
    Used by any thread. Writing raises DiskRefused where the disk refuses."""

    def begin(self, name: str, size_bytes: int) -> None:
        """Make ready for an upload of that size; no need to."""
        ...

    def received(self, name: str, size_bytes: int) -> int:
        """How many bytes of an upload that is not whole are there; one with more than its size is dropped, and begins anew."""
        ...

    def write(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
        """Put the next chunks behind the `offset` bytes that are there.

        Raises:
            UploadError: These have been dropped.
        """
        ...

    def read(self, name: str, offset: int, count: int) -> bytes:
        """What an upload that is not whole has brought, from an offset on: `count` bytes, or as many as there are."""
        ...

    def finish(self, name: str, digest: str, found: str = "") -> bool:
        """Make an upload that has all its bytes a whole one, durably.

        Args:
            name: The upload's.
            digest: The xxh3-128 that it should have, in hex.
            found: The one that it has, where that was computed as it came; else it is computed.

        Returns:
            Whether this one is whole now. Where one of its name was whole before, that one stays, and this one goes.

        Raises:
            UploadError: The digests differ, and the upload is dropped; or it had been dropped.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether this upload is here whole."""
        ...

    def vector(self, name: str) -> Vector:
        """A whole upload as float32.

        Raises:
            BlobError: There is none.
        """
        ...

    def drop_part(self, name: str) -> None:
        """Let what has come of an upload that is not whole go."""
        ...

    def drop(self, name: str) -> None:
        """Let a whole upload go, if it is there."""
        ...

    def retain(self, named: Collection[str]) -> None:
        """Let every upload go that is not whole or not among those named."""
        ...

    def sweep(self, named: Collection[str]) -> int:
        """The same after a restart. How many went."""
        ...


class MemoryBlobs:
    """Blobs that last as long as the object."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put(self, data: memoryview | bytes) -> str:
        """See `BlobStore`."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._blobs.setdefault(sha256, bytes(data))
        return sha256

    def open(self, sha256: str) -> BinaryIO:
        """See `BlobStore`."""
        if (found := self._blobs.get(sha256)) is None:
            raise BlobError(f"blob {sha256} is missing")
        return io.BytesIO(found)

    def delete(self, sha256: str) -> None:
        """See `BlobStore`."""
        self._blobs.pop(sha256, None)

    def names(self) -> Collection[str]:
        """See `BlobStore`."""
        return set(self._blobs)


class MemoryUploads:
    """Uploads that last as long as the object."""

    def __init__(self) -> None:
        self._parts: dict[str, bytearray] = {}
        self._whole: dict[str, bytes] = {}

    def begin(self, name: str, size_bytes: int) -> None:
        """See `ResumableUploads`."""

    def received(self, name: str, size_bytes: int) -> int:
        """See `ResumableUploads`."""
        if len(self._parts.get(name, b"")) > size_bytes:
            del self._parts[name]
        return len(self._parts.get(name, b""))

    def write(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
        """See `ResumableUploads`."""
        if offset and name not in self._parts:
            raise UploadError("what had come of this upload has been dropped")
        part = self._parts.setdefault(name, bytearray())
        for chunk in chunks:
            part[offset : offset + len(chunk)] = chunk
            offset += len(chunk)

    def read(self, name: str, offset: int, count: int) -> bytes:
        """See `ResumableUploads`."""
        return bytes(self._parts[name][offset : offset + count])

    def finish(self, name: str, digest: str, found: str = "") -> bool:
        """See `ResumableUploads`."""
        part = self._parts.pop(name, None)
        if part is None:
            raise UploadError("this upload has been dropped")
        check_digest(digest, found or xxhash.xxh3_128_hexdigest(part))
        if self.has(name):
            return False
        self._whole[name] = bytes(part)
        return True

    def has(self, name: str) -> bool:
        """See `ResumableUploads`."""
        return name in self._whole

    def vector(self, name: str) -> Vector:
        """See `ResumableUploads`."""
        if not self.has(name):
            raise BlobError(f"upload {name} is missing")
        return np.frombuffer(self._whole[name], "<f4")

    def drop_part(self, name: str) -> None:
        """See `ResumableUploads`."""
        self._parts.pop(name, None)

    def drop(self, name: str) -> None:
        """See `ResumableUploads`."""
        self._whole.pop(name, None)

    def retain(self, named: Collection[str]) -> None:
        """See `ResumableUploads`."""
        self._parts.clear()
        self._whole = {name: data for name, data in self._whole.items() if name in named}

    def sweep(self, named: Collection[str]) -> int:
        """See `ResumableUploads`."""
        before = len(self._parts) + len(self._whole)
        self.retain(named)
        return before - len(self._whole)


def check_digest(digest: str, found: str) -> None:
    """Raises UploadError where an upload's digest is not what its header said (both in hex)."""
    if found != digest:
        raise UploadError(f"the upload's digest is {found}, its header said {digest}: send it again")


def weights_in(blob: BinaryIO) -> NDArray[np.float32]:
    """All of an open blob of little-endian float32, as an array of its own."""
    size = blob.seek(0, io.SEEK_END)
    blob.seek(0)
    weights = np.empty(size // 4, "<f4")
    data, at = weights.data.cast("B"), 0
    while at < len(data) and (count := blob.readinto(data[at:])):  # type: ignore[attr-defined]
        at += count
    return weights.astype(np.float32, copy=False)
