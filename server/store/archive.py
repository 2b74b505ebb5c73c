"""A data directory: its files by name; read back, the state by replay and the weights of any kept version; and copied whole
while its coordinator goes on.

For a copy, the ledger is copied first while it is being written: all of it, as it was at one moment. What it names is then
copied from the blobs, each checked against its name. A blob is on disk before the ledger names it, so nothing can be missing,
but for a snapshot that was pruned in between; then both are copied again. The copy has its name only once it is whole, and
the newest version has been computed anew from it.
"""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Diverged, Replica
from zowarmup.common.messages.values import BASE, TOKENIZER
from zowarmup.common.system.files import read_given, strangers, sync, sync_tree
from zowarmup.server.core.contributions import deltas_of, upload_name
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.store.blob_files import BlobFiles, opened
from zowarmup.server.store.blobs import (
    BlobError,
    BlobStore,
    DiskRefused,
    FiledBlobs,
    MissingBlob,
    OpenBlob,
    digest_of_blob,
    pieces_of,
    sha256_of_blob,
)
from zowarmup.server.store.event_log import EventLog, LedgerError, SharedLog
from zowarmup.server.store.ledger import Ledger, remove_beside, remove_files

LEDGER = "ledger.sqlite"
LOCK = "lock"
BLOBS = "blobs"
UPLOADS = f"{BLOBS}/uploads"
CA_FILE = "ca.pem"
OPERATOR_CREDENTIAL = "operator.credential"
REMEDY = "`zowarmup fsck DIR` says what can be saved"


class ArchiveError(Exception):
    """A data directory cannot be read; the sentence names the file and the remedy."""


def replay(log: EventLog | SharedLog) -> tuple[State | None, History, int]:
    """Fold a whole event log.

    Returns:
        The state, None where the log is empty; its versions; the number of the last event.

    Raises:
        LedgerError: An event cannot be read, or does not follow those before it.
    """
    state, history, end = None, History(), 0
    for at, event in log.read():
        try:
            state = evolve(state, event)
        except ValueError as error:
            raise LedgerError(
                f"the ledger's events do not follow each other: {error}; `zowarmup fsck DIR` says what can be saved"
            ) from error
        history.record(at, [event])
        end += 1
    return state, history, end


def restore(state: State, history: History, blobs: BlobStore, version: int) -> Replica:
    """The replica at a version: its nearest snapshot and the commits since, in one pass. Raises ArchiveError; DiskRefused where the
    store is away."""
    for start in sorted((v for v in state.snapshots if v <= version), reverse=True):
        commits = history.since(start, version)
        if commits is None:
            continue
        snapshot = state.snapshots[start]
        try:
            weights = blobs.vector(snapshot.sha256).load()
            replica = Replica(state.layout, snapshot.grid, weights, start)
            if replica.digest().hex() != snapshot.digest:
                raise ArchiveError(f"blob {snapshot.sha256} is damaged; {REMEDY}")
            replica.apply(commits)
        except DiskRefused:
            raise
        except (BlobError, ValueError, Diverged) as error:
            raise ArchiveError(f"version {version} cannot be restored: {error}; {REMEDY}") from error
        return replica
    raise ArchiveError(f"version {version} is not kept: no snapshot on disk leads to it")


@dataclass(frozen=True)
class Archive:
    """A run's versions, read from where it is kept beside a running coordinator or after it."""

    state: State
    history: History
    blobs: FiledBlobs

    @property
    def name(self) -> str:
        return self.state.run_file.name

    @property
    def layout(self) -> Layout:
        return self.state.layout

    @property
    def program(self) -> bytes:
        """The ONNX forward pass, with weights as inputs."""
        try:
            return read_given(self.blobs.path(self.state.program.sha256), self.state.program.size_bytes)
        except (BlobError, OSError) as error:
            raise ArchiveError(str(error)) from error

    @property
    def base(self) -> Path | None:
        """The file of the model's constants, None where it has none."""
        artifact = self.state.program.artifact(BASE)
        return None if artifact is None else self.blobs.path(artifact.sha256)

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizer.json of the run; None where it has no texts."""
        artifact = self.state.program.artifact(TOKENIZER)
        return None if artifact is None else self.blobs.path(artifact.sha256)

    def versions(self) -> list[int]:
        """Every version that can be restored, ascending."""
        reachable: set[int] = set()
        for start in self.state.snapshots:
            reachable.add(start)
            version = start + 1
            while version in self.history.commits:
                reachable.add(version)
                version += 1
        return sorted(reachable)

    def weights(self, version: int) -> tuple[NDArray[np.float32], Grid]:
        """The flat vector at a version, float32 (layout.size,), and its grid. Raises ArchiveError."""
        replica = restore(self.state, self.history, self.blobs, version)
        return replica.weights, replica.grid

    def digest(self, version: int) -> str:
        """The digest the ledger has for a version, hex."""
        return self.history.versions[version].digest


def open_archive(data_dir: Path) -> Archive:
    """The run in the files of a data directory. Raises ArchiveError where it holds no readable run."""
    path = data_dir / LEDGER
    if not path.exists():
        raise ArchiveError(f"{data_dir} holds no run: {path} does not exist")
    try:
        ledger = Ledger(path, read_only=True)
        try:
            state, history, _ = replay(ledger)
        finally:
            ledger.close()
    except LedgerError as error:
        raise ArchiveError(str(error)) from error
    if state is None:
        raise ArchiveError(f"{path} holds no run yet")
    return Archive(state, history, BlobFiles(data_dir / BLOBS))


ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds: its newest version with its digest (hex), and its size."""

    run: str
    version: int
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class CopySource:
    """A run to copy.

    Args:
        data_dir: Its data directory, or one of them.
        write_log: Writes its event log, as it is at one moment, to a ledger of its own; raises LedgerError.
        blob: Opens a blob; raises MissingBlob.
        upload: The same, an upload.
    """

    data_dir: Path
    write_log: Callable[[Path], None]
    blob: Callable[[str], OpenBlob]
    upload: Callable[[str], OpenBlob]

    @property
    def remedy(self) -> str:
        """What to do where a blob is not there, or not what it should be."""
        return f"`zowarmup fsck {self.data_dir}` says what can be saved"


def back_up(data_dir: Path, out: Path, ledger_class: type[Ledger] = Ledger) -> Copied:
    """Copy a run that is kept in a data directory's files; where that fails, there is no `out`.

    Args:
        data_dir: The run's data directory.
        out: The folder to make, which must not exist.
        ledger_class: What reads the ledger.

    Returns:
        What was copied.

    Raises:
        ArchiveError: There is no run, or `out` cannot be made.
        BlobError: A blob is damaged.
        LedgerError: The ledger cannot be read.
        OSError: The disk refuses.
    """
    require_new(out)
    if not (data_dir / LEDGER).exists():
        raise ArchiveError(f"{data_dir} holds no run: {data_dir / LEDGER} does not exist")

    def write_log(path: Path) -> None:
        with contextlib.closing(ledger_class(data_dir / LEDGER, read_only=True)) as ledger:
            ledger.copy_to(path)

    return copy_run(
        CopySource(
            data_dir,
            write_log,
            lambda name: opened(data_dir / BLOBS / name),
            lambda name: opened(data_dir / UPLOADS / name),
        ),
        out,
    )


def require_new(out: Path) -> None:
    """Raises ArchiveError where there is an `out`."""
    if out.exists():
        raise ArchiveError(f"{out} exists already: name a folder that does not, one for each backup")


def copy_run(source: CopySource, out: Path) -> Copied:
    """As `back_up`, from wherever the run is kept: the copy is a data directory whose files hold all of it."""
    if out.resolve().is_relative_to(source.data_dir.resolve()):
        raise ArchiveError(f"{out} lies in {source.data_dir} itself: name a folder outside of it, best on another disk")
    part = out.with_name(out.name + ".part")
    if found := strangers(part, (f"{LEDGER}*", BLOBS, CA_FILE, OPERATOR_CREDENTIAL)):
        raise ArchiveError(f"{part}, where the copy would be made, holds other files ({found}): name another folder")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    try:
        copied = _copy(source, part)
        sync_tree(part)
        part.rename(out)
        sync(out.absolute().parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return copied


def _copy(source: CopySource, part: Path) -> Copied:
    for attempt in range(ATTEMPTS):
        remove_files(part / LEDGER)
        source.write_log(part / LEDGER)
        archive = open_archive(part)
        try:
            for blob in blobs_of(archive.state):
                _copy_blob(blob, source, part)
            break
        except MissingBlob as error:
            if attempt == ATTEMPTS - 1:
                raise ArchiveError(f"{error}, though the ledger names it: {source.remedy}") from error
    for name in (OPERATOR_CREDENTIAL, CA_FILE):
        if (source.data_dir / name).exists():
            shutil.copy(source.data_dir / name, part / name)  # with its mode
    replica = restore(archive.state, archive.history, BlobFiles(part / BLOBS), archive.state.version)
    remove_beside(part / LEDGER)
    size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    return Copied(archive.name, replica.version, replica.digest().hex(), size)


@dataclass(frozen=True, slots=True)
class NamedBlob:
    """A blob that a state names: an upload, or not; and what its bytes must have, the digest of a vector or the sha256 (hex)."""

    name: str
    expected: str
    upload: bool

    def require(self, blob: OpenBlob) -> None:
        """Raises BlobError where the blob's bytes are others."""
        if (digest_of_blob if self.upload else sha256_of_blob)(blob) != self.expected:
            raise BlobError(f"blob {self.name} is damaged")


def blobs_of(state: State) -> list[NamedBlob]:
    """What a state names: the program and other artifacts, its snapshots, and the deltas of the round in progress."""
    named = [NamedBlob(sha256, sha256, False) for sha256 in sorted({*state.program.blobs, *state.snapshot_blobs})]
    for client, delta in deltas_of(state.current).items():
        named.append(NamedBlob(upload_name(client, delta.round, delta.digest), delta.digest, True))
    return named


def _copy_blob(named: NamedBlob, source: CopySource, target: Path) -> None:
    """Raises MissingBlob where it is not there."""
    blob = (source.upload if named.upload else source.blob)(named.name)
    path = target / (UPLOADS if named.upload else BLOBS) / named.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for piece in pieces_of(blob):
            file.write(piece)
    try:
        named.require(opened(path))
    except BlobError as error:
        raise BlobError(f"{error}: {source.remedy}") from error
