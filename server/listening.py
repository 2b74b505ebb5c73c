"""What a coordinator listens with: its gRPC server and the one for health alone, open before there is a run, and who may come in.

A port that is taken is found before a model is built. Calls that come before the run is ready wait in `preparing`.
"""

import contextlib
import logging
from collections import Counter

import grpc

from zowarmup.common.settings.addresses import is_loopback
from zowarmup.common.settings.run import Server
from zowarmup.server.rpc.endpoints import Endpoint, health_server
from zowarmup.server.rpc.limits import LONGEST_BYTES, MessageSizeInterceptor
from zowarmup.server.rpc.server import Health, PreparingInterceptor, Services
from zowarmup.server.rpc.strangers import (
    INVITED_AT_ONCE,
    INVITED_PER_S,
    OPEN_AT_ONCE,
    OPEN_PER_S,
    Callers,
    Strangers,
)
from zowarmup.server.runtime import connections, raise_file_limit

log = logging.getLogger("zowarmup.server")

LAST_S = 0.5
"""How long a server that stops waits for calls that have been answered to end."""
FEW = 2048
"""A limit of connections that a fleet may meet."""
# Measured: a burst of 2,000 clients is shed by the defaults; the ping option is the one that grpc heeds. A call may be
# sent so much ahead of its reader: left to itself, grpc finds a fast link out and takes 9 MB of every upload into memory.
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.server.max_pending_requests", 20000),
    ("grpc.server.max_pending_requests_hard_limit", 40000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 10000),
    ("grpc.http2.ping_timeout_ms", 10000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", LONGEST_BYTES),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 19),
    # Whoever connects and says nothing, or has said nothing for long, is cut off. Measured: the first holds until a
    # connection has sent its HTTP/2 settings, the second for one without a call from then on (a device has its stream).
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 60_000),
    # Four times as many as the clients of a fleet process that share a connection.
    ("grpc.max_concurrent_streams", 1024),
)


class Listening:
    """The servers of one coordinator.

    Args:
        way: Where it listens.
        settings: The run file's.
        inner: Interceptors that stand inside of the usual ones.

    Attributes:
        refusals: Of calls, by reason.
        callers: Who may call how often; is told later whom the run knows.
        lengths: Bounds messages; is told whose may be long.
        preparing: Holds calls back until it is told that the run is ready.
        most: So many connections are possible.
        port: That was opened.

    Raises:
        ListeningError: A port is taken.
    """

    def __init__(
        self,
        way: Endpoint,
        settings: Server,
        inner: "tuple[grpc.aio.ServerInterceptor, ...]" = (),  # type: ignore[type-arg]
    ) -> None:
        self.refusals, self.preparing = Counter[str](), PreparingInterceptor()
        self.most = connections(raise_file_limit())
        self.strangers = Strangers(*((INVITED_PER_S, INVITED_AT_ONCE) if way.invited else (OPEN_PER_S, OPEN_AT_ONCE)))
        self.callers = Callers(self.strangers, self.refusals)
        self.lengths = MessageSizeInterceptor(self.refusals, self.strangers.arriving)
        self.server = grpc.aio.server(
            interceptors=(self.preparing, self.callers, self.lengths, *inner),
            options=(*OPTIONS, ("grpc.max_allowed_incoming_connections", self.most)),
        )
        if self.most < FEW:
            log.warning(
                "at most %d connections are possible here: raise the limit on open files (ulimit -Hn)", self.most
            )
        self.port = way.open(self.server)
        probing = Strangers(INVITED_PER_S, INVITED_AT_ONCE)
        bounds = Callers(probing, self.refusals), MessageSizeInterceptor(self.refusals, probing.arriving)
        self._beside = health_server(settings.health_address, bounds)
        self.health = Health(self.server, self._beside)
        self.services = Services(self.server, settings.reflection or is_loopback(way.address))

    async def begin(self, stack: contextlib.AsyncExitStack) -> None:
        """Answer from now on, until the stack is left."""
        await self.health.declare(serving=False)
        for early in filter(None, (self.server, self._beside)):
            await early.start()
            stack.push_async_callback(early.stop, LAST_S)
        stack.callback(self.preparing.end)

    async def ready(self) -> None:
        """The services are there: calls go on to them."""
        self.preparing.ready.set()
        await self.health.declare(serving=True)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end those that are open after so many seconds."""
        await self.server.stop(grace=grace_s)
        if self._beside is not None:
            await self._beside.stop(None)
