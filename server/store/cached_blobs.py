"""Blobs of a database with files of this machine in front of them: what was fetched once is read, mapped and sent from disk.

The database is what counts. A file is a copy, made when a blob is first opened, and checked while it is made where the blob's name is its
sha256; without the files all goes on, after another fetch. What is deleted goes in both; a coordinator that learns of another's deletion
lets its files go by `retain`. Parts are in the database alone.
"""

import contextlib
import hashlib
import re
import threading
import uuid
from collections.abc import Collection
from pathlib import Path

from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import PIECE, BlobError, BlobStore, DiskRefused, OpenBlob, SharedBlobs

_SHA256 = re.compile(r"[0-9a-f]{64}")


class CachedBlobs(SharedBlobs):
    """See `SharedBlobs` and `FiledBlobs`. Used by any thread.

    Args:
        shared: The blobs themselves.
        files: The copies, in a folder that nothing else writes to.
        changing: The same blobs, as whoever leads changes them; by default `shared`.
    """

    def __init__(self, shared: SharedBlobs, files: BlobFiles, changing: BlobStore | None = None) -> None:
        self._shared, self._files, self._changing = shared, files, changing or shared
        self._fetching = threading.Lock()

    def leading(self, epoch: int) -> "CachedBlobs":
        """See `SharedBlobs`."""
        return CachedBlobs(self._shared, self._files, self._shared.leading(epoch))

    def path(self, name: str) -> Path:
        """See `FiledBlobs`. Fetches it where it is not here."""
        with contextlib.suppress(BlobError):
            return self._files.path(name)
        with self._fetching:
            if not self._files.has(name):
                self._fetch(name)
        return self._files.path(name)

    def _fetch(self, name: str) -> None:
        blob, sha256, part = self._shared.open(name), hashlib.sha256(), f"fetch-{uuid.uuid4().hex}"
        try:
            self._files.write(part, 0)
            for start in range(0, blob.size, PIECE):
                piece = blob.read(start, PIECE)
                sha256.update(piece)
                self._files.write(part, start, piece)
            if _SHA256.fullmatch(name) and sha256.hexdigest() != name:
                raise BlobError(f"blob {name} is damaged in the database: restore it from a backup")
            self._files.finish(part, name)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.drop(part)
                self._files.free()
            raise

    def retain(self, named: Collection[str]) -> None:
        """Let go of every file but those of the blobs named."""
        for name in self._files.names().difference(named):
            self._files.delete(name)
        self._files.free()

    def names(self) -> set[str]:
        return self._shared.names()

    def has(self, name: str) -> bool:
        return self._shared.has(name)

    def open(self, name: str) -> OpenBlob:
        """From its file, unless this machine's disk has no room for one."""
        try:
            self.path(name)
            return self._files.open(name)
        except DiskRefused:
            return self._shared.open(name)

    def delete(self, name: str) -> None:
        self._changing.delete(name)
        self._files.delete(name)

    def free(self) -> None:
        self._changing.free()
        self._files.free()

    def put(self, data: memoryview | bytes) -> str:
        """See `BlobStore`. Its file is written, too: whoever writes a blob will read it."""
        sha256 = self._changing.put(data)
        with contextlib.suppress(DiskRefused):
            self._files.put(data)
        return sha256

    def parts(self) -> set[str]:
        return self._shared.parts()

    def received(self, part: str) -> int:
        return self._shared.received(part)

    def read_part(self, part: str, offset: int, count: int) -> bytes:
        return self._shared.read_part(part, offset, count)

    def write(self, part: str, offset: int, *chunks: bytes | memoryview) -> None:
        self._changing.write(part, offset, *chunks)

    def finish(self, part: str, name: str) -> bool:
        return self._changing.finish(part, name)

    def drop(self, part: str) -> None:
        self._changing.drop(part)
