"""Where a run in a data directory is kept: in its files, the event log in SQLite, or beside it, in memory or in PostgreSQL.

One object of these goes through a whole test, as the disk does: what lives have written is there for the next one. A crash
keeps an image of the stores as of the moment, like the one of the data directory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.postgres.server import PostgresServer
from zowarmup.common.settings.store import StoreAddress
from zowarmup.server.core import events as ev
from zowarmup.server.store.archive import BLOBS, LEDGER, UPLOADS
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import PIECE, BlobStore, MemoryBlobs
from zowarmup.server.store.event_log import EventLog, MemoryEventLog
from zowarmup.server.store.lease import Holder
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.store.postgres.stores import PostgresStores


@dataclass(frozen=True)
class Stores:
    """What of a run lasts."""

    log: EventLog
    blobs: BlobStore
    uploads: BlobStore


def files(data_dir: Path) -> Stores:
    """Of a data directory, as a coordinator opens them."""
    return Stores(Ledger(data_dir / LEDGER), BlobFiles(data_dir / BLOBS), BlobFiles(data_dir / UPLOADS))


class Backend(Protocol):
    """Stores by data directory."""

    def open(self, data_dir: Path) -> Stores:
        """The data directory's, made where there are none; whoever opens them closes the log."""
        ...

    def keep_image(self, data_dir: Path) -> None:
        """Keep what a kill at this moment would leave, unless the data directory holds it."""
        ...

    def restore(self, data_dir: Path) -> None:
        """Let the stores be that."""
        ...

    def export(self, data_dir: Path) -> None:
        """Write the stores to the data directory's files, for what reads only those (an archive, fsck), unless they are
        there."""
        ...


class Files:
    """The data directory's own."""

    def open(self, data_dir: Path) -> Stores:
        return files(data_dir)

    def keep_image(self, data_dir: Path) -> None:
        pass

    def restore(self, data_dir: Path) -> None:
        pass

    def export(self, data_dir: Path) -> None:
        pass


class Memory:
    """In this process."""

    def __init__(self) -> None:
        self._stores: dict[Path, Stores] = {}
        self._images: dict[Path, Stores] = {}

    def open(self, data_dir: Path) -> Stores:
        return self._stores.setdefault(data_dir, Stores(MemoryEventLog(), MemoryBlobs(), MemoryBlobs()))

    def keep_image(self, data_dir: Path) -> None:
        now = self.open(data_dir)
        assert isinstance(now.blobs, MemoryBlobs) and isinstance(now.uploads, MemoryBlobs)
        image = Stores(MemoryEventLog(now.log.read()), MemoryBlobs(now.blobs), MemoryBlobs(now.uploads))
        self._images[data_dir] = image

    def restore(self, data_dir: Path) -> None:
        self._stores[data_dir] = self._images.pop(data_dir)

    def export(self, data_dir: Path) -> None:
        write_files(self.open(data_dir), data_dir)


class Postgres:
    """In a database: a schema each. Whoever opens the stores leads from then on, and what another had open is fenced off; a kill leaves
    what was committed, so there is no image to keep."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._addresses: dict[Path, StoreAddress] = {}

    def address(self, data_dir: Path) -> StoreAddress:
        return self._addresses.setdefault(data_dir, self._server.address())

    def open(self, data_dir: Path) -> Stores:
        stores = PostgresStores.open(self.address(data_dir))
        taken = stores.lease.take(Holder(name="one", address="127.0.0.1:7070", secret="a" * 64), lasts_s=1e-9)
        assert taken is not None
        return Stores(
            PostgresLifeLog(stores, taken.epoch), stores.blobs.leading(taken.epoch), stores.uploads.leading(taken.epoch)
        )

    def keep_image(self, data_dir: Path) -> None:
        pass

    def restore(self, data_dir: Path) -> None:
        pass

    def export(self, data_dir: Path) -> None:
        stores = self.open(data_dir)
        try:
            write_files(stores, data_dir)
        finally:
            stores.log.close()


class PostgresLifeLog:
    """The log of one life, which closes all its stores."""

    def __init__(self, stores: PostgresStores, epoch: int) -> None:
        self.stores, self._log = stores, stores.log.leading(epoch)

    def append(self, events: Iterable[ev.Event], at: float, expected: int) -> int:
        return self._log.append(events, at, expected)

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        return self._log.read(after)

    def close(self) -> None:
        self.stores.close()

    def half_append(self) -> None:
        """What a process that is killed within a transaction has done by then, and the database undoes."""
        session, schema = self.stores.database.connect(), self.stores.database.schema
        session.execute("BEGIN")
        session.execute(
            f"INSERT INTO {schema}.events SELECT coalesce(max(id), 0) + 1, 0, 'torn', 'torn' FROM {schema}.events"
        )
        session.close()


def write_files(here: Stores, data_dir: Path) -> None:
    """Bring the files of a data directory to what some stores hold."""
    there = files(data_dir)
    assert isinstance(there.log, Ledger)
    try:
        end = sum(1 for _ in there.log.read())
        for at, event in list(here.log.read(end)):
            end = there.log.append([event], at, end)
        there.log.fold()
    finally:
        there.log.close()
    for mine, its in ((here.blobs, there.blobs), (here.uploads, there.uploads)):
        its.sweep(mine.names())
        for name in mine.names() - its.names():
            its.write(name, 0, mine.open(name).read(0, PIECE))
            its.finish(name, name)


BACKENDS: Mapping[str, Callable[[], Backend]] = {"files": Files, "memory": Memory}
POSTGRESQL = "postgresql"
"""A backend that needs a server."""
