"""The coordinator's HTTP server: uvicorn in a thread and an event loop of its own, so that no request delays the fleet.

What is served are ASGI applications, each at its path (`/metrics` is prometheus_client's own). This module adds what
uvicorn leaves to a proxy, as nobody puts one before a coordinator. A connection counts from before its TLS handshake, and
those beyond `connections`, or `connections_each` of one network, are closed; it lasts at most `request_s` seconds, in which
its answer must have been read. So whoever reaches the port can at worst keep others from reading, and from one network
not even that. An application whose answer has no end may let a connection last (`LASTING`): it is the application's own to
bound and to cut off then. TLS uses the coordinator's certificate; a password is asked for where one is configured.

Loaded only where there is something to serve, and uvicorn only once somebody calls: until then there are a socket and a
thread that sleeps.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from zowarmup.common.settings.addresses import network
from zowarmup.server.core.errors import ListeningError
from zowarmup.server.telemetry.endpoints import HttpEndpoint

if TYPE_CHECKING:
    from uvicorn import Server as Uvicorn

log = logging.getLogger(__name__)

REQUEST_S = 10.0
LONGEST_BYTES = 16384
CONNECTIONS, CONNECTIONS_EACH = 64, 8
BACKLOG = 256
LASTING_BYTES = 1 << 15
LAST_WORDS_S = 0.5
"""So long an application has to end its answers that last."""

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""Of ASGI: called with the scope, `receive` and `send`."""
LASTING = "zowarmup.lasting"
"""In the scope's extensions, a function: from now on the connection has no limit of time and does not count. It returns what cuts
the connection off, whatever is to be sent or read."""


class HttpServer:
    """Applications by path, served at an endpoint from `open` until `close`.

    Args:
        endpoint: Where to listen.
        applications: By their path.
        connections: So many may be open at a time.
        connections_each: And so many of one network.
        request_s: So long may each be open, in seconds.
    """

    def __init__(
        self,
        endpoint: HttpEndpoint,
        applications: Mapping[str, Application],
        *,
        connections: int = CONNECTIONS,
        connections_each: int = CONNECTIONS_EACH,
        request_s: float = REQUEST_S,
    ) -> None:
        self._endpoint, self._applications = endpoint, applications
        self._bounds = _Bounds(connections, connections_each, request_s)
        self._loop = asyncio.new_event_loop()
        self._called = asyncio.Event()
        self._closing = False
        self._uvicorn: Uvicorn | None = None
        self._thread: threading.Thread | None = None

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
                f"cannot show {to.what} on {to.host}:{to.port} ({error.strerror or error}): change {to.setting}"
            ) from error
        listeners = [_Listener(fileno=one.detach()) for one in opened]
        for listener in listeners:
            listener.bounds = self._bounds
        self._loop.set_exception_handler(_note)
        self._thread = threading.Thread(target=self._run, args=(listeners,), name="http", daemon=True)
        self._thread.start()
        host = f"[{to.host}]" if ":" in to.host else to.host
        return f"{'https' if to.tls else 'http'}://{host}:{listeners[0].getsockname()[1]}"

    def _run(self, listeners: list["_Listener"]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(listeners))

    async def _serve(self, listeners: list["_Listener"]) -> None:
        for listener in listeners:
            self._loop.add_reader(listener.fileno(), self._called.set)
        await self._called.wait()
        for listener in listeners:
            self._loop.remove_reader(listener.fileno())
            if self._closing:
                listener.close()
        if not self._closing:
            self._uvicorn = _uvicorn(_guarded(self._applications, self._endpoint, self._bounds), self._endpoint.tls)
            await self._uvicorn.serve(list(listeners))

    def renew(self) -> None:
        """Show a new certificate. In the thread where handshakes begin, which is not to see half of it."""
        self._loop.call_soon_threadsafe(self._endpoint.renew)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function in the thread of the applications."""
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        def end() -> None:
            self._closing = True
            self._called.set()
            if self._uvicorn is not None:
                self._uvicorn.should_exit = True
            for connection in tuple(self._bounds.connected):
                if connection.lasts:
                    self._loop.call_later(LAST_WORDS_S, connection.end)
                else:
                    connection.end()

        if self._thread is not None:
            self._loop.call_soon_threadsafe(end)
            self._thread.join(self._bounds.request_s)


def _uvicorn(application: Application, tls: ssl.SSLContext | None) -> "Uvicorn":
    """Of an application, with nothing of its own in the headers and the log."""
    from uvicorn import Config, Server

    return Server(
        Config(
            application,
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


@dataclass(eq=False, slots=True)
class _Bounds:
    """What the connections of a server may take together, as of `HttpServer`; `connected`: all that are open."""

    connections: int
    connections_each: int
    request_s: float
    connected: "set[_Connection]" = field(default_factory=set)

    def exceeded(self, by: "_Connection") -> bool:
        """Whether there are too many with this one."""
        counted = [one for one in self.connected if not one.lasts]
        neighbours = sum(one.network == by.network for one in counted)
        return neighbours > self.connections_each or len(counted) > self.connections

    def of(self, client: tuple[str, int]) -> "_Connection | None":
        """The connection from an address and port."""
        return next((one for one in self.connected if one.client == tuple(client)), None)


class _Listener(socket.socket):
    """A listening socket that keeps connections within their bounds, from before their TLS handshake on."""

    bounds: _Bounds

    def accept(self) -> tuple[socket.socket, Any]:
        accepted, address = super().accept()
        connection = _Connection(fileno=accepted.detach())
        connection.network, connection.client = network(address[0]), address[:2]
        connection.connected, connection.lasts = self.bounds.connected, False
        self.bounds.connected.add(connection)
        if self.bounds.exceeded(connection):
            connection.close()
            raise ConnectionAbortedError  # which an event loop takes for a peer that has left
        connection.limit = asyncio.get_running_loop().call_later(self.bounds.request_s, connection.end)
        return connection, address


class _Connection(socket.socket):
    """A connection, one of those `connected` until it closes. `limit`: when it is cut off, unless it `lasts`."""

    network: str
    client: tuple[str, int]
    connected: "set[_Connection]"
    lasts: bool
    limit: asyncio.TimerHandle

    def last(self) -> Callable[[], None]:
        """As LASTING says. What is sent and not read then takes no more of the system's memory than LASTING_BYTES."""
        self.lasts = True
        self.limit.cancel()
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LASTING_BYTES)
        return self.end

    def end(self) -> None:
        """Cut it off, whatever is to be sent or read."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.connected.discard(self)
        super().close()


def _guarded(applications: Mapping[str, Application], endpoint: HttpEndpoint, bounds: _Bounds) -> Application:
    """The applications, for who may read them."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        # No header that is read here has other characters, and applications need not be told of them.
        headers = [(name, value) for name, value in scope["headers"] if value.isascii()]
        said = dict(headers)
        found = applications.get(scope["path"])
        connection = bounds.of(scope["client"])
        if scope["method"] not in ("GET", "HEAD"):
            await refuse(send, HTTPStatus.METHOD_NOT_ALLOWED, (b"allow", b"GET, HEAD"))
        elif not endpoint.hosts(said.get(b"host", b"")):
            await refuse(send, HTTPStatus.MISDIRECTED_REQUEST)
        elif found is None:
            await refuse(send, HTTPStatus.NOT_FOUND)
        elif endpoint.admits is not None and not endpoint.admits(said.get(b"authorization", b"")):
            await refuse(send, HTTPStatus.UNAUTHORIZED, (b"www-authenticate", b'Basic realm="zowarmup"'))
        elif connection is not None:
            extensions = {**scope.get("extensions", {}), LASTING: connection.last}
            await found({**scope, "headers": headers, "extensions": extensions}, receive, send)

    return application


async def refuse(send: Any, status: HTTPStatus, *headers: tuple[bytes, bytes]) -> None:
    """Answer with a status and its name."""
    body = f"{status.phrase}\n".encode()
    plain = (b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
    await send({"type": "http.response.body", "body": body})


def _note(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What the event loop says by itself: of handshakes that break off, or of no descriptor being left for a connection."""
    log.info("HTTP: %s (%s)", context.get("message"), context.get("exception"))
