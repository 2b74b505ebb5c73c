"""The page's server-sent events: one state for each viewer that comes, then what changes, encoded once for all of them.

While nobody looks nothing is computed. A viewer has a queue of `QUEUE` events and `WRITE_S` seconds for each write: one that
does not read is cut off, holds nobody back, and its browser comes again and gets a whole state. There are `VIEWERS` at most.
All of it runs in the thread of the HTTP server, beside the coordinator's own.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from zowarmup.server.telemetry.http import LASTING, refuse
from zowarmup.server.telemetry.page.view import PageView, encoded

VIEWERS = 100
TICK_S = 0.25
QUEUE = 64
WRITE_S = 10.0
SILENCE_S = 15.0
"""A viewer hears something at least so often: what lies between may close a connection that says nothing, and a viewer that
has gone is found by writing."""
HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),
]
RETRY = b"retry: 2000\n\n"


class EventStream:
    """The application. `view` is made when the first viewer comes. `viewers`: how many there are."""

    def __init__(
        self,
        view: Callable[[], PageView],
        *,
        most: int = VIEWERS,
        tick_s: float = TICK_S,
        write_s: float = WRITE_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._make = view
        self._view: PageView | None = None
        self._most, self._tick_s, self._write_s, self._silence_s = most, tick_s, write_s, silence_s
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._first: bytes | None = None

    @property
    def viewers(self) -> int:
        return len(self._queues)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        cross_site = dict(scope["headers"]).get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none")
        if cross_site:
            await refuse(send, HTTPStatus.FORBIDDEN)
            return
        if scope["method"] == "HEAD" or self.viewers >= self._most:
            status = HTTPStatus.SERVICE_UNAVAILABLE if self.viewers >= self._most else HTTPStatus.OK
            await refuse(send, status, (b"retry-after", b"10"))
            return
        cut_off = scope["extensions"][LASTING]()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE)
        first = self._whole()  # and from now on every change comes into the queue
        self._queues.add(queue)
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick())
        leaving = asyncio.create_task(_until_left(receive, queue))
        try:
            await self._write(send, {"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._write(send, _body(RETRY + _event("state", first)))
            while (event := await queue.get()) is not None:
                await self._write(send, _body(event))
            await self._write(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            cut_off()  # it does not read
        finally:
            self._queues.discard(queue)
            leaving.cancel()

    async def state(self, scope: Any, receive: Any, send: Any) -> None:
        """The application of the whole state as JSON, once."""
        body = self._whole()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *HEADERS[1:3]]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def end(self) -> None:
        """Tell the viewers the last of it, and that this is the end."""
        if self._queues:
            self._look()
        for queue in tuple(self._queues):
            _put(queue, _event("end", json.dumps({"why": "the coordinator has stopped"}).encode()))
            _put(queue, None)

    def _whole(self) -> bytes:
        if self._view is None:
            self._view = self._make()
        if not self._queues:
            self._look()  # nobody has, for a while
        if self._first is None:
            self._first = encoded(self._view.whole())
        return self._first

    async def _tick(self) -> None:
        quiet_s = 0.0
        await asyncio.sleep(self._tick_s)
        while self._queues:
            quiet_s = 0.0 if self._look() else quiet_s + self._tick_s
            if quiet_s >= self._silence_s:
                self._tell(b": still here\n\n")
                quiet_s = 0.0
            await asyncio.sleep(self._tick_s)

    def _look(self) -> bool:
        """Compute what has changed, and tell it; whether anything has."""
        assert self._view is not None
        if not (changed := self._view.look()):
            return False
        self._first = None
        self._tell(_event("change", encoded(changed)))
        return True

    def _tell(self, event: bytes) -> None:
        for queue in tuple(self._queues):
            if not _put(queue, event):
                self._queues.discard(queue)  # it is too far behind
                _empty(queue)
                _put(queue, None)

    async def _write(self, send: Any, message: dict[str, Any]) -> None:
        async with asyncio.timeout(self._write_s):
            await send(message)


def _event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def _body(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}


def _put(queue: "asyncio.Queue[bytes | None]", event: bytes | None) -> bool:
    with contextlib.suppress(asyncio.QueueFull):
        queue.put_nowait(event)
        return True
    return False


def _empty(queue: "asyncio.Queue[bytes | None]") -> None:
    while not queue.empty():
        queue.get_nowait()


async def _until_left(receive: Any, queue: "asyncio.Queue[bytes | None]") -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    _empty(queue)
    _put(queue, None)
