"""Schemas that are made, brought on, made by two at once, or of a newer version."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.documents import REPOSITORY, blocks
from tests.postgres.server import USER, PostgresServer
from tests.unit.server.store.test_lease import LONG_S, holder
from zowarmup.common.settings.store import StoreAddress
from zowarmup.server.core import events as ev
from zowarmup.server.store.event_log import LedgerError
from zowarmup.server.store.postgres.connection import Database
from zowarmup.server.store.postgres.migrations import MIGRATIONS, Migration, migrate, require_current
from zowarmup.server.store.postgres.stores import PostgresStores

NEXT = (*MIGRATIONS, Migration("add a table of a later version", "CREATE TABLE {schema}.later (one integer)"))


def test_each_step_is_taken_once_and_says_what_it_did(postgres: PostgresServer) -> None:
    with contextlib.closing(Database(postgres.address())) as database:
        assert migrate(database) == list(range(1, len(MIGRATIONS) + 1))
        assert migrate(database) == []
        assert migrate(database, NEXT) == [len(NEXT)]
        rows = database.run(
            lambda c: c.execute(f"SELECT number, what, by FROM {database.schema}.migrations ORDER BY number").fetchall()
        )
    assert [(number, what) for number, what, _ in rows] == list(enumerate((step.what for step in NEXT), 1))
    assert all(by.startswith("zowarmup ") for _, _, by in rows)


def test_of_those_that_start_together_one_migrates(postgres: PostgresServer) -> None:
    address, together = postgres.address(), threading.Barrier(4)

    def start(_: int) -> int:
        with contextlib.closing(Database(address)) as database:
            together.wait()
            return len(migrate(database))

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(start, range(4))) == [0, 0, 0, len(MIGRATIONS)]


def test_a_newer_schema_is_refused_by_name(postgres: PostgresServer) -> None:
    address = postgres.address()
    with contextlib.closing(Database(address)) as database:
        migrate(database, NEXT)
        for look in (migrate, require_current):
            with pytest.raises(
                LedgerError, match=rf"migration {len(NEXT)} \(add a table of a later version\) is not known"
            ):
                look(database)


def test_whoever_only_reads_makes_nothing(postgres: PostgresServer) -> None:
    address = postgres.address()
    with pytest.raises(LedgerError, match=f"schema {address.schema} of .* holds no run"):
        PostgresStores.open(address, reading=True)
    with contextlib.closing(Database(address)) as database:
        found = database.run(
            lambda c: c.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [address.schema]).fetchone()
        )
        assert found is None
        migrate(database, MIGRATIONS[:1])
        with pytest.raises(LedgerError, match=f"1 of the {len(MIGRATIONS)} migrations"):
            require_current(database)


def test_a_step_that_fails_leaves_nothing_of_itself(postgres: PostgresServer) -> None:
    broken = (*MIGRATIONS, Migration("break", "CREATE TABLE {schema}.half (one integer); SELECT 1 / 0"))
    with contextlib.closing(Database(postgres.address())) as database:
        with pytest.raises(LedgerError, match="division by zero"):
            migrate(database, broken)
        with pytest.raises(LedgerError, match="holds no run"):
            require_current(database)
        assert len(migrate(database)) == len(MIGRATIONS)


def test_a_role_that_owns_one_schema_keeps_a_run_there_and_reaches_no_other(postgres: PostgresServer) -> None:
    """As the operator's guide says."""
    (guide,) = (
        found for found in blocks(REPOSITORY / "docs/operators-guide.md", "PostgreSQL") if found.language == "sql"
    )
    create, script = guide.text.split("\\connect fleets\n")
    with psycopg.connect(postgres.address().url, autocommit=True) as admin:
        admin.execute(create)
    with psycopg.connect(postgres.address(database="fleets").url, autocommit=True) as admin:
        admin.execute(script)
        admin.execute(script.replace("_a", "_b"))

    def as_role(role: str, schema: str) -> StoreAddress:
        return StoreAddress(postgres.address(database="fleets").url.replace(f"{USER}@", f"{role}@"), schema)

    with contextlib.closing(PostgresStores.open(as_role("fleet_a", "fleet_a"))) as stores:
        name = stores.blobs.put(b"data")
    for schema in ("fleet_b", "fleet_c", "public"):
        with pytest.raises(LedgerError, match="grant the role"):
            PostgresStores.open(as_role("fleet_a", schema))
    with contextlib.closing(PostgresStores.open(as_role("reads_a", "fleet_a"), reading=True)) as reading:
        assert reading.blobs.names() == {name} and list(reading.log.read()) == []
        with pytest.raises(LedgerError, match="grant the role"):
            reading.log.leading(1).append([ev.RunResumed()], 1.0, 0)


def test_two_runs_in_one_database_know_nothing_of_each_other(postgres: PostgresServer) -> None:
    with contextlib.ExitStack() as opened:
        one, other = (
            opened.enter_context(contextlib.closing(PostgresStores.open(postgres.address()))) for _ in range(2)
        )
        assert one.lease.take(holder("one"), LONG_S) and other.lease.take(holder("other"), LONG_S)
        one.log.leading(1).append([ev.RunResumed()], 1.0, 0)
        name = one.blobs.put(b"data")
        one.uploads.write("part", 0, b"half")
        assert list(other.log.read()) == [] and not other.blobs.has(name) and other.uploads.parts() == set()
        other.blobs.put(b"data")
        other.blobs.leading(1).sweep(())
        assert one.blobs.names() == {name} and one.uploads.parts() == {"part"}
        assert not one.uploads.has(name), "nor do the stores of one run"
