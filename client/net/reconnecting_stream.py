"""One stream of messages, kept open over any number of connections.

A task of its own reads the stream into an inbox and, when the stream breaks, opens it again with a Hello that says
where the replica is; the coordinator then says again whatever still matters, so what an older stream left unread is
thrown away. Computing goes on meanwhile: a device that loses its network for a moment loses no work. Where there are several
coordinators, the next connection is to another.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Self

from zowarmup.client.errors import Broken, CoordinatorStops, Final, Setback, StillPreparing, Unreached
from zowarmup.client.net.choice import Backoff
from zowarmup.client.net.connection import Connection
from zowarmup.client.net.coordinators import Coordinators
from zowarmup.client.net.messages import Fetch, Finished, Hello, InboxItem, Message, Saying, Welcome, agenda
from zowarmup.client.net.retrying import Missing
from zowarmup.client.net.stream import Stream
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Commit
from zowarmup.common.messages.masking import Keys
from zowarmup.common.messages.values import Delta, Scalars, Work
from zowarmup.common.text import in_words

log = logging.getLogger(__name__)
# How long the coordinator may take to end a stream that the client has left.
LEAVE_S = 10.0


class ReconnectingStream:
    """Open within its context. `hello` is asked for on every connection: the replica moves on in between.
    `contributions`: how many have been said; `arrived_s`: when the last work arrived, seconds since 1970."""

    def __init__(
        self,
        coordinators: Coordinators,
        connect: Callable[[], Connection],
        layout: Layout,
        hello: Callable[[], Hello],
    ) -> None:
        self._coordinators = coordinators
        self._connect, self._layout, self._hello = connect, layout, hello
        self._inbox: list[Message] = []
        self._arrived = asyncio.Event()
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None
        self._leaving = False
        self._restarts = Backoff()
        # The last message of this stream that opens or closes a round, and where it is Work its deadline by the monotonic
        # clock, which ends nothing early where the wall clock jumps or the device sleeps. One value: another thread reads it.
        self._turn: tuple[Work | Commit | Fetch | Finished, float] | None = None
        # The Hello that opened the present stream, and how many streams there have been.
        self.greeted = hello()
        self.epoch = 0
        self.contributions = 0
        self.arrived_s = 0.0

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def next(self) -> InboxItem:
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

    def over(self, work: Work) -> str:
        """Why a contribution to that work would be too late, for the log; empty where it would not, or where there is no stream
        to know it from: after a restart the coordinator gives a round more time. Any thread may ask."""
        said = self._turn
        if self._stream is None or said is None:
            return ""
        turn, ends_at_s = said
        if isinstance(turn, Work):
            if (turn.round, turn.seed) != (work.round, work.seed):
                return f"round {turn.round} is open"
            return "its deadline is over" if time.monotonic() > ends_at_s else ""
        if isinstance(turn, Finished):
            return "the run is over"
        return f"the run is at version {turn.version}" if turn.version > work.version else ""

    async def say(self, saying: Saying) -> int:
        """Send one message now; its payload in bytes. Raises Broken where there is no stream at the moment."""
        if self._stream is None:
            raise Broken("not connected at the moment")
        said = await self._stream.say(saying)
        self.contributions += isinstance(saying, Scalars | Delta | Keys)
        self._restarts.reset()
        return said

    async def absent(self, seconds: float) -> None:
        """End the stream once the coordinator has heard what was said, and open it anew after so long."""
        with contextlib.suppress(Broken):
            await self.leave()
        self._leaving = False
        await self._end()
        self._inbox.clear()
        await asyncio.sleep(seconds)
        self._start()

    async def restart(self) -> None:
        """The same after a wait that grows each time: the coordinator then looks at the replica afresh."""
        await self.absent(self._restarts.next_s())

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
        coordinators, lost_at, missing = self._coordinators, 0.0, Missing()
        while True:
            stream: Stream | None = None
            unreached, stopping, setback = False, False, None
            try:
                async with self._connect() as connection:
                    self.greeted = self._hello()
                    self._inbox.clear()
                    self._turn = None
                    stream = await connection.participate(self.greeted, self._layout)
                    async for message in stream:
                        if isinstance(message, Welcome):
                            self._stream, self.epoch = stream, self.epoch + 1
                            coordinators.works()
                            if lost_at:
                                log.info("back with %s after %.1f s", coordinators.place, time.monotonic() - lost_at)
                                lost_at, missing = 0.0, Missing()
                        if isinstance(message, Work | Commit | Fetch | Finished):
                            lasts_s = message.deadline_s if isinstance(message, Work) else math.inf
                            self._turn = message, time.monotonic() + lasts_s
                            self.arrived_s = time.time()
                        self._inbox.append(message)
                        self._arrived.set()
                    reason = "it ended the stream"
            except Broken as fault:
                if self._leaving:
                    raise
                reason, unreached, stopping = (
                    fault.reason,
                    isinstance(fault, Unreached),
                    isinstance(fault, CoordinatorStops),
                )
                if isinstance(fault, StillPreparing):
                    coordinators.hears()
            except Final:
                raise
            except Setback as fault:
                reason, setback = fault.reason, fault
            except Exception as error:
                log.debug("the stream failed", exc_info=True)
                reason = in_words(error)
            finally:
                self._stream = None
                if stream is not None:
                    stream.cancel()
            if self._leaving:
                return
            place = coordinators.place
            delay_s = coordinators.back_off() if setback else await coordinators.broke(place, stopping)
            now = time.monotonic()
            if setback and setback.absent_s:
                delay_s = setback.absent_s
                log.warning("%s; will try again in %.0f s", reason, delay_s)
            elif not lost_at:
                lost_at = now
                other = "rejoin when it answers" if coordinators.place == place else f"go on with {coordinators.place}"
                log.warning("lost %s (%s); will %s", place, reason, other)
            elif unreached:
                if coordinators.exhausted:  # there is time to look
                    reason = await coordinators.why(place, reason)
                if missing.worth_saying(reason, now):
                    log.warning("still no answer from %s (%s)", place, reason)
            await asyncio.sleep(max(0.0, delay_s - (time.monotonic() - now)))
