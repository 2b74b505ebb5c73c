"""Events as rows: a number, when, the event's name and its fields as JSON. Every log on disk writes these, and reads no others.

The JSON is the same to the byte whatever keeps it, so that a log is copied from one to another row by row, and an operator reads it with
any database shell.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from zowarmup.server.core import events as ev
from zowarmup.server.store import schemas  # noqa: F401  (how algorithms' settings are read)
from zowarmup.server.store.event_log import LedgerError

# A model that diverges has an infinite loss, or none: JSON has no word for these but as strings.
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    cls.__name__: TypeAdapter(with_config(ConfigDict(ser_json_inf_nan="strings"))(cls))
    for cls in get_args(ev.DurableEvent)
}


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row: `at` in unix seconds, `body` the event's fields as JSON."""

    id: int
    at: float
    kind: str
    body: str


class StoredRows(Protocol):
    """A log on disk, row by row, as whoever checks or copies it reads it."""

    def rows(self, after: int = 0) -> Iterator[StoredEvent]:
        """Every row behind number `after`, in order, as it is written. Raises LedgerError where the log cannot be read (any
        further)."""
        ...

    def decode(self, row: StoredEvent) -> ev.Event:
        """Raises LedgerError naming the row where it is not an event."""
        ...

    def integrity(self) -> str:
        """What is wrong with the file or the table itself; empty where nothing is."""
        ...

    def close(self) -> None: ...


def rows_of(events: Iterable[ev.Event], at: float, expected: int) -> list[StoredEvent]:
    """The durable ones among some events, numbered from behind `expected`."""
    durable = [event for event in events if ev.is_durable(event)]
    return [
        StoredEvent(number, at, type(event).__name__, _body(event))
        for number, event in enumerate(durable, expected + 1)
    ]


def _body(event: ev.Event) -> str:
    """An event's fields as JSON. Python's, not pydantic's, which writes null for a loss that is not finite and then
    cannot read it back."""
    return json.dumps(_ADAPTERS[type(event).__name__].dump_python(event), separators=(",", ":"))


def event_of(row: StoredEvent, log: str, remedy: str) -> ev.Event:
    """The event of a row.

    Args:
        row: As it was read.
        log: What to call the log.
        remedy: What to do where it is damaged.

    Raises:
        LedgerError: The row is no event.
    """
    adapter = _ADAPTERS.get(row.kind)
    if adapter is None:
        raise LedgerError(f"{log} row {row.id}: {row.kind} is not an event of this version; {remedy}")
    try:
        event: ev.Event = adapter.validate_json(row.body)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise LedgerError(f"{log} row {row.id}: {row.kind} is damaged: {reason}; {remedy}") from error
    return event


def events_of(rows: Iterable[StoredEvent], after: int, log: str, remedy: str) -> Iterator[tuple[float, ev.Event]]:
    """The events of rows behind number `after`, each with its `at`. Raises LedgerError where one is missing or no event."""
    for number, row in enumerate(rows, after + 1):
        if row.id != number:
            raise LedgerError(f"{log} row {number} is missing; {remedy}")
        yield row.at, event_of(row, log, remedy)
