"""What is particular to the lease in PostgreSQL: the database's clock, and answers that do not come."""

import contextlib
import time

import psycopg
import pytest

from tests.faults.proxy import Link, answer_lost
from tests.patience import PATIENCE
from tests.postgres.server import PostgresServer
from tests.unit.server.store.test_lease import LONG_S, OVER_S, holder
from zowarmup.server.store.event_log import LedgerError
from zowarmup.server.store.postgres.lease import PostgresLease
from zowarmup.server.store.postgres.stores import PostgresStores


def test_the_database_says_when_it_expires(postgres: PostgresServer) -> None:
    """Whatever the clocks of the coordinators say."""
    with contextlib.closing(PostgresStores.open(postgres.address())) as stores:
        assert stores.lease.take(holder("one"), LONG_S)
        with psycopg.connect(stores.database.address.url, autocommit=True) as admin:
            admin.execute(f"UPDATE {stores.database.schema}.lease SET expires_at = clock_timestamp() - interval '2 s'")
        seen = stores.lease.look()
        assert seen is not None and -2 - 60 * PATIENCE < seen.expires_in_s <= -2
        taken = stores.lease.take(holder("other"), LONG_S)
        assert taken is not None and taken.epoch == 2


def test_an_answer_that_does_not_come_is_not_waited_for(postgres: PostgresServer) -> None:
    with (
        Link(f"127.0.0.1:{postgres.port}") as link,
        contextlib.closing(PostgresStores.open(postgres.address(port=link.port))) as stores,
    ):
        lease = PostgresLease(stores.database, answer_s=0.5)
        assert lease.take(holder("one"), LONG_S)
        link.delay_s = 0.02
        lease.renew(1, LONG_S)
        began = time.monotonic()
        for call in (lease.look, lambda: lease.renew(1, LONG_S), lambda: lease.give_up(1)):
            lease.look()
            link.black_hole()
            with pytest.raises(LedgerError, match=r"no answer came within 0\.5 s"):
                call()
            link.mend()
        assert time.monotonic() - began < 30 * PATIENCE


def test_a_lease_that_was_taken_though_the_answer_was_lost_is_the_takers(postgres: PostgresServer) -> None:
    address = postgres.address()
    with Link(f"127.0.0.1:{postgres.port}") as link, contextlib.ExitStack() as opened:
        stores, linked = (
            opened.enter_context(contextlib.closing(PostgresStores.open(postgres.address(address.schema, port=port))))
            for port in (postgres.port, link.port)
        )
        for epoch in range(1, 4):
            linked.lease.look()
            with answer_lost(link):
                taken = linked.lease.take(holder("one"), LONG_S)
            assert taken is not None and taken.epoch == epoch
            assert stores.lease.take(holder("other"), LONG_S) is None
            assert linked.lease.take(holder("one"), LONG_S) is None
            stores.lease.give_up(epoch)


def test_a_lease_outlives_the_database(postgres: PostgresServer) -> None:
    with contextlib.closing(PostgresStores.open(postgres.address())) as stores:
        assert stores.lease.take(holder("one"), LONG_S)
        postgres.stop()
        try:
            with pytest.raises(LedgerError, match="is the database running"):
                stores.lease.renew(1, LONG_S)
        finally:
            postgres.start()
        stores.lease.renew(1, OVER_S)
        taken = stores.lease.take(holder("other"), LONG_S)
        assert taken is not None and taken.epoch == 2
