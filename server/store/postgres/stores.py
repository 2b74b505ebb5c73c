"""All that is kept of one run in a database, opened together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from zowarmup.common.settings.store import StoreAddress
from zowarmup.server.store.postgres.blobs import BLOBS_KEPT_S, UPLOADS_KEPT_S, PostgresBlobs
from zowarmup.server.store.postgres.connection import Database
from zowarmup.server.store.postgres.event_log import PostgresLog
from zowarmup.server.store.postgres.lease import PostgresLease
from zowarmup.server.store.postgres.migrations import migrate, require_current


@dataclass(frozen=True)
class PostgresStores:
    """The stores of one run. Connections are opened when they are needed: `database`'s for the log and the lease, so that these never
    wait for the bytes of blobs, which go by `bulk`'s."""

    database: Database
    bulk: Database
    log: PostgresLog
    blobs: PostgresBlobs
    uploads: PostgresBlobs
    lease: PostgresLease

    @classmethod
    def open(
        cls,
        address: StoreAddress,
        *,
        name: str = "zowarmup",
        reading: bool = False,
        took: Callable[[float], None] = lambda seconds: None,
    ) -> Self:
        """The stores at an address.

        Args:
            address: With its schema, which is made where it is not there.
            name: What the database's own views call this process.
            reading: Only to read: nothing is made or migrated.
            took: Is told the seconds of each append.

        Raises:
            LedgerError: The database is away or refuses, or the schema is of another version; where `reading`, or holds nothing.
        """
        database = Database(address, name=name, connections=4)
        try:
            (require_current if reading else migrate)(database)
        except BaseException:
            database.close()
            raise
        bulk = Database(address, name=name)
        return cls(
            database,
            bulk,
            PostgresLog(database, took=took),
            PostgresBlobs(bulk, "blobs", kept_s=BLOBS_KEPT_S),
            PostgresBlobs(bulk, "uploads", kept_s=UPLOADS_KEPT_S),
            PostgresLease(database),
        )

    def close(self) -> None:
        """Give back the connections. Whoever waits for events returns."""
        self.log.close()
        self.database.close()
        self.bulk.close()
