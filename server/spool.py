"""Uploads on disk: in `spool` while they come in, from where they are taken up again, and in `uploads` once they are whole.

An upload that comes in is a file that grows: its length says how much is there. Or it lies over a spare file: that is as long as
the whole upload already, and behind it stands a mark, which says how many bytes are the upload's and goes when all are.
After a power cut a mark may be ahead of its bytes; then they have another digest in the end, and are sent again.
A whole upload is synced and renamed, and its folder synced: one that has its name is whole. Whole uploads are kept apart from the
coordinator's own blobs, so that no upload can name, or free, what the coordinator wrote. They last for a round, and are digested like a
replica, in a tenth of the time of a sha256.
"""

import os
import struct
from collections.abc import Collection
from pathlib import Path

from zowarmup.server.blob_store import check_digest
from zowarmup.server.blobs import DRAFT, Stored, digest_of
from zowarmup.server.disk import BlobError, UploadError, adopt, disk, write
from zowarmup.server.spares import Spares

MARK = struct.Struct("<Q")


def upload_name(client: str, digest: str) -> str:
    """The name of one client's delta with that digest (hex), whole or not: no other client can name it or write to it. So
    digests tell apart only what one client sends, and guard it against accidents: whoever wants to can make two deltas of
    one digest, and only the first that is whole counts."""
    return f"{client}.{digest}"


class UploadFiles:
    """The uploads below the folder `root`, by name; one writer for each name at a time. Writing raises DiskRefused where the
    disk refuses."""

    def __init__(self, root: Path, spares: Spares) -> None:
        self._parts, self._whole, self._spares = root / "spool", root / "uploads", spares
        with disk(root):
            for folder in (self._parts, self._whole):
                folder.mkdir(parents=True, exist_ok=True)

    def begin(self, name: str, size_bytes: int) -> None:
        """Let an upload of that size lie over a spare file, unless it has begun or there is none."""
        if not self._part(name).exists():
            self._spares.take(size_bytes, self._over(name), MARK.pack(0))

    def received(self, name: str, size_bytes: int) -> int:
        """How many bytes of an upload that is not whole are there; what is no part of so many is begun anew."""
        path, over = self._parts / name, self._over(name)
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

    def write(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
        """Put the next chunks of an upload at their offset. Raises UploadError where what came before them has been dropped."""
        path = self._part(name)
        with self._spares.making_room(), disk(path):
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
        """What an upload that is not whole has brought, from an offset on."""
        path = self._part(name)
        with disk(path), path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(count)

    def finish(self, name: str, digest: str, found: str = "") -> bool:
        """Make an upload that has all its bytes a whole one, durably. Where the disk refuses the sync, all of it goes: what is in
        memory then says nothing of the disk, whatever the next sync says.

        Args:
            name: The upload's.
            digest: What its header said, in hex.
            found: Its own, in hex, where that was computed as it came.

        Returns:
            Whether it is whole now; where one of that name was whole already, that one stays and this one goes.

        Raises:
            UploadError: The digests differ, and it is dropped; or it was dropped before.
        """
        path = self._part(name)
        if not path.exists():
            raise UploadError("this upload has been dropped")
        with disk(path, leave=False), path.open("r+b", buffering=0) as file:
            if path == self._over(name):
                file.truncate(os.fstat(file.fileno()).st_size - MARK.size)
            os.fsync(file.fileno())
        if not found:
            with disk(path):
                found = digest_of(path)
        try:
            check_digest(digest, found)
        except UploadError:
            path.unlink()
            raise
        with disk(path):
            if self.has(name):
                path.unlink()
                return False
            adopt(path, self._whole / name)
        return True

    def has(self, name: str) -> bool:
        """Whether this upload is here whole."""
        return (self._whole / name).exists()

    def path(self, name: str) -> Path:
        """The file of a whole upload. Raises BlobError where there is none."""
        path = self._whole / name
        if not path.exists():
            raise BlobError(f"{path} is missing: restore it from a backup of the data directory")
        return path

    def vector(self, name: str) -> Stored:
        """A whole upload, of which only the slices that are asked for are read. Raises BlobError where there is none."""
        return Stored(self.path(name))

    def drop_part(self, name: str) -> None:
        """What has come of an upload that is not whole is no longer there."""
        for path in (self._parts / name, self._over(name)):
            path.unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        """A whole upload is no longer there; `Spares.empty` says what becomes of its file."""
        self._spares.discard(self._whole / name)

    def retain(self, named: Collection[str]) -> None:
        """Drop every upload that is not whole or not among those named."""
        for path in self._whole.iterdir():
            if path.name not in named:
                self._spares.discard(path)
        for path in self._parts.iterdir():
            if not path.name.startswith(DRAFT):
                self._spares.discard(path)

    def sweep(self, named: Collection[str]) -> int:
        """Remove what a crash has left: every upload that is not whole or not among those named. How many files went."""
        stale = [path for path in self._whole.iterdir() if path.name not in named]
        stale += [path for path in self._parts.iterdir() if not path.name.startswith(DRAFT)]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _part(self, name: str) -> Path:
        """The file that an upload is in, or would begin in, until it is whole."""
        over = self._over(name)
        return over if over.exists() else self._parts / name

    def _over(self, name: str) -> Path:
        return self._parts / f"{name}.over"
