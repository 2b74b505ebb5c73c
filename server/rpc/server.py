"""The services of one coordinator on a gRPC server, with health and, where it is wanted, reflection; and the answer to every
call while the coordinator prepares its run.

The port is open from the start, so that one that is taken is found before a model is built, and stays open through a replay
of a long ledger. A call that comes before the run is ready waits a moment for it, and is then refused as UNAVAILABLE with
the reason "preparing"; whoever called tries again. Where many wait, the rest are refused at once, and all are where the
coordinator ends before it is ready. Health answers at once, with NOT_SERVING.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from zowarmup.server.rpc.auth import Context
from zowarmup.v1 import cluster_pb2_grpc as cluster_services
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

_NAMES = [service.full_name for service in wire.DESCRIPTOR.services_by_name.values()]
_STATUS = health_pb2.HealthCheckResponse


class Services(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Reflection and the services of the run, which are added after the server has started: gRPC takes no registration
    then, so it is given this handler before, and looks methods up in it at each call. `reflected`: whether callers may ask
    which calls there are."""

    def __init__(self, server: grpc.aio.Server, reflected: bool) -> None:
        self._handlers: list[grpc.GenericRpcHandler[Any, Any]] = []
        server.add_generic_rpc_handlers((self,))
        if reflected:
            reflection.enable_server_reflection([*_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME], server)

    def add(self, coordinator: services.CoordinatorServiceServicer, operator: services.OperatorServiceServicer) -> None:
        """From now on these answer."""
        services.add_CoordinatorServiceServicer_to_server(coordinator, self)
        services.add_OperatorServiceServicer_to_server(operator, self)

    def add_cluster(self, cluster: cluster_services.ClusterServiceServicer) -> None:
        """From now on the run's other coordinators are answered, too."""
        cluster_services.add_ClusterServiceServicer_to_server(cluster, self)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call's method, as gRPC asks for it; None where there is none (yet)."""
        found = (handler.service(details) for handler in self._handlers)
        return next((method for method in found if method is not None), None)

    def add_generic_rpc_handlers(self, handlers: "Iterable[grpc.GenericRpcHandler[Any, Any]]") -> None:
        """What the generated code calls on a server, to register a service."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, methods: object) -> None:
        """The generated code calls this as well, for the same methods."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The health service, on each of some servers: NOT_SERVING until it is declared otherwise. Of the names that it is asked
    for it keeps nothing."""

    def __init__(self, *servers: grpc.aio.Server | None) -> None:
        self._serving, self._changed = False, asyncio.Event()
        for server in filter(None, servers):
            health_pb2_grpc.add_HealthServicer_to_server(self, server)

    async def declare(self, serving: bool) -> None:
        """Whether the services can be used."""
        self._serving, changed = serving, self._changed
        self._changed = asyncio.Event()
        changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        if (status := self._status(request.service)) == _STATUS.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _STATUS(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        said = None
        while True:
            changed = self._changed
            if (status := self._status(request.service)) != said:
                await context.write(_STATUS(status=status))
                said = status
            await changed.wait()

    def _status(self, service: str) -> "health_pb2.HealthCheckResponse.ServingStatus":
        if service and service not in _NAMES:
            return _STATUS.SERVICE_UNKNOWN
        return _STATUS.SERVING if self._serving else _STATUS.NOT_SERVING


HELD_S, MOST_HELD = 2.0, 1000
"""Most runs are ready soon, and then nobody has to come again. Shorter than any caller's patience."""
SENTENCE = "it is preparing the model and will answer when that is done"
_HEALTH = "/grpc.health."


class PreparingInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Holds calls back until `ready` is set, each for `held_s` seconds at most; `held`: how many wait now."""

    def __init__(self, held_s: float = HELD_S) -> None:
        self.ready, self.held, self._held_s = asyncio.Event(), 0, held_s
        self._over = False

    def end(self) -> None:
        """Refuse who waits and who comes. A call that is still held while its server stops, grpc shows as a traceback."""
        self._over = True
        self.ready.set()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if not self.ready.is_set() and not details.method.startswith(_HEALTH):
            self.held += 1
            try:
                async with asyncio.timeout(self._held_s if self.held <= MOST_HELD else 0):
                    await self.ready.wait()
            except TimeoutError:
                return grpc.stream_stream_rpc_method_handler(_refuse)
            finally:
                self.held -= 1
        if self._over:
            return grpc.stream_stream_rpc_method_handler(_refuse)
        return await continuation(details)


async def _refuse(requests: object, context: Context) -> None:
    """The answer to a call of any kind: it ends before anything is read."""
    await context.abort(grpc.StatusCode.UNAVAILABLE, SENTENCE, (("zowarmup-reason", "preparing"),))
