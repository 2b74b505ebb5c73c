"""The leader's side of forwarding: which front ends there are, and which of the fleet's streams each holds.

A front end says what it holds when it first finds this leader, and then what changes. One that has not been heard of for
`SILENT_S` seconds is gone, and with it its streams; when it comes back, it says everything again. A client that opens a
stream elsewhere supersedes the old one, wherever that is.
"""

import asyncio
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
    """A front end. `streams`: the epoch of each client's stream that it holds; `superseded`: those that it is to be told."""

    heard_at: float
    streams: dict[str, int] = field(default_factory=dict)
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
        if session is None or request.anew:
            if not request.anew:
                return Answer(unknown=True)
            session = await self._renewed(request, session)
        session.heard_at = self._clock()
        self._traffic(request.traffic)
        told = [self._tell(session, news) for news in request.news]
        decided = [self._coordinator.handle(command) for command in request.commands]
        outcomes = await asyncio.gather(*told, *decided, return_exceptions=True)
        answers = outcomes[len(told) :]
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, Rejected):
                raise outcome if isinstance(outcome, Unavailable) else Unavailable(str(outcome)) from outcome
        superseded, session.superseded = tuple(session.superseded), []
        return Answer(
            tuple(answer if isinstance(answer, Rejected) else None for answer in answers),
            self._coordinator.end,
            self._coordinator.waiting,
            superseded,
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
        """Until cancelled, let front ends go that are silent."""
        while True:
            await asyncio.sleep(WATCH_S)
            gone = [n for n, s in self._sessions.items() if self._clock() > s.heard_at + self._silent_s]
            for name in gone:
                session = self._sessions.pop(name)
                log.warning(
                    "coordinator %s has not been heard of for %.0f s: its %d clients count as disconnected",
                    name,
                    self._silent_s,
                    len(session.streams),
                )
                await self._disconnect(session.streams)

    async def _renewed(self, request: Request, before: FrontEndSession | None) -> FrontEndSession:
        """A session of the streams that a front end says it holds; those that it held before, and does not hold now, are
        closed."""
        if before is None:
            log.info("coordinator %s is a front end of this one, with %d clients", request.front_end, len(request.news))
        now = {news.client: news.epoch for news in request.news if isinstance(news, cmd.ConnectClient)}
        gone = {
            client: epoch for client, epoch in (before.streams if before else {}).items() if now.get(client) != epoch
        }
        session = self._sessions[request.front_end] = FrontEndSession(self._clock())
        await self._disconnect(gone)
        return session

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
        leaving = (self._coordinator.handle(cmd.DisconnectClient(client, epoch)) for client, epoch in streams.items())
        for outcome in await asyncio.gather(*leaving, return_exceptions=True):
            if isinstance(outcome, BaseException):
                log.debug("a client could not be disconnected: %s", outcome)
