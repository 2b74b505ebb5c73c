"""The return of a damaged run to its last intact version.

The ledger is written anew up to there, in a new file that then takes the old one's name. Before that, the old ledger
and every blob are kept beside it in a folder of their own: nothing is destroyed. A crash at any moment leaves the run as
it was found or as it is mended, and never an older one.
"""

import os
import shutil
import time
from pathlib import Path

from zowarmup.server.core import events as ev
from zowarmup.server.core.evolve import evolve
from zowarmup.server.store.archive import ArchiveError
from zowarmup.server.store.blobs import Blobs
from zowarmup.server.store.data_dir import BLOBS, LEDGER
from zowarmup.server.store.files import sync_folder, sync_tree
from zowarmup.server.store.fsck import CheckReport, IntactVersion, Reading, examine, trouble_with
from zowarmup.server.store.ledger import Ledger, LedgerError, keep_files, remove_files, replace

_OF_MEMBERS = ev.InvitationIssued | ev.ClientEnrolled | ev.ExamplesChanged | ev.ClientRevoked


def repair(data_dir: Path) -> CheckReport:
    """Check, and where something is wrong go back to the last good version. `kept` then says where everything is as
    it was found. Raises ArchiveError where no version is good."""
    report, reading, bad, good = examine(data_dir)
    if not report.problems:
        return report
    if good is None or reading.state is None:
        raise ArchiveError(
            f"{data_dir} cannot be repaired, no version in it is whole ({report.problems[0]}): restore it from a backup"
        )
    kept = data_dir / f"found-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    _keep(data_dir, kept)
    sync_tree(kept)
    sync_folder(data_dir)
    _rewrite(data_dir, reading, good, bad, Blobs(data_dir / BLOBS))
    after, *_ = examine(data_dir)
    if after.problems:
        raise ArchiveError(f"the repair of {data_dir} failed ({after.problems[0]}): all is as it was in {kept}")
    report.kept = str(kept)
    return report


def _keep(data_dir: Path, kept: Path) -> None:
    """Everything as it was found: the ledger copied; the blobs as second names."""
    (kept / BLOBS).mkdir(parents=True)
    keep_files(data_dir / LEDGER, kept)
    for path in (data_dir / BLOBS).rglob("*"):
        if path.is_file():
            second = kept / BLOBS / path.relative_to(data_dir / BLOBS)
            second.parent.mkdir(exist_ok=True)
            try:
                os.link(path, second)
            except OSError:
                shutil.copy2(path, second)


def _rewrite(data_dir: Path, reading: Reading, good: IntactVersion, bad: set[int], blobs: Blobs) -> None:
    """A ledger that ends at the good version, with every member of the fleet and every round number that was used."""
    fresh = data_dir / f"{LEDGER}.new"
    remove_files(fresh)
    ledger, state, last_round, end = Ledger(fresh), None, 0, 0
    for row in reading.rows:
        try:
            event = ledger.decode(row)
        except LedgerError:
            continue
        if isinstance(event, ev.RoundOpened):
            last_round = max(last_round, event.round)
        if row.id > good.row and not isinstance(event, _OF_MEMBERS):
            continue
        try:
            state = evolve(state, event)
        except (ValueError, KeyError):
            continue
        end = ledger.append([event], row.at, end)
    assert state is not None
    now, closing = time.time(), list[ev.Event]()
    if gone := tuple(v for v, snapshot in state.snapshots.items() if v in bad or trouble_with(blobs, snapshot)):
        closing.append(ev.SnapshotsPruned(gone))
    if last_round > state.round:  # a seed is never used twice
        closing.append(ev.RoundOpened(last_round, state.phase, state.version, (), (), (), now))
        closing.append(ev.RoundAbandoned(last_round, f"`zowarmup fsck` went back to version {state.version}"))
    ledger.append(closing, now, end)
    ledger.fold()
    ledger.close()
    replace(data_dir / LEDGER, fresh)
