"""A coordinator that follows another, until it leads itself.

Its state is the fold of the durable events, which it reads from the log as the leader appends them, and of the soft ones of
its own streams, which it makes itself: so who connects is answered at once, leader or not, and no round costs it anything
that grows with other coordinators' streams. All else that its clients want is forwarded, many at a time and one call after
the other, and is answered once the log has been read as far as the leader says: a client that was told so finds here what it
did. While nobody leads, as after a leader's death, commands wait; each has the effect of one, so asking again is safe.

Its clock is the leader's, as the leader tells it: deadlines are by that one, whatever the machines' own clocks say.

When it takes the lease it reads the log to its end and from then on decides as any coordinator does, with the streams that it
has. First of all it gives an open round its time again (`Restart`): with whatever is decided first, for a deadline may have passed while
nobody led. There is no way back: a leader that has lost its lease begins anew.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from zowarmup.server.cluster.forwarding import Answer, Forwarded, Leader, News, Request
from zowarmup.server.coordinator import Batch, Coordinator, Unavailable, steady_clock
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import noted
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.events import TrafficCount
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.state import State
from zowarmup.server.store.event_log import EventLog, LedgerError, MemoryEventLog, SharedLog

log = logging.getLogger(__name__)
_T = TypeVar("_T")

LOOK_S = 0.25
"""How long a wait for events lasts at most, so long does a takeover wait for it."""
BEAT_S = 1.0
PATIENCE_S = 15.0
"""For so long a client's command waits for a leader: several times what a takeover needs."""
AGAIN_S = 0.1
CAUGHT_UP_S = 10.0
AT_ONCE = 1000
"""So many events are folded before anything else has its turn."""


class FrontEnd(Coordinator):
    """See the module.

    Args:
        events: The log.
        state: What it held when it was read up to `end`.
        name: The coordinator's in the cluster.
        end: The number of the last event of it.
        clock: As a coordinator's.
        traffic: What sockets have carried since it was last called.
        patience_s: For so long a command waits for a leader.
    """

    def __init__(
        self,
        events: SharedLog,
        state: State,
        name: str,
        end: int,
        clock: Callable[[], float] | None = None,
        traffic: Callable[[], tuple[TrafficCount, ...]] = tuple,
        patience_s: float = PATIENCE_S,
    ) -> None:
        steady, self._ahead_s = clock or steady_clock(), 0.0
        super().__init__(_Nowhere(), state, lambda: steady() + self._ahead_s, end=end)
        self.superseded: Callable[[str, int], None] = lambda client, epoch: None
        """Told of a stream whose client has a newer one elsewhere."""
        self.traffic = traffic
        self.leads, self._restarted = False, False
        self._complete_at = time.monotonic()
        self._events, self._name, self._patience_s = events, name, patience_s
        self._leader: Leader | None = None
        self._epoch, self._following = 0, True
        self._streams: dict[str, cmd.ConnectClient] = {}
        self._news: list[News] = []
        self._anew, self._said = True, ""
        self.untold: tuple[TrafficCount, ...] = ()
        """What was carried, and is not known to have been taken by a leader."""
        # Another than a process has used that was there before under the same name.
        self._untold_number = int(self.clock() * 1e6)
        self._reads = self._read_up_to = 0
        self._asking, self._moved = asyncio.Lock(), asyncio.Condition()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="follow")

    def turn_to(self, leader: Leader | None, epoch: int) -> None:
        """From now on another leads; None: nobody does."""
        self._leader, self._epoch, self._anew, self._said = leader, epoch, True, ""

    @property
    def lag_s(self) -> float:
        """How long ago this coordinator last had all of the log, seconds; 0 where it leads. Any thread may ask."""
        return 0.0 if self.leads else time.monotonic() - self._complete_at

    @property
    def waiting(self) -> str:
        """What the run waits for, as the leader last said; the clients of other coordinators are not known here."""
        if self.leads:
            return super().waiting
        if self._leader is None:
            return "waiting: no coordinator leads the run at the moment; one will within seconds"
        return self._said

    async def handle(self, command: cmd.Command) -> tuple[ev.Event, ...]:
        """As `Coordinator.handle`; of what a leader decides, no events are returned: they are in the state."""
        if self.leads or not isinstance(command, News):
            return await super().handle(command)
        return self._note(command)

    async def caught_up(self) -> None:
        """See `Coordinator`. A client that has enrolled elsewhere a moment ago is known here then."""
        wanted = self._reads + 1
        try:
            async with asyncio.timeout(CAUGHT_UP_S), self._moved:
                await self._moved.wait_for(lambda: self._read_up_to >= wanted or self.leads)
        except TimeoutError:
            raise Unavailable("this coordinator cannot read the log at the moment") from None

    async def follow(self) -> None:
        """Fold what the leader appends, until this one is to lead. Raises ValueError where events do not follow from each
        other."""
        while True:
            last = not self._following
            self._reads += 1
            began = time.monotonic()
            try:
                found = await self._in_thread(self._read)
                self.trouble.clear("log")
            except LedgerError as error:
                self.trouble.tell("log", str(error))
                await asyncio.sleep(LOOK_S)
                continue
            for at, group in itertools.groupby(found, key=lambda row: row[0]):
                self._fold(at, tuple(event for _, event in group))
            if len(found) < AT_ONCE:
                self._complete_at = began
            if not found:
                self._read_up_to = self._reads
            async with self._moved:
                self._moved.notify_all()
            if not found and last:
                return
            if not found and self._following:
                await self._in_thread(self._wait)

    async def beat(self) -> None:
        """Tell the leader now and then that this one is here, until this one leads."""
        while not self.leads:
            try:
                await self._ask(())
            except Unavailable as error:
                log.debug("%s", error)
            await asyncio.sleep(BEAT_S)

    async def lead(self, events: EventLog, following: "asyncio.Task[None]") -> None:
        """From now on decide, and append to a log that takes this coordinator's events. `following`: what runs `follow`."""
        self._following = False
        await following
        self._ledger, self.leads = events, True
        async with self._moved:
            self._moved.notify_all()

    async def _decide(self, batch: Batch) -> None:
        """Forward a batch, and again until it is answered, or this one leads."""
        began = self._loop_time()
        while not self.leads:
            commands = tuple(command for command, _ in batch)
            wrong = [c for c in commands if not isinstance(c, Forwarded)]
            assert not wrong, f"{type(wrong[0]).__name__} is the leader's" if wrong else ""
            try:
                answer = await self._ask(commands)  # type: ignore[arg-type]
            except Unavailable as error:
                if self._loop_time() > began + self._patience_s:
                    _settle(batch, [error] * len(batch))
                    return
                await asyncio.sleep(AGAIN_S)
                continue
            _settle(batch, list(answer.outcomes))
            return
        if self._restarted:
            await super()._decide(batch)
            return
        restart: asyncio.Future[tuple[ev.Event, ...]] = asyncio.get_running_loop().create_future()
        await super()._decide([(cmd.Restart(), restart), *batch])
        self._restarted = restart.exception() is None

    async def _ask(self, commands: tuple[Forwarded, ...]) -> Answer:
        """One request, and the log read as far as its answer says. Raises Unavailable."""
        async with self._asking:
            leader, epoch = self._leader, self._epoch
            if leader is None or self.leads:
                raise Unavailable("no coordinator leads the run at the moment")
            anew, news, self._news = self._anew, self._news, []
            said = tuple(self._streams.values()) if anew else tuple(news)
            if not self.untold:
                self.untold, self._untold_number = self.traffic(), self._untold_number + 1
            request = Request(self._name, epoch, anew, said, commands, self.untold, traffic_number=self._untold_number)
            try:
                answer = await leader.forward(request)
            except Unavailable:
                self._news = [*news, *self._news]
                raise
            if answer.unknown:
                self._anew = True
                raise Unavailable("the leader has not heard of this coordinator for long")
            if epoch == self._epoch and not self.leads:
                self._anew, self._said = False, answer.waiting
                self._ahead_s += answer.now_s - self.clock()
            self.untold = ()
        for client, stream in answer.superseded:
            self.superseded(client, stream)
        async with self._moved:
            await self._moved.wait_for(lambda: self.end >= answer.end or self.leads)
        return answer

    def _note(self, command: News) -> tuple[ev.Event, ...]:
        now = self.clock()
        decision = noted(self.state, command, now)
        self.state = decision.state
        match command:
            case cmd.ConnectClient():
                self._streams[command.client] = command
                self._news.append(command)
            case cmd.DisconnectClient():
                if (known := self._streams.get(command.client)) and known.epoch == command.epoch:
                    del self._streams[command.client]
                    self._news.append(command)
            case cmd.RecordReport() if self._is_news(command):
                self._news.append(command)
        for observer in self._observers if decision.events else ():
            observer(now, decision.events, self.state)
        return decision.events

    def _is_news(self, report: cmd.RecordReport) -> bool:
        """Whether the leader needs to hear it: as every replica reports every version, only of one that is not the run's, and
        of all when the run is over."""
        state = self.state
        return bool(state.finished) or (report.version == state.version and report.digest not in ("", state.digest))

    def _read(self) -> list[tuple[float, ev.Event]]:
        return list(itertools.islice(self._events.read(self.end), AT_ONCE))

    def _wait(self) -> None:
        try:
            self._events.wait(self.end, LOOK_S)
        except LedgerError:  # which reading meets next, and tells of
            time.sleep(LOOK_S)

    def _fold(self, at: float, events: tuple[ev.Event, ...]) -> None:
        state = self.state
        for event in events:
            state = evolve(state, event)
        now, self.state, self.written_at = self.clock(), state, at
        self._end += len(events)
        for observer in self._observers:
            observer(now, events, state)

    async def _in_thread(self, job: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, job)

    @staticmethod
    def _loop_time() -> float:
        return asyncio.get_running_loop().time()

    def close(self) -> None:
        """Give back its thread."""
        self._reader.shutdown(wait=False, cancel_futures=True)


class _Nowhere(MemoryEventLog):
    """The log of a coordinator that does not lead: nothing is ever appended."""

    def append(self, events: Iterable[ev.Event], at: float, expected: int) -> int:
        raise LedgerError("this coordinator does not lead")


def _settle(batch: Batch, outcomes: "list[Rejected | None] | list[Unavailable]") -> None:
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():
            continue  # its sender has gone
        if outcome is None:
            future.set_result(())
        else:
            future.set_exception(outcome)
