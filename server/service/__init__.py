"""The coordinator's gRPC services: messages become commands, events become messages, and nothing is decided here."""

import grpc

from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services


def register(
    server: grpc.aio.Server,
    coordinator: services.CoordinatorServiceServicer,
    operator: services.OperatorServiceServicer,
) -> list[str]:
    """Serve both services; their full names, for health and reflection."""
    services.add_CoordinatorServiceServicer_to_server(coordinator, server)
    services.add_OperatorServiceServicer_to_server(operator, server)
    return [service.full_name for service in wire.DESCRIPTOR.services_by_name.values()]
