"""The coordinator's certificate: checked at the start, and reloaded when its files change.

So a renewal needs no restart: connections that are open stay as they are, and every later handshake, gRPC's and that of
the metrics, shows the new certificate. Files that do not belong together, as between the writing of one and the other,
change nothing: the certificate from before stays in use until they do.
"""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from zowarmup.common.settings.run import Server
from zowarmup.common.system.files import read_given, require_regular

log = logging.getLogger(__name__)

LOOK_S = 5.0
DAY_S = 86400.0
WARN_S = 30 * DAY_S


class CertificateError(Exception):
    """A certificate, its key or an authority cannot be used; the sentence names the file and what it must be."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM of the `chain`, of its `key` and of who signs clients' certificates (empty: they show none). `authority`: PEM of
    the private authority beside the certificate, empty where there is none. `expires_at`: seconds since 1970, of the
    certificate of the chain that expires first."""

    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    client_ca: bytes
    authority: bytes
    expires_at: float


def read_certificate(settings: Server) -> Certificate:
    """The certificate that a run file names. Raises CertificateError."""
    # Loaded when used: a coordinator on the loopback does without.
    from cryptography import x509

    chain, key = _read("tls_certificate", settings.tls_certificate), _read("tls_key", settings.tls_key)
    client_ca = _read("client_ca", settings.client_ca)
    _check(settings)
    beside = _beside(settings)
    authority = _read("tls_certificate's authority", str(beside)) if beside.exists() else b""
    certificates = x509.load_pem_x509_certificates(chain)
    expires_at = min(one.not_valid_after_utc for one in certificates).timestamp()
    return Certificate(chain, key, client_ca, authority, expires_at)


class Certificates:
    """The certificate in use, `current`, and the watch over its files. Raises CertificateError where it cannot be used."""

    def __init__(self, settings: Server) -> None:
        self._settings = settings
        self._seen = self._doubted = self._stamp()
        self.current = read_certificate(settings)
        self._next: grpc.ServerCertificateConfiguration | None = None
        self._warned_at = 0.0

    def credentials(self) -> grpc.ServerCredentials:
        """What a gRPC server listens with; it asks at every handshake whether there is a new certificate."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self.current), self._fetch, require_client_authentication=bool(self.current.client_ca)
        )

    def look(self, now: float) -> bool:
        """Read the files again if they have changed.

        Args:
            now: seconds since 1970.

        Returns:
            Whether another certificate is in use from now on. What cannot be used is logged, once.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        try:
            found = read_certificate(self._settings)
            if self._stamp() != stamp:
                return False  # half of it may be from before
            if found.expires_at <= now:
                raise CertificateError(f"server.tls_certificate = {self._settings.tls_certificate!r} has expired")
        except (CertificateError, ValueError) as error:
            # Seen twice alike, it is not somebody who is just writing them.
            if stamp == self._doubted:
                log.warning("a new certificate cannot be used (%s): the one from before stays in use", error)
                self._seen = stamp
            self._doubted = stamp
            return False
        self._seen = self._doubted = stamp
        if found == self.current:
            return False
        self.current, self._next = found, _configuration(found)
        log.info("a new certificate is in use, good until %s", _date(found.expires_at))
        self._warned_at = 0.0
        return True

    def warn(self, now: float) -> None:
        """Log, once a day, that the certificate expires within 30 days, or has. `now`: seconds since 1970."""
        left = self.current.expires_at - now
        if left < WARN_S and not 0 <= now - self._warned_at < DAY_S:
            self._warned_at = now
            when = f"expires in {left / DAY_S:.0f} days, on" if left > 0 else "has expired, on"
            log.warning(
                "the certificate %s %s: devices refuse it from then on. Renew it (`zowarmup certs server`); no restart is "
                "needed",
                when,
                _date(self.current.expires_at),
            )

    async def watch(self, renewed: Callable[[], None]) -> None:
        """Look and warn from now on; `renewed` is called in the event loop when another certificate is in use."""
        while True:
            self.warn(time.time())
            await asyncio.sleep(LOOK_S)
            if await asyncio.to_thread(self.look, time.time()):
                renewed()

    def _fetch(self) -> grpc.ServerCertificateConfiguration:
        found, self._next = self._next, None
        return found  # type: ignore[return-value]  # None: as before

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        settings = self._settings
        names = (settings.tls_certificate, settings.tls_key, settings.client_ca, str(_beside(settings)))
        return tuple(_identity(name) for name in names)


def _identity(name: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _configuration(of: Certificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(of.key, of.chain)], root_certificates=of.client_ca or None)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _beside(settings: Server) -> Path:
    return Path(settings.tls_certificate).with_name("ca.crt")


def _read(name: str, path: str) -> bytes:
    if not path:
        return b""
    try:
        return read_given(Path(path))
    except OSError as error:
        raise CertificateError(f"server.{name} = {path!r} cannot be read: {error.strerror}") from error


def _check(settings: Server) -> None:
    """What grpc would only refuse at the first handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        for file in (settings.tls_certificate, settings.tls_key):
            require_regular(Path(file))
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CertificateError(
            f"server.tls_certificate = {settings.tls_certificate!r} and server.tls_key = {settings.tls_key!r} cannot be "
            f"used ({getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error}): they must be a certificate and its own key without a "
            "password, as PEM"
        ) from error
    if settings.client_ca:
        try:
            context.load_verify_locations(settings.client_ca)
        except OSError as error:
            raise CertificateError(f"server.client_ca = {settings.client_ca!r} holds no certificate as PEM") from error
