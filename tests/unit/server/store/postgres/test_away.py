"""What is worth waiting for, and what stays wrong."""

from dataclasses import replace

import pytest

from tests.postgres.server import PostgresServer
from zowarmup.server.store.event_log import LedgerError, StoreAway
from zowarmup.server.store.postgres.stores import PostgresStores


@pytest.mark.parametrize(
    ("wrong", "waits"),
    [
        ("postgresql://nobody_there@127.0.0.1:{port}/postgres", False),
        ("postgresql://zowarmup@127.0.0.1:{port}/no_such_database", False),
        ("postgresql://zowarmup@127.0.0.1:1/postgres", True),
        ("postgresql://zowarmup@no.such.host.invalid/postgres", True),
    ],
)
def test_a_database_that_is_away_is_told_from_one_that_refuses(
    postgres: PostgresServer, wrong: str, waits: bool
) -> None:
    address = replace(postgres.address(), url=wrong.format(port=postgres.port))
    with pytest.raises(LedgerError) as refused:
        PostgresStores.open(address)
    assert isinstance(refused.value, StoreAway) == waits
