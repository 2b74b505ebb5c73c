"""The check of a data directory, recomputed to the last version that is intact, and the return of a damaged run to that.

The ledger is read row by row and folded; every blob that it names is hashed; every version that the snapshots still
lead to is computed anew, its steps from its contributions, its weights from its steps, and must have the digest that
the ledger has for it. What is found wrong ends in the newest version that is good.

A repair writes the ledger anew up to there, in a new file that then takes the old one's name. Before that, the old ledger
and every blob are kept beside it in a folder of their own: nothing is destroyed. A crash at any moment leaves the run as
it was found or as it is mended, and never an older one.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from zowarmup.common.exact.grid import HeadroomExceeded
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import Step, apply_steps
from zowarmup.common.messages.values import Phase
from zowarmup.common.system.files import Busy, exclusive, sync, sync_tree
from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import AlgorithmFault, deltas_of, steps_of, upload_name
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.state import Round, State
from zowarmup.server.store.archive import BLOBS, LEDGER, LOCK, UPLOADS, ArchiveError
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import BlobStore, MissingBlob, digest_of_blob, sha256_of_blob
from zowarmup.server.store.event_rows import StoredEvent, StoredRows
from zowarmup.server.store.ledger import Ledger, LedgerError, keep_files, readable, remove_files, replace


@dataclass(frozen=True, slots=True)
class IntactVersion:
    """A version that a run can go on from: it is computed anew from what is on disk, and `row` is where the ledger
    commits it."""

    version: int
    row: int


@dataclass(slots=True)
class CheckReport:
    """What was found. `digest` is the one computed anew for `version`, the newest that is good; empty where none is.
    `problems`: a sentence each; without any, `version` is the run's own. `notes`: what is odd and takes nothing from
    the run, such as steps that an older version made of the same contributions."""

    run: str = ""
    events: int = 0
    version: int = -1
    digest: str = ""
    checked: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kept: str = ""


@dataclass(slots=True)
class _Commit:
    row: int
    version: int
    digest: str
    steps: tuple[Step, ...]
    snapshot: ev.Snapshot | None
    before: State
    closed: Round | None  # of which round; None where the run went back


@dataclass(slots=True)
class Reading:
    """The ledger as far as it can be folded, and the rows after that."""

    rows: list[StoredEvent] = field(default_factory=list)
    state: State | None = None
    commits: list[_Commit] = field(default_factory=list)
    snapshots: dict[int, ev.Snapshot] = field(default_factory=dict)
    folded: int = 0


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Keep coordinators out meanwhile. Raises ArchiveError where one is there."""
    if not (data_dir / LEDGER).exists():
        raise ArchiveError(f"{data_dir} holds no run: {data_dir / LEDGER} does not exist")
    try:
        lock = exclusive(data_dir / LOCK)
    except Busy as error:
        raise ArchiveError(f"{data_dir} is in use by a zowarmup-server: stop it first") from error
    with lock:
        yield


def check(data_dir: Path) -> CheckReport:
    """Check everything. Raises ArchiveError or LedgerError where there is nothing that could be checked."""
    return examine(data_dir)[0]


def examine(data_dir: Path) -> tuple[CheckReport, Reading, set[int], IntactVersion | None]:
    """Check everything: what to tell, the ledger as read, the versions whose snapshots are bad, the newest good one."""
    with readable(data_dir / LEDGER) as (path, cut_off), contextlib.closing(Ledger(path, read_only=True)) as ledger:
        kept = BlobFiles(data_dir / BLOBS), BlobFiles(data_dir / UPLOADS)
        return examine_stores(ledger, *kept, str(data_dir / LEDGER), cut_off)


def examine_stores(
    log: StoredRows, blobs: BlobStore, uploads: BlobStore, where: str, cut_off: str = ""
) -> tuple[CheckReport, Reading, set[int], IntactVersion | None]:
    """As `examine`, wherever a run is kept.

    Args:
        log: Its event log.
        blobs: Its blobs.
        uploads: Its uploads.
        where: What to call the log.
        cut_off: What is wrong with the log's length.
    """
    report = CheckReport()
    if cut_off:
        report.problems.append(cut_off)
    if found := log.integrity():
        report.problems.append(f"{where}: {found}")
    reading = _read(log, report)
    state = reading.state
    if state is None:
        if not report.problems:
            raise ArchiveError(f"{where} holds no run yet")
        return report, reading, set(), None
    report.run = state.run_file.name
    for name, sha256 in (("program", state.program.sha256), *((a.name, a.sha256) for a in state.program.artifacts)):
        if trouble := damage(blobs, sha256):
            report.problems.append(f"the {name}: {trouble}: restore it from a backup")
            return report, reading, set(), None
    bad = {version for version, snapshot in state.snapshots.items() if _damaged(report, blobs, version, snapshot)}
    whole = reading.folded == len(reading.rows) and _open_round_is_whole(uploads, state, report)
    good, digest = _replay(reading, blobs, report, bad)
    if good is not None:
        report.version, report.digest = good.version, digest
        if good.version == state.version and whole:
            good = IntactVersion(good.version, reading.rows[reading.folded - 1].id)
    return report, reading, bad, good


def _read(ledger: StoredRows, report: CheckReport) -> Reading:
    reading, state, expected = Reading(), None, 1
    sound = True
    try:
        for row in ledger.rows():
            reading.rows.append(row)
            if not sound:
                continue
            try:
                if row.id != expected:
                    raise LedgerError(f"row {expected} is missing")
                event = ledger.decode(row)
                before, state = state, evolve(state, event)
                _note(reading, row, event, before)
            except (LedgerError, ValueError, KeyError) as error:
                report.problems.append(f"row {row.id}: {error}" if isinstance(error, ValueError) else str(error))
                sound = False
                continue
            expected += 1
            reading.state, reading.folded = state, reading.folded + 1
    except LedgerError as error:
        report.problems.append(f"after row {expected - 1}: {error}")
    report.events = reading.folded
    return reading


def _note(reading: Reading, row: StoredEvent, event: ev.Event, before: State | None) -> None:
    match event:
        case ev.RunCreated():
            reading.snapshots[event.initial.version] = event.initial
        case ev.SnapshotTaken():
            reading.snapshots[event.snapshot.version] = event.snapshot
        case ev.Committed() | ev.RolledBack():
            assert before is not None
            if event.snapshot is not None:
                reading.snapshots[event.version] = event.snapshot
            reading.commits.append(
                _Commit(row.id, event.version, event.digest, event.steps, event.snapshot, before, before.current)
            )


def damage(blobs: BlobStore, sha256: str) -> str:
    """What is wrong with a blob; empty where nothing is."""
    try:
        blob = blobs.open(sha256)
    except MissingBlob:
        return "it is missing"
    return "" if sha256_of_blob(blob) == sha256 else f"blob {sha256} is damaged"


def trouble_with(blobs: BlobStore, snapshot: ev.Snapshot) -> str:
    """What is wrong with a snapshot on disk; empty where nothing is."""
    if trouble := damage(blobs, snapshot.sha256):
        return trouble
    trouble = damage(blobs, snapshot.optimiser) if snapshot.optimiser else ""
    return f"of the warm-up's optimizer {trouble}" if trouble else ""


def _damaged(report: CheckReport, blobs: BlobStore, version: int, snapshot: ev.Snapshot) -> str:
    if trouble := trouble_with(blobs, snapshot):
        report.problems.append(f"the snapshot of version {version}: {trouble}")
    return trouble


def _open_round_is_whole(uploads: BlobStore, state: State, report: CheckReport) -> bool:
    """Whether the deltas of the round in progress are there."""
    lost = []
    for client, delta in deltas_of(state.current).items():
        try:
            if digest_of_blob(uploads.open(upload_name(client, delta.round, delta.digest))) != delta.digest:
                lost.append(f"the delta of {client} in the round in progress is damaged")
        except (MissingBlob, OSError):
            lost.append(f"the delta of {client} in the round in progress is missing")
    report.problems += lost
    return not lost


def _replay(reading: Reading, blobs: BlobStore, report: CheckReport, bad: set[int]) -> tuple[IntactVersion | None, str]:
    """Compute every version that can be, from its snapshot and its contributions; the newest that is as it should
    be, and its digest."""
    state = reading.state
    assert state is not None
    usable = {version: state.snapshots[version] for version in state.snapshots if version not in bad}
    for version, snapshot in reading.snapshots.items():  # pruned later by rows that may be beyond the damage
        if version not in state.snapshots and not trouble_with(blobs, snapshot):
            usable[version] = snapshot
    first = reading.rows[0].id
    rows = {min(reading.snapshots): first, **{commit.version: commit.row for commit in reading.commits}}
    commits = {commit.version: commit for commit in reading.commits}
    replica: Replica | None = None
    good: IntactVersion | None = None
    digest = ""
    for version in range(min(rows), state.version + 1):
        commit = commits.get(version)
        expected = commit.digest if commit else reading.snapshots[version].digest
        replica = _step(replica, commit, report)
        if version in usable and (replica is None or replica.digest().hex() != expected):
            snapshot = usable[version]
            weights = blobs.vector(snapshot.sha256).load()
            with contextlib.suppress(ValueError):
                replica = Replica(state.layout, snapshot.grid, weights, version)
        if replica is None:
            continue
        report.checked += 1
        if (found := replica.digest().hex()) != expected:
            report.problems.append(f"version {version} comes out with digest {found}, the ledger has {expected}")
            replica = None
            bad.add(version)
            continue
        good, digest = IntactVersion(version, rows[version]), found
    if good is None or good.version != state.version:
        report.problems.append(f"version {state.version}, the newest, cannot be computed from what is on disk")
    return good, digest


def _step(replica: Replica | None, commit: _Commit | None, report: CheckReport) -> Replica | None:
    """The replica one version on, None where steps do not lead there."""
    if replica is None or commit is None or commit.snapshot is not None:
        return None
    closed = commit.closed
    if closed is not None and closed.phase is Phase.ZEROTH_ORDER:
        try:
            if commit.steps != steps_of(commit.before, closed, replica.grid, replica.weights):
                report.notes.append(
                    f"version {commit.version}: this zowarmup would make other steps of its contributions than were committed"
                )
        except AlgorithmFault as fault:
            report.notes.append(f"version {commit.version}: its steps cannot be made again: {fault}")
    try:
        apply_steps(replica.weights, replica.grid, commit.steps)
    except HeadroomExceeded as error:
        report.problems.append(f"version {commit.version}: its steps cannot be taken: {error}")
        return None
    replica.version = commit.version
    return replica


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
    sync(data_dir)
    _rewrite(data_dir, reading, good, bad, BlobFiles(data_dir / BLOBS))
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
            second.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, second)
            except OSError:
                shutil.copy2(path, second)


def _rewrite(data_dir: Path, reading: Reading, good: IntactVersion, bad: set[int], blobs: BlobFiles) -> None:
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
