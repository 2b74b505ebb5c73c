"""A data directory of a whole small run, damaged in every way we could think of."""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.faults.backends import files
from tests.faults.small import PAIR, Client, Life, create, live, replayed_digest, run_file
from zowarmup.cli.stored_run import fsck, report_text
from zowarmup.common.system.command import CommandError
from zowarmup.server.store.archive import LEDGER, UPLOADS, ArchiveError, open_archive, replay
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.fsck import check, repair
from zowarmup.server.store.ledger import FORMAT, Ledger, LedgerError

LAST = 30


def finish(data_dir: Path) -> str:
    """Lead the run in a data directory to its end; the final digest."""

    async def lead() -> str:
        stores = files(data_dir)
        try:
            life = Life.start(stores)
            await asyncio.wait_for(live(life, [Client(name, tier) for name, tier in PAIR.items()]), 60)
            return life.coordinator.state.digest
        finally:
            stores.log.close()

    return asyncio.run(lead())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("run") / "server"
    create(data_dir, run_file(PAIR))
    finish(data_dir)
    return data_dir


@pytest.fixture
def data_dir(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "server")
    return tmp_path / "server"


def sql(data_dir: Path, statement: str) -> None:
    with sqlite3.connect(data_dir / LEDGER) as db:
        db.execute(statement)
    db.close()


def row_of(data_dir: Path, version: int) -> int:
    ledger = Ledger(data_dir / LEDGER, read_only=True)
    wanted = f'"version":{version},"round"'
    found = next(row.id for row in ledger.rows() if row.kind == "Committed" and wanted in row.body)
    ledger.close()
    return found


def snapshots(data_dir: Path) -> dict[int, Path]:
    archive = open_archive(data_dir)
    return {version: archive.blobs.path(s.sha256) for version, s in archive.state.snapshots.items()}


def test_a_whole_run_is_whole_and_its_digest_is_computed_anew(data_dir: Path) -> None:
    report = check(data_dir)
    assert (report.problems, report.notes, report.version) == ([], [], LAST)
    assert report.digest == replayed_digest(data_dir) == open_archive(data_dir).state.digest
    assert report.checked == 26, "the pivot's snapshot and all that follow; those of the warm-up are pruned"
    assert "nothing is damaged" in report_text(report, data_dir, as_json=False)
    before = (data_dir / LEDGER).read_bytes()
    assert repair(data_dir).kept == ""
    assert (data_dir / LEDGER).read_bytes() == before, "there was nothing to repair"


def test_a_damaged_row_is_named_and_the_run_goes_on_from_before_it(data_dir: Path) -> None:
    final, row = replayed_digest(data_dir), row_of(data_dir, 20)
    sql(data_dir, f"UPDATE events SET body = replace(body, 'digest', 'digust') WHERE id = {row}")
    with pytest.raises(LedgerError, match=rf"row {row}: Committed is damaged.*zowarmup fsck"):
        replay(Ledger(data_dir / LEDGER, read_only=True))
    report = check(data_dir)
    assert report.version == 19 and f"row {row}" in report.problems[0]
    repaired = repair(data_dir)
    assert check(data_dir).problems == []
    state, _, _ = replay(Ledger(data_dir / LEDGER, read_only=True))
    assert state is not None and state.version == 19
    assert state.round == 30, "a round's number, and with it a seed, is never used twice"
    assert set(state.clients) == set(PAIR)
    assert row_of(Path(repaired.kept), 20) == row, "what was found is kept"
    assert finish(data_dir) != final, "other seeds from there on"
    assert open_archive(data_dir).state.version == LAST


def test_a_missing_row_is_noticed(data_dir: Path) -> None:
    sql(data_dir, "DELETE FROM events WHERE id = 50")
    report = check(data_dir)
    assert any("row 50 is missing" in problem for problem in report.problems)
    assert 5 <= report.version < LAST
    repair(data_dir)
    assert check(data_dir).problems == []


def test_steps_that_were_tampered_with_give_another_digest(data_dir: Path) -> None:
    row = row_of(data_dir, 12)
    tick = "'$.steps[0].ticks[0]'"
    sql(data_dir, f"UPDATE events SET body = json_set(body, {tick}, json_extract(body, {tick}) + 1) WHERE id = {row}")
    report = check(data_dir)
    assert any("version 12 comes out with digest" in problem for problem in report.problems)
    assert "version 12: this zowarmup would make other steps" in report.notes[0]


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut"])
def test_a_damaged_newest_snapshot_costs_nothing_where_an_older_one_leads_there(data_dir: Path, damage: str) -> None:
    final, kept = replayed_digest(data_dir), snapshots(data_dir)
    path = kept[max(kept)]
    content = bytearray(path.read_bytes())
    match damage:
        case "missing":
            path.unlink()
        case "flipped":
            content[100] ^= 1
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:100])
    with pytest.raises(ArchiveError, match="zowarmup fsck"):
        open_archive(data_dir).weights(LAST)
    report = check(data_dir)
    assert f"the snapshot of version {LAST}" in report.problems[0] and report.version == LAST
    repair(data_dir)
    assert check(data_dir).digest == final == replayed_digest(data_dir)


def test_without_a_single_good_snapshot_a_backup_is_asked_for(data_dir: Path) -> None:
    for path in snapshots(data_dir).values():
        path.unlink()
    before = (data_dir / LEDGER).read_bytes()
    with pytest.raises(ArchiveError, match="restore it from a backup"):
        repair(data_dir)
    assert (data_dir / LEDGER).read_bytes() == before


def test_a_truncated_ledger_is_saved_as_far_as_it_can_be_read(data_dir: Path) -> None:
    Ledger(data_dir / LEDGER).close()  # all of it in one file
    content = (data_dir / LEDGER).read_bytes()
    (data_dir / LEDGER).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(LedgerError, match="zowarmup fsck"):
        Ledger(data_dir / LEDGER)
    report = check(data_dir)
    assert "is cut off" in report.problems[0] and 5 <= report.version < LAST
    repaired = repair(data_dir)
    assert check(data_dir).version == report.version
    assert (Path(repaired.kept) / LEDGER).stat().st_size == len(content) * 2 // 3
    finish(data_dir)
    assert open_archive(data_dir).state.version == LAST


def leave_in_log(data_dir: Path, version: int) -> None:
    """Let all that came after a version be in the ledger's write-ahead log alone."""
    row = row_of(data_dir, version)
    with contextlib.closing(sqlite3.connect(data_dir / LEDGER, isolation_level=None)) as db:
        rows = db.execute(f"SELECT * FROM events WHERE id > {row}").fetchall()
        db.execute(f"DELETE FROM events WHERE id > {row}")
    with contextlib.closing(sqlite3.connect(data_dir / LEDGER, isolation_level=None)) as db:
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
        files = {name: (data_dir / name).read_bytes() for name in (LEDGER, f"{LEDGER}-wal")}
    for name, content in files.items():  # as they are after a kill: closing has folded one into the other
        (data_dir / name).write_bytes(content)


def test_a_crash_while_repairing_leaves_what_was_found_or_what_is_mended(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older ledger, whose coordinator would sweep away what came later, must never be there alone."""
    row = row_of(data_dir, 25)
    sql(data_dir, f"UPDATE events SET body = replace(body, 'digest', 'digust') WHERE id = {row}")
    leave_in_log(data_dir, 20)
    shutil.copy(data_dir / LEDGER, tmp_path / LEDGER)
    alone = Ledger(tmp_path / LEDGER)
    state, _, _ = replay(alone)
    alone.close()
    assert state is not None and state.version == 20, "sound by itself"
    found, synced = list[str](), set[int]()
    kept_synced = list[bool]()
    replace, unlink, fsync = os.replace, Path.unlink, os.fsync

    def look() -> None:
        """At what a coordinator would find that starts now."""
        place = tmp_path / f"crash-{len(found)}"
        place.mkdir()
        for path in data_dir.glob(f"{LEDGER}*"):
            shutil.copy(path, place / path.name)
        ledger = Ledger(place / LEDGER)
        try:
            state, _, _ = replay(ledger)
            assert state is not None
            found.append(f"version {state.version}")
        except LedgerError as error:
            found.append("as it was found" if f"row {row}" in str(error) else str(error))
        finally:
            ledger.close()

    def replaced(old: Path, new: Path) -> None:
        (kept,) = data_dir.glob("found-*")
        kept_synced.append({path.stat().st_ino for path in (data_dir, kept, *kept.rglob("*"))} <= synced)
        look()
        replace(old, new)
        look()

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path.parent == data_dir:
            look()

    def fsynced(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replaced)
        patched.setattr(Path, "unlink", unlinked)
        patched.setattr(os, "fsync", fsynced)
        repair(data_dir)
    assert set(found) == {"as it was found", "version 24"}
    assert found == sorted(found)
    assert kept_synced == [True]
    assert check(data_dir).problems == []


def test_a_repair_keeps_what_has_come_of_uploads(data_dir: Path) -> None:
    BlobFiles(data_dir / UPLOADS).write("pi.half", 0, b"half")
    sql(data_dir, f"UPDATE events SET body = replace(body, 'digest', 'digust') WHERE id = {row_of(data_dir, 25)}")
    assert (Path(repair(data_dir).kept) / UPLOADS / "parts" / "pi.half").read_bytes() == b"half"


def test_a_repair_whose_last_sync_is_refused_leaves_what_is_mended(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(data_dir, f"UPDATE events SET body = replace(body, 'digest', 'digust') WHERE id = {row_of(data_dir, 25)}")
    replace = os.replace

    def refuse(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:

        def replaced(old: Path, new: Path) -> None:
            replace(old, new)
            patched.setattr(os, "fsync", refuse)

        patched.setattr(os, "replace", replaced)
        with pytest.raises(OSError, match="Input/output error"):
            repair(data_dir)
    assert (check(data_dir).problems, check(data_dir).version) == ([], 24)


def test_a_ledger_that_is_being_read_is_not_replaced(data_dir: Path) -> None:
    row = row_of(data_dir, 25)
    sql(data_dir, f"UPDATE events SET body = replace(body, 'digest', 'digust') WHERE id = {row}")
    leave_in_log(data_dir, 20)
    with contextlib.closing(sqlite3.connect(data_dir / LEDGER, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        before = reader.execute("SELECT count(*) FROM events").fetchone()
        with pytest.raises(LedgerError, match="is in use by another program"):
            repair(data_dir)
        assert reader.execute("SELECT count(*) FROM events").fetchone() == before
    assert f"row {row}" in check(data_dir).problems[0]


def test_a_ledger_from_a_newer_version_is_refused(data_dir: Path) -> None:
    sql(data_dir, f"PRAGMA user_version={FORMAT + 1}")
    with pytest.raises(CommandError, match="use the zowarmup that wrote it"):
        fsck(data_dir, mend=True)


def test_a_coordinator_in_the_directory_keeps_it_away(data_dir: Path) -> None:
    with (data_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CommandError, match="is in use by a zowarmup-server: stop it first"):
            fsck(data_dir, mend=True)


def test_a_directory_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="holds no run"):
        fsck(tmp_path, mend=False)
