"""The services of one coordinator, registered on a gRPC server together with health and reflection."""

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from zowarmup.server.service.operators import OperatorService
from zowarmup.server.service.participate import CoordinatorService
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

_NAMES = [service.full_name for service in wire.DESCRIPTOR.services_by_name.values()]


def add_services(server: grpc.aio.Server, coordinator: CoordinatorService, operator: OperatorService) -> None:
    """Register all but health, on a server that may have been started already."""
    services.add_CoordinatorServiceServicer_to_server(coordinator, server)
    services.add_OperatorServiceServicer_to_server(operator, server)
    reflection.enable_server_reflection([*_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME], server)


class Health:
    """The health service, on each of some servers: NOT_SERVING until it is declared otherwise."""

    def __init__(self, *servers: grpc.aio.Server | None) -> None:
        self._servicer: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        for server in filter(None, servers):
            health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def declare(self, serving: bool) -> None:
        """Whether the services can be used."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *_NAMES):
            await self._servicer.set(name, status)
