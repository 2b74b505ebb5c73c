"""The event log as a table, which followers are told of by the database itself.

An append is one statement: it locks the row of the lease, so that nobody takes it meanwhile, compares the epoch and the last event's
number, writes the rows and notifies whoever listens. So no append is ever half done, and a process that stops in the midst of one
holds nothing up.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from zowarmup.server.core import events as ev
from zowarmup.server.store.event_log import EventLog, Fenced, fenced
from zowarmup.server.store.event_rows import StoredEvent, event_of, events_of, rows_of
from zowarmup.server.store.lease import superseded
from zowarmup.server.store.postgres.connection import Database, DatabaseRefused, PostgresSession

READ_ROWS = 500
CLOSED_S = 0.5
"""Who waits for events looks so often whether the log is closed."""
_REMEDY = "restore it from a backup (`zowarmup restore`)"


class PostgresLog:
    """See `SharedLog` and `StoredRows`. `took` is told the seconds of each append."""

    def __init__(self, database: Database, *, took: Callable[[float], None] = lambda seconds: None) -> None:
        self.database, self.took = database, took
        schema = database.schema
        self._events = Identifier(schema, "events")
        self._rows = SQL("SELECT id, at, kind, body FROM {} WHERE id > %s ORDER BY id LIMIT %s").format(self._events)
        self._last = SQL("SELECT coalesce(max(id), 0) FROM {}").format(self._events)
        self.insert = SQL("""
            WITH held AS MATERIALIZED (SELECT epoch FROM {lease} WHERE one FOR SHARE),
            last AS (SELECT coalesce(max(id), 0) AS id FROM {events}),
            written AS (
                INSERT INTO {events} (id, at, kind, body)
                SELECT * FROM unnest(%(ids)s::bigint[], %(ats)s::float8[], %(kinds)s::text[], %(bodies)s::text[])
                WHERE (SELECT epoch FROM held) = %(epoch)s AND (SELECT id FROM last) = %(expected)s
                RETURNING id
            )
            SELECT coalesce((SELECT epoch FROM held), 0), (SELECT id FROM last), count(*),
                CASE WHEN count(*) > 0 THEN pg_notify({channel}, max(id)::text)::text END FROM written
        """).format(lease=Identifier(schema, "lease"), events=self._events, channel=Literal(schema))
        self._listen = SQL("LISTEN {}").format(Identifier(schema))
        self._listener: PostgresSession | None = None
        self._waiting = threading.Lock()
        self._closed = False

    def leading(self, epoch: int) -> EventLog:
        """See `SharedLog`."""
        return PostgresLeadersLog(self, epoch)

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        """See `SharedLog`."""
        return events_of(self.rows(after), after, str(self.database), _REMEDY)

    def rows(self, after: int = 0) -> Iterator[StoredEvent]:
        """See `StoredRows`. The last rows are those of one moment, and so end with a whole append."""
        while True:
            found = self._page(after)
            yield from found
            if len(found) < READ_ROWS:
                return
            after = found[-1].id

    def _page(self, after: int) -> list[StoredEvent]:
        try:
            rows = self.database.run(lambda connection: connection.execute(self._rows, (after, READ_ROWS)).fetchall())
        except DatabaseRefused as error:
            raise error.of_ledger() from error
        return [StoredEvent(*row) for row in rows]

    def decode(self, row: StoredEvent) -> ev.Event:
        """See `StoredRows`."""
        return event_of(row, str(self.database), _REMEDY)

    def integrity(self) -> str:
        """See `StoredRows`. The database checks its own files."""
        return ""

    def write(self, rows: Iterable[StoredEvent]) -> None:
        """Write rows of another log into this one, which is empty and which nobody leads, as they are: all of them or none. Raises
        LedgerError."""

        def write(connection: PostgresSession) -> None:
            with connection.transaction():
                connection.execute("SET LOCAL statement_timeout TO 0")
                connection.execute(SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(self._events))
                (last,) = connection.execute(self._last).fetchone() or (0,)
                if last:
                    raise fenced(str(self.database), last, 0)
                into = SQL("COPY {} (id, at, kind, body) FROM STDIN").format(self._events)
                with connection.cursor().copy(into) as copy:
                    for row in rows:
                        copy.write_row((row.id, row.at, row.kind, row.body))

        try:
            self.database.run(write)
        except DatabaseRefused as error:
            raise error.of_ledger() from error

    def wait(self, after: int, timeout_s: float) -> None:
        """See `SharedLog`."""
        ends_at = time.monotonic() + timeout_s
        with self._waiting:
            try:
                listener = self._listening()
                (last,) = listener.execute(self._last).fetchone() or (0,)
                while last <= after and not self._closed and (left := ends_at - time.monotonic()) > 0:
                    for notice in listener.notifies(timeout=min(left, CLOSED_S), stop_after=1):
                        last = int(notice.payload)
            except (psycopg.Error, DatabaseRefused) as error:
                self._hang_up()
                said = error if isinstance(error, DatabaseRefused) else self.database.refusal(error)
                raise said.of_ledger() from error

    def _listening(self) -> PostgresSession:
        if self._listener is None:
            self._listener = self.database.connect()
            self._listener.execute(self._listen)
        return self._listener

    def _hang_up(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """See `SharedLog`. The database stays open for whoever shares it."""
        self._closed = True
        with self._waiting:
            self._hang_up()


class PostgresLeadersLog:
    """See `EventLog`: the log for whoever leads in `epoch`."""

    def __init__(self, log: PostgresLog, epoch: int) -> None:
        self._log, self._epoch = log, epoch
        self._unsettled = 0  # of how many events nobody knows whether they are in the log
        self._unsettled_after = 0

    def append(self, events: Iterable[ev.Event], at: float, expected: int) -> int:
        """See `EventLog`. Where the connection breaks before the answer comes, it is looked up what has become of it."""
        if not (rows := rows_of(events, at, expected)):
            return expected
        began, tries = time.monotonic(), 0

        def write(connection: PostgresSession) -> None:
            nonlocal tries
            tries += 1
            with contextlib.suppress(psycopg.errors.UniqueViolation):  # another of the same epoch: said below
                if self._write(connection, rows, expected):
                    return
            epoch, last = self._now(connection)
            if epoch != self._epoch:
                raise superseded(epoch, self._epoch)
            if tries > 1 and self._there(connection, rows):
                return
            if self._unsettled and self._unsettled_after == expected < last <= expected + self._unsettled:
                raise Fenced(
                    f"{self._log.database} holds {last - expected} events of this coordinator whose answer was lost: it must "
                    "read them before it goes on"
                )
            raise fenced(str(self._log.database), last, expected)

        try:
            self._log.database.run(write)
        except DatabaseRefused as error:
            if tries:
                self._unsettled = max(len(rows), self._unsettled if self._unsettled_after == expected else 0)
                self._unsettled_after = expected
            raise error.of_ledger() from error
        self._unsettled = 0
        self._log.took(time.monotonic() - began)
        return expected + len(rows)

    def _write(self, connection: PostgresSession, rows: list[StoredEvent], expected: int) -> bool:
        values = {
            "ids": [row.id for row in rows],
            "ats": [row.at for row in rows],
            "kinds": [row.kind for row in rows],
            "bodies": [row.body for row in rows],
            "epoch": self._epoch,
            "expected": expected,
        }
        found = connection.execute(self._log.insert, values).fetchone()
        assert found is not None
        return bool(found[2])

    def _now(self, connection: PostgresSession) -> tuple[int, int]:
        """The lease's epoch and the last event's number."""
        schema = self._log.database.schema
        query = SQL("SELECT coalesce((SELECT epoch FROM {}), 0), (SELECT coalesce(max(id), 0) FROM {})").format(
            Identifier(schema, "lease"), Identifier(schema, "events")
        )
        found = connection.execute(query).fetchone()
        assert found is not None
        return found[0], found[1]

    def _there(self, connection: PostgresSession, rows: list[StoredEvent]) -> bool:
        """Whether the log ends with these rows."""
        query = SQL("SELECT id, at, kind, body FROM {} WHERE id >= %s ORDER BY id").format(
            Identifier(self._log.database.schema, "events")
        )
        return [StoredEvent(*row) for row in connection.execute(query, [rows[0].id])] == rows

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        """See `EventLog`."""
        return self._log.read(after)

    def close(self) -> None:
        """See `EventLog`: the shared log stays open."""
