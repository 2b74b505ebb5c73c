"""Files that are there whole or not at all, and there after a power cut."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(file: Path, ending: str = ".new") -> Iterator[Path]:
    """A path beside `file` to write to, at which nothing is. At the end of the block it becomes `file`; where the block or
    that raises, it is removed. Whoever needs it to outlast a power cut syncs it in the block."""
    partial = file.with_name(file.name + ending)
    partial.unlink(missing_ok=True)
    try:
        yield partial
        partial.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def adopt(path: Path, name: Path) -> None:
    """Give a synced file a name, durably: where the disk refuses, it has its old name again."""
    os.replace(path, name)
    try:
        sync(name.parent)
    except OSError:
        with contextlib.suppress(OSError):
            os.replace(name, path)
        raise


def sync(path: Path) -> None:
    """What was written to a file, or renamed or removed in a folder, is so after a power cut too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Everything under a folder is there after a power cut, though its own name may not be."""
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(where, name))
        sync(Path(where))
