"""A run in PostgreSQL by its data directory: read, checked, copied while it goes on, and moved from files to a database and back.

`zowarmup.server.stored.opening`, `zowarmup.server.stored.checking` and `zowarmup.server.stored.copies`, and what stands on them.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from tests.faults.backends import Backend, Files, Postgres
from tests.faults.small import TRIO, Client, Life, create, live, run_file
from tests.patience import PATIENCE
from tests.postgres.server import PostgresServer
from tests.unit.server.store.test_lease import LONG_S, holder
from zowarmup.cli.stored_run import restore, write_page
from zowarmup.common.messages.values import Tier, Work
from zowarmup.common.settings.store import StoreAddress
from zowarmup.common.system.command import CommandError, Usage
from zowarmup.lab.runs.stored_runs import stored_runs
from zowarmup.server.store.archive import LEDGER, ArchiveError, Copied, open_archive
from zowarmup.server.store.event_log import LedgerError
from zowarmup.server.store.fsck import check
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.store.place import remember
from zowarmup.server.store.postgres.stores import PostgresStores
from zowarmup.server.stored.checking import check_stored
from zowarmup.server.stored.copies import copy_stored, restore_into
from zowarmup.server.stored.opening import archive_of, events_of_run


@dataclass
class Copyist(Client):
    """A client that, before it contributes to some rounds, copies the run, while the others go on."""

    data_dir: Path = Path()
    out: Path = Path()
    rounds: Sequence[int] = ()
    copies: dict[int, Copied] = field(default_factory=dict)

    async def _contribute(self, server: Life, work: Work) -> None:
        if work.round in self.rounds:
            self.copies[work.round] = await asyncio.to_thread(
                copy_stored, self.data_dir, self.out / f"copy-{work.round}"
            )
        await super()._contribute(server, work)


def lead(data_dir: Path, backend: Backend, *clients: Client) -> str:
    """Lead a run to its end; the final digest."""

    async def to_the_end() -> str:
        stores = backend.open(data_dir)
        try:
            life = Life.start(stores)
            fleet = [client.name for client in clients]
            others = [Client(name, tier) for name, tier in TRIO.items() if name not in fleet]
            await asyncio.wait_for(live(life, [*others, *clients]), 60)
            return life.coordinator.state.digest
        finally:
            stores.log.close()

    return asyncio.run(to_the_end())


@dataclass(frozen=True)
class Moved:
    """A finished run in files, and the same in a database with a data directory that only says where."""

    files: Path
    shared: Path
    address: StoreAddress


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Moved:
    folder = tmp_path_factory.mktemp("moved")
    create(folder / "files", run_file(TRIO))
    lead(folder / "files", Files())
    address = postgres.address()
    copied = restore_into(folder / "files", address)
    assert (copied.run, copied.version, copied.digest) == ("small", 30, open_archive(folder / "files").state.digest)
    (folder / "shared").mkdir()
    remember(folder / "shared", address)
    return Moved(folder / "files", folder / "shared", address)


def test_a_run_is_the_same_wherever_it_is_kept(moved: Moved) -> None:
    here, there = open_archive(moved.files), archive_of(moved.shared)
    assert there.state == here.state and there.versions() == here.versions() and there.program == here.program
    for version in here.versions():
        (mine, my_grid), (its, its_grid) = here.weights(version), there.weights(version)
        assert mine.tobytes() == its.tobytes() and my_grid == its_grid
    assert list(events_of_run(moved.files)) == list(events_of_run(moved.shared))
    assert not (moved.shared / LEDGER).exists()


def test_a_copy_of_a_run_in_a_database_holds_the_same_files(moved: Moved, tmp_path: Path) -> None:
    one, other = copy_stored(moved.files, tmp_path / "one"), copy_stored(moved.shared, tmp_path / "other")
    assert (one.run, one.version, one.digest) == (other.run, other.version, other.digest)
    rows = []
    for copy in (moved.files, tmp_path / "one", tmp_path / "other"):
        with contextlib.closing(Ledger(copy / LEDGER, read_only=True)) as ledger:
            rows.append(list(ledger.rows()))
    assert rows[0] == rows[1] == rows[2]
    assert check(tmp_path / "other").problems == []
    blobs = [
        {path.name for path in (tmp_path / copy / "blobs").iterdir() if path.is_file()} for copy in ("one", "other")
    ]
    assert blobs[0] == blobs[1] != set()
    for out, said in ((tmp_path / "one", "exists already"), (moved.shared / "inside", "lies in")):
        with pytest.raises(ArchiveError, match=said):
            copy_stored(moved.shared, out)


def test_every_copy_of_a_run_that_goes_on_becomes_one_in_files_or_in_a_database(
    tmp_path: Path, postgres: PostgresServer, moved: Moved
) -> None:
    """Also one made while the deltas of an open round are there and in no version yet."""
    backend, source = Postgres(postgres), tmp_path / "server"
    create(source, run_file(TRIO), backend)
    remember(source, backend.address(source))
    copyist = Copyist("high-2", Tier.HIGH, data_dir=source, out=tmp_path, rounds=(2, 20))
    final = lead(source, backend, copyist)
    assert final == open_archive(moved.files).state.digest
    assert list(copyist.copies) == [2, 20]
    for number, copied in copyist.copies.items():
        copy, again = tmp_path / f"copy-{number}", tmp_path / f"again-{number}"
        assert (check(copy).problems, copied.version) == ([], number - 1)
        restored = restore_into(copy, backend.address(again))
        assert (restored.version, restored.digest) == (copied.version, copied.digest)
        assert lead(again, backend) == lead(copy, Files()) == final


def test_a_run_is_restored_only_where_there_is_none(moved: Moved, postgres: PostgresServer, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=f"schema={moved.address.schema} holds a run already: name another schema"):
        restore_into(moved.files, moved.address)
    with pytest.raises(ArchiveError, match="holds no run"):
        restore_into(tmp_path, postgres.address())
    with pytest.raises(CommandError, match="holds a run already"):
        restore(moved.files, str(moved.address))
    with pytest.raises(Usage, match="--store: holds a password") as refused:
        restore(moved.files, "postgresql://one:hunter2@db/fleet")
    assert "hunter2" not in str(refused.value)


def test_what_is_broken_off_is_restored_again(moved: Moved, postgres: PostgresServer) -> None:
    address = postgres.address()
    with contextlib.closing(PostgresStores.open(address)) as stores:
        stores.blobs.put(open_archive(moved.files).program)
        stores.blobs.write(f"restore-{max(open_archive(moved.files).state.snapshot_blobs)}", 0, b"half")
    assert restore_into(moved.files, address).digest == open_archive(moved.files).state.digest


def test_a_run_in_a_database_is_checked(moved: Moved, postgres: PostgresServer, tmp_path: Path) -> None:
    whole = check_stored(moved.shared)
    assert (whole.problems, whole.version, whole.digest) == ([], 30, open_archive(moved.files).state.digest)
    assert whole == check_stored(moved.files) == check_stored(moved.shared, mend=True)
    address = postgres.address()
    restore_into(moved.files, address)
    remember(tmp_path, address)
    with (
        contextlib.closing(PostgresStores.open(address)) as stores,
        psycopg.connect(address.url, autocommit=True) as admin,
    ):
        assert stores.lease.take(holder("one"), LONG_S)
        with pytest.raises(ArchiveError, match=r"is in use: one leads, at 10\.0\.0\.1:7070; stop every coordinator"):
            check_stored(tmp_path)
        stores.lease.give_up(1)
        newest = archive_of(tmp_path).state.snapshots[30].sha256
        admin.execute(
            f"UPDATE {address.schema}.pages SET data = set_byte(data, 3, 255) WHERE blob = "
            f"(SELECT id FROM {address.schema}.blobs WHERE name = %s)",
            [newest],
        )
        report = check_stored(tmp_path)
        assert f"blob {newest} is damaged" in report.problems[0] and report.version == 30, (
            "an older snapshot leads there"
        )
        admin.execute(f"DELETE FROM {address.schema}.events WHERE id = 50")
        report = check_stored(tmp_path)
        assert any("row 50 is missing" in problem for problem in report.problems) and report.version < 30
        with pytest.raises(ArchiveError, match="is not repaired: restore a backup"):
            check_stored(tmp_path, mend=True)


def test_a_database_that_is_away_or_empty_is_named(postgres: PostgresServer, tmp_path: Path) -> None:
    for address, said in (
        (postgres.address(), "holds no run"),
        (StoreAddress("postgresql://nobody@127.0.0.1:1/fleet", "away"), "is the database running"),
    ):
        folder = tmp_path / address.schema
        folder.mkdir()
        remember(folder, address)
        for look in (archive_of, check_stored, lambda data_dir: copy_stored(data_dir, tmp_path / "out")):
            with pytest.raises((ArchiveError, LedgerError), match=said):
                look(folder)


def test_runs_lists_a_shared_run_once_with_who_leads(moved: Moved, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        remember(tmp_path / name, moved.address)
    (found,), unreadable = stored_runs([tmp_path])
    assert (found.folder, found.name, found.state, found.version, unreadable) == (
        tmp_path / "a",
        "small",
        "finished",
        30,
        [],
    )
    with contextlib.closing(PostgresStores.open(moved.address)) as stores:
        held = stores.lease.take(holder("one"), LONG_S)
        assert held is not None
        try:
            assert stored_runs([tmp_path])[0][0].address == "10.0.0.1:7070"
        finally:
            stores.lease.give_up(held.epoch)


def test_the_page_of_a_run_in_a_database_is_written(moved: Moved, tmp_path: Path) -> None:
    ours, theirs = (write_page(place, tmp_path / f"{place.name}.html") for place in (moved.shared, moved.files))
    assert b"small" in ours.read_bytes() and abs(ours.stat().st_size - theirs.stat().st_size) < 100


def test_without_its_packages_a_run_in_a_database_says_what_to_install(tmp_path: Path) -> None:
    """A module that is None in sys.modules is one that is not there."""
    remember(tmp_path, StoreAddress("postgresql://db/fleet", "digits"))
    code = "import sys; sys.modules['psycopg'] = None; from zowarmup.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "fsck", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs psycopg: install it with: pip install 'zowarmup[postgres]'" in done.stderr
