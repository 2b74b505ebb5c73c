"""Where metrics and the live page are shown, how, and to whom.

On the loopback it is plain HTTP; on any other address it is TLS with the coordinator's certificate, unless somebody has said
otherwise. Metrics are for whoever reaches them, or knows a name and a password. The page names devices, so it is for those to
whom `zowarmup status` answers: for everyone on this machine where the run is open on the loopback, and otherwise for who has the
operator's credential, or the page's own password. Browsers ask for both by HTTP's basic authentication; the name is ignored.

A page that is open on the loopback is answered to requests for a loopback address only: a web site that has its own name lead to
127.0.0.1 (DNS rebinding) would have a browser on this machine read it.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from zowarmup.common.settings.addresses import host_and_port, is_loopback
from zowarmup.common.settings.run import Server
from zowarmup.common.system.files import read_given, require_regular
from zowarmup.server.core.errors import ListeningError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """Where to listen. `admits`: whether a request with this `Authorization` may read what there is; None: all may. `hosts`:
    whether a request for this `Host` is answered. `tls` is None for plain HTTP; `files`: those of its certificate and key.
    `what` is shown there, and `setting` says where, for a sentence."""

    host: str
    port: int
    admits: Callable[[bytes], bool] | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    files: tuple[str, str] = ("", "")
    hosts: Callable[[bytes], bool] = field(default=lambda host: True, repr=False)
    what: str = "metrics"
    setting: str = "server.metrics_address"

    def renew(self) -> None:
        """Show the certificate that the files hold by now, from the next handshake on."""
        if self.tls is not None:
            try:
                self.tls.load_cert_chain(*self.files, password=lambda: "")
            except (OSError, ValueError) as error:
                log.warning("the new certificate cannot be used for %s (%s)", self.what, error)


def metrics_endpoint(settings: Server, address: str, insecure: bool) -> HttpEndpoint:
    """Where and how to show metrics at HOST:PORT. Raises ListeningError where that would be in plain text for others to
    read and nobody has said so, or a file is not as it must be."""
    plain = settings.metrics_plaintext or not settings.tls_certificate
    if plain and not is_loopback(address) and not settings.metrics_plaintext and not insecure:
        raise ListeningError(
            f"server.metrics_address = {address!r} is not loopback, and there is no certificate: name one in the run file "
            "as server.tls_certificate and server.tls_key, or say server.metrics_plaintext = true where the network is "
            "your own"
        )
    admits = None
    if settings.metrics_user:
        password = _first_line("server.metrics_password_file", settings.metrics_password_file)
        expected = b"Basic " + base64.b64encode(f"{settings.metrics_user}:{password}".encode())
        admits = functools.partial(hmac.compare_digest, expected)
    if plain and not is_loopback(address):
        what = "figures and the password" if admits else "figures"
        log.warning("metrics at %s are plain HTTP: whoever is on the way reads the %s", address, what)
    files = settings.tls_certificate, settings.tls_key
    tls = None if plain else _tls_context(files, "metrics")
    return HttpEndpoint(*host_and_port(address, listening=True), admits, tls, files)


def page_endpoint(settings: Server, address: str, insecure: bool, guarded: bool, operator_sha256: str) -> HttpEndpoint:
    """Where, how and to whom to show the live page at HOST:PORT.

    Args:
        settings: The run file's.
        address: HOST:PORT.
        insecure: Whether plain text for others to read has been allowed.
        guarded: Whether the operator's credential is needed to look at the status.
        operator_sha256: Of that credential, hex.

    Raises:
        ListeningError: It would be in plain text for others to read and nobody has said so, or a file is not as it must be.
    """
    loopback = is_loopback(address)
    if not loopback and not settings.tls_certificate and not insecure:
        raise ListeningError(
            f"server.web_address = {address!r} is not loopback, and there is no certificate: name one in the run file as "
            "server.tls_certificate and server.tls_key, or leave the page on the loopback and reach it through ssh "
            "(docs/monitoring.md)"
        )
    if not loopback and not settings.tls_certificate:
        log.warning("the page at %s is plain HTTP: whoever is on the way reads it and its password", address)
    known = {operator_sha256}
    if settings.web_password_file:
        known.add(_sha256(_first_line("server.web_password_file", settings.web_password_file).encode()))
    closed = guarded or not loopback or bool(settings.web_password_file)
    files = settings.tls_certificate, settings.tls_key
    return HttpEndpoint(
        *host_and_port(address, listening=True),
        functools.partial(_knows, frozenset(known)) if closed else None,
        None if loopback or not settings.tls_certificate else _tls_context(files, "the page"),
        files,
        (lambda host: True) if closed else _names_loopback,
        "the page",
        "server.web_address",
    )


def _knows(known: frozenset[str], shown: bytes) -> bool:
    """Whether the password of an `Authorization: Basic` is one of those known, by their hashes."""
    kind, _, encoded = shown.partition(b" ")
    if kind.lower() != b"basic":
        return False
    try:
        password = base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return False
    return any(hmac.compare_digest(_sha256(password), one) for one in known)


def _sha256(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _names_loopback(host: bytes) -> bool:
    text = host.decode("ascii")
    return is_loopback(text if text.rpartition("]")[2].startswith(":") or text.count(":") == 1 else f"{text}:80")


def _tls_context(files: tuple[str, str], what: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        for file in files:
            require_regular(Path(file))
        context.load_cert_chain(*files, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ListeningError(f"server.tls_certificate cannot be used for {what}: {error}") from error
    return context


def _first_line(setting: str, path: str) -> str:
    try:
        lines = read_given(Path(path)).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ListeningError(f"{setting} = {path!r} cannot be read: {error}") from error
    if not lines or not lines[0]:
        raise ListeningError(f"{setting} = {path!r}: its first line must be the password")
    return lines[0]
