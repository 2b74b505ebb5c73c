"""The event log: a run's durable events, in order, numbered from 1 without gaps, and appended by one writer.

`EventLog` is the contract, which every implementation is tested against. `ledger` keeps the events in a SQLite file; `MemoryEventLog` keeps
them in the process, for tests and simulations.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import Protocol

from zowarmup.server.core import events as ev


class LedgerError(Exception):
    """The event log cannot be read or written; the sentence says what to do."""


class Fenced(LedgerError):
    """Another writer has appended to the log, or it has lost events: this writer's state is no longer the log's."""


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


class MemoryEventLog:
    """An event log that lasts as long as the object. `events` are what it begins with, each with its `at`."""

    def __init__(self, events: Iterable[tuple[float, ev.Event]] = ()) -> None:
        self._events, self._lock = list(events), threading.Lock()

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


def fenced(log: str, last: int, expected: int) -> Fenced:
    """The refusal of a writer that expects the log to end with event `expected`, not `last`."""
    return Fenced(
        f"{log} ends with event {last}, not with event {expected} as this coordinator left it: another one has written to it; "
        "stop the other, and start again"
    )
