"""Connections to a database: opened when there is work, kept for the next, replaced when they break, and never waited for without end.

libpq reads the address, and with it TLS (`sslmode` and its kin), several hosts, services and passwords: none of these is ours. Every
statement that changes something is one transaction on its own, so a process that is paused in the midst of its work leaves no
transaction open that others would wait for. A statement whose connection broke is tried once more on a new one: what runs here says
the same when it runs twice.
"""

import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from zowarmup.common.settings.store import StoreAddress
from zowarmup.server.store.event_log import LedgerError, StoreAway

log = logging.getLogger(__name__)

T = TypeVar("T")
CONNECTIONS = 8
CONNECT_S, ANSWER_S, LOCK_S, IDLE_S = 10, 30.0, 10.0, 10.0
"""How long a connection may take to open, a statement to be answered, a lock to be had; and a transaction to stay open while
nothing comes, after which the database ends it."""
OLDEST = 130000
"""PostgreSQL 13, as libpq numbers it."""
_PASSWORD = re.compile(r"(//[^/@\s:]*):[^@\s]*@|(password=)\S+", re.IGNORECASE)


class DatabaseRefused(Exception):
    """The database did not do it, and nothing of it is there; the sentence says why and what to do. `away`: it may do it later, when it
    answers again."""

    def __init__(self, sentence: str, away: bool = False) -> None:
        super().__init__(sentence)
        self.away = away

    def of_ledger(self) -> LedgerError:
        """The same as an event log says it."""
        return StoreAway(str(self)) if self.away else LedgerError(str(self))


class Unanswered(psycopg.OperationalError):
    """Whether the statement was carried out is not known."""


class PostgresSession(psycopg.Connection[tuple[Any, ...]]):
    """A connection that gives up where no answer comes within `answer_s` seconds: the network may swallow everything."""

    answer_s = ANSWER_S

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """See psycopg."""
        try:
            bounded = gen if kwargs.get("timeout") is not None else _within(gen, self.answer_s)
            return super().wait(bounded, *args, **kwargs)
        except Unanswered:
            self.close()
            raise


def _within(gen: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
    """What is waited for, for so long at most: whoever waits looks in several times a second."""
    ends_at = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > ends_at:
                raise Unanswered(f"no answer came within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as over:
        found: T = over.value
        return found


class Database:
    """One schema of a database. Used by any thread; every call blocks.

    Args:
        address: Where it is, with its schema.
        name: What the database's own views call this process (`application_name`).
        answer_s: How long a statement may take.
        connections: At most so many at a time.
    """

    def __init__(
        self,
        address: StoreAddress,
        *,
        name: str = "zowarmup",
        answer_s: float = ANSWER_S,
        connections: int = CONNECTIONS,
    ) -> None:
        if not address.schema:
            raise ValueError("a database is opened with a schema")
        self.address, self.schema, self._answer_s, self._name = address, address.schema, answer_s, name
        self._idle: list[PostgresSession] = []
        self._lock, self._slots = threading.Lock(), threading.BoundedSemaphore(connections)
        self._closed = False

    def __str__(self) -> str:
        return f"schema {self.schema} of {self.address.url}"

    def run(self, work: Callable[[PostgresSession], T], answer_s: float | None = None) -> T:
        """What `work` does with a connection, which is in no transaction.

        Args:
            work: Runs again, once, where the connection breaks: it must say the same when it runs twice.
            answer_s: How long each of its statements may take; as the database has it by default.

        Raises:
            DatabaseRefused: The database is away, or refuses.
            psycopg.IntegrityError: As it is, for `work` knows what it means.
        """
        within = self._answer_s if answer_s is None else answer_s
        if not self._slots.acquire(timeout=within):
            raise DatabaseRefused(
                f"{self} is busy: no connection was free within {within:g} s; it is tried again", True
            )
        try:
            for again in (False, True):
                connection = self._take(within)
                try:
                    return work(connection)
                except psycopg.OperationalError as error:
                    if again or not connection.closed or isinstance(error, Unanswered):
                        raise
                    self._forget()  # what broke this one has most likely broken the others
                finally:
                    self._give_back(connection)
            raise AssertionError("the second time ends it")
        except psycopg.IntegrityError:
            raise
        except psycopg.Error as error:
            raise self.refusal(error) from error
        finally:
            self._slots.release()

    def connect(self) -> PostgresSession:
        """A connection for the caller alone, who closes it: to listen on, for example. Raises DatabaseRefused."""
        try:
            return self._connect(self._answer_s)
        except psycopg.Error as error:
            raise self.refusal(error) from error

    def refusal(self, error: psycopg.Error) -> DatabaseRefused:
        """An error of the database's as a sentence with a remedy."""
        said = redacted(str(error).strip().split("\n")[0])
        return DatabaseRefused(f"{self}: {said}; {_remedy(error)}", _is_away(error))

    def close(self) -> None:
        """Close what is idle; what is at work is closed when it is done."""
        self._closed = True
        self._forget()

    def _take(self, answer_s: float) -> PostgresSession:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            return self._connect(answer_s)
        connection.answer_s = answer_s
        return connection

    def _give_back(self, connection: PostgresSession) -> None:
        if self._closed or connection.info.transaction_status is not TransactionStatus.IDLE:
            connection.close()
        else:
            with self._lock:
                self._idle.append(connection)

    def _forget(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connect(self, answer_s: float) -> PostgresSession:
        given = conninfo_to_dict(self.address.url)
        defaults: dict[str, Any] = {
            "connect_timeout": max(2, min(CONNECT_S, math.ceil(answer_s))),  # libpq's own least
            "application_name": self._name,
            "target_session_attrs": "read-write",
            "tcp_user_timeout": int(1000 * ANSWER_S),
        }
        wanted = {key: value for key, value in defaults.items() if key not in given}
        connection = PostgresSession.connect(self.address.url, autocommit=True, **wanted)
        connection.answer_s = answer_s
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: PostgresSession) -> None:
        """What a session must have for acknowledged to mean stored, and for nothing to be waited for without end."""
        if connection.info.server_version < OLDEST:
            raise psycopg.NotSupportedError(f"the server is older than PostgreSQL {OLDEST // 10000}")
        found = connection.execute(
            """
            SELECT current_setting('fsync'), current_setting('synchronous_commit'),
                set_config('default_transaction_isolation', 'read committed', false),
                set_config('client_encoding', 'UTF8', false),
                set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),
                set_config('idle_in_transaction_session_timeout', %s, false)
            """,
            [str(int(1000 * seconds)) for seconds in (ANSWER_S, LOCK_S, IDLE_S)],
        ).fetchone()
        assert found is not None
        fsync, commit, *_ = found
        if commit == "off":
            connection.execute("SET synchronous_commit TO on")
        if fsync == "off":
            log.warning("%s: fsync is off, so what is acknowledged may be lost with the machine: turn it on", self)


def redacted(text: str) -> str:
    """A text without what looks like a password in a URL or a parameter, and without the one of the environment."""
    text = _PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[1] else f"{found[2]}***", text)
    secret = os.environ.get("PGPASSWORD", "")
    return text.replace(secret, "***") if secret else text


_REMEDIES = {
    "25006": "this is a replica, or read-only: name the primary",
    "28": "give the password by PGPASSWORD, a password file (PGPASSFILE) or a service, and see pg_hba.conf",
    "3D": "make the database first (CREATE DATABASE)",
    "3F": "no coordinator has made it yet, or the schema is another",
    "42501": "grant the role what docs/operators-guide.md says under PostgreSQL",
    "42P01": "no coordinator has made it yet, or the schema is another",
    "53100": "its disk is full: free space there, and it goes on",
    "53300": "it has no connection left: raise max_connections, or stop what else uses it",
    "54": "it is too large for the database",
    "55P03": "another session holds a lock there",
    "57014": "it took too long",
    "57P": "it is stopping or starting; it is tried again",
    "58": "its disk fails: see the database's own log",
    "XX": "it is damaged: see the database's own log",
}
_AT_CONNECTING = {
    "password": _REMEDIES["28"],
    "pg_hba": _REMEDIES["28"],
    "authentication": _REMEDIES["28"],
    "does not exist": "make the database and the role first (CREATE DATABASE, CREATE ROLE)",
    "too many": _REMEDIES["53300"],
    "connection slots": _REMEDIES["53300"],
    "starting up": _REMEDIES["57P"],
    "shutting down": _REMEDIES["57P"],
    "session is": _REMEDIES["25006"],
    "hot standby": _REMEDIES["25006"],
}
"""What a refusal to connect says, which has no state, as libpq passes it on."""
_AWAY = "is the database running, and is server.store its address? It is tried again"


def _is_away(error: psycopg.Error) -> bool:
    """Whether it may answer later. Where a connection is refused by the server itself there is no code, only its word FATAL: what is wrong
    then stays wrong, unless the server is on its way up or down, or full."""
    if error.sqlstate is not None:
        return error.sqlstate.startswith(("08", "57P", "53300"))
    said = str(error)
    passing = (
        "starting up",
        "shutting down",
        "recovery",
        "too many",
        "not yet accepting",
        "remaining connection slots",
    )
    return isinstance(error, psycopg.OperationalError) and (
        "FATAL" not in said or any(word in said for word in passing)
    )


def _remedy(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.NotSupportedError) and error.sqlstate is None:
        return "use a newer one"
    if (state := error.sqlstate) is None:
        return next((remedy for said, remedy in _AT_CONNECTING.items() if said in str(error)), _AWAY)
    return next((_REMEDIES[state[:n]] for n in (5, 3, 2) if state[:n] in _REMEDIES), _AWAY)
