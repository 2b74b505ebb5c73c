"""The leader's side of forwarding: which front ends there are, and which of the fleet's streams each holds.

A front end says what it holds when it first finds this leader, and then what changes. One that has not been heard of for
`SILENT_S` seconds is gone, and with it its streams; when it comes back, it says everything again. A client that opens a
stream elsewhere supersedes the old one, wherever that is.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from zowarmup.server.cluster.forwarding import Answer, News, Request
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.events import TrafficCount
from zowarmup.server.core.state import State

log = logging.getLogger(__name__)

SILENT_S = 5.0
WATCH_S = 0.5


@dataclass(slots=True)
class FrontEndSession:
    """A front end.

    Attributes:
        heard_at: When it was last heard of, or answered.
        asking: How many of its requests are being answered.
        streams: The epoch of each client's stream that it holds.
        before: What it held before it began to say everything again; what it has not named when it is done is closed.
        superseded: Streams that it is to be told of.
    """

    heard_at: float
    asking: int = 0
    streams: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    superseded: list[tuple[str, int]] = field(default_factory=list)


class Sessions:
    """All front ends of one leader.

    Args:
        coordinator: The leader.
        epoch: Of its lease.
        traffic: Is given what front ends have carried.
        superseded: Is told of a stream of the leader's own whose client has a newer one at a front end.
        clock: Seconds, monotonic.
        silent_s: After so long a silence a front end is gone.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        epoch: int,
        traffic: Callable[[Sequence[TrafficCount]], None] = lambda counts: None,
        superseded: Callable[[str, int], None] = lambda client, epoch: None,
        clock: Callable[[], float] = time.monotonic,
        silent_s: float = SILENT_S,
    ) -> None:
        self._coordinator, self._epoch, self._clock, self._silent_s = coordinator, epoch, clock, silent_s
        self._traffic, self._superseded = traffic, superseded
        self._sessions: dict[str, FrontEndSession] = {}
        self._own: dict[str, int] = {}
        """Streams that the leader holds itself."""
        self._carried: dict[str, int] = {}
        """The number of the traffic that each front end has told of last."""
        self._forwarding: set[tuple[str, int]] = set()
        """Streams that a front end is just telling of."""

    @property
    def front_ends(self) -> dict[str, int]:
        """How many streams each holds."""
        return {name: len(session.streams) for name, session in sorted(self._sessions.items())}

    async def forward(self, request: Request) -> Answer:
        """See `Leader.forward`. Raises Unavailable."""
        if request.epoch != self._epoch:
            raise Unavailable(f"the lease of epoch {request.epoch} is over, this one's is {self._epoch}")
        session = self._sessions.get(request.front_end)
        if session is None and not request.anew:
            return Answer(unknown=True)
        if session is None:
            log.info("coordinator %s is a front end of this one", request.front_end)
            session = self._sessions[request.front_end] = FrontEndSession(self._clock())
        session.asking += 1
        try:
            return await self._answer(request, session)
        finally:
            session.asking, session.heard_at = session.asking - 1, self._clock()

    async def _answer(self, request: Request, session: FrontEndSession) -> Answer:
        if request.anew:
            session.before, session.streams = {**session.before, **session.streams}, {}
        told = [self._tell(session, news) for news in request.news]
        decided = [self._coordinator.handle(command) for command in request.commands]
        outcomes = await asyncio.gather(*told, *decided, return_exceptions=True)
        answers = outcomes[len(told) :]
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, Rejected):
                raise outcome if isinstance(outcome, Unavailable) else Unavailable(str(outcome)) from outcome
        if session.before and not request.more:
            gone = {c: epoch for c, epoch in session.before.items() if session.streams.get(c) != epoch}
            await self._disconnect(gone)
            session.before = {}
        if request.traffic and self._carried.get(request.front_end) != request.traffic_number:
            self._carried[request.front_end] = request.traffic_number
            self._traffic(request.traffic)
        superseded, session.superseded = tuple(session.superseded), []
        return Answer(
            tuple(answer if isinstance(answer, Rejected) else None for answer in answers),
            self._coordinator.end,
            self._coordinator.waiting,
            superseded,
            now_s=self._coordinator.clock(),
        )

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe: whose stream is the newest of a client."""
        for event in events:
            if isinstance(event, ev.ClientConnected):
                newest = (event.client, event.epoch)
                if newest not in self._forwarding:
                    self._own[event.client] = event.epoch
                elif (epoch := self._own.pop(event.client, None)) is not None:
                    self._superseded(event.client, epoch)
                for session in self._sessions.values():
                    if session.streams.get(event.client, event.epoch) != event.epoch:
                        session.superseded.append((event.client, session.streams.pop(event.client)))
            elif isinstance(event, ev.ClientDisconnected):
                self._own.pop(event.client, None)

    async def watch(self) -> None:
        """Until cancelled, let front ends go that are silent: not those whose requests wait, as for a store that is slow."""
        while True:
            await asyncio.sleep(WATCH_S)
            late = self._clock() - self._silent_s
            for name in [n for n, s in self._sessions.items() if s.heard_at < late and not s.asking]:
                session = self._sessions.pop(name)
                streams = {**session.before, **session.streams}
                log.warning(
                    "coordinator %s has not been heard of for %.0f s: its %d clients count as disconnected",
                    name,
                    self._silent_s,
                    len(streams),
                )
                while streams:  # however long the store refuses: nobody else knows of them any more
                    with contextlib.suppress(Unavailable):
                        await self._disconnect(streams)
                        break
                    await asyncio.sleep(WATCH_S)

    async def _tell(self, session: FrontEndSession, news: News) -> None:
        match news:
            case cmd.ConnectClient():
                newest = (news.client, news.epoch)
                session.streams[news.client] = news.epoch
                self._forwarding.add(newest)
                try:
                    await self._coordinator.handle(news)
                finally:
                    self._forwarding.discard(newest)
            case cmd.DisconnectClient():
                if session.streams.get(news.client) == news.epoch:
                    del session.streams[news.client]
                await self._coordinator.handle(news)
            case cmd.RecordReport():
                await self._coordinator.handle(news)

    async def _disconnect(self, streams: dict[str, int]) -> None:
        """Raises Unavailable; then some may be."""
        leaving = (self._coordinator.handle(cmd.DisconnectClient(client, epoch)) for client, epoch in streams.items())
        for outcome in await asyncio.gather(*leaving, return_exceptions=True):
            if isinstance(outcome, Unavailable):
                raise outcome
