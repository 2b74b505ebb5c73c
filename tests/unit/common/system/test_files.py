"""Whatever is put in a file's place, nobody waits for it; a folder with a stranger's files in it is refused in one sentence, by
everything that would make it its own, and stays as it was; so is one that is a file or cannot be written.
"""

import errno
import fcntl
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from zowarmup.cli.certificates import init, server
from zowarmup.client.errors import Final
from zowarmup.client.net.tls import TrustError, read_authority, trust
from zowarmup.client.store.directory import LOCK, StateDirectory
from zowarmup.client.work.joining import invited
from zowarmup.common.settings.run import Server
from zowarmup.common.system.command import CommandError
from zowarmup.common.system.files import (
    Busy,
    TomlError,
    exclusive,
    holder,
    open_given,
    open_lock,
    read_given,
    read_toml,
    require_regular,
    strangers,
)
from zowarmup.data import DataError, load
from zowarmup.lab.processes import held
from zowarmup.lab.simulation.fleet import secret
from zowarmup.server.rpc.auth import CredentialError, operator_sha256
from zowarmup.server.rpc.certificate import CertificateError, read_certificate
from zowarmup.server.setup.continuation import ContinuationError, Left
from zowarmup.server.setup.open_run import StartError, locked
from zowarmup.server.store.archive import LEDGER, OPERATOR_CREDENTIAL, ArchiveError, back_up
from zowarmup.server.store.ledger import Ledger, LedgerError

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_only_a_regular_file_is_opened(tmp_path: Path, pipe: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    with listening:
        for path, said in (
            (pipe, "a pipe"),
            (tmp_path / "socket", "a socket|No such device"),
            (Path("/dev/null"), "a device"),
            (tmp_path, "directory"),
        ):
            for use in (open_given, read_given, require_regular, open_lock):
                with pytest.raises(OSError, match=said) as caught:
                    use(path)
                assert caught.value.strerror
    with pytest.raises(FileNotFoundError):
        open_given(tmp_path / "nothing")


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 10)
    (tmp_path / "link").symlink_to(path)
    assert read_given(path, 10) == read_given(tmp_path / "link", 10) == b"a" * 10
    with pytest.raises(OSError, match="may have 9 B") as caught:
        read_given(path, 9)
    assert caught.value.errno == errno.EFBIG


def test_a_lock_is_made_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with open_lock(path):
        assert path.exists()
    path.write_text("kept")
    with open_lock(path):
        assert path.read_text() == "kept"


def test_whoever_reads_what_a_person_named_says_that_it_is_a_pipe(tmp_path: Path, pipe: Path) -> None:
    init(tmp_path / "certs", ["a"])
    certificates = tmp_path / "certs"
    with pytest.raises(TomlError, match="a pipe"):
        read_toml(pipe)
    with pytest.raises(TrustError, match=r"--ca .*a pipe"):
        read_authority(pipe, "--ca")
    for pair in ((pipe, certificates / "server.key"), (certificates / "server.crt", pipe)):
        with pytest.raises(TrustError, match="a pipe"):
            trust("a:1", (certificates / "ca.crt").read_bytes(), *pair, False)
    with pytest.raises(Final, match="a pipe"):
        invited(pipe)
    with pytest.raises(ContinuationError, match="a pipe"):
        Left.read(pipe)
    for spec in (f"npz:{pipe}", f"csv:{pipe},label=a", f"cifar10:{pipe}:test", f"folder:{pipe}"):
        with pytest.raises(DataError, match=str(pipe)):
            load(spec)
    for settings in (
        Server(tls_certificate=str(pipe), tls_key=str(certificates / "server.key")),
        Server(tls_certificate=str(certificates / "server.crt"), tls_key=str(pipe)),
    ):
        with pytest.raises(CertificateError, match="a pipe"):
            read_certificate(settings)
    (certificates / "ca.key").unlink()
    os.mkfifo(certificates / "ca.key")
    with pytest.raises(CommandError, match="a pipe"):
        server(certificates, [])


def test_whoever_reads_a_folder_of_ours_says_that_a_file_in_it_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / OPERATOR_CREDENTIAL)
    with pytest.raises(CredentialError, match="a pipe"):
        operator_sha256(tmp_path)
    (tmp_path / "state").mkdir()
    os.mkfifo(tmp_path / "state" / LOCK)
    with pytest.raises(Final, match="a pipe"):
        StateDirectory(tmp_path / "state")
    os.mkfifo(tmp_path / "ledger.sqlite")
    with pytest.raises(LedgerError, match="a pipe"):
        Ledger(tmp_path / "ledger.sqlite", read_only=True)


def lead(folder: Path) -> None:
    with locked(folder):
        pass


def take_part(folder: Path) -> None:
    StateDirectory(folder).close()


def carry(folder: Path) -> None:
    secret(folder)


def experiment(folder: Path) -> None:
    with held(folder, "experiment"):
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


def test_a_lock_is_one_process_s_until_its_file_is_closed(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock"), pytest.raises(Busy):
        exclusive(tmp_path / "lock")
    exclusive(tmp_path / "lock").close()
    with pytest.raises(FileNotFoundError):
        exclusive(tmp_path / "nowhere" / "lock")


def test_a_lock_says_who_holds_it_as_long_as_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder(path) is None
    with exclusive(path) as lock:
        assert holder(path) == ""
        lock.write(b"here")
        assert holder(path) == "here"
    assert path.read_text() == "here" and holder(path) is None
    with exclusive(path):
        assert holder(path) == "", "what another one wrote is gone"


def test_looking_at_a_lock_keeps_nobody_from_it(tmp_path: Path) -> None:
    path, stop = tmp_path / "lock", threading.Event()

    def look() -> None:
        while not stop.is_set():
            holder(path)

    looking = [threading.Thread(target=look) for _ in range(2)]
    path.touch()
    for thread in looking:
        thread.start()
    try:
        for _ in range(50):
            exclusive(path).close()
    finally:
        stop.set()
        for thread in looking:
            thread.join()


def test_a_look_that_lasts_is_waited_for_and_a_holder_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a look may last as long as it likes."""
    path = tmp_path / "lock"
    path.touch()
    with path.open("rb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        ends = threading.Timer(0.5, fcntl.flock, (look, fcntl.LOCK_UN))
        ends.start()
        with exclusive(path):
            monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it was waited"))
            with pytest.raises(Busy):
                exclusive(path)
        ends.join()


def test_of_two_that_want_a_lock_while_somebody_looks_one_gets_it(tmp_path: Path) -> None:
    path, got, over = tmp_path / "lock", [], threading.Event()
    path.touch()

    def want() -> None:
        try:
            with exclusive(path):
                got.append(True)
                over.wait(60)
        except Busy:
            got.append(False)
            over.set()

    with path.open("rb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        wanting = [threading.Thread(target=want) for _ in range(2)]
        for thread in wanting:
            thread.start()
        time.sleep(0.1)
    for thread in wanting:
        thread.join()
    assert sorted(got) == [False, True]
