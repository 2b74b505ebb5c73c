"""What is particular to the event log in PostgreSQL: connections that end in the midst of an append, a database that restarts, is full or
slow, writers that were overtaken meanwhile. What holds for every log is in test_event_log and test_shared of the store."""

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.faults.proxy import Link, answer_lost
from tests.patience import PATIENCE
from tests.postgres.server import PostgresServer
from tests.unit.server.store.test_lease import LONG_S, OVER_S, holder
from zowarmup.common.settings.store import StoreAddress
from zowarmup.server.core import events as ev
from zowarmup.server.store.event_log import Fenced, LedgerError
from zowarmup.server.store.postgres.stores import PostgresStores

BATCH: list[ev.Event] = [ev.RunPaused("a"), ev.RunResumed(), ev.RunPaused("b")]


@pytest.fixture
def open_stores(postgres: PostgresServer) -> Iterator[Callable[..., PostgresStores]]:
    """Opens one and the same store, by way of a proxy's port where one is given."""
    schema = postgres.address().schema
    with contextlib.ExitStack() as opened:

        def open_it(port: int = 0) -> PostgresStores:
            stores = PostgresStores.open(postgres.address(schema, port=port))
            return opened.enter_context(contextlib.closing(stores))

        assert open_it().lease.take(holder("one"), LONG_S)
        yield open_it


def admin(stores: PostgresStores) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(stores.database.address.url, autocommit=True)


def events(stores: PostgresStores) -> list[ev.Event]:
    return [event for _, event in stores.log.read()]


def test_an_append_whose_answer_is_lost_is_there_once(
    postgres: PostgresServer, open_stores: Callable[..., PostgresStores]
) -> None:
    """The database commits, and the connection is gone before it can say so."""
    with Link(f"127.0.0.1:{postgres.port}") as link:
        stores = open_stores(link.port)
        log = stores.log.leading(1)
        assert log.append(BATCH, 1.0, 0) == 3
        with answer_lost(link):
            assert log.append(BATCH, 2.0, 3) == 6
        assert events(stores) == BATCH * 2
        assert log.append(BATCH, 3.0, 6) == 9


@pytest.mark.parametrize("seed", range(4))
def test_an_append_whose_connection_is_reset_in_its_midst_is_there_once(
    postgres: PostgresServer, open_stores: Callable[..., PostgresStores], seed: int
) -> None:
    draw = random.Random(seed)
    with Link(f"127.0.0.1:{postgres.port}") as link:
        stores = open_stores(link.port)
        log = stores.log.leading(1)
        log.append(BATCH, 1.0, 0)
        for number in range(1, 20):
            link.reset_after(draw.randrange(1, 1500))
            assert log.append(BATCH, float(number), 3 * number) == 3 * number + 3
        assert link.resets >= 5
    assert events(open_stores()) == BATCH * 20


def test_an_append_that_nobody_answered_is_told_of_before_more_is_written(
    postgres: PostgresServer, open_stores: Callable[..., PostgresStores]
) -> None:
    with Link(f"127.0.0.1:{postgres.port}") as link:
        stores = open_stores(link.port)
        log = stores.log.leading(1)
        log.append(BATCH, 1.0, 0)
        link.passing = lambda piece, up: piece if up else b""
        stores.database._answer_s = 0.3
        with pytest.raises(LedgerError, match="no answer came within"):
            log.append(BATCH, 2.0, 3)
        assert events(open_stores()) == BATCH * 2
        link.drop()
        link.passing = lambda piece, up: piece
        stores.database._answer_s = 30.0
        with pytest.raises(Fenced, match="holds 3 events of this coordinator whose answer was lost"):
            log.append([ev.RunResumed()], 3.0, 3)
        assert log.append([ev.RunResumed()], 3.0, 6) == 7


def test_an_append_that_is_killed_while_it_waits_is_written_or_fenced(
    open_stores: Callable[..., PostgresStores],
) -> None:
    """Its connection ends within its transaction, while somebody else has the row of the lease."""
    stores, schema = open_stores(), open_stores().database.schema
    log = stores.log.leading(1)
    for overtaken in (False, True):
        with admin(stores) as other, admin(stores) as killer, ThreadPoolExecutor(1) as thread:
            with other.transaction():  # which would see one and the same pg_stat_activity to its end
                other.execute(f"SELECT FROM {schema}.lease FOR UPDATE")
                appending = thread.submit(log.append, BATCH, 1.0, 0 if not overtaken else 3)
                ends_at = time.monotonic() + 30 * PATIENCE
                while not killer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s",
                    [f"%{schema}%"],
                ).fetchone():
                    assert time.monotonic() < ends_at
                if overtaken:
                    other.execute(f"UPDATE {schema}.lease SET epoch = epoch + 1")
            if overtaken:
                with pytest.raises(Fenced, match="epoch 2, and this one led in epoch 1"):
                    appending.result(60 * PATIENCE)
            else:
                assert appending.result(60 * PATIENCE) == 3
        assert events(stores) == BATCH


def test_a_paused_writer_holds_nobody_up_and_writes_nothing_more(open_stores: Callable[..., PostgresStores]) -> None:
    zombie, other = open_stores(), open_stores()
    log = zombie.log.leading(1)
    log.append(BATCH, 1.0, 0)
    zombie.lease.renew(1, OVER_S)
    assert other.lease.take(holder("other"), LONG_S)
    assert other.log.leading(2).append([ev.RunResumed()], 2.0, 3) == 4
    for expected in (3, 4, 0):
        with pytest.raises(Fenced, match="epoch 2"):
            log.append(BATCH, 3.0, expected)
    assert events(other) == [*BATCH, ev.RunResumed()]


def full(stores: PostgresStores, table: str) -> None:
    """What the database raises where its disk is full, which a test cannot fill: the same state, for the same statement."""
    schema = stores.database.schema
    with admin(stores) as connection:
        connection.execute(
            f"CREATE FUNCTION {schema}.no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
            "'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.execute(
            f"CREATE TRIGGER no_room AFTER INSERT ON {schema}.{table} FOR EACH ROW EXECUTE FUNCTION {schema}.no_room()"
        )


def test_an_append_to_a_full_disk_leaves_nothing_and_goes_on_later(open_stores: Callable[..., PostgresStores]) -> None:
    stores = open_stores()
    log = stores.log.leading(1)
    log.append(BATCH, 1.0, 0)
    full(stores, "events")
    for _ in range(2):
        with pytest.raises(LedgerError, match="No space left on device; its disk is full: free space there"):
            log.append(BATCH, 2.0, 3)
    with admin(stores) as connection:
        connection.execute(f"DROP FUNCTION {stores.database.schema}.no_room() CASCADE")
    assert log.append(BATCH, 2.0, 3) == 6
    assert events(stores) == BATCH * 2


def test_a_damaged_or_missing_row_is_named(open_stores: Callable[..., PostgresStores]) -> None:
    stores = open_stores()
    stores.log.leading(1).append(BATCH, 1.0, 0)
    with admin(stores) as connection:
        connection.execute(f"UPDATE {stores.database.schema}.events SET body = '{{}}' WHERE id = 3")
        with pytest.raises(LedgerError, match=r"row 3: RunPaused is damaged.*restore it from a backup"):
            events(stores)
        connection.execute(f"DELETE FROM {stores.database.schema}.events WHERE id = 2")
    with pytest.raises(LedgerError, match="row 2 is missing"):
        events(stores)


def test_a_writer_and_a_follower_outlive_restarts_and_killed_connections(
    postgres: PostgresServer, open_stores: Callable[..., PostgresStores]
) -> None:
    """What was acknowledged is there once and in order, and the follower has seen all of it."""
    stores, followed, draw, done = open_stores(), open_stores(), random.Random(7), threading.Event()
    acknowledged = list[ev.Event]()

    def write() -> None:
        log, end, number = stores.log.leading(1), 0, 0
        while number < 150:
            event = ev.RunPaused(str(number))
            try:
                end = log.append([event], float(number), end)
            except Fenced:  # of its own events, whose answer was lost
                held = events(stores)
                end = len(held)
                if event not in held:
                    continue
            except LedgerError:
                time.sleep(0.01)
                continue
            acknowledged.append(event)
            number += 1

    def disturb() -> None:
        for round in range(8):
            time.sleep(draw.uniform(0, 0.1))
            if round % 4 == 3:
                postgres.restart(signal.SIGQUIT if round == 3 else signal.SIGINT)
            else:
                with contextlib.suppress(psycopg.Error), admin(stores) as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                    )

    def follow() -> list[ev.Event]:
        seen = list[ev.Event]()
        while not done.is_set() or len(seen) < len(acknowledged):
            with contextlib.suppress(LedgerError):
                followed.log.wait(len(seen), 0.2)
                for _, event in followed.log.read(len(seen)):
                    seen.append(event)
        return seen

    with ThreadPoolExecutor(3) as threads:
        following, disturbing, writing = threads.submit(follow), threads.submit(disturb), threads.submit(write)
        try:
            disturbing.result(120 * PATIENCE)
            writing.result(120 * PATIENCE)
        finally:
            done.set()
        assert following.result(60 * PATIENCE) == events(stores) == acknowledged
    assert acknowledged == [ev.RunPaused(str(number)) for number in range(150)]


def test_a_log_that_is_closed_lets_go_of_whoever_waits(open_stores: Callable[..., PostgresStores]) -> None:
    stores = open_stores()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(stores.log.wait, 0, 600 * PATIENCE)
        stores.log.close()
        waiting.result(60 * PATIENCE)


def test_a_log_is_copied_row_by_row_and_only_into_an_empty_one(
    postgres: PostgresServer, open_stores: Callable[..., PostgresStores]
) -> None:
    source, target = open_stores(), PostgresStores.open(StoreAddress(postgres.address().url, postgres.address().schema))
    with contextlib.closing(target):
        source.log.leading(1).append(BATCH, 1.0, 0)
        target.log.write(source.log.rows())
        assert list(target.log.rows()) == list(source.log.rows())
        with pytest.raises(Fenced):
            target.log.write(source.log.rows())
        assert len(events(target)) == 3
