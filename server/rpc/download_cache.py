"""The download cache: chunks are read ahead once for all clients that fetch the same blob.

What is kept are the last few messages, serialised as they travel; who falls behind reads its own. The last to leave
clears the cache.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from io import FileIO
from pathlib import Path

CHUNK_BYTES = 1 << 19
KEPT = 32
"""Messages in the cache: 16 MB."""

Framed = Callable[[bytes], bytes]
"""A chunk of a blob as the message that carries it, serialised."""


class DownloadCache:
    """The cache of one coordinator. Used on the event loop."""

    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[Path, Framed, int], asyncio.Task[bytes]] = OrderedDict()
        self._open = 0

    async def messages(self, path: Path, framed: Framed, offset: int) -> AsyncGenerator[bytes, None]:
        """The messages that carry a blob's bytes from an offset on, though the blob be removed meanwhile. Raises ValueError
        where the offset is beyond its end."""
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if offset > size:
                raise ValueError(f"offset {offset} is beyond the end, which is at {size}")
            self._open += 1
            try:
                while offset < size:
                    message = self._chunk(file, path, framed, offset)
                    if (ahead := (offset // CHUNK_BYTES + 1) * CHUNK_BYTES) < size:
                        self._chunk(file, path, framed, ahead)
                    offset = ahead
                    yield await asyncio.shield(message)
            finally:
                self._open -= 1
                if not self._open:
                    self._cache.clear()

    def _chunk(self, file: FileIO, path: Path, framed: Framed, start: int) -> "asyncio.Task[bytes]":
        """Up to the next multiple of CHUNK_BYTES."""
        key = (path, framed, start)
        task = self._cache.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            count = CHUNK_BYTES - start % CHUNK_BYTES
            # A file of its own, for whoever asked may be gone before it is read.
            task = asyncio.create_task(asyncio.to_thread(_read, os.dup(file.fileno()), framed, start, count))
            self._cache[key] = task
            if len(self._cache) > KEPT:
                self._cache.popitem(last=False)
        return task


def _read(file: int, framed: Framed, start: int, count: int) -> bytes:
    try:
        return framed(os.pread(file, count, start))
    finally:
        os.close(file)
