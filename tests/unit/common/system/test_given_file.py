"""Whatever is put in a file's place, nobody waits for it."""

import errno
import os
import socket
from pathlib import Path

import pytest

from zowarmup.cli.certificates import init, server
from zowarmup.cli.failure import CommandError
from zowarmup.client.errors import Final
from zowarmup.client.net.tls import TrustError, read_authority, trust
from zowarmup.client.store.directory import LOCK, StateDirectory
from zowarmup.client.work.joining import invited
from zowarmup.common.settings.run import Server
from zowarmup.common.system.given_file import open_given, open_lock, read_given, require_regular
from zowarmup.common.system.toml_file import TomlError, read_toml
from zowarmup.data import DataError, load
from zowarmup.server.rpc.auth import CredentialError, operator_sha256
from zowarmup.server.rpc.certificate import CertificateError, read_certificate
from zowarmup.server.setup.continuation import ContinuationError, Left
from zowarmup.server.store.archive import OPERATOR_CREDENTIAL
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
