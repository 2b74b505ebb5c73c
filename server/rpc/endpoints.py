"""The coordinator's endpoint: address, TLS, and whether joining needs an invitation.

Loopback is plain text and open to all; any other address needs a certificate, and an invitation to join. Both can be
said otherwise, but not in silence.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from zowarmup.common.settings.addresses import is_loopback
from zowarmup.common.settings.run import Server
from zowarmup.server.core.errors import ListeningError
from zowarmup.server.rpc.certificate import CertificateError, Certificates
from zowarmup.server.store.archive import CA_FILE

log = logging.getLogger(__name__)

HEALTH_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_allowed_incoming_connections", 256),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 5_000),
)
"""A probe connects, asks, and leaves."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`certificates` is None for plain text. `invited`, `guarded`: as in Admission."""

    address: str
    invited: bool
    guarded: bool
    certificates: Certificates | None = field(default=None, repr=False)

    @property
    def ca(self) -> bytes:
        """PEM of the authority that signed the coordinator's certificate, where it is private: clients are told it with
        their invitation."""
        return self.certificates.current.authority if self.certificates else b""

    @property
    def trusted(self) -> bytes:
        """PEM of what another coordinator is to trust that calls this one: the private authority, or else the certificates
        themselves, those that have signed the first of them among them; empty for plain text."""
        return self.ca or (self.certificates.current.chain if self.certificates else b"")

    @property
    def shown(self) -> tuple[bytes, bytes] | None:
        """PEM of the key and the certificates that this coordinator shows to another; None for plain text."""
        if self.certificates is None:
            return None
        return self.certificates.current.key, self.certificates.current.chain

    @property
    def expires_at(self) -> float | None:
        """When the certificate in use expires, seconds since 1970; None for plain text."""
        return self.certificates.current.expires_at if self.certificates else None

    def open(self, server: grpc.aio.Server) -> int:
        """The port. Raises ListeningError where it is taken."""
        try:
            if self.certificates is None:
                return server.add_insecure_port(self.address)
            return server.add_secure_port(self.address, self.certificates.credentials())
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

    def at(self, port: int) -> str:
        """HOST:PORT with the port that was opened."""
        return f"{self.address.rpartition(':')[0]}:{port}"

    def describe(self, port: int) -> str:
        """How to join at the port that was opened, for the log."""
        address = self.at(port)
        how = "plain text" if self.certificates is None else "TLS"
        how += ", clients show certificates" if self.certificates and self.certificates.current.client_ca else ""
        if self.invited:
            return f"listening on {address} ({how}); devices join by invitation: zowarmup invite"
        return f"listening on {address} ({how}); join with: zowarmup-client --server {address} --data SPEC"


def endpoint_of(settings: Server, address: str, insecure: bool) -> Endpoint:
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
        return Endpoint(address, invited, guarded)
    if not loopback and not invited:
        log.warning('server.enrolment = "open": whoever reaches %s can join this run', address)
    try:
        certificates = Certificates(settings)
    except CertificateError as error:
        raise ListeningError(str(error)) from error
    return Endpoint(address, invited, guarded, certificates)


def health_server(address: str, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server | None:  # type: ignore[type-arg]
    """A server for health alone, in plain text at HOST:PORT, which nothing but a word of the service's state can leave
    by; None where there is no address. Raises ListeningError where the port is taken."""
    if not address:
        return None
    server = grpc.aio.server(interceptors=interceptors, maximum_concurrent_rpcs=100, options=HEALTH_OPTIONS)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListeningError(
            f"server.health_address = {address!r}: another program uses the port, or the host is not this machine's"
        ) from error
    return server
