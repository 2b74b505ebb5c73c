"""The registry of open client streams, and the messages pushed to them.

A `ClientStream` is a queue of messages that one client's call writes out. Observing the coordinator's events, the
registry puts Work, Commit, Fetch and Finished into the queues. It keeps, for each stream, the version that the client
will be at once it has read its queue, so a commit always follows what was sent before; a client that has fallen behind
gets whichever of the missing commits and the snapshot is cheaper. A reader too slow for its queue is cut off, holds
back no one, and catches up when it returns.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from zowarmup.common.messages.codec import ask_to_wire, phase_to_wire, work_to_wire
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.common.settings.run import SOFTWARE
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import work_for
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.masking import ask_for
from zowarmup.server.core.membership import revoked
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import CatchUp, History
from zowarmup.server.rpc.limits import TAKEN, RateLimiter
from zowarmup.v1 import coordinator_pb2 as wire

log = logging.getLogger(__name__)

QUEUE_LIMIT = 4096
STOPPING = "the coordinator is stopping"
OPENED = ev.RoundOpened | ev.DeadlineExtended
"""After these there is work, or there is more time for it: the same work again has another deadline."""
PUSHED = OPENED | ev.StageBegan | ev.Committed | ev.RolledBack | ev.Pivoted | ev.RunFinished | ev.RunGaveUp


@dataclass(eq=False, slots=True)
class ClientStream:
    """One client's stream. `version` and `digest`: its replica's once everything queued has been read. `writing_since`:
    when the message that is being written was begun, on the event loop's clock; 0 for none."""

    client: str
    tier: Tier
    epoch: int
    version: int
    digest: str
    welcomed: bool = False
    ended: Rejected | None = None
    severed: asyncio.Event = field(default_factory=asyncio.Event)
    queue: "asyncio.Queue[wire.ParticipateResponse | bytes | None]" = field(default_factory=asyncio.Queue)
    behind: int = 0
    writing_since: float = 0.0

    def send(self, message: wire.ParticipateResponse) -> None:
        if self.queue.qsize() >= self.behind + QUEUE_LIMIT:
            self.sever(Rejected("too_slow", f"{QUEUE_LIMIT} messages wait unread: reconnect to catch up"))
        elif self.ended is None:
            self.queue.put_nowait(message)

    def catch_up(self, commits: Sequence[bytes]) -> None:
        """Queue serialised commits: the history's own bytes, so that many of them cost nothing."""
        if self.ended is None:
            # A long way to catch up is not being slow.
            self.behind = max(self.behind if self.queue.qsize() else 0, len(commits))
            for commit in commits:
                self.queue.put_nowait(commit)

    def end(self, reason: Rejected | None) -> None:
        """Close the stream once what is queued has been written; `reason` becomes its status, None is OK."""
        self.ended = self.ended or reason
        self.queue.put_nowait(None)

    def sever(self, reason: Rejected) -> None:
        """Close the stream at once: what is queued, or stuck because its reader has stalled, is never written."""
        self.end(reason)
        self.severed.set()

    async def until_severed(self, writing: Coroutine[Any, Any, None], stalled_s: float | None = None) -> None:
        """Write until all is written or the link is severed, as it is where a message takes longer than `stalled_s`."""
        jobs = {asyncio.create_task(writing), asyncio.create_task(self._severed(stalled_s))}
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for job in jobs:
                job.cancel()
        for job in done:
            job.result()

    async def _severed(self, stalled_s: float | None) -> None:
        # Looked at now and then: a timer for every message costs as much as a fifth of writing it.
        looks_s, clock = stalled_s and stalled_s / 4, asyncio.get_running_loop().time
        while not self.severed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(looks_s):
                    await self.severed.wait()
            if stalled_s and self.writing_since and clock() > self.writing_since + stalled_s:
                self.sever(Rejected("too_slow", f"nothing was read for {stalled_s:g} s: reconnect to catch up"))


class StreamRegistry:
    """All links of one coordinator. `catch_ups`: how many were brought up to date by "steps" they had missed, and by a
    "snapshot". `trace_parent`: what work for a round says of the trace that it belongs to. `first_epoch`: streams are numbered
    from there on, so that several coordinators' have different numbers."""

    def __init__(
        self,
        history: History,
        rate_limiter: RateLimiter,
        trace_parent: Callable[[int], bytes] = lambda round: b"",
        first_epoch: int = 0,
    ) -> None:
        self._history, self._rate_limiter, self._trace_parent = history, rate_limiter, trace_parent
        self._links: dict[str, ClientStream] = {}
        self._ways: dict[tuple[int, str, int, int], CatchUp] = {}
        self._epoch, self._stopping = first_epoch, False
        self.catch_ups: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._links)

    def open(self, client: str, tier: Tier, version: int, digest: str) -> ClientStream:
        """A new link; it supersedes the client's old one. Nothing is pushed along it before `welcome`. Raises Rejected after
        `close_all`."""
        if self._stopping:
            raise Rejected("stopping", STOPPING)
        self._epoch += 1
        link = ClientStream(client, tier, self._epoch, version, digest)
        if old := self._links.get(client):
            old.sever(Rejected("superseded", f"a newer stream of {client} has superseded this one"))
        self._links[client] = link
        return link

    def supersede(self, client: str, epoch: int) -> None:
        """The client has a newer stream at another coordinator. It may come back: which of two streams is the newer is known
        for certain only within one coordinator."""
        if (link := self._links.get(client)) is not None and link.epoch == epoch:
            link.sever(Rejected("unavailable", f"{client} has a newer stream at another coordinator"))

    def close(self, link: ClientStream) -> None:
        if self._links.get(link.client) is link:
            del self._links[link.client]

    def close_all(self) -> None:
        """The coordinator stops: its clients are told, and go to another where there is one."""
        self._stopping = True
        for link in self._links.values():
            link.end(Rejected("stopping", STOPPING))

    def welcome(self, link: ClientStream, state: State, now: float, waiting: str) -> None:
        """Answer Hello with all that has happened up to this very state; from now on events are pushed. `waiting`: what the
        run waits for."""
        link.send(
            wire.ParticipateResponse(
                welcome=wire.Welcome(
                    epoch=link.epoch,
                    phase=phase_to_wire(state.phase),
                    version=state.version,
                    waiting=waiting,
                    software=SOFTWARE,
                )
            )
        )
        link.welcomed = True
        if state.phase is not Phase.WARM_UP:
            self._catch_up(link, state)
        self._assign(link, state, now)
        self._ask(link, state)
        if state.phase is Phase.FINISHED:
            self._finish(link, state)

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe. The history must have recorded the events already."""
        for event in events:
            if isinstance(event, ev.ClientRevoked) and (link := self._links.get(event.client)):
                link.sever(revoked(event.client, event.reason))
        if not any(isinstance(event, PUSHED) for event in events):
            return
        opened = any(isinstance(e, OPENED) for e in events)
        began = any(isinstance(e, ev.StageBegan) for e in events)
        self._ways.clear()
        for link in list(self._links.values()):
            if not link.welcomed:
                continue
            if state.phase is not Phase.WARM_UP:
                self._catch_up(link, state)
            if opened:
                self._assign(link, state, now)
            if began:
                self._ask(link, state)
            if state.phase is Phase.FINISHED:
                self._finish(link, state)

    def _catch_up(self, link: ClientStream, state: State) -> None:
        if link.version == state.version and link.digest == state.digest:
            return
        known = (link.version, link.digest, state.version, state.snapshot.version)
        if (way := self._ways.get(known)) is None:  # mostly, all who are connected are at one version
            way = self._ways[known] = self._history.catch_up(
                link.version, link.digest, state.version, state.snapshot.version, 4 * state.layout.size
            )
        if way.snapshot is not None or state.version != link.version + 1:
            log.info("%s catches up from version %d to %d: %s", link.client, link.version, state.version, way.reason)
            self.catch_ups["steps" if way.snapshot is None else "snapshot"] += 1
        if way.snapshot is not None:
            link.send(wire.ParticipateResponse(fetch=wire.Fetch(version=way.snapshot, reason=way.reason)))
            self._rate_limiter.grant(link.client, "snapshot", way.snapshot, 1)
        link.catch_up(way.commits)
        link.version, link.digest = state.version, state.digest

    def _assign(self, link: ClientStream, state: State, now: float) -> None:
        if work := work_for(state, link.client, now):
            work = replace(work, trace_parent=self._trace_parent(work.round))
            link.send(wire.ParticipateResponse(work=work_to_wire(work)))
            taken = TAKEN[work.phase] + (len(Stage) - 1 if state.sums else 0)
            self._rate_limiter.grant(link.client, "round", work.round, taken)

    def _ask(self, link: ClientStream, state: State) -> None:
        if ask := ask_for(state, link.client):
            link.send(wire.ParticipateResponse(masking_ask=ask_to_wire(ask)))

    def _finish(self, link: ClientStream, state: State) -> None:
        finished = wire.Finished(version=state.version, digest=bytes.fromhex(state.digest), gave_up=state.gave_up)
        link.send(wire.ParticipateResponse(finished=finished))


@lru_cache(maxsize=16)
def framed(commit: bytes) -> bytes:
    """A serialised Commit as a serialised ParticipateResponse: the same for every client, so it is made once."""
    response = wire.ParticipateResponse(commit=wire.Commit.FromString(commit))
    return response.SerializeToString()
