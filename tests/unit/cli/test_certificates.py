"""Certificates: what is made, for whom it is good, and that nothing is lost or left open."""

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from zowarmup.cli.certificates import DAYS, client, init, server
from zowarmup.common.system.command import CommandError, Usage


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_server_certificate_is_for_its_hosts_and_signed_by_the_authority(tmp_path: Path) -> None:
    init(tmp_path, ["coordinator.local", "192.0.2.7", "::1"])
    authority, server = load(tmp_path / "ca.crt"), load(tmp_path / "server.crt")
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["coordinator.local"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("::1")]
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = server.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    left = server.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left > datetime.timedelta(days=3000)


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    init(tmp_path / "certs", ["host"])
    client(tmp_path / "certs", "pi")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "certs").iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {"ca.key", "server.key", "pi.key"}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    init(tmp_path, ["host"])
    client(tmp_path, "pi")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CommandError, match=r"ca\.key, .* exists already"):
        init(tmp_path, ["host"])
    with pytest.raises(CommandError, match=r"pi\.key, .* exists already"):
        client(tmp_path, "pi")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("host", ["", "a b", "host:7070", "a,b", "http://x", "höst", "a..b"])
def test_what_is_no_host(host: str, tmp_path: Path) -> None:
    with pytest.raises(Usage, match="--host"):
        init(tmp_path / "out", [host])
    assert not (tmp_path / "out").exists()


def test_a_client_certificate_needs_the_authority(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="zowarmup certs init"):
        client(tmp_path, "pi")
    (tmp_path / "ca.crt").write_text("x")
    (tmp_path / "ca.key").write_text("x")
    with pytest.raises(CommandError, match="damaged"):
        client(tmp_path, "pi")


def test_a_renewed_certificate_is_for_the_same_hosts_of_the_same_authority_and_of_another_key(tmp_path: Path) -> None:
    init(tmp_path, ["coordinator.local", "192.0.2.7"])
    former, former_key = load(tmp_path / "server.crt"), (tmp_path / "server.key").read_bytes()
    authority = (tmp_path / "ca.crt").read_bytes()
    assert server(tmp_path, [], days=30) == [tmp_path / "server.key", tmp_path / "server.crt"]
    renewed = load(tmp_path / "server.crt")
    renewed.verify_directly_issued_by(load(tmp_path / "ca.crt"))
    names = x509.SubjectAlternativeName
    assert (
        renewed.extensions.get_extension_for_class(names).value
        == former.extensions.get_extension_for_class(names).value
    )
    assert renewed.serial_number != former.serial_number and renewed.public_key() != former.public_key()
    assert (tmp_path / "server.key").read_bytes() != former_key
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "ca.crt").read_bytes() == authority
    left = renewed.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=29) < left <= datetime.timedelta(days=30)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ca.crt", "ca.key", "server.crt", "server.key"]
    server(tmp_path, ["other.local"])
    assert load(tmp_path / "server.crt").extensions.get_extension_for_class(names).value.get_values_for_type(
        x509.DNSName
    ) == ["other.local"]


def test_each_of_several_coordinators_may_have_its_own_and_a_devices_is_not_overwritten(tmp_path: Path) -> None:
    init(tmp_path, ["a.example"])
    client(tmp_path, "pi")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert server(tmp_path, ["b.example"], called="b") == [tmp_path / "b.key", tmp_path / "b.crt"]
    server(tmp_path, [], called="b")
    made = load(tmp_path / "b.crt")
    made.verify_directly_issued_by(load(tmp_path / "ca.crt"))
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["b.example"]
    with pytest.raises(CommandError, match=r"pi\.crt is a device's"):
        server(tmp_path, ["c.example"], called="pi")
    assert {path: path.read_bytes() for path in before} == before


def test_a_renewed_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    init(tmp_path, ["host"], days=10)
    server(tmp_path, [], days=2 * DAYS)
    assert load(tmp_path / "server.crt").not_valid_after_utc == load(tmp_path / "ca.crt").not_valid_after_utc


def test_what_cannot_be_renewed_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="zowarmup certs init"):
        server(tmp_path, ["host"])
    init(tmp_path / "one", ["host"])
    init(tmp_path / "two", ["host"])
    (tmp_path / "one" / "ca.key").write_bytes((tmp_path / "two" / "ca.key").read_bytes())
    before = (tmp_path / "one" / "server.crt").read_bytes()
    with pytest.raises(CommandError, match=r"ca\.key is not the key of .*ca\.crt"):
        server(tmp_path / "one", [])
    with pytest.raises(Usage, match="--host"):
        server(tmp_path / "two", ["a b"])
    (tmp_path / "two" / "server.crt").unlink()
    with pytest.raises(CommandError, match="give --host"):
        server(tmp_path / "two", [])
    assert (tmp_path / "one" / "server.crt").read_bytes() == before
