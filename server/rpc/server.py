"""The services of one coordinator on a gRPC server, with health and, where it is wanted, reflection."""

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

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
