"""TLS of a device or an operator: which authority it trusts, and the certificate that it shows.

Loopback is plain text; everything else is TLS. The coordinator's certificate is checked against its private authority
where one is given, or the system's authorities. Plain text across a network must be asked for by name.
"""

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from zowarmup.common.settings.addresses import is_loopback, proxy_for
from zowarmup.common.system.files import read_given, require_regular

LONGEST_BYTES = 1 << 24  # several times a system's authorities
# Where systems keep their authorities as one file, beside where their OpenSSL says.
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


class TrustError(Exception):
    """The connection cannot be protected as asked; one sentence."""


@dataclass(frozen=True, slots=True)
class Trust:
    """`credentials`: None for plain text; they are made of `authority` (PEM, empty for the system's), and of the files of
    this side's own certificate."""

    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)
    authority: bytes = field(default=b"", repr=False)
    certificate: Path | None = None
    key: Path | None = None

    @property
    def secure(self) -> bool:
        return self.credentials is not None


PLAIN = Trust()


def trust(
    address: str,
    authority: bytes = b"",
    certificate: Path | None = None,
    key: Path | None = None,
    insecure: bool = False,
) -> Trust:
    """How to talk to HOST:PORT, or to several separated by commas: plain text only where all are on the loopback. `authority`: PEM of the coordinator's private authority; `certificate` and `key`: files
    of this side's own, where the coordinator asks for one. Raises TrustError."""
    if (certificate is None) != (key is None):
        raise TrustError("--certificate and --key belong together: give both or neither")
    if insecure:
        if authority or certificate:
            raise TrustError(
                "--insecure contradicts an authority or certificate: the coordinator speaks TLS, so leave --insecure out"
            )
        return PLAIN
    if not authority and certificate is None and all(map(is_loopback, address.split(","))):
        return PLAIN
    if certificate and key:
        _check_pair(certificate, key)
    return Trust(
        grpc.ssl_channel_credentials(
            root_certificates=authority or system_authorities(),
            private_key=read(key, "--key") if key else None,
            certificate_chain=read(certificate, "--certificate") if certificate else None,
        ),
        authority,
        certificate,
        key,
    )


def dialling(address: str) -> list[tuple[str, int | str]]:
    """The options by which a channel of gRPC's reaches HOST:PORT: through a proxy only where one is named for gRPC."""
    proxy = proxy_for(address, os.environ)
    if not proxy:
        return [("grpc.enable_http_proxy", 0)]
    return [("grpc.enable_http_proxy", 1), ("grpc.http_proxy", proxy if "://" in proxy else f"http://{proxy}")]


def read(file: Path, option: str) -> bytes:
    """A file that an option names. Raises TrustError."""
    try:
        return read_given(file, LONGEST_BYTES)
    except OSError as error:
        raise TrustError(f"{option} {file} cannot be read: {error.strerror or error}") from None


def read_authority(file: Path, option: str) -> bytes:
    """A PEM file with certificates. Raises TrustError."""
    pem = read(file, option)
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise TrustError(f"{option} {file} holds no certificate as PEM")
    return pem


def _check_pair(certificate: Path, key: Path) -> None:
    """What grpc would only say at the first handshake, and not clearly."""
    try:
        for file in (certificate, key):
            require_regular(file)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        raise TrustError(
            f"--certificate {certificate} and --key {key} cannot be used "
            f"({getattr(error, 'reason', None) or error.strerror}): they must be a certificate and its own key without "
            "a password, as PEM"
        ) from None


def system_authorities() -> bytes | None:
    """The system's authorities as PEM; None (grpc's own) where they are not found."""
    for name in (ssl.get_default_verify_paths().cafile, *BUNDLES):
        if name and os.path.exists(name):
            return read(Path(name), "the system's authorities")
    return None


def distrusted(details: str) -> str | None:
    """A sentence for people where grpc's words say that the coordinator's certificate will not do, else None."""
    if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification Check failed" in details:
        return (
            "its certificate is not one that this device trusts for that address: check --server, and that the "
            "coordinator is the one the invitation or --ca came from"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return "it speaks plain text where TLS was expected: check --server, or give --insecure if that is meant"
    return None


def shut(details: str) -> str | None:
    """A sentence where grpc's words say that the other side hung up at the handshake, else None. It may be passing: a
    coordinator that stops hangs up too."""
    if "failed to connect" in details and "Socket closed" in details:
        return (
            "it hangs up at once; if that lasts, it speaks TLS to which the invitation or --ca is missing here, or asks "
            "for a certificate (--certificate and --key) that its authority signed"
        )
    return None
