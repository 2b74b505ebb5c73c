"""The device's replica: one flat vector in memory; on disk a snapshot and the commits since.

`snapshot-V.bin` is the vector at version V (little-endian float32), `snapshot-V.json` its header, and `commits-V.log`
the commits after V. A round appends its commit, a few kilobytes; the snapshot is written anew only when the log has
grown to a share of it or has become slow to replay, so that flash memory is spared. The vector is filled from the
file in place: there is never a second copy of the weights, and whatever is bound to the vector stays bound.

A record of the log is its length and CRC-32 (two little-endian 32-bit words) and then the bytes. Records are not synced: what
a power cut tears off is found by length or checksum, cut away, and asked of the coordinator again, which is cheaper for
an SD card than a sync a round.
"""

import contextlib
import json
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.client.errors import Setback
from zowarmup.client.store.directory import remove
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Commit, Diverged, Replica
from zowarmup.common.messages.codec import decode_commit, encode_commit
from zowarmup.common.system.files import open_given, read_given, require_regular, settle, write_durably

_HEAD = struct.Struct("<II")
LONGEST_RECORD_BYTES = 1 << 26
"""Of a record, as of a message."""


class CommitLog:
    """An append-only file of records. Opening reads what is whole and cuts off the rest."""

    def __init__(self, file: Path) -> None:
        """Raises OSError where the file cannot be read or written."""
        if file.exists():
            require_regular(file)
        self._out = open(file, "a+b")  # noqa: SIM115 (open as long as the replica is)
        self._out.seek(0)
        self.records, self.bytes = _whole(self._out)
        self._out.truncate(self.bytes)

    def append(self, records: Sequence[bytes]) -> None:
        """Raises OSError where the disk refuses."""
        data = b"".join(_HEAD.pack(len(record), zlib.crc32(record)) + record for record in records)
        self._out.write(data)
        self._out.flush()
        self.bytes += len(data)

    def close(self) -> None:
        """What the disk still refuses is lost, as after a power cut."""
        with contextlib.suppress(OSError):
            self._out.close()


def _whole(file: IO[bytes]) -> tuple[list[bytes], int]:
    """The whole records at the start of a file, and where they end. What follows is not read, however much it is."""
    records, end = [], 0
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        if length > LONGEST_RECORD_BYTES:
            break
        record = file.read(length)
        # A file system may leave zeros where data was lost: length 0 with checksum 0 must not pass for a record.
        if length == 0 or len(record) < length or zlib.crc32(record) != checksum:
            break
        records.append(record)
        end += _HEAD.size + length
    return records, end


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Of a log of commits, beyond which it is folded into the snapshot: a share of the snapshot, with a floor that keeps small
    models from being rewritten all the time; or how long replaying it takes on this device, seconds."""

    share: float = 0.25
    floor_bytes: int = 64 * 1024
    replay_s: float = 60.0


USUAL_LIMITS = LogLimits()


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What a snapshot is: its version, its grid's exponent, the digest of the whole vector (16 bytes), its size, and where
    the grid has other exponents (`Grid.ranges`)."""

    version: int
    grid_exponent: int
    digest: bytes
    size_bytes: int
    grid_ranges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.version < 0 or len(self.digest) != 16:
            raise ValueError("snapshot header: version must be at least 0 and digest 16 bytes")
        Grid(self.grid_exponent, self.grid_ranges)  # which checks itself

    @property
    def grid(self) -> Grid:
        return Grid(self.grid_exponent, self.grid_ranges)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a replica is: version 0 with an empty digest where there is none."""

    version: int = 0
    digest: bytes = b""


class HeldReplica(Protocol):
    """A replica as a device holds it; what each part promises is said at `LocalReplica`."""

    @property
    def weights(self) -> NDArray[np.float32]: ...
    @property
    def held(self) -> Replica | None: ...
    @property
    def position(self) -> Position: ...
    def overtaken(self, version: int) -> bool: ...
    def incoming(self, version: int) -> Path: ...
    def load(self, header: SnapshotHeader) -> None: ...
    def apply(self, commits: Sequence[Commit]) -> None: ...
    def intact(self) -> bool: ...
    def drop(self) -> None: ...


class LocalReplica:
    """`weights`: the one vector, float32 (layout.size,). `held` is None until a snapshot was fetched or found."""

    def __init__(self, directory: Path, layout: Layout, limits: LogLimits = USUAL_LIMITS) -> None:
        self.layout, self._limits = layout, limits
        self.weights: NDArray[np.float32] = np.zeros(layout.size, np.float32)
        self.held: Replica | None = None
        # Kept apart from the weights: these are perturbed while a probe runs, and a Hello may be needed just then.
        self.position = Position()
        self._directory = directory
        self._log: CommitLog | None = None
        self._replay_s = 0.0

    def open(self) -> None:
        """Take up what the disk holds: the newest sound snapshot and the commits after it. What is
        damaged, or cannot be read, is left out and asked of the coordinator again."""
        for file in sorted(self._directory.glob("snapshot-*.json"), key=_version, reverse=True):
            try:
                header = _read_header(file)
                if self._fill(self._snapshot(header.version), header):
                    self._take(header)
                    self._replay()
                    return
            except (OSError, ValueError, Diverged, HeadroomExceeded):
                self._forget()
        self._sweep(keep=-1)

    def overtaken(self, version: int) -> bool:
        """Whether the run is known to have moved on from a version."""
        return self.position.version > version

    def incoming(self, version: int) -> Path:
        """Where a fetch of this version gathers its bytes; it goes on from the bytes that are there."""
        wanted = self._directory / f"snapshot-{version}.part"
        remove(self._directory, "snapshot-*.part", but=lambda file: file == wanted)
        return wanted

    def load(self, header: SnapshotHeader) -> None:
        """Replace the replica by the snapshot that `incoming` now holds. Raises Diverged where its bytes are not those
        of the header (there is no replica then), Setback where the disk fails."""
        part = self.incoming(header.version)
        self._forget()
        try:
            if not self._fill(part, header):
                part.unlink()
                raise Diverged(header.version, header.digest, self.layout.digest(self.weights))
            (self._directory / f"commits-{header.version}.log").unlink(missing_ok=True)
            settle(part, self._snapshot(header.version))
            self._write_header(header)
            self._take(header)
        except OSError as error:
            raise self._disk(error) from None

    def apply(self, commits: Sequence[Commit]) -> None:
        """Move on by consecutive commits and note them on disk. Raises ValueError where they do not follow (nothing is
        changed), Diverged or HeadroomExceeded where the replica is not the run's (`drop` it then), Setback where the
        disk fails: the replica has moved on all the same."""
        if self.held is None or self._log is None:
            raise ValueError("there is no replica yet to apply a commit to")
        start = time.monotonic()
        self.held.apply(commits)
        self._replay_s += time.monotonic() - start
        self.position = Position(commits[-1].version, commits[-1].digest)
        try:
            self._log.append([encode_commit(commit, self.layout) for commit in commits])
        except OSError as error:
            raise self._disk(error) from None
        limits = self._limits
        most_bytes = max(limits.share * self.weights.nbytes, limits.floor_bytes)
        if self._log.bytes > most_bytes or self._replay_s > limits.replay_s:
            self._compact(self.held)

    def intact(self) -> bool:
        """Whether the weights are those of `position`, as they are between any two changes that were carried through."""
        held, at = self.held, self.position
        return held is None or (held.version, held.digest()) == (at.version, at.digest)

    def drop(self) -> None:
        """Forget the replica, on disk too."""
        self._forget()
        self._sweep(keep=-1)

    def _fill(self, file: Path, header: SnapshotHeader) -> bool:
        if header.size_bytes != self.weights.nbytes or file.stat().st_size != header.size_bytes:
            return False
        with open_given(file) as source:
            view, filled = self.weights.data.cast("B"), 0
            while filled < len(view) and (count := source.readinto(view[filled:])):
                filled += count
        return filled == header.size_bytes and self.layout.digest(self.weights) == header.digest

    def _take(self, header: SnapshotHeader) -> None:
        self._log = CommitLog(self._directory / f"commits-{header.version}.log")
        self.held = Replica(self.layout, header.grid, self.weights, header.version)
        self.position = Position(header.version, header.digest)
        self._replay_s = 0.0
        self._sweep(keep=header.version)

    def _replay(self) -> None:
        assert self.held is not None
        assert self._log is not None
        commits = [decode_commit(record, self.layout) for record in self._log.records]
        self._log.records.clear()
        if commits:
            start = time.monotonic()
            self.held.apply(commits)
            self._replay_s = time.monotonic() - start
            self.position = Position(commits[-1].version, commits[-1].digest)

    def _compact(self, held: Replica) -> None:
        header = SnapshotHeader(
            self.position.version, held.grid.exponent, self.position.digest, self.weights.nbytes, held.grid.ranges
        )
        try:
            write_durably(self._snapshot(header.version), self.weights.data.cast("B"))
            self._write_header(header)
            if self._log is not None:
                self._log.close()
            self._take(header)
        except OSError as error:
            raise self._disk(error) from None

    def _forget(self) -> None:
        self.held, self.position = None, Position()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _sweep(self, keep: int) -> None:
        patterns = ("snapshot-*.json", "snapshot-*.bin", "commits-*.log")
        remove(self._directory, *patterns, but=lambda file: _version(file) == keep)

    def _snapshot(self, version: int) -> Path:
        return self._directory / f"snapshot-{version}.bin"

    def _write_header(self, header: SnapshotHeader) -> None:
        raw = {
            "version": header.version,
            "grid_exponent": header.grid_exponent,
            "grid_ranges": header.grid_ranges,
            "digest": header.digest.hex(),
            "size_bytes": header.size_bytes,
        }
        write_durably(self._snapshot(header.version).with_suffix(".json"), json.dumps(raw).encode())

    def _disk(self, error: OSError) -> Setback:
        return Setback(f"cannot keep the replica in {self._directory} ({error.strerror or error}): make room there")


def _version(file: Path) -> int:
    digits = file.stem.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -2


def _read_header(file: Path) -> SnapshotHeader:
    """Raises ValueError where the file is not a header."""
    try:
        raw = json.loads(read_given(file))
        return SnapshotHeader(
            int(raw["version"]),
            int(raw["grid_exponent"]),
            bytes.fromhex(raw["digest"]),
            int(raw["size_bytes"]),
            tuple((int(start), int(exponent)) for start, exponent in raw["grid_ranges"]),
        )
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file}: {error}") from error
