"""The single writer: commands in, durable events out.

Commands queue here and are decided in order on one state. Those that queue up while the disk is busy share its next
sync (group commit); their answers wait for it, so whatever a client is told is on disk. If the event log refuses, the state
the batch led to is dropped (states are immutable) and every sender hears Unavailable: nothing has happened. Where another
writer has appended to the log, this one ends: its state is no longer the run's.

Deadlines, "gone for", "up for" and the times learnt from contributions are differences between readings of one clock that
never jumps (`steady_clock`): setting the system's clock neither ends a round early nor makes it last longer. A reading that
is stored is an instant to show and, by its differences, a duration; after a restart the clock is another one, and the open
round gets its time again (`Restart`). Dates for people, when an event was written and until when an invitation is valid, come
from the system's clock (`Coordinator.date`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import decide, waiting
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.state import State
from zowarmup.server.store.event_log import EventLog, Fenced, LedgerError

log = logging.getLogger(__name__)

REMIND_S = 30.0

Observer = Callable[[float, Sequence[ev.Event], State], None]
Batch = list[tuple[cmd.Command, asyncio.Future[tuple[ev.Event, ...]]]]


def steady_clock(
    date: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """A clock that starts at the date, seconds since 1970, and then only counts the time that passes. As asyncio's clock it
    stands still while the machine sleeps: nobody could be heard then, so an open round keeps its remaining time."""
    offset = date() - monotonic()
    return lambda: offset + monotonic()


class Unavailable(Exception):
    """The event log refused the write: nothing has changed, try again later."""


class Trouble:
    """What the disk refuses at present, by what was to be written. Logged when it begins, every `REMIND_S` seconds
    while it lasts, and when it is over."""

    def __init__(self) -> None:
        self._sentences: dict[str, str] = {}
        self._logged: dict[str, float] = {}

    def tell(self, what: str, sentence: str) -> None:
        self._sentences[what] = sentence
        if (now := time.monotonic()) >= self._logged.get(what, -REMIND_S) + REMIND_S:
            self._logged[what] = now
            log.error("the disk refuses: %s; trying again until there is room", sentence)

    def clear(self, what: str) -> None:
        if self._sentences.pop(what, ""):
            self._logged.pop(what)
            log.info("the disk takes the %s again", what)

    def __str__(self) -> str:
        """As a sentence of the status; empty where all is well."""
        told = "; ".join(self._sentences.values())
        return f"waiting: the disk refuses: {told}; make room, the run then goes on by itself" if told else ""


class Coordinator:
    """`state` is what the event log holds, never ahead of it; `end`: the number of its last event. Observers are called on the event loop, in order, after
    their events are durable and never during a replay. `clock` measures what waits and never jumps, `date` is the calendar's
    (both: seconds since 1970); `written_at`: the date of the events that observers are being told."""

    def __init__(
        self,
        ledger: EventLog,
        state: State,
        clock: Callable[[], float] | None = None,
        date: Callable[[], float] = time.time,
        end: int = 0,
    ) -> None:
        self.state = state
        self.clock, self.date = clock or steady_clock(date), date
        self.written_at = 0.0
        self.trouble = Trouble()
        self._ledger, self._end = ledger, end
        self._observers: list[Observer] = []
        self._ended = False
        self._queue: asyncio.Queue[tuple[cmd.Command, asyncio.Future[tuple[ev.Event, ...]]]] = asyncio.Queue()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    @property
    def end(self) -> int:
        """The number of the log's last event that `state` has."""
        return self._end

    @property
    def waiting(self) -> str:
        """What the run waits for now and why, as a sentence; empty for nothing."""
        return waiting(self.state, self.clock())

    async def caught_up(self) -> None:
        """Until `state` has all that was in the log when this was called. One that leads has it at any time. Raises
        Unavailable."""

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    async def handle(self, command: cmd.Command) -> tuple[ev.Event, ...]:
        """The command's events, once they are durable. Raises Rejected, or Unavailable where the disk refuses, or this coordinator
        has ended."""
        if self._ended:
            raise Unavailable("the coordinator has ended")
        answer: asyncio.Future[tuple[ev.Event, ...]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((command, answer))
        return await answer

    async def run(self) -> None:
        """Decide and write until cancelled. Raises Fenced."""
        try:
            while True:
                batch = [await self._queue.get()]
                while not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                await self._decide(batch)
        finally:
            self._ended = True
            while not self._queue.empty():
                _, answer = self._queue.get_nowait()
                if not answer.done():
                    answer.set_exception(Unavailable("the coordinator has ended"))
            self._writer.shutdown()  # a write that has begun ends: whoever closes the ledger next finds it idle

    async def _decide(self, batch: Batch) -> None:
        now, date, ahead = self.clock(), self.date(), self.state
        events: list[ev.Event] = []
        answers: list[tuple[ev.Event, ...] | Exception] = []
        for command, _ in batch:
            try:
                decision = decide(ahead, command, now)
                ahead = decision.state
                events += decision.events
                answers.append(decision.events)
            except Rejected as rejected:
                answers.append(rejected)
            except Exception as error:
                log.exception("%s could not be decided", type(command).__name__)
                answers.append(error)
        fenced: Fenced | None = None
        try:
            if any(map(ev.is_durable, events)):
                append = self._ledger.append
                self._end = await asyncio.get_running_loop().run_in_executor(
                    self._writer, append, events, date, self._end
                )
                self.trouble.clear("ledger")
        except Fenced as error:
            fenced, answers = error, [Unavailable(str(error))] * len(batch)
        except LedgerError as error:
            self.trouble.tell("ledger", str(error))
            answers = [Unavailable(str(error))] * len(batch)
        else:
            self.state, self.written_at = ahead, date
            for observer in self._observers if events else ():
                observer(now, events, ahead)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue  # its sender has gone
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        if fenced is not None:
            raise fenced
