"""The services of one coordinator, registered on a gRPC server together with health and reflection."""

from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from zowarmup.server.service.operators import OperatorService
from zowarmup.server.service.participate import CoordinatorService
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services


def add_services(
    server: grpc.aio.Server,
    coordinator: CoordinatorService,
    operator: OperatorService,
    bystander: grpc.aio.Server | None = None,
) -> Callable[[], Awaitable[None]]:
    """Register everything, and on `bystander` the health service alone; the result, awaited, declares the services
    healthy."""
    services.add_CoordinatorServiceServicer_to_server(coordinator, server)
    services.add_OperatorServiceServicer_to_server(operator, server)
    healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]
    for probed in (server, bystander):
        if probed is not None:
            health_pb2_grpc.add_HealthServicer_to_server(healthy, probed)
    names = [service.full_name for service in wire.DESCRIPTOR.services_by_name.values()]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)

    async def declare() -> None:
        for name in ("", *names):
            await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)

    return declare
