"""The coordinator's HTTP server: uvicorn in a thread and an event loop of its own, so that no request delays the fleet.

What is served are ASGI applications, each at its path (`/metrics` is prometheus_client's own). This module adds what
uvicorn leaves to a proxy, as nobody puts one before a coordinator. A connection counts from before its TLS handshake, and
those beyond `connections`, or `CONNECTIONS_EACH` of one network, are closed; it lasts at most `request_s` seconds, in which
its answer must have been read. So whoever reaches the port can at worst keep others from reading, and from one network
not even that. TLS uses the coordinator's certificate; a user and a password are asked for where they are configured.

Loaded only where there is something to serve.
"""

import asyncio
import base64
import contextlib
import hmac
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from uvicorn import Config
from uvicorn import Server as Uvicorn

from zowarmup.common.settings.addresses import host_and_port, is_loopback, network
from zowarmup.common.settings.run import Server
from zowarmup.common.system.files import read_given, require_regular
from zowarmup.server.core.errors import ListeningError

log = logging.getLogger(__name__)

REQUEST_S = 10.0
LONGEST_BYTES = 16384
CONNECTIONS, CONNECTIONS_EACH = 64, 8
BACKLOG = 64

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""Of ASGI: called with the scope, `receive` and `send`."""


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """Where to listen. `authorization`: what that header must be; empty: none is asked for. `tls` is None for plain HTTP;
    `files`: those of its certificate and key."""

    host: str
    port: int
    authorization: bytes = field(default=b"", repr=False)
    tls: ssl.SSLContext | None = None
    files: tuple[str, str] = ("", "")

    def renew(self) -> None:
        """Show the certificate that the files hold by now, from the next handshake on."""
        if self.tls is not None:
            try:
                self.tls.load_cert_chain(*self.files, password=lambda: "")
            except (OSError, ValueError) as error:
                log.warning("the new certificate cannot be used for metrics (%s)", error)


def http_endpoint(settings: Server, address: str, insecure: bool) -> HttpEndpoint:
    """Where and how to show metrics at HOST:PORT. Raises ListeningError where that would be in plain text for others to
    read and nobody has said so, or a file is not as it must be."""
    plain = settings.metrics_plaintext or not settings.tls_certificate
    if plain and not is_loopback(address) and not settings.metrics_plaintext and not insecure:
        raise ListeningError(
            f"server.metrics_address = {address!r} is not loopback, and there is no certificate: name one in the run file "
            "as server.tls_certificate and server.tls_key, or say server.metrics_plaintext = true where the network is "
            "your own"
        )
    authorization = b""
    if settings.metrics_user:
        password = _password(settings.metrics_password_file)
        authorization = b"Basic " + base64.b64encode(f"{settings.metrics_user}:{password}".encode())
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
    return HttpEndpoint(*host_and_port(address, listening=True), authorization, tls, files)


def _password(path: str) -> str:
    try:
        lines = read_given(Path(path)).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ListeningError(f"server.metrics_password_file = {path!r} cannot be read: {error}") from error
    if not lines or not lines[0]:
        raise ListeningError(f"server.metrics_password_file = {path!r}: its first line must be the password")
    return lines[0]


class HttpServer:
    """Applications by path, served at an endpoint from `open` until `close`.

    Args:
        endpoint: Where to listen.
        applications: By their path.
        connections: So many may be open at a time.
        request_s: So long may each be open, in seconds.
    """

    def __init__(
        self,
        endpoint: HttpEndpoint,
        applications: Mapping[str, Application],
        *,
        connections: int = CONNECTIONS,
        request_s: float = REQUEST_S,
    ) -> None:
        self._endpoint, tls = endpoint, endpoint.tls
        self._connections, self._request_s = connections, request_s
        self._loop = asyncio.new_event_loop()
        self._uvicorn = Uvicorn(
            Config(
                _guarded(applications, endpoint.authorization),
                http="h11",
                ws="none",
                ssl_context_factory=(lambda config, default: tls) if tls is not None else None,
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                headers=[("connection", "close")],
                backlog=BACKLOG,
                h11_max_incomplete_event_size=LONGEST_BYTES,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread: threading.Thread | None = None
        self._connected: set[_Connection] = set()

    def open(self) -> str:
        """Begin to listen; the URL, without a path. Raises ListeningError where the port is taken."""
        to = self._endpoint
        try:
            found = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
            addresses = dict.fromkeys((family, where[:2]) for family, *_, where in found)
            opened = [socket.create_server(where, family=family, backlog=BACKLOG) for family, where in addresses]
        except OSError as error:
            self._loop.close()
            raise ListeningError(
                f"cannot show metrics on {to.host}:{to.port} ({error.strerror or error}): change server.metrics_address"
            ) from error
        listeners = [_Listener(fileno=one.detach()) for one in opened]
        for listener in listeners:
            listener.connected = self._connected
            listener.connections, listener.request_s = self._connections, self._request_s
        self._loop.set_exception_handler(_note)
        self._thread = threading.Thread(target=self._run, args=(listeners,), name="http", daemon=True)
        self._thread.start()
        host = f"[{to.host}]" if ":" in to.host else to.host
        return f"{'https' if to.tls else 'http'}://{host}:{listeners[0].getsockname()[1]}"

    def _run(self, listeners: list[socket.socket]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._uvicorn.serve(listeners))

    def renew(self) -> None:
        """Show a new certificate. In the thread where handshakes begin, which is not to see half of it."""
        self._loop.call_soon_threadsafe(self._endpoint.renew)

    def close(self) -> None:
        def end() -> None:
            self._uvicorn.should_exit = True
            for connection in tuple(self._connected):
                connection.end()

        if self._thread is not None:
            self._loop.call_soon_threadsafe(end)
            self._thread.join(self._request_s)


class _Listener(socket.socket):
    """A listening socket that keeps connections within their bounds, from before their TLS handshake on. `connected`: all
    that are open; `connections`, `request_s`: as of `HttpServer`."""

    connected: "set[_Connection]"
    connections: int
    request_s: float

    def accept(self) -> tuple[socket.socket, Any]:
        accepted, address = super().accept()
        connection = _Connection(fileno=accepted.detach())
        connection.network, connection.connected = network(address[0]), self.connected
        self.connected.add(connection)
        neighbours = sum(one.network == connection.network for one in self.connected)
        if neighbours > CONNECTIONS_EACH or len(self.connected) > self.connections:
            connection.close()
            raise ConnectionAbortedError  # which an event loop takes for a peer that has left
        asyncio.get_running_loop().call_later(self.request_s, connection.end)
        return connection, address


class _Connection(socket.socket):
    """A connection, one of those `connected` until it closes."""

    network: str
    connected: "set[_Connection]"

    def end(self) -> None:
        """Cut it off, whatever is to be sent or read."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.connected.discard(self)
        super().close()


def _guarded(applications: Mapping[str, Application], authorization: bytes) -> Application:
    """The applications, for who may read them."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        # No header that is read here has other characters, and applications need not be told of them.
        headers = [(name, value) for name, value in scope["headers"] if value.isascii()]
        found = applications.get(scope["path"])
        if scope["method"] not in ("GET", "HEAD"):
            await _refuse(send, HTTPStatus.METHOD_NOT_ALLOWED, (b"allow", b"GET, HEAD"))
        elif found is None:
            await _refuse(send, HTTPStatus.NOT_FOUND)
        elif authorization and not hmac.compare_digest(dict(headers).get(b"authorization", b""), authorization):
            await _refuse(send, HTTPStatus.UNAUTHORIZED, (b"www-authenticate", b'Basic realm="zowarmup"'))
        else:
            await found({**scope, "headers": headers}, receive, send)

    return application


async def _refuse(send: Any, status: HTTPStatus, *headers: tuple[bytes, bytes]) -> None:
    body = f"{status.phrase}\n".encode()
    plain = (b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
    await send({"type": "http.response.body", "body": body})


def _note(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What the event loop says by itself: of handshakes that break off, or of no descriptor being left for a connection."""
    log.info("HTTP: %s (%s)", context.get("message"), context.get("exception"))
