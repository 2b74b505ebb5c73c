"""A safetensors file that somebody names: opened, and nothing of it read before it is known how much it is."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zowarmup.common.system.files import open_given
from zowarmup.common.untrusted import TooLarge, require_size

_MOST_HEADER_BYTES = 1 << 22
"""The list of its tensors: some 40,000 of them."""


class Unreadable(Exception):
    """The file cannot be used, for this reason."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file as the library has it, whose tensors are read one by one. Raises Unreadable, also of what is read in the block."""
    from safetensors import SafetensorError, safe_open

    try:
        with open_given(path) as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
            most = min(_MOST_HEADER_BYTES, os.fstat(file.fileno()).st_size)
            require_size("the list of its tensors", length, most, "write it again, as `zowarmup export` does")
        with safe_open(path, framework="numpy") as tensors:
            yield tensors
    except (OSError, SafetensorError, TooLarge) as error:
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from error
