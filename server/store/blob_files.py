"""Blobs as files of one folder."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from zowarmup.common.system.files import sync
from zowarmup.server.store.blobs import BlobStore, DiskRefused, OpenBlob, dropped, missing

_AHEAD = 8 << 20


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
            raise missing(path)
        return path

    def names(self) -> set[str]:
        return {path.name for path in self._root.iterdir() if path.is_file()}

    def has(self, name: str) -> bool:
        return (self._root / name).exists()

    def open(self, name: str) -> OpenBlob:
        return opened(self._root / name)

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
                raise dropped() from None
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
            raise dropped()
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


def opened(path: Path) -> OpenBlob:
    """The blob in a file. Raises MissingBlob where there is none."""
    try:
        return _OpenFile(os.open(path, os.O_RDONLY))
    except FileNotFoundError:
        raise missing(path) from None


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
