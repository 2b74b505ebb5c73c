"""Transfers of many bytes: how many calls a client may have at a time, and blobs as messages, each read once for all clients
that fetch it.

What the cache keeps are the last few messages, serialised as they travel; who falls behind reads its own. The last to leave
clears the cache.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from zowarmup.server.core import events as ev
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.membership import revoked
from zowarmup.server.core.state import State
from zowarmup.server.rpc.auth import Context
from zowarmup.server.store.blobs import BlobStore, OpenBlob

CHUNK_BYTES = 1 << 19
KEPT = 32
"""Messages in the cache: 16 MB."""
AT_ONCE = 2
"""Downloads of each client: one, and an older one over a link that broke unnoticed."""

Framed = Callable[[bytes], bytes]
"""A chunk of a blob as the message that carries it, serialised."""


class DownloadCache:
    """The cache of one coordinator: `kept` messages of `chunk_bytes` each. Used on the event loop."""

    def __init__(self, blobs: BlobStore, *, chunk_bytes: int = CHUNK_BYTES, kept: int = KEPT) -> None:
        self._blobs, self._chunk_bytes, self._kept = blobs, chunk_bytes, kept
        self._cache: OrderedDict[tuple[str, Framed, int], asyncio.Task[bytes]] = OrderedDict()
        self._open = 0

    async def messages(self, name: str, framed: Framed, offset: int) -> AsyncGenerator[bytes, None]:
        """The messages that carry a blob's bytes from an offset on, though the blob be removed meanwhile. Raises ValueError
        where the offset is beyond its end, BlobError."""
        blob = await asyncio.to_thread(self._blobs.open, name)  # it may have to be fetched first
        if offset > blob.size:
            raise ValueError(f"offset {offset} is beyond the end, which is at {blob.size}")
        self._open += 1
        try:
            while offset < blob.size:
                message = self._chunk(blob, name, framed, offset)
                if (ahead := (offset // self._chunk_bytes + 1) * self._chunk_bytes) < blob.size:
                    self._chunk(blob, name, framed, ahead)
                offset = ahead
                yield await asyncio.shield(message)
        finally:
            self._open -= 1
            if not self._open:
                self._cache.clear()

    def _chunk(self, blob: OpenBlob, name: str, framed: Framed, start: int) -> "asyncio.Task[bytes]":
        """Up to the next multiple of `chunk_bytes`."""
        key = (name, framed, start)
        task = self._cache.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            count = self._chunk_bytes - start % self._chunk_bytes
            task = asyncio.create_task(asyncio.to_thread(lambda: framed(blob.read(start, count))))
            self._cache[key] = task
            if len(self._cache) > self._kept:
                self._cache.popitem(last=False)
        return task


async def taken(context: Context, message: Any, within_s: float) -> None:
    """Write a message; returns when the link has taken it. Raises Rejected where it does not within so many seconds."""
    try:
        async with asyncio.timeout(within_s):
            await context.write(message)
    except TimeoutError:
        raise Rejected("too_slow", f"nothing was read for {within_s:g} s: go on from where it broke off") from None


class ClientCalls:
    """Calls of one kind, such as an "upload": `at_once` for each client."""

    def __init__(self, kind: str, at_once: int) -> None:
        self._kind, self._at_once = kind, at_once
        self._calls: dict[str, list[asyncio.Task[object]]] = {}
        self._ended: dict[asyncio.Task[object], Rejected] = {}
        self._rooms: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe: end the calls of who is revoked."""
        for event in events:
            if isinstance(event, ev.ClientRevoked):
                for task in self._calls.pop(event.client, ()):
                    self._end(task, revoked(event.client, event.reason))

    @asynccontextmanager
    async def one(self, client: str) -> AsyncIterator[None]:
        """A call, which begins when the client has room for it: where it has too many, the oldest, perhaps over a link that
        broke, is ended first. A call that is ended is interrupted, and raises Rejected."""
        task = asyncio.current_task()
        assert task is not None
        calls = self._calls.setdefault(client, [])
        calls.append(task)
        if len(calls) > self._at_once:
            self._end(calls.pop(0), Rejected("superseded", f"a newer {self._kind} of {client} has superseded this one"))
        room = self._rooms.setdefault(client, asyncio.Semaphore(self._at_once))
        try:
            async with room:
                yield
        except asyncio.CancelledError:
            if (rejected := self._ended.get(task)) is None:
                raise
            task.uncancel()
            raise rejected from None
        finally:
            self._ended.pop(task, None)
            if task in calls:
                calls.remove(task)
            if not calls and self._calls.get(client) is calls:
                del self._calls[client]

    def _end(self, task: "asyncio.Task[object]", rejected: Rejected) -> None:
        self._ended[task] = rejected
        task.cancel()
