"""Connections to a real database that break, stall and are refused: what is tried again, what is said, and that no password is."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.faults.proxy import Link
from tests.patience import PATIENCE
from tests.postgres.server import USER, PostgresServer
from zowarmup.common.settings.store import StoreAddress
from zowarmup.server.store.postgres.connection import Database, DatabaseRefused, PostgresSession, redacted

PID = "SELECT pg_backend_pid()"


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    found = Database(postgres.address("public"), name="under test")
    yield found
    found.close()


def pid(connection: PostgresSession) -> int:
    (found,) = connection.execute(PID).fetchone() or (0,)
    return int(found)


def terminate(database: Database, process: int) -> None:
    database.run(lambda connection: connection.execute("SELECT pg_terminate_backend(%s, 10000)", [process]))


def test_a_connection_is_kept_for_the_next_and_says_whose_it_is(database: Database) -> None:
    assert database.run(pid) == database.run(pid)
    (name,) = database.run(lambda c: c.execute("SELECT current_setting('application_name')").fetchone()) or ("",)
    assert name == "under test"


def test_what_ends_a_connection_is_hidden_once(postgres: PostgresServer, database: Database) -> None:
    other = Database(postgres.address("public"))
    first = database.run(pid)
    terminate(other, first)
    assert database.run(pid) != first, "an idle one"
    kills = 0

    def killed(connection: PostgresSession) -> int:
        nonlocal kills
        kills += 1
        terminate(other, pid(connection))
        return pid(connection)

    with pytest.raises(DatabaseRefused, match="connection"):
        database.run(killed)
    assert kills == 2
    assert database.run(pid), "and the next is served"
    other.close()


def test_all_connections_are_new_after_a_restart(postgres: PostgresServer, database: Database) -> None:
    together = threading.Barrier(4)

    def use(_: int) -> int:
        def work(connection: PostgresSession) -> int:
            together.wait()
            return pid(connection)

        return database.run(work)

    with ThreadPoolExecutor(4) as threads:
        before = set(threads.map(use, range(4)))
        assert len(before) == 4
        postgres.restart()
        together.reset()
        assert len([database.run(pid) for _ in range(4)]) == 4


def test_a_database_that_is_away_is_named_with_a_remedy(postgres: PostgresServer, database: Database) -> None:
    database.run(pid)
    postgres.stop()
    try:
        with pytest.raises(DatabaseRefused, match=r"schema public of postgresql://.*; is the database running"):
            database.run(pid)
    finally:
        postgres.start()
    assert database.run(pid)


def test_no_answer_is_waited_for_without_end(postgres: PostgresServer) -> None:
    with Link(f"127.0.0.1:{postgres.port}") as link:
        database = Database(postgres.address("public", port=link.port))
        database.run(pid)
        link.black_hole()
        began = time.monotonic()
        with pytest.raises(DatabaseRefused, match=r"no answer came within 0\.5 s"):
            database.run(pid, answer_s=0.5)
        assert time.monotonic() - began < 10 * PATIENCE
        link.mend()
        assert database.run(pid)
        link.delay_s = 0.05
        assert database.run(pid), "slow is not away"
        database.close()


def test_a_statement_that_stalls_in_the_database_is_given_up(database: Database) -> None:
    with pytest.raises(DatabaseRefused, match="no answer came within"):
        database.run(lambda connection: connection.execute("SELECT pg_sleep(600)"), answer_s=0.3)
    assert database.run(pid)


def test_no_more_connections_than_allowed(postgres: PostgresServer) -> None:
    database, going, done = Database(postgres.address("public"), connections=1), threading.Event(), threading.Event()

    def hold(connection: PostgresSession) -> None:
        going.set()
        done.wait(60 * PATIENCE)

    with ThreadPoolExecutor(1) as thread:
        holding = thread.submit(database.run, hold)
        assert going.wait(60 * PATIENCE)
        with pytest.raises(DatabaseRefused, match="no connection was free"):
            database.run(pid, answer_s=0.1)
        done.set()
        holding.result()
    assert database.run(pid)
    database.close()


def test_work_that_fails_leaves_the_connection_as_it_was(database: Database) -> None:
    def fail(connection: PostgresSession) -> None:
        connection.execute("BEGIN")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.run(fail)
    (age,) = database.run(lambda c: c.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()) or (0,)
    assert age is None
    with pytest.raises(psycopg.IntegrityError):
        database.run(
            lambda c: c.execute("DO $$ BEGIN RAISE EXCEPTION 'twice' USING ERRCODE = 'unique_violation'; END $$")
        )


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("53100", "its disk is full: free space there"),
        ("53300", "raise max_connections"),
        ("42501", "operators-guide"),
        ("25006", "replica"),
        ("57014", "it took too long"),
        ("XX001", "damaged"),
    ],
)
def test_what_the_database_refuses_has_a_remedy(database: Database, state: str, said: str) -> None:
    with pytest.raises(DatabaseRefused, match=said):
        database.run(lambda c: c.execute(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"))


def test_a_session_has_what_acknowledged_needs(postgres: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    with psycopg.connect(postgres.address("public").url, autocommit=True) as admin:
        admin.execute(
            f"CREATE ROLE careless LOGIN; ALTER ROLE careless SET synchronous_commit TO off; GRANT {USER} TO careless"
        )
        admin.execute("ALTER ROLE careless SET default_transaction_isolation TO serializable")
    url = postgres.address("public").url.replace(f"{USER}@", "careless@")
    database = Database(StoreAddress(url, "public"))
    with caplog.at_level(logging.WARNING):
        found = database.run(
            lambda c: c.execute(
                "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
            ).fetchone()
        )
    assert found == ("on", "read committed") and not caplog.messages
    database.close()


def test_no_password_is_said(monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer) -> None:
    assert redacted("postgresql://one:hunter2@db/x and password=hunter2 sslmode") == (
        "postgresql://one:***@db/x and password=*** sslmode"
    )
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    assert redacted("what hunter2 is") == "what *** is"
    database = Database(postgres.address("public", database="nowhere"))
    with pytest.raises(DatabaseRefused, match='database "nowhere" does not exist; make the database'):
        database.run(pid)
    (postgres.data / "pg_hba.conf").write_text(
        f"host all refused all scram-sha-256\nhost all {USER} all trust\nhost all all all trust\n"
    )
    with psycopg.connect(postgres.address("public").url, autocommit=True) as admin:
        admin.execute("CREATE ROLE refused LOGIN PASSWORD 'another'; SELECT pg_reload_conf()")
    url = postgres.address("public").url.replace(f"{USER}@", "refused@")

    def connect_for_long() -> None:
        ends_at = time.monotonic() + 30 * PATIENCE
        while time.monotonic() < ends_at:  # until the file is read
            Database(StoreAddress(url, "public")).run(pid)

    with pytest.raises(DatabaseRefused, match="PGPASSFILE") as refused:
        connect_for_long()
    assert "hunter2" not in str(refused.value)
