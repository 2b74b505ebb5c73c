"""A data directory read back: the state by replay, the weights of any kept version."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Diverged, Replica
from zowarmup.common.system.files import read_given
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.store.blobs import BlobError, Blobs
from zowarmup.server.store.data_dir import BLOBS, LEDGER
from zowarmup.server.store.event_log import EventLog, LedgerError
from zowarmup.server.store.ledger import Ledger

REMEDY = "`zowarmup fsck DIR` says what can be saved"


class ArchiveError(Exception):
    """A data directory cannot be read; the sentence names the file and the remedy."""


def replay(log: EventLog) -> tuple[State | None, History, int]:
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


def restore(state: State, history: History, blobs: Blobs, version: int) -> Replica:
    """The replica at a version: its nearest snapshot and the commits since, in one pass. Raises ArchiveError."""
    for start in sorted((v for v in state.snapshots if v <= version), reverse=True):
        commits = history.since(start, version)
        if commits is None:
            continue
        snapshot = state.snapshots[start]
        try:
            weights = np.fromfile(blobs.path(snapshot.sha256), dtype="<f4").astype(np.float32, copy=False)
            replica = Replica(state.layout, snapshot.grid, weights, start)
            if replica.digest().hex() != snapshot.digest:
                raise ArchiveError(f"{blobs.path(snapshot.sha256)} is damaged; {REMEDY}")
            replica.apply(commits)
        except (BlobError, ValueError, Diverged) as error:
            raise ArchiveError(f"version {version} cannot be restored: {error}; {REMEDY}") from error
        return replica
    raise ArchiveError(f"version {version} is not kept: no snapshot on disk leads to it")


@dataclass(frozen=True)
class Archive:
    """A run's versions, read from its data directory beside a running coordinator or after it."""

    state: State
    history: History
    blobs: Blobs

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
    """Raises ArchiveError where the directory holds no readable run."""
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
    return Archive(state, history, Blobs(data_dir / BLOBS))
