"""A device's presence in a run: one stream, kept open over as many connections as it takes.

A task of its own reads the stream into an inbox and, when the stream breaks, opens it again with a Hello that says
where the replica is; the coordinator then says again whatever still matters, so what an older stream left unread is
thrown away. Computing goes on meanwhile: a device that loses its network for a moment loses no work.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

from zowarmup.client.agenda import Task, agenda
from zowarmup.client.backoff import Backoff
from zowarmup.client.faults import Broken, Distrust, Final, Preparing
from zowarmup.client.messages import Hello, Message, Saying, Welcome
from zowarmup.client.session import Connection
from zowarmup.client.stream import Stream
from zowarmup.common.layout import Layout
from zowarmup.common.raised import in_words
from zowarmup.common.work import Delta, Scalars

log = logging.getLogger(__name__)
_T = TypeVar("_T")
# How long the coordinator may take to end a stream that the client has left.
LEAVE_S = 10.0


async def patiently(address: str, ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask until the coordinator answers, saying once that it does not yet. Raises Final where it refuses."""
    delays, told = Backoff(), False
    while True:
        try:
            return await ask()
        except Distrust as fault:
            raise Final(f"cannot join {address}: {fault.reason}") from None
        except Broken as fault:
            if not told:
                log.info("waiting for %s (%s); will join when it answers", address, fault.reason)
                told = True
            if isinstance(fault, Preparing):
                delays.reset()
            await asyncio.sleep(delays.next_s())


class Presence:
    """Open within its context. `hello` is asked for on every connection: the replica moves on in between.
    `contributions`: how many have been said."""

    def __init__(
        self, address: str, connect: Callable[[], Connection], layout: Layout, hello: Callable[[], Hello]
    ) -> None:
        self._address, self._connect, self._layout, self._hello = address, connect, layout, hello
        self._inbox: list[Message] = []
        self._arrived = asyncio.Event()
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None
        self._leaving = False
        self._restarts = Backoff()
        # The Hello that opened the present stream, and how many streams there have been.
        self.greeted = hello()
        self.epoch = 0
        self.contributions = 0

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def next(self) -> Task:
        """What to do next, waiting for it. Raises Final where the coordinator refuses this device, Broken after
        `leave`."""
        while True:
            task, self._inbox = agenda(self._inbox)
            if task is not None:
                return task
            if self._task is not None and self._task.done():
                self._task.result()
                raise Broken("the stream has ended")
            self._arrived.clear()
            await self._arrived.wait()

    @property
    def connected(self) -> bool:
        """Whether there is a stream that the coordinator has welcomed."""
        return self._stream is not None

    async def say(self, saying: Saying) -> int:
        """Send one message now; its payload in bytes. Raises Broken where there is no stream at the moment."""
        if self._stream is None:
            raise Broken("not connected at the moment")
        said = await self._stream.say(saying)
        self.contributions += isinstance(saying, Scalars | Delta)
        self._restarts.reset()
        return said

    async def restart(self) -> None:
        """Open the stream anew, after a wait that grows each time: the coordinator then looks at the replica afresh."""
        await self._end()
        self._inbox.clear()
        await asyncio.sleep(self._restarts.next_s())
        self._start()

    async def absent(self, seconds: float) -> None:
        """End the stream once the coordinator has heard what was said, and open it anew after so long."""
        with contextlib.suppress(Broken):
            await self.leave()
        self._leaving = False
        await self._end()
        self._inbox.clear()
        await asyncio.sleep(seconds)
        self._start()

    async def leave(self) -> None:
        """Say nothing more and wait for the coordinator to end the stream, by which it has heard everything. Raises
        Broken where it broke before, and then a new one is on its way."""
        if self._stream is None or self._task is None:
            raise Broken("not connected at the moment")
        self._leaving = True
        with contextlib.suppress(Broken):  # then it has ended already
            await self._stream.leave()
        await asyncio.wait({self._task}, timeout=LEAVE_S)
        try:
            if self._task.done():
                self._task.result()
        except Broken:
            self._leaving = False
            self._start()
            raise

    def _start(self) -> None:
        self._task = asyncio.create_task(self._stay())
        self._task.add_done_callback(lambda _: self._arrived.set())

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.exception()  # seen: whoever ends the stream has a reason of its own

    async def _stay(self) -> None:
        delays, lost_at = Backoff(), 0.0
        while True:
            stream: Stream | None = None
            try:
                async with self._connect() as connection:
                    self.greeted = self._hello()
                    self._inbox.clear()
                    stream = await connection.participate(self.greeted, self._layout)
                    async for message in stream:
                        if isinstance(message, Welcome):
                            self._stream, self.epoch = stream, self.epoch + 1
                            delays.reset()
                            if lost_at:
                                log.info("back with %s after %.1f s", self._address, time.monotonic() - lost_at)
                                lost_at = 0.0
                        self._inbox.append(message)
                        self._arrived.set()
                    reason = "it ended the stream"
            except Broken as fault:
                if self._leaving:
                    raise
                reason = fault.reason
                if isinstance(fault, Preparing):
                    delays.reset()
            except Final:
                raise
            except Exception as error:
                log.debug("the stream failed", exc_info=True)
                reason = in_words(error)
            finally:
                self._stream = None
                if stream is not None:
                    stream.cancel()
            if self._leaving:
                return
            if not lost_at:
                lost_at = time.monotonic()
                log.warning("lost %s (%s); will rejoin when it answers", self._address, reason)
            await asyncio.sleep(delays.next_s())
