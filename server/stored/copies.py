"""Copies of a run from wherever it is kept, which are data directories, and their return into a database.

A copy of a run in a database holds the same files as one of a run in files, so either becomes the other: a copy is started as it is,
or restored into a database that holds no such run.
"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from zowarmup.common.settings.store import StoreAddress
from zowarmup.server.store.archive import (
    BLOBS,
    LEDGER,
    UPLOADS,
    ArchiveError,
    Copied,
    CopySource,
    NamedBlob,
    back_up,
    blobs_of,
    copy_run,
    open_archive,
    replay,
    require_new,
    restore,
)
from zowarmup.server.store.blob_files import opened
from zowarmup.server.store.blobs import BlobError, pieces_of
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.store.place import remembered
from zowarmup.server.stored.opening import open_database

if TYPE_CHECKING:
    from zowarmup.server.store.postgres.stores import PostgresStores


def copy_stored(data_dir: Path, out: Path) -> Copied:
    """Copy the run of a data directory; where that fails, there is no `out`. Raises as `back_up`."""
    address = remembered(data_dir)
    if address is None:
        return back_up(data_dir, out)
    require_new(out)
    with contextlib.closing(open_database(address, reading=True)) as stores:

        def write_log(path: Path) -> None:
            with contextlib.closing(Ledger(path)) as ledger:
                ledger.write(stores.log.rows())
                ledger.fold()

        return copy_run(CopySource(data_dir, write_log, stores.blobs.open, stores.uploads.open), out)


def restore_into(copy: Path, address: StoreAddress) -> Copied:
    """Bring a run in files, a copy or one whose coordinator is stopped, into a database.

    Args:
        copy: The run's data directory.
        address: The database; without a schema, that of the run's name is taken. It must hold no run.

    Returns:
        What is there now. Where this fails there is no run there, though there may be blobs; it may be done again.

    Raises:
        ArchiveError: There is no run in `copy`, or already one at `address`, or what is there now is not what it should be.
        BlobError: A blob is damaged, or the database refuses.
        LedgerError: The database refuses.
    """
    archive = open_archive(copy)
    address = address.of_run(archive.name)
    with contextlib.closing(open_database(address)) as stores:
        if next(stores.log.rows(), None) is not None:
            raise ArchiveError(f"{address} holds a run already: name another schema (?schema=NAME)")
        named, size = blobs_of(archive.state), 0
        for blob in named:
            size += _put(blob, copy, stores)
        with contextlib.closing(Ledger(copy / LEDGER, read_only=True)) as ledger:
            stores.log.write(ledger.rows())
        state, history, _ = replay(stores.log)
        if state != archive.state:
            raise ArchiveError(
                f"{copy} has changed meanwhile: stop its coordinator, drop the schema {address.schema}, and do it again"
            )
        replica = restore(state, history, stores.blobs, state.version)
    return Copied(archive.name, replica.version, replica.digest().hex(), size)


def _put(named: NamedBlob, copy: Path, stores: "PostgresStores") -> int:
    """Its size in bytes."""
    blob = opened(copy / (UPLOADS if named.upload else BLOBS) / named.name)
    try:
        named.require(blob)
    except BlobError as error:
        raise BlobError(f"{error}: `zowarmup fsck {copy}` says what can be saved") from error
    store, part, offset = stores.uploads if named.upload else stores.blobs, f"restore-{named.name}", 0
    if store.has(named.name):
        return blob.size
    store.write(part, 0)
    for piece in pieces_of(blob):
        store.write(part, offset, piece)
        offset += len(piece)
    store.finish(part, named.name)
    return blob.size
