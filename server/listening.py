"""Where the coordinator listens, how its traffic is protected, and who may come in.

Loopback is plain text and open to all; any other address needs a certificate, and an invitation to join. Both can be
said otherwise, but not in silence.
"""

import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from zowarmup.common.addresses import is_loopback
from zowarmup.common.run import Server
from zowarmup.server.wire import Wire

log = logging.getLogger(__name__)

CA_FILE = "ca.pem"


class ListeningError(Exception):
    """The coordinator cannot listen like this; the sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Door:
    """`credentials` is None for plain text. `ca`: PEM of the authority that signed the coordinator's certificate, where
    it is private: clients are told it with their invitation. `invited`, `guarded`: as in Admission."""

    address: str
    invited: bool
    guarded: bool
    credentials: grpc.ServerCredentials | None = field(default=None, repr=False)
    ca: bytes = b""
    mutual: bool = False
    expires_at: float | None = None
    wire: Wire = field(default_factory=Wire)

    def open(self, server: grpc.aio.Server) -> int:
        """The port. Raises ListeningError where it is taken."""
        try:
            if self.credentials is None:
                return server.add_insecure_port(self.address)
            return server.add_secure_port(self.address, self.credentials)
        except RuntimeError as error:
            raise ListeningError(
                f"cannot listen on {self.address}: another program uses the port, or the host is not this machine's; "
                "change server.address, or give --address HOST:PORT"
            ) from error

    def publish(self, data_dir: Path) -> None:
        """Leave the authority's certificate, which is no secret, where `zowarmup --data-dir` finds it."""
        if self.ca:
            (data_dir / CA_FILE).write_bytes(self.ca)
        else:
            (data_dir / CA_FILE).unlink(missing_ok=True)

    def describe(self, port: int) -> str:
        """How to join at the port that was opened, for the log."""
        address = f"{self.address.rpartition(':')[0]}:{port}"
        how = "plain text" if self.credentials is None else "TLS"
        how += ", clients show certificates" if self.mutual else ""
        if self.invited:
            return f"listening on {address} ({how}); devices join by invitation: zowarmup invite"
        return f"listening on {address} ({how}); join with: zowarmup-client --server {address} --data SPEC"


def door(settings: Server, address: str, insecure: bool) -> Door:
    """The way in at HOST:PORT. Raises ListeningError where it would not be a safe one, or a file is not as it must be."""
    loopback, tls = is_loopback(address), bool(settings.tls_certificate)
    invited = settings.enrolment == "invited" or (settings.enrolment == "" and not loopback)
    guarded = invited or not loopback
    if tls and insecure:
        raise ListeningError("--insecure contradicts server.tls_certificate: leave one of them out")
    if not tls:
        if not loopback and not insecure:
            raise ListeningError(
                f"{address} is not loopback, and there is no certificate: make one with `zowarmup certs init` and name it "
                "in the run file as server.tls_certificate and server.tls_key, or give --insecure to send everything, "
                "secrets too, in plain text"
            )
        if insecure and not loopback:
            log.warning(
                "--insecure: traffic on %s is plain text. Whoever is on the way can read and change everything, steal the "
                "credentials of clients and operator, and so take over the run: use it on a network of your own or a VPN",
                address,
            )
        return Door(address, invited, guarded)
    if not loopback and not invited:
        log.warning('server.enrolment = "open": whoever reaches %s can join this run', address)
    # Loaded when used: a coordinator on the loopback does without.
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate, key, client_ca = (
        _read(name, path)
        for name, path in (
            ("tls_certificate", settings.tls_certificate),
            ("tls_key", settings.tls_key),
            ("client_ca", settings.client_ca),
        )
    )
    _check(settings)
    credentials = grpc.ssl_server_credentials(
        [(key, certificate)],
        root_certificates=client_ca or None,
        require_client_auth=bool(client_ca),
    )
    beside = Path(settings.tls_certificate).with_name("ca.crt")
    ca = beside.read_bytes() if beside.exists() else b""
    chain = x509.load_pem_x509_certificates(certificate)
    expires_at = min(one.not_valid_after_utc for one in chain).timestamp()
    shown = sum(len(one.public_bytes(Encoding.DER)) for one in chain)
    return Door(address, invited, guarded, credentials, ca, bool(client_ca), expires_at, Wire(True, shown))


def bystander(address: str) -> grpc.aio.Server | None:
    """A server for health alone, in plain text at HOST:PORT, which nothing but a word of the service's state can leave
    by; None where there is no address. Raises ListeningError where the port is taken."""
    if not address:
        return None
    server = grpc.aio.server(maximum_concurrent_rpcs=100, options=(("grpc.so_reuseport", 0),))
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListeningError(
            f"server.health_address = {address!r}: another program uses the port, or the host is not this machine's"
        ) from error
    return server


def _read(name: str, path: str) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ListeningError(f"server.{name} = {path!r} cannot be read: {error.strerror}") from error


def _check(settings: Server) -> None:
    """What grpc would only refuse at the first handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ListeningError(
            f"server.tls_certificate = {settings.tls_certificate!r} and server.tls_key = {settings.tls_key!r} cannot be "
            f"used ({getattr(error, 'reason', None) or error}): they must be a certificate and its own key without a "
            "password, as PEM"
        ) from error
    if settings.client_ca:
        try:
            context.load_verify_locations(settings.client_ca)
        except ssl.SSLError as error:
            raise ListeningError(f"server.client_ca = {settings.client_ca!r} holds no certificate as PEM") from error
