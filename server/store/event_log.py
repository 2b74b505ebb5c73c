"""The event log: a run's durable events, in order, numbered from 1 without gaps, and appended by one writer.

`EventLog` is the contract, which every implementation is tested against. `ledger` keeps the events in a SQLite file; `MemoryEventLog` keeps
them in the process, for tests and simulations.

`SharedLog` is a log that several coordinators read, and that the one among them writes that leads. `postgres.event_log` keeps it in
a database; `MemorySharedLog` in the process, for tests.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from zowarmup.server.core import events as ev


class LedgerError(Exception):
    """The event log cannot be read or written; the sentence says what to do."""


class StoreAway(LedgerError):
    """The store does not answer now: it is stopped, starting, too busy, or the network is. It is worth waiting for."""


class Fenced(LedgerError):
    """Another writer has appended to the log or leads by now, or the log has lost events: this writer's state is no longer the
    log's."""


class EventLog(Protocol):
    """A log for one writer and any number of readers, in any thread."""

    def append(self, events: Iterable[ev.Event], at: float, expected: int) -> int:
        """Append the durable ones among the events, all of them or none; soft events are left out.

        Args:
            events: In order. Where none is durable, nothing is written or checked.
            at: When they happened, seconds since 1970; they are read back with it.
            expected: The number of the last event that this writer knows of, 0 for an empty log.

        Returns:
            The number of the last event now. The events are on disk, where the log lasts.

        Raises:
            Fenced: The log's last event has another number. Nothing is appended.
            LedgerError: The events cannot be written, for lack of room for example. Nothing is appended; trying again may help.
        """
        ...

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        """The events behind number `after`, in order, each with its `at`.

        Raises:
            LedgerError: An event is damaged or missing, or the log cannot be read; the sentence names the event.
        """
        ...

    def close(self) -> None:
        """Give back what the log holds of the system. It is not used afterwards."""
        ...


class SharedLog(Protocol):
    """A log that coordinators share. Used by any thread; raises LedgerError where the store is away."""

    def leading(self, epoch: int) -> EventLog:
        """The log for whoever leads in that epoch of the lease: `append` also raises Fenced where the lease is of another epoch by
        then, which nothing can change in the midst of it. Closing it leaves this one open."""
        ...

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        """As `EventLog.read`."""
        ...

    def wait(self, after: int, timeout_s: float) -> None:
        """Return when there may be events behind number `after`, or after so many seconds. There may be none: read them."""
        ...

    def close(self) -> None:
        """As `EventLog.close`. Whoever waits returns or gets LedgerError."""
        ...


class MemoryEventLog:
    """An event log that lasts as long as the object. `events` are what it begins with, each with its `at`."""

    def __init__(self, events: Iterable[tuple[float, ev.Event]] = ()) -> None:
        self._events, self._lock = list(events), threading.Lock()

    def __len__(self) -> int:
        return len(self._events)

    def append(self, events: Iterable[ev.Event], at: float, expected: int) -> int:
        """See `EventLog`."""
        durable = [(at, event) for event in events if ev.is_durable(event)]
        if not durable:
            return expected
        with self._lock:
            if len(self._events) != expected:
                raise fenced("the event log", len(self._events), expected)
            self._events += durable
            return len(self._events)

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        """See `EventLog`."""
        yield from self._events[after:]

    def close(self) -> None:
        """See `EventLog`. The events stay."""


class MemorySharedLog:
    """A shared log that lasts as long as the object.

    Args:
        leading: Given an epoch, a context in which that stays the lease's, or that raises Fenced: `MemoryLease.leading`.
        events: What it begins with, each with its `at`.
    """

    def __init__(
        self,
        leading: Callable[[int], AbstractContextManager[None]],
        events: Iterable[tuple[float, ev.Event]] = (),
    ) -> None:
        self._leading, self._events = leading, MemoryEventLog(events)
        self._grown = threading.Condition()
        self._closed = False

    def leading(self, epoch: int) -> EventLog:
        """See `SharedLog`."""
        return _LeadersLog(self, epoch)

    def append(self, events: Iterable[ev.Event], at: float, expected: int, epoch: int) -> int:
        """As `EventLog.append`, of whoever leads in that epoch."""
        with self._leading(epoch):
            end = self._events.append(events, at, expected)
        with self._grown:
            self._grown.notify_all()
        return end

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        """See `SharedLog`."""
        return self._events.read(after)

    def wait(self, after: int, timeout_s: float) -> None:
        """See `SharedLog`."""
        with self._grown:
            self._grown.wait_for(lambda: self._closed or len(self._events) > after, timeout_s)

    def close(self) -> None:
        """See `SharedLog`. The events stay."""
        with self._grown:
            self._closed = True
            self._grown.notify_all()


class _LeadersLog:
    def __init__(self, log: MemorySharedLog, epoch: int) -> None:
        self._log, self._epoch = log, epoch

    def append(self, events: Iterable[ev.Event], at: float, expected: int) -> int:
        return self._log.append(events, at, expected, self._epoch)

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        return self._log.read(after)

    def close(self) -> None:
        pass


def fenced(log: str, last: int, expected: int) -> Fenced:
    """The refusal of a writer that expects the log to end with event `expected`, not `last`."""
    return Fenced(
        f"{log} ends with event {last}, not with event {expected} as this coordinator left it: another one has written to it; "
        "stop the other, and start again"
    )
