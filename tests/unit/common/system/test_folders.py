"""A folder with a stranger's files in it is refused in one sentence, by everything that would make it its own, and stays as
it was; so is one that is a file or cannot be written."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from zowarmup.cli.failure import CommandError
from zowarmup.client.errors import Final
from zowarmup.client.store.directory import StateDirectory
from zowarmup.common.system.folders import strangers
from zowarmup.lab.experiments.folders import held
from zowarmup.lab.simulation.fleet import secret
from zowarmup.server.setup.open_run import StartError, locked
from zowarmup.server.store.archive import LEDGER, ArchiveError, back_up


def lead(folder: Path) -> None:
    with locked(folder):
        pass


def take_part(folder: Path) -> None:
    StateDirectory(folder).close()


def carry(folder: Path) -> None:
    secret(folder)


def experiment(folder: Path) -> None:
    with held(folder):
        pass


TAKERS: list[Callable[[Path], None]] = [lead, take_part, carry, experiment]
REFUSALS = (StartError, Final, CommandError)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("names", [["thesis.tex"], ["a", "b", "c", "d", "e"], ["notes/lock"], ["snapshots.zip"]])
def test_a_strangers_files_are_named_and_not_touched(
    tmp_path: Path, take: Callable[[Path], None], names: list[str]
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(REFUSALS) as refused:
        take(tmp_path)
    sentence = str(refused.value)
    assert str(tmp_path) in sentence and names[0].split("/")[0] in sentence and "\n" not in sentence
    assert ("and 2 more" in sentence) == (len(names) == 5)
    assert everything(tmp_path) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted({name.split("/")[0] for name in names})


@pytest.mark.parametrize("take", TAKERS)
def test_a_new_an_empty_and_an_own_folder_are_taken(tmp_path: Path, take: Callable[[Path], None]) -> None:
    take(tmp_path / "new" / "deep")
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    (tmp_path / "disk" / ".DS_Store").write_bytes(b"")
    take(tmp_path / "disk")
    take(tmp_path / "disk")


@pytest.mark.parametrize("take", TAKERS)
def test_one_that_is_a_file_or_below_a_file_is_refused(tmp_path: Path, take: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(REFUSALS) as refused:
            take(path)
        assert str(path) in str(refused.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("take", TAKERS)
def test_one_that_cannot_be_read_is_refused(tmp_path: Path, take: Callable[[Path], None]) -> None:
    tmp_path.chmod(0o000)
    try:
        with pytest.raises(REFUSALS):
            take(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_what_lies_where_a_backup_would_be_made_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LEDGER).write_bytes(b"")
    (tmp_path / "copy.part").mkdir()
    (tmp_path / "copy.part" / "thesis.tex").write_text("mine")
    with pytest.raises(ArchiveError, match=r"thesis\.tex"):
        back_up(tmp_path / "run", tmp_path / "copy")
    assert (tmp_path / "copy.part" / "thesis.tex").read_text() == "mine"


def test_a_folder_that_is_not_there_holds_nobodys_files(tmp_path: Path) -> None:
    assert strangers(tmp_path / "none", ()) == ""
    (tmp_path / "ledger-wal").write_bytes(b"")
    assert strangers(tmp_path, ("ledger*",)) == ""


@pytest.mark.parametrize("take", [lead, take_part, carry])
def test_a_folder_is_closed_to_others_when_it_is_made_and_when_it_was_open(
    take: Callable[[Path], None], tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        take(tmp_path / "deep" / "new")
        (tmp_path / "open").mkdir(mode=0o777)
        take(tmp_path / "open")
    finally:
        os.umask(before)
    assert [mode(tmp_path / name) for name in ("deep/new", "open")] == [0o700, 0o700]
    assert mode(tmp_path / "deep") & 0o700 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize(("take", "error"), [(lead, StartError), (take_part, Final), (carry, CommandError)])
def test_another_users_folder_is_taken_only_where_nobody_else_writes_to_it(
    take: Callable[[Path], None], error: type[Exception], tmp_path: Path
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    for open_to in (0o770, 0o707, 0o1777):
        folder.chmod(open_to)
        with pytest.raises(error, match="others can write to it"):
            take(folder)
        assert list(folder.iterdir()) == [] and mode(folder) == open_to
    folder.chmod(0o755)
    take(folder)
    assert mode(folder) == 0o755


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
