"""The device's replica and its log of commits on disk: whatever a crash leaves there, the replica that is found again is a sound one."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from zowarmup.client.errors import Setback
from zowarmup.client.store.replica import USUAL_LIMITS, CommitLog, LocalReplica, LogLimits, Position, SnapshotHeader
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Layout, Tensor, digest
from zowarmup.common.exact.replica import Commit, Diverged
from zowarmup.common.exact.steps import Step, apply_steps

SIZE = 1000
ALL = Block("all", 0, SIZE)
LAYOUT = Layout((Tensor("w", (SIZE,), 0),), SIZE, SIZE, (ALL,))
GRID = Grid(16)


def initial() -> NDArray[np.float32]:
    return GRID.quantise(np.linspace(-1, 1, SIZE, dtype=np.float32))


def history(start: int, count: int) -> list[Commit]:
    """Commits start + 1 .. start + count, as a coordinator would make them from version 3."""
    weights, commits = initial(), []
    for version in range(4, start + count + 1):
        step = Step(version, ALL, (version, -2, 5))
        apply_steps(weights, GRID, [step])
        commits.append(Commit(version, digest(weights), (step,)))
    return commits[start - 3 :]


def opened(directory: Path, limits: LogLimits = USUAL_LIMITS) -> LocalReplica:
    local = LocalReplica(directory, LAYOUT, limits)
    local.open()
    return local


def header() -> SnapshotHeader:
    return SnapshotHeader(3, GRID.exponent, digest(initial()), SIZE * 4)


def fetched(directory: Path, limits: LogLimits = USUAL_LIMITS) -> LocalReplica:
    local = opened(directory, limits)
    local.incoming(3).write_bytes(initial().tobytes())
    local.load(header())
    return local


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_nothing_on_disk_is_no_replica(tmp_path: Path) -> None:
    local = opened(tmp_path)
    assert local.held is None
    assert local.position == Position(0, b"")
    with pytest.raises(ValueError, match="no replica"):
        local.apply(history(3, 1))


def test_a_snapshot_and_the_commits_since_come_back(tmp_path: Path) -> None:
    local, commits = fetched(tmp_path), history(3, 5)
    vector = local.weights
    local.apply(commits[:1])
    local.apply(commits[1:])
    assert local.weights is vector  # whatever is bound to the vector stays bound
    assert local.position == Position(8, commits[-1].digest)
    again = opened(tmp_path)
    assert again.position == local.position
    assert again.held is not None
    assert (again.held.version, again.held.grid, again.held.weights is again.weights) == (8, GRID, True)
    assert again.weights.tobytes() == local.weights.tobytes()
    again.apply(history(8, 1))
    assert opened(tmp_path).position.version == 9


def test_a_log_torn_at_any_byte_leaves_a_whole_replica(tmp_path: Path) -> None:
    commits = history(3, 3)
    fetched(tmp_path).apply(commits)
    log = tmp_path / "commits-3.log"
    whole = log.read_bytes()
    seen = set()
    for cut in range(len(whole) + 1):
        log.write_bytes(whole[:cut])
        local = opened(tmp_path)
        assert local.position.digest == digest(local.weights)
        seen.add(local.position.version)
        local.apply(history(local.position.version, 1))
        assert opened(tmp_path).position.version == local.position.version
    assert seen == {3, 4, 5, 6}


def test_commits_that_do_not_follow_change_nothing(tmp_path: Path) -> None:
    local = fetched(tmp_path)
    before = local.weights.tobytes()
    with pytest.raises(ValueError, match="does not follow"):
        local.apply(history(4, 1))
    assert local.weights.tobytes() == before
    assert opened(tmp_path).position.version == 3


def test_a_commit_with_another_digest_diverges_and_is_not_kept(tmp_path: Path) -> None:
    local = fetched(tmp_path)
    with pytest.raises(Diverged):
        local.apply([Commit(4, bytes(16), (Step(4, ALL, (1,)),))])
    assert opened(tmp_path).position.version == 3
    local.drop()
    assert local.held is None
    assert local.position == Position(0, b"")
    assert names(tmp_path) == []


def test_the_log_is_folded_into_the_snapshot_when_it_has_grown(tmp_path: Path) -> None:
    local, commits = fetched(tmp_path, LogLimits(share=0.0, floor_bytes=100)), history(3, 20)
    sizes = []
    for commit in commits:
        local.apply([commit])
        sizes.append(sum(path.stat().st_size for path in tmp_path.glob("commits-*.log")))
        assert opened(tmp_path).position == local.position
    assert max(sizes) <= 100
    assert len(names(tmp_path)) == 3  # one snapshot, its header, its log
    assert not (tmp_path / "snapshot-3.bin").exists()


def test_a_log_that_is_slow_to_replay_is_folded_too(tmp_path: Path) -> None:
    local = fetched(tmp_path, LogLimits(replay_s=-1.0))
    local.apply(history(3, 1))
    assert names(tmp_path) == ["commits-4.log", "snapshot-4.bin", "snapshot-4.json"]
    assert opened(tmp_path).position == local.position


def test_a_crash_between_the_files_of_a_compaction_loses_nothing_whole(tmp_path: Path) -> None:
    local = fetched(tmp_path)
    local.apply(history(3, 2))
    # The new vector is there, its header is not yet: the old snapshot and its log still stand.
    (tmp_path / "snapshot-5.bin").write_bytes(local.weights.tobytes())
    assert opened(tmp_path).position == local.position
    # Both are there, the old files not yet removed: the new ones count and the old ones go.
    local.drop()
    old = fetched(tmp_path)
    old.apply(history(3, 2))
    (tmp_path / "snapshot-5.bin").write_bytes(old.weights.tobytes())
    text = (tmp_path / "snapshot-3.json").read_text()
    fresh = text.replace(digest(initial()).hex(), old.position.digest.hex()).replace('"version": 3', '"version": 5')
    (tmp_path / "snapshot-5.json").write_text(fresh)
    assert opened(tmp_path).position == old.position
    assert names(tmp_path) == ["commits-5.log", "snapshot-5.bin", "snapshot-5.json"]


@pytest.mark.parametrize("damage", ["short", "long", "flipped", "header", "gone"])
def test_a_damaged_snapshot_is_left_out(tmp_path: Path, damage: str) -> None:
    fetched(tmp_path)
    file = tmp_path / "snapshot-3.bin"
    data = file.read_bytes()
    match damage:
        case "short":
            file.write_bytes(data[:-4])
        case "long":
            file.write_bytes(data + b"more")
        case "flipped":
            file.write_bytes(data[:17] + bytes([data[17] ^ 1]) + data[18:])
        case "header":
            (tmp_path / "snapshot-3.json").write_text('{"version": 3}')
        case "gone":
            file.unlink()
    local = opened(tmp_path)
    assert local.held is None
    assert local.position == Position()
    assert names(tmp_path) == []


def test_an_incoming_snapshot_that_is_not_its_headers_is_refused(tmp_path: Path) -> None:
    local = opened(tmp_path)
    local.incoming(3).write_bytes(bytes(SIZE * 4))
    with pytest.raises(Diverged):
        local.load(header())
    assert local.held is None
    assert names(tmp_path) == []


def test_an_incoming_snapshot_goes_on_where_it_broke_off_and_others_go(tmp_path: Path) -> None:
    local = opened(tmp_path)
    local.incoming(2).write_bytes(b"old")
    local.incoming(3).write_bytes(initial().tobytes()[:100])
    again = opened(tmp_path)
    assert again.incoming(3).stat().st_size == 100
    assert names(tmp_path) == ["snapshot-3.part"]


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    local = fetched(tmp_path, LogLimits(replay_s=-1.0))
    (tmp_path / "snapshot-4.bin.new").mkdir()
    with pytest.raises(Setback, match=r"cannot keep the replica in .*: make room there"):
        local.apply(history(3, 1))
    assert local.intact(), "it goes on from there once there is room"
    (tmp_path / "snapshot-4.bin.new").rmdir()
    local.apply(history(4, 1))
    again = opened(tmp_path)
    assert (again.position, again.weights.tobytes()) == (local.position, local.weights.tobytes())


RECORDS = [b"first", b"\0" * 9, b"the third record"]


def write(file: Path) -> bytes:
    file.unlink(missing_ok=True)
    log = CommitLog(file)
    log.append(RECORDS[:2])
    log.append(RECORDS[2:])
    log.close()
    return file.read_bytes()


def read(file: Path) -> list[bytes]:
    log = CommitLog(file)
    log.close()
    return log.records


def ends(records: list[bytes]) -> list[int]:
    place, found = 0, []
    for record in records:
        place += 8 + len(record)
        found.append(place)
    return found


def test_torn_at_every_byte_the_whole_records_are_left_and_can_be_added_to(tmp_path: Path) -> None:
    file = tmp_path / "log"
    whole = write(file)
    assert ends(RECORDS)[-1] == len(whole)
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        kept = RECORDS[: sum(end <= cut for end in ends(RECORDS))]
        log = CommitLog(file)
        assert log.records == kept
        log.append([b"after"])
        assert log.bytes == file.stat().st_size
        log.close()
        assert read(file) == [*kept, b"after"]


def test_any_changed_byte_ends_the_log_before_its_record(tmp_path: Path) -> None:
    file = tmp_path / "log"
    whole = write(file)
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        assert read(file) == RECORDS[: sum(end <= place for end in ends(RECORDS))]


def test_a_tail_of_zeros_is_no_record(tmp_path: Path) -> None:
    file = tmp_path / "log"
    whole = write(file)
    file.write_bytes(whole + b"\0" * 4096)
    assert read(file) == RECORDS
    assert file.read_bytes() == whole
