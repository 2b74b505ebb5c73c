"""The HTTP endpoint of /metrics, in a thread and an event loop of its own, so that a scrape never delays the fleet.

Small on purpose: GET and HEAD of /metrics, nothing else; a request has `LONGEST_BYTES`, and `REQUEST_S` seconds in all
until its answer has been read, its TLS handshake included; at most `AT_ONCE` of them are served at a time. Connections
beyond `CONNECTIONS`, and beyond `CONNECTIONS_EACH` of one address, are closed before their handshake, so that whoever
reaches the port can at worst keep others from scraping, and from one address not even that. TLS with the coordinator's
own certificate, and a name and a password, where they are configured.
"""

import asyncio
import base64
import contextlib
import gzip
import hmac
import logging
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from zowarmup.common.settings.addresses import is_loopback, network
from zowarmup.common.settings.run import Server
from zowarmup.common.system.files import read_given, require_regular
from zowarmup.server.core.errors import ListeningError

log = logging.getLogger(__name__)

REQUEST_S = 10.0
LONGEST_BYTES = 16384
AT_ONCE = 16
CONNECTIONS, CONNECTIONS_EACH = 64, 8
BACKLOG = 64


@dataclass(frozen=True, slots=True)
class MetricsEndpoint:
    """Where metrics are shown. `authorization`: what the header must be; empty: none is asked for. `tls` is None for
    plain HTTP; `files`: those of its certificate and key."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    files: tuple[str, str] = ("", "")

    def renew(self) -> None:
        """Show the certificate that the files hold by now, from the next handshake on."""
        if self.tls is not None:
            try:
                self.tls.load_cert_chain(*self.files, password=lambda: "")
            except (OSError, ValueError) as error:
                log.warning("the new certificate cannot be used for metrics (%s)", error)


def metrics_endpoint(settings: Server, address: str, insecure: bool) -> MetricsEndpoint | None:
    """Where and how to show metrics at HOST:PORT, or None where the address is empty. Raises ListeningError where that
    would be in plain text for others to read and nobody has said so, or a file is not as it must be."""
    if not address:
        return None
    host, _, port = address.rpartition(":")
    plain = settings.metrics_plaintext or not settings.tls_certificate
    if plain and not is_loopback(address) and not settings.metrics_plaintext and not insecure:
        raise ListeningError(
            f"server.metrics_address = {address!r} is not loopback, and there is no certificate: name one in the run file "
            "as server.tls_certificate and server.tls_key, or say server.metrics_plaintext = true where the network is "
            "your own"
        )
    authorization = ""
    if settings.metrics_user:
        password = _password(settings.metrics_password_file)
        told = base64.b64encode(f"{settings.metrics_user}:{password}".encode()).decode()
        authorization = f"Basic {told}"
    if plain and not is_loopback(address):
        what = "figures and the password" if authorization else "figures"
        log.warning("metrics at %s are plain HTTP: whoever is on the way reads the %s", address, what)
    tls, files = None, (settings.tls_certificate, settings.tls_key)
    if not plain:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            for file in files:
                require_regular(Path(file))
            tls.load_cert_chain(*files, password=lambda: "")
        except (OSError, ValueError) as error:
            raise ListeningError(f"server.tls_certificate cannot be used for metrics: {error}") from error
    return MetricsEndpoint(host.removeprefix("[").removesuffix("]"), int(port), authorization, tls, files)


def _password(path: str) -> str:
    try:
        lines = read_given(Path(path)).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ListeningError(f"server.metrics_password_file = {path!r} cannot be read: {error}") from error
    if not lines or not lines[0]:
        raise ListeningError(f"server.metrics_password_file = {path!r}: its first line must be the password")
    return lines[0]


class MetricsServer:
    """A registry, shown at a window from `open` until `close`."""

    def __init__(self, registry: CollectorRegistry, window: MetricsEndpoint) -> None:
        self._registry, self._window = registry, window
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="metrics", daemon=True)
        self._slots, self._connected = asyncio.Semaphore(AT_ONCE), Counter[str]()
        self._server: asyncio.Server | None = None

    def open(self) -> str:
        """Begin to listen; the URL. Raises ListeningError where the port is taken."""
        self._loop.set_exception_handler(_passing)
        self._thread.start()
        where = self._window
        try:
            starting = asyncio.start_server(
                self._serve,
                where.host,
                where.port,
                limit=LONGEST_BYTES,
                backlog=BACKLOG,
            )
            self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        except OSError as error:
            self.close()
            raise ListeningError(
                f"cannot show metrics on {where.host}:{where.port} ({error.strerror or error}): change "
                "server.metrics_address"
            ) from error
        port = self._server.sockets[0].getsockname()[1]
        host = f"[{where.host}]" if ":" in where.host else where.host
        return f"{'https' if where.tls else 'http'}://{host}:{port}/metrics"

    def renew(self) -> None:
        """Show a new certificate. In the thread where handshakes begin, which is not to see half of it."""
        self._loop.call_soon_threadsafe(self._window.renew)

    def close(self) -> None:
        async def end() -> None:
            if self._server is not None:
                self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(REQUEST_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(REQUEST_S)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = network((writer.get_extra_info("peername") or ("",))[0])
        self._connected[source] += 1
        try:
            if self._connected[source] <= CONNECTIONS_EACH and self._connected.total() <= CONNECTIONS:
                await self._respond(reader, writer)
        finally:
            # Closing alone would keep what a peer does not read, and its socket, for as long as it likes.
            writer.transport.abort()
            self._connected[source] -= 1
            if not self._connected[source]:
                del self._connected[source]

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(REQUEST_S), self._slots:
                if self._window.tls is not None:
                    await writer.start_tls(self._window.tls, ssl_handshake_timeout=REQUEST_S)
                writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                writer.close()
                await writer.wait_closed()

    def _answer(self, request: bytes) -> bytes:
        line, *rest = request.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
        method, target, *_ = [*line.split(), "", ""]
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"}, b"")
        if target.partition("?")[0] != "/metrics":
            return _response(HTTPStatus.NOT_FOUND, {}, b"metrics are at /metrics\n")
        wanted = self._window.authorization
        if wanted and not hmac.compare_digest(headers.get("authorization", "").encode(), wanted.encode()):
            return _response(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="zowarmup"'}, b"")
        try:
            encode, kind = choose_encoder(headers.get("accept", ""))
            body = encode(self._registry)
        except Exception:
            log.exception("the metrics cannot be gathered")
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR, {}, b"see the coordinator's log\n")
        more = {"Content-Type": kind}
        if "gzip" in headers.get("accept-encoding", ""):
            body = gzip.compress(body, compresslevel=4)
            more["Content-Encoding"] = "gzip"
        return _response(HTTPStatus.OK, more, b"" if method == "HEAD" else body, len(body))


def _passing(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What the event loop says by itself: of handshakes that break off, or of no descriptor being left for a connection."""
    log.info("metrics: %s (%s)", context.get("message"), context.get("exception"))


def _response(status: HTTPStatus, headers: dict[str, str], body: bytes, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    told = {"Content-Type": "text/plain", **headers, "Content-Length": str(length), "Connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n".encode("latin-1") + body
