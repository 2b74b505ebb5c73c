"""Copies of a data directory that is in use: each is a run that goes on to the same end."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.backends import files
from tests.faults.small import TRIO, Client, Life, create, live, replayed_digest, run_file
from zowarmup.common.messages.values import Tier, Work
from zowarmup.server.store.archive import BLOBS, UPLOADS, ArchiveError, Copied, back_up, open_archive
from zowarmup.server.store.blobs import BlobError
from zowarmup.server.store.fsck import check
from zowarmup.server.store.ledger import Ledger


@dataclass
class Copyist(Client):
    """A client that, before it contributes to some rounds, copies the data directory, while the others go on."""

    data_dir: Path = Path()
    out: Path = Path()
    rounds: Sequence[int] = ()
    copies: dict[int, Copied] = field(default_factory=dict)

    async def _contribute(self, server: Life, work: Work) -> None:
        if work.round in self.rounds:
            copied = await asyncio.to_thread(back_up, self.data_dir, self.out / f"copy-{work.round}")
            self.copies[work.round] = copied
        await super()._contribute(server, work)


def lead(data_dir: Path, *clients: Client) -> str:
    """Lead the run in a data directory to its end; the final digest."""

    async def to_the_end() -> str:
        stores = files(data_dir)
        try:
            life = Life.start(stores)
            fleet = [client.name for client in clients]
            others = [Client(name, tier) for name, tier in TRIO.items() if name not in fleet]
            await asyncio.wait_for(live(life, [*others, *clients]), 60)
            return life.coordinator.state.digest
        finally:
            stores.log.close()

    return asyncio.run(to_the_end())


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "server"
    create(folder, run_file(TRIO))
    lead(folder)
    return folder


def test_every_copy_of_a_live_run_goes_on_to_the_same_end(tmp_path: Path, data_dir: Path) -> None:
    """Also one made while the deltas of an open round are on disk and in no version yet."""
    source = tmp_path / "server"
    create(source, run_file(TRIO))
    copyist = Copyist("high-2", Tier.HIGH, data_dir=source, out=tmp_path, rounds=(1, 4, 6, 9, 20, 30))
    final = lead(source, copyist)
    assert final == replayed_digest(data_dir)
    assert list(copyist.copies) == list(copyist.rounds)
    for number, copied in copyist.copies.items():
        report = check(tmp_path / f"copy-{number}")
        assert (report.problems, report.version, report.digest) == ([], copied.version, copied.digest)
        assert copied.version == number - 1
        assert lead(tmp_path / f"copy-{number}") == final


def test_a_copy_is_all_that_a_coordinator_needs(tmp_path: Path, data_dir: Path) -> None:
    (data_dir / "operator.credential").write_text("a" * 64 + "\n")
    (data_dir / "operator.credential").chmod(0o600)
    (data_dir / "ca.pem").write_text("an authority")
    copied = back_up(data_dir, tmp_path / "copies" / "one")
    out = tmp_path / "copies" / "one"
    assert sorted(path.name for path in out.iterdir()) == ["blobs", "ca.pem", "ledger.sqlite", "operator.credential"]
    assert (out / "operator.credential").stat().st_mode & 0o777 == 0o600
    assert out.stat().st_mode & 0o077 == 0
    assert copied.size_bytes == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert copied.digest == replayed_digest(out) == replayed_digest(data_dir)
    with pytest.raises(ArchiveError, match="exists already"):
        back_up(data_dir, out)


def test_a_copy_is_on_disk_before_it_has_its_name(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync, rename = set[int](), os.fsync, Path.rename
    missed = list[str]()

    def fsynced(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    def renamed(path: Path, target: Path) -> None:
        missed.extend(part.name for part in (path, *path.rglob("*")) if part.stat().st_ino not in synced)
        rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsynced)
        patched.setattr(Path, "rename", renamed)
        back_up(data_dir, tmp_path / "out")
    assert missed == []
    assert (tmp_path / "out" / BLOBS).is_dir()
    assert {path.stat().st_ino for path in (tmp_path, tmp_path / "out" / BLOBS)} <= synced


def test_a_snapshot_that_is_pruned_while_copying_is_no_loss(tmp_path: Path, data_dir: Path) -> None:
    """The first copy of the ledger names a blob that is gone when the blobs are copied; the next one does not."""
    source = tmp_path / "server"
    shutil.copytree(data_dir, source)
    gone = next(s.sha256 for v, s in sorted(open_archive(source).state.snapshots.items()))
    copies = []

    class Racing(Ledger):
        def copy_to(self, path: Path) -> None:
            copies.append(path)
            super().copy_to(path)
            hidden = source / BLOBS / f"{gone}.hidden"
            if len(copies) == 1:
                (source / BLOBS / gone).rename(hidden)
            else:
                hidden.rename(source / BLOBS / gone)

    assert back_up(source, tmp_path / "out", Racing).digest == replayed_digest(data_dir)
    assert len(copies) == 2


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_what_is_not_whole_is_not_copied(harm: str, tmp_path: Path, data_dir: Path) -> None:
    source = tmp_path / "server"
    shutil.copytree(data_dir, source)
    snapshot = open_archive(source).state.snapshot.sha256
    blob = source / BLOBS / snapshot
    if harm == "missing":
        blob.unlink()
    else:
        blob.write_bytes(bytes(blob.stat().st_size))
    with pytest.raises(ArchiveError if harm == "missing" else BlobError, match=f"{snapshot} is {harm}"):
        back_up(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["server"], "nothing half done is left"


@dataclass
class Latecomer(Copyist):
    """It copies when the other one that trains has contributed."""

    async def _contribute(self, server: Life, work: Work) -> None:
        if work.round in self.rounds:
            await server.until(lambda state: state.current is not None and "high-1" in state.current.contributions)
        await super()._contribute(server, work)


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_the_deltas_of_the_round_in_progress_are_looked_at_too(harm: str, tmp_path: Path) -> None:
    source = tmp_path / "server"
    create(source, run_file(TRIO))
    lead(source, Latecomer("high-2", Tier.HIGH, data_dir=source, out=tmp_path, rounds=(2,)))
    open_round = tmp_path / "copy-2"
    (delta,) = filter(Path.is_file, (open_round / UPLOADS).iterdir())
    assert delta.name.startswith("2.high-1.")
    assert check(open_round).problems == []
    if harm == "missing":
        delta.unlink()
    else:
        delta.write_bytes(bytes(delta.stat().st_size))
    assert check(open_round).problems == [f"the delta of high-1 in the round in progress is {harm}"]
    with pytest.raises(ArchiveError if harm == "missing" else BlobError, match=f"{delta.name} is {harm}"):
        back_up(open_round, tmp_path / "out")


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="holds no run"):
        back_up(tmp_path, tmp_path / "out")
