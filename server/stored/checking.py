"""The check of a run wherever it is kept. What is in a data directory's files can also be repaired (`server.store.fsck`); a database has means
of its own for that, and there are backups."""

import contextlib
from pathlib import Path

from zowarmup.server.store import fsck
from zowarmup.server.store.archive import ArchiveError
from zowarmup.server.store.fsck import CheckReport
from zowarmup.server.store.place import remembered
from zowarmup.server.stored.opening import open_database


def check_stored(data_dir: Path, mend: bool = False) -> CheckReport:
    """Check the run of a data directory, and repair it.

    Args:
        data_dir: The directory.
        mend: Go back to the last good version if need be; only of a run in files.

    Raises:
        ArchiveError: A coordinator is at work, there is no run, or it cannot be repaired.
        LedgerError: The log cannot be read.
        BlobError: The database refuses.
    """
    address = remembered(data_dir)
    if address is None:
        with fsck.locked(data_dir):
            return fsck.repair(data_dir) if mend else fsck.check(data_dir)
    with contextlib.closing(open_database(address, reading=True)) as stores:
        held = stores.lease.look()
        if held is not None and held.expires_in_s > 0:
            raise ArchiveError(
                f"{address} is in use: {held.holder.name} leads, at {held.holder.address}; stop every coordinator of the run first"
            )
        report, *_ = fsck.examine_stores(stores.log, stores.blobs, stores.uploads, str(address))
    if mend and report.problems:
        raise ArchiveError(
            f"{address} is damaged ({report.problems[0]}), and a run in a database is not repaired: restore a backup "
            "(`zowarmup restore OUT --store URL?schema=NAME`), or the database's own"
        )
    return report
