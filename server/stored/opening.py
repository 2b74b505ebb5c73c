"""A run by its data directory, wherever it is kept: the directory's own files, or the database that its coordinator wrote down there."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zowarmup.common.settings.store import StoreAddress
from zowarmup.server.core import events as ev
from zowarmup.server.store.archive import BLOBS, LEDGER, Archive, ArchiveError, open_archive, replay
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.cached_blobs import CachedBlobs
from zowarmup.server.store.event_log import LedgerError
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.store.place import PLACE, remembered

if TYPE_CHECKING:
    from zowarmup.server.store.postgres.stores import PostgresStores

MARKS = (LEDGER, PLACE)
"""Files one of which tells a data directory from another folder."""


def open_database(
    address: StoreAddress,
    *,
    name: str = "zowarmup",
    reading: bool = False,
    took: Callable[[float], None] = lambda seconds: None,
) -> "PostgresStores":
    """As `PostgresStores.open`, which is loaded now. Also raises LedgerError where its packages are not installed."""
    try:
        from zowarmup.server.store.postgres.stores import PostgresStores
    except ModuleNotFoundError as error:
        raise LedgerError(
            f"a run in PostgreSQL needs {error.name}: install it with: pip install 'zowarmup[postgres]'"
        ) from None
    except ImportError as error:
        raise LedgerError(
            f"psycopg finds no libpq ({error}): install it with: pip install 'zowarmup[postgres]'"
        ) from None
    return PostgresStores.open(address, name=name, reading=reading, took=took)


def archive_of(data_dir: Path) -> Archive:
    """The run of a data directory, read beside its coordinators or after them. Blobs in a database are fetched to the directory as they are
    needed. Raises ArchiveError where there is no readable run."""
    address = remembered(data_dir)
    if address is None:
        return open_archive(data_dir)
    try:
        with contextlib.closing(open_database(address, reading=True)) as stores:
            state, history, _ = replay(stores.log)
    except LedgerError as error:
        raise ArchiveError(str(error)) from error
    if state is None:
        raise ArchiveError(f"{address} holds no run yet")
    return Archive(state, history, CachedBlobs(stores.blobs, BlobFiles(data_dir / BLOBS)))


def events_of_run(data_dir: Path) -> Iterator[tuple[float, ev.Event]]:
    """All events of the run of a data directory, each with its `at`. Raises ArchiveError or LedgerError."""
    address = remembered(data_dir)
    log = Ledger(data_dir / LEDGER, read_only=True) if address is None else open_database(address, reading=True)
    with contextlib.closing(log):
        yield from (log if isinstance(log, Ledger) else log.log).read()


def leader_of(data_dir: Path) -> str | None:
    """Where the coordinator listens that leads the run of a data directory which is kept in a database; None where none does, or the run is
    in the directory's files. Raises ArchiveError where the database does not say."""
    address = remembered(data_dir)
    if address is None:
        return None
    try:
        with contextlib.closing(open_database(address, reading=True)) as stores:
            held = stores.lease.look()
    except LedgerError as error:
        raise ArchiveError(str(error)) from error
    return held.holder.address if held is not None and held.expires_in_s > 0 else None
