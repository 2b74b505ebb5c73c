"""The runs whose data directories are under some folders, each as its ledger says.

A coordinator holds the lock of its data directory as long as it serves the run, and writes into it where it listens. A run that goes
on is read beside its coordinator, which is not asked. Of a run that several coordinators share, the database is asked, and says who
leads.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zowarmup.common.messages.values import Phase
from zowarmup.common.system.command import CommandError
from zowarmup.common.system.files import holder
from zowarmup.common.tasks.protocol import Metric
from zowarmup.server.core.events import TrafficCount
from zowarmup.server.core.state import State
from zowarmup.server.store.archive import LOCK, Archive, ArchiveError
from zowarmup.server.store.place import remembered
from zowarmup.server.stored.opening import MARKS, archive_of, leader_of

DEEPEST = 5
"""Folders between one that is named and a data directory."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A version that was evaluated: the primary metric's value, and what all clients had uploaded by then, payload."""

    version: int
    uplink_bytes: int
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRun:
    """One run.

    Args:
        folder: Its data directory.
        name: As its run file says.
        run_id: Its own for ever.
        state: "running", "paused", "stopped" (its coordinator is not there), "finished" or "gave up".
        address: Where its coordinator listens, HOST:PORT; empty where there is none.
        phase: Where it is.
        version: The model's newest.
        digest: Of that, hex.
        metric: The primary one of its task.
        loss: Of the last evaluation, nats per example; None where there was none yet.
        uplink_bytes: Payload from all clients, as of the last commit.
        downlink_bytes: And to them.
        began_at: When the run was made, seconds since 1970.
        committed_at: When the newest version was.
        curve: All evaluations, ascending.
    """

    folder: Path
    name: str
    run_id: str
    state: str
    address: str
    phase: Phase
    version: int
    digest: str
    metric: Metric
    loss: float | None
    uplink_bytes: int
    downlink_bytes: int
    began_at: float
    committed_at: float
    curve: tuple[CurvePoint, ...]

    @property
    def value(self) -> float | None:
        """The metric as last evaluated; None where it was not yet."""
        return self.curve[-1].value if self.curve else None

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "name": self.name,
            "run_id": self.run_id,
            "state": self.state,
            "address": self.address,
            "phase": self.phase.value,
            "version": self.version,
            "digest": self.digest,
            "metric": self.metric.name,
            "value": self.value,
            "loss": self.loss,
            "uplink_bytes": self.uplink_bytes,
            "downlink_bytes": self.downlink_bytes,
            "began_at_s": self.began_at,
            "committed_at_s": self.committed_at,
        }


@dataclass(frozen=True, slots=True)
class UnreadableRun:
    """A data directory that cannot be read; the sentence says why."""

    folder: Path
    reason: str


def stored_runs(folders: Sequence[Path]) -> tuple[list[StoredRun], list[UnreadableRun]]:
    """All runs under some folders, the newest first, and what cannot be read.

    Args:
        folders: Data directories, or folders that they are in.

    Raises:
        CommandError: A folder is not there.
    """
    found: list[StoredRun] = []
    unreadable: list[UnreadableRun] = []
    shared = set[tuple[str, str]]()
    for place in dict.fromkeys(place for folder in folders for place in _data_dirs(folder)):
        try:
            address, run = remembered(place), _read(place)
            same = (run.run_id, address.schema if address else "")
            if address is None or same not in shared:
                found.append(run)
                shared.add(
                    same
                )  # the directories of its other coordinators say the same, whatever they call the database
        except (ArchiveError, OSError) as error:
            unreadable.append(UnreadableRun(place, str(error)))
    return sorted(found, key=lambda run: -run.began_at), unreadable


def _data_dirs(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise CommandError(f"{folder}: there is no such folder")
    for place, inside, files in os.walk(folder):
        here = Path(place)
        if not set(MARKS).isdisjoint(files):
            yield here
            inside.clear()
        elif len(here.relative_to(folder).parts) >= DEEPEST:
            inside.clear()
        else:
            inside[:] = sorted(name for name in inside if not name.startswith("."))


def _read(data_dir: Path) -> StoredRun:
    archive = archive_of(data_dir)
    address = _address(holder(data_dir / LOCK)) if remembered(data_dir) is None else leader_of(data_dir)
    state, versions = archive.state, archive.history.versions
    traffic = archive.history.traffic.latest
    return StoredRun(
        folder=data_dir,
        name=archive.name,
        run_id=state.run_id,
        state=_state(state, address is not None),
        address=address or "",
        phase=state.phase,
        version=state.version,
        digest=state.digest,
        metric=state.program.metric,
        loss=state.evaluation.loss if state.evaluation else None,
        uplink_bytes=_sum(traffic, "up"),
        downlink_bytes=_sum(traffic, "down"),
        began_at=versions[0].committed_at,
        committed_at=versions[state.version].committed_at,
        curve=_curve(archive),
    )


def _state(state: State, held: bool) -> str:
    if state.gave_up:
        return "gave up"
    if state.phase is Phase.FINISHED:
        return "finished"
    if not held:
        return "stopped"
    return "paused" if state.paused else "running"


def _address(word: str | None) -> str | None:
    """Where a coordinator listens, as it has written into the lock that it holds; None where none does."""
    if word is None:
        return None
    try:
        found = json.loads(word)
    except ValueError:
        return ""  # it is being opened, or what holds it is no coordinator
    address = found.get("address") if isinstance(found, dict) else None
    return address if isinstance(address, str) and address.isprintable() else ""


def _sum(traffic: Sequence[TrafficCount], direction: str) -> int:
    return sum(count.payload_bytes for count in traffic if count.direction == direction and count.tier)


def _curve(archive: Archive) -> tuple[CurvePoint, ...]:
    name = archive.state.program.metric.name
    return tuple(
        CurvePoint(version, _sum(archive.history.traffic.at(version), "up"), record.evaluation.metrics[name])
        for version, record in sorted(archive.history.versions.items())
        if record.evaluation is not None and record.evaluation.examples
    )
