"""Where a coordinator listens and how: safe by default, and anything else only when it is said."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from zowarmup.cli.certificates import client, init
from zowarmup.client.net.tls import PLAIN, TrustError, distrusted, trust
from zowarmup.common.settings.run import Server
from zowarmup.server.core.errors import ListeningError
from zowarmup.server.rpc.auth import CredentialError, hash_secret, operator_sha256
from zowarmup.server.rpc.endpoints import endpoint_of

LOOPBACK, ANYWHERE = "127.0.0.1:7070", "0.0.0.0:7070"


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    init(tmp_path / "certs", ["host"])
    client(tmp_path / "certs", "pi")
    return tmp_path / "certs"


@pytest.fixture
def tls(certs: Path) -> Server:
    return Server(tls_certificate=str(certs / "server.crt"), tls_key=str(certs / "server.key"))


def test_loopback_is_plain_and_open() -> None:
    way = endpoint_of(Server(), LOOPBACK, insecure=False)
    assert (way.certificates, way.invited, way.guarded) == (None, False, False)
    assert "plain text" in way.describe(7070)


def test_invitations_can_be_asked_for_on_loopback() -> None:
    way = endpoint_of(Server(enrolment="invited"), LOOPBACK, insecure=False)
    assert (way.invited, way.guarded) == (True, True)


def test_elsewhere_it_refuses_to_start_without_a_certificate() -> None:
    with pytest.raises(ListeningError, match="zowarmup certs init"):
        endpoint_of(Server(), ANYWHERE, insecure=False)


def test_insecure_says_what_it_risks(caplog: pytest.LogCaptureFixture) -> None:
    way = endpoint_of(Server(), ANYWHERE, insecure=True)
    assert (way.certificates, way.invited, way.guarded) == (None, True, True)
    assert "can read and change everything" in caplog.text


def test_elsewhere_it_is_tls_and_by_invitation(tls: Server, certs: Path, tmp_path: Path) -> None:
    way = endpoint_of(tls, ANYWHERE, insecure=False)
    assert way.certificates is not None
    assert (way.invited, way.guarded) == (True, True)
    way.publish(tmp_path)
    assert (tmp_path / "ca.pem").read_bytes() == (certs / "ca.crt").read_bytes()
    endpoint_of(Server(), LOOPBACK, insecure=False).publish(tmp_path)
    assert not (tmp_path / "ca.pem").exists()


def test_open_elsewhere_is_said(tls: Server, caplog: pytest.LogCaptureFixture) -> None:
    way = endpoint_of(replace(tls, enrolment="open"), ANYWHERE, insecure=False)
    assert (way.invited, way.guarded) == (False, True)
    assert "whoever reaches" in caplog.text


def test_what_is_wrong_with_a_certificate_is_said_at_the_start(tls: Server, certs: Path) -> None:
    with pytest.raises(ListeningError, match=r"tls_key = .* cannot be read"):
        endpoint_of(replace(tls, tls_key="/nowhere"), ANYWHERE, insecure=False)
    with pytest.raises(ListeningError, match="its own key"):
        endpoint_of(replace(tls, tls_key=str(certs / "pi.key")), ANYWHERE, insecure=False)
    with pytest.raises(ListeningError, match=r"client_ca .* holds no certificate"):
        endpoint_of(replace(tls, client_ca=str(certs / "ca.key")), ANYWHERE, insecure=False)
    with pytest.raises(ListeningError, match="contradicts"):
        endpoint_of(tls, ANYWHERE, insecure=True)


def test_the_operators_credential_is_made_once_and_only_for_its_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = operator_sha256(tmp_path)
    file = tmp_path / "operator.credential"
    assert file.stat().st_mode & 0o777 == 0o600
    assert hash_secret(file.read_text().strip()) == first == operator_sha256(tmp_path)
    assert list(tmp_path.iterdir()) == [file]
    file.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert operator_sha256(tmp_path) == first
    assert "could be read by others" in caplog.text
    assert file.read_text().strip() not in caplog.text
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("short")
    with pytest.raises(CredentialError, match="is damaged") as caught:
        operator_sha256(tmp_path)
    assert "short" not in str(caught.value)


def test_a_device_is_plain_on_loopback_only() -> None:
    assert trust(LOOPBACK) is PLAIN
    assert trust("host:7070").secure
    assert trust("host:7070", insecure=True) is PLAIN


def test_an_authority_means_tls_on_loopback_too(certs: Path) -> None:
    authority = (certs / "ca.crt").read_bytes()
    assert trust(LOOPBACK, authority).secure
    with pytest.raises(TrustError, match="leave --insecure out"):
        trust(LOOPBACK, authority, insecure=True)


def test_a_devices_own_certificate(certs: Path) -> None:
    assert trust(LOOPBACK, b"", certs / "pi.crt", certs / "pi.key").secure
    with pytest.raises(TrustError, match="belong together"):
        trust(LOOPBACK, b"", certs / "pi.crt")
    with pytest.raises(TrustError, match="its own key"):
        trust(LOOPBACK, b"", certs / "pi.crt", certs / "server.key")
    with pytest.raises(TrustError, match="cannot be"):
        trust(LOOPBACK, b"", certs / "pi.crt", Path("/nowhere"))


def test_passing_trouble_is_not_distrust() -> None:
    assert distrusted("failed to connect to all addresses; last error: Connection refused") is None
    assert distrusted("Socket closed") is None
