"""Uploads on disk that are not complete yet, from which they are resumed.

An upload is a file that grows: its length says how much is there. Or it lies over a spare file: that is as long as the
whole upload already, and behind it stands a mark, which says how many bytes are the upload's and goes when all are.
After a power cut a mark may be ahead of its bytes; then they have another digest in the end, and are sent again.
"""

import os
import struct
from pathlib import Path

from zowarmup.server.store.file_reuse import ReusableFiles
from zowarmup.server.store.files import UploadError, disk, write

MARK = struct.Struct("<Q")


class UploadFiles:
    """Parts of uploads in `folder`, by name; one writer for each name at a time."""

    def __init__(self, folder: Path, reusable: ReusableFiles) -> None:
        self._folder, self._reusable = folder, reusable

    def path(self, name: str) -> Path:
        """The file that an upload is in, or would begin in."""
        over = self._over(name)
        return over if over.exists() else self._folder / name

    def reuse(self, name: str, size_bytes: int) -> None:
        """Begin an upload of that size over a spare file, unless it has begun or there is none."""
        if not self.path(name).exists():
            self._reusable.take(size_bytes, self._over(name), MARK.pack(0))

    def have(self, name: str, size_bytes: int) -> int:
        """How many bytes of an upload are there; what is no part of so many is begun anew."""
        path, over = self._folder / name, self._over(name)
        if over.exists():
            length = over.stat().st_size
            if length == size_bytes + MARK.size:
                return int(MARK.unpack(self.read(name, size_bytes, MARK.size))[0])
            if length == size_bytes:  # the mark had gone already
                os.replace(over, path)
            else:
                over.unlink()
        have = path.stat().st_size if path.exists() else 0
        if have > size_bytes:
            path.unlink()
            return 0
        return have

    def put(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
        """Put the next chunks of an upload at their offset. Raises DiskRefused, as `read` and `complete`, and BlobError where
        what came before them has been dropped."""
        path = self.path(name)
        with disk(path):
            if offset and not path.exists():
                raise UploadError("what had come of this upload has been dropped")
            descriptor = os.open(path, os.O_RDWR | (0 if offset else os.O_CREAT), 0o666)
            try:
                offset = write(descriptor, offset, *chunks)
                if path == self._over(name):
                    write(descriptor, os.fstat(descriptor).st_size - MARK.size, MARK.pack(offset))
            finally:
                os.close(descriptor)

    def read(self, name: str, offset: int, count: int) -> bytes:
        """What an upload has brought, from an offset on."""
        path = self.path(name)
        with disk(path), path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(count)

    def complete(self, name: str) -> Path:
        """The synced file of an upload that is whole, without its mark. Where the disk refuses the sync, all of it goes: what
        is in memory then says nothing of the disk, whatever the next sync says. Raises BlobError where it was dropped."""
        path = self.path(name)
        if not path.exists():
            raise UploadError("this upload has been dropped")
        with disk(path, leave=False), path.open("r+b", buffering=0) as file:
            if path == self._over(name):
                file.truncate(os.fstat(file.fileno()).st_size - MARK.size)
            os.fsync(file.fileno())
        return path

    def drop(self, name: str) -> None:
        for path in (self._folder / name, self._over(name)):
            path.unlink(missing_ok=True)

    def _over(self, name: str) -> Path:
        return self._folder / f"{name}.over"
