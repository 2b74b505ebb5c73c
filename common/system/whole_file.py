"""Files that are there whole or not at all."""

import contextlib
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
