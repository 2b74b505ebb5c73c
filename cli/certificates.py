"""A certificate authority of one's own, for a run's coordinators and their operator: no service, four small files.

    ca.crt      the authority: what devices trust; it travels with every invitation
    ca.key      its key: keep it on the operator's machine, it is needed for nothing but new certificates
    server.crt, server.key      the coordinator's certificate, for the names that devices call it by; of several coordinators
                                either one for the names of all, or one of each, NAME.crt and NAME.key

EC P-256 throughout; keys are written with mode 600. `server` renews the last two under the same authority: devices go on
as they are, and a coordinator that reads these files takes the new ones into use without a restart.
"""

import contextlib
import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from zowarmup.common.settings.addresses import host_and_port
from zowarmup.common.system.command import CommandError, Usage
from zowarmup.common.system.files import read_given

DAYS = 3650
COORDINATOR = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""What its certificate is for: it answers devices, and asks the coordinator that leads, where there are several."""
# Clocks of devices without a battery are often behind.
BACKDATED = datetime.timedelta(days=1)


def init(out: Path, hosts: Sequence[str], days: int = DAYS) -> list[Path]:
    """Make an authority and a server certificate, the latter for hosts (names or IP addresses), valid for `days`, in a
    folder; the files. Raises CommandError where one of them is there already or the folder cannot be written, Usage where a host is not one."""
    names = [_alternative(host) for host in hosts]
    files = [out / name for name in ("ca.key", "ca.crt", "server.key", "server.crt")]
    _make_folder(out, files)
    authority_key, server_key = _new_key(), _new_key()
    authority = _sign("zowarmup authority", authority_key, None, authority_key, [])
    server = _sign(hosts[0], server_key, authority, authority_key, names, COORDINATOR, days)
    _write(files, (_pem_key(authority_key), _pem(authority), _pem_key(server_key), _pem(server)))
    return files


def server(folder: Path, hosts: Sequence[str], days: int = DAYS, called: str = "server") -> list[Path]:
    """Make a new server key and certificate under the authority in a folder, in the place of those that are there.

    Args:
        folder: where ca.crt and ca.key are.
        hosts: names or IP addresses that devices call the coordinator by; empty: those of the former certificate.
        days: how long the certificate is good; it never outlives its authority.
        called: what the files are called, without .key and .crt.

    Returns:
        The two files, each replaced whole.

    Raises:
        CommandError: the authority is missing or damaged, a file cannot be read or written, or those that are there are a device's.
        Usage: a host is not one.
    """
    names = [_alternative(host) for host in hosts]
    authority, authority_key = _authority(folder)
    files = [folder / f"{called}.key", folder / f"{called}.crt"]
    try:
        extensions = x509.load_pem_x509_certificate(read_given(files[1])).extensions
        former = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        if ExtendedKeyUsageOID.SERVER_AUTH not in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value:
            raise CommandError(f"{files[1]} is a device's or an operator's: give another --name")
        names = names or former
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        if not names:
            raise CommandError(
                f"{files[1]} does not say for whom it is good ({error}): give --host NAME[,NAME..]"
            ) from error
    key = _new_key()
    subject = hosts[0] if hosts else str(names[0].value)
    certificate = _sign(subject, key, authority, authority_key, names, COORDINATOR, days)
    fresh = [file.with_name(f"new-{file.name}") for file in files]
    for new in fresh:
        try:
            new.unlink(missing_ok=True)
        except OSError as error:
            raise CommandError(f"{new} cannot be removed: {error.strerror}") from error
    _write(fresh, (_pem_key(key), _pem(certificate)))
    for new, file in zip(fresh, files, strict=True):
        try:
            new.replace(file)
        except OSError as error:
            raise CommandError(f"{file} cannot be replaced: {error.strerror}") from error
    return files


def client(folder: Path, name: str, days: int = DAYS) -> list[Path]:
    """Make a certificate for a device or an operator, signed by the authority in a folder, valid for `days`; the
    files. Raises CommandError."""
    authority, authority_key = _authority(folder)
    files = [folder / f"{name}.key", folder / f"{name}.crt"]
    _make_folder(folder, files)
    key = _new_key()
    usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = _sign(name, key, authority, authority_key, [x509.DNSName(name)], usage, days)
    _write(files, (_pem_key(key), _pem(certificate)))
    return files


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The authority in a folder and its key. Raises CommandError."""
    try:
        authority = x509.load_pem_x509_certificate(read_given(folder / "ca.crt"))
        key = serialization.load_pem_private_key(read_given(folder / "ca.key"), None)
    except OSError as error:
        raise CommandError(
            f"{error.filename} cannot be read ({error.strerror}): make it with `zowarmup certs init`"
        ) from error
    except (ValueError, TypeError) as error:
        raise CommandError(
            f"{folder / 'ca.crt'} or {folder / 'ca.key'} is damaged: restore both from a copy, or make an authority anew in "
            "another folder"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CommandError(f"{folder / 'ca.key'} is not a key that `zowarmup certs init` made")
    if key.public_key() != authority.public_key():
        raise CommandError(
            f"{folder / 'ca.key'} is not the key of {folder / 'ca.crt'}: put the two of one authority there"
        )
    if authority.not_valid_after_utc <= datetime.datetime.now(datetime.UTC):
        raise CommandError(
            f"the authority in {folder} has expired: make another with `zowarmup certs init --out ANOTHER` "
            "(docs/security.md)"
        )
    return authority, key


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    try:
        host_and_port(f"{host}:1")
    except ValueError as error:
        raise Usage(
            f"--host {host!r}: must be a name or an IP address without a port, several separated by commas"
        ) from error
    return x509.DNSName(host)


def _sign(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate | None,
    authority_key: ec.EllipticCurvePrivateKey,
    names: list[x509.GeneralName],
    usage: Sequence[x509.ObjectIdentifier] = (),
    days: int | None = None,
) -> x509.Certificate:
    """A certificate for a key; one without `authority` signs itself and may sign others."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=days or DAYS)
    authority_public = authority_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(until, authority.not_valid_after_utc) if authority else until)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=0 if authority is None else None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_public), False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=authority is not None,
                key_cert_sign=authority is None,
                crl_sign=authority is None,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            True,
        )
    )
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), False)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return builder.sign(authority_key, hashes.SHA256())


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _make_folder(out: Path, files: list[Path]) -> None:
    if there := [str(file) for file in files if file.exists()]:
        raise CommandError(
            f"{', '.join(there)} exists already: name another folder, or move it away if it is of no use"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{out} cannot be made: {error.strerror}; name another folder with --out") from error


def _write(files: Sequence[Path], contents: Sequence[bytes]) -> None:
    """All of them or none, and never over an existing file. Keys only for their owner, from the first byte on."""
    made: list[Path] = []
    for file, content in zip(files, contents, strict=True):
        mode = 0o600 if file.suffix == ".key" else 0o644
        try:
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                made.append(file)
                out.write(content)
        except OSError as error:
            for half in made:
                with contextlib.suppress(OSError):
                    half.unlink()
            raise CommandError(
                f"{file} cannot be written: {error.strerror}; free space, or name another folder"
            ) from error
