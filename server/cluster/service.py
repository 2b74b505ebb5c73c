"""Forwarding over gRPC: the leader's service, a front end's connection to it, and the relay of the operator's calls.

A coordinator that leads answers front ends at its usual address, to whoever shows the secret of its lease. What an operator asks a
front end it asks the leader, byte for byte, and says whether the caller has shown the operator's credential: the front end's
own counts, too.
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc

from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.cluster.forwarding import Answer, Leader, News, Request, decode, encode
from zowarmup.server.cluster.sessions import Sessions
from zowarmup.server.coordinator import Unavailable
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.events import TrafficCount
from zowarmup.server.rpc.auth import CLUSTER, Context, shown
from zowarmup.server.store.lease import Holder
from zowarmup.v1 import cluster_pb2 as wire
from zowarmup.v1 import cluster_pb2_grpc as services
from zowarmup.v1 import coordinator_pb2

log = logging.getLogger(__name__)

FORWARD_S = 10.0
"""What has not been answered by then is asked again, perhaps of another leader."""
REQUEST_BYTES = 1 << 20
"""A request is sent in parts of about so many bytes."""
OPERATOR = "/zowarmup.v1.OperatorService/"
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 100),
)


class ClusterService(services.ClusterServiceServicer):
    """What a leader answers front ends. `secret`: of its lease; `sessions`: None while it does not lead."""

    def __init__(self, secret: str) -> None:
        self._secret, self.sessions = secret, _nobody()

    async def Forward(self, request: wire.ForwardRequest, context: Context) -> wire.ForwardResponse:
        if not hmac.compare_digest(self._secret.encode(), shown(context).get(CLUSTER, "").encode()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this needs the secret of the lease")
        try:
            if self.sessions is None:
                raise Unavailable("this coordinator does not lead")
            return _answer_to_wire(await self.sessions.forward(_request_from_wire(request)))
        except Unavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        raise AssertionError  # abort always raises


def _nobody() -> Sessions | None:
    return None


class RemoteLeader(Leader):
    """The leader as its lease says where it is. Closed by `close`.

    Args:
        holder: Of the lease.
        shown: PEM of the key and of the certificates that this coordinator shows it, as it shows its clients; None in plain text.
    """

    def __init__(self, holder: Holder, shown: tuple[bytes, bytes] | None = None) -> None:
        self._metadata = ((CLUSTER, holder.secret),)
        if holder.authority:
            credentials = grpc.ssl_channel_credentials(holder.authority.encode(), *(shown or ()))
            self.channel = grpc.aio.secure_channel(holder.address, credentials, options=_OPTIONS)
        else:
            self.channel = grpc.aio.insecure_channel(holder.address, options=_OPTIONS)
        self._stub: Any = services.ClusterServiceStub(self.channel)

    async def forward(self, request: Request) -> Answer:
        """See `Leader`."""
        merged = Answer()
        for part in _parts(request):
            try:
                response = await self._stub.Forward(part, timeout=FORWARD_S, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                log.debug("the leader does not answer: %s", error.details())
                raise Unavailable(f"the leader does not answer ({error.code().name})") from None
            except asyncio.CancelledError:
                # Which gRPC raises, too, where the channel is closed: another leads by now.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise Unavailable("the leader is no longer asked") from None
            answer = _answer_from_wire(response)
            if answer.unknown:
                return answer
            outcomes, superseded = merged.outcomes + answer.outcomes, merged.superseded + answer.superseded
            merged = replace(answer, outcomes=outcomes, superseded=superseded)
        return merged

    async def close(self) -> None:
        """Close the connection."""
        await self.channel.close(None)


class RelayInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Lets the leader answer the operator's calls. To stand inside of `MessageSizeInterceptor`, which reads their requests.

    Attributes:
        leader: The channel to it, and its secret; None where this coordinator is to answer itself.
        follows: Whether another leads, or nobody does.
        is_operator: Whether metadata show this coordinator's operator credential.
    """

    def __init__(self) -> None:
        self.leader: tuple[grpc.aio.Channel, str] | None = None
        self.follows = False
        self.is_operator: Callable[[Any], bool] = lambda shown: False

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if not self.follows or not details.method.startswith(OPERATOR):
            return await continuation(details)

        async def relay(request: bytes, context: Context) -> None:
            if self.leader is None:
                await context.abort(
                    grpc.StatusCode.UNAVAILABLE,
                    "no coordinator leads the run at the moment; one will within seconds",
                    (("zowarmup-reason", "unavailable"),),
                )
                return
            channel, secret = self.leader
            metadata = [(key, value) for key, value in shown(context).items() if key.startswith("zowarmup-")]
            if self.is_operator(shown(context)):
                metadata.append((CLUSTER, secret))
            ask = channel.unary_stream(details.method, bytes, bytes)
            try:
                async for response in ask(request, metadata=metadata, timeout=FORWARD_S):
                    await context.write(response)
            except grpc.aio.AioRpcError as error:
                found: Any = error.trailing_metadata() or ()
                reasons = tuple((key, value) for key, value in found if key == "zowarmup-reason")
                await context.abort(error.code(), error.details() or "", reasons)

        return grpc.unary_stream_rpc_method_handler(relay, bytes, bytes)


def _parts(request: Request) -> Iterator[wire.ForwardRequest]:
    """A request as messages, none of which is much longer than REQUEST_BYTES."""

    def begun(**fields: Any) -> wire.ForwardRequest:
        return wire.ForwardRequest(front_end=request.front_end, epoch=request.epoch, **fields)

    part, size = begun(anew=request.anew), 0
    part.traffic.extend(map(_traffic_to_wire, request.traffic))
    part.traffic_number = request.traffic_number
    for command in (*request.news, *request.commands):
        data = encode(command)
        if size and size + len(data) > REQUEST_BYTES:
            part.more = True
            yield part
            part, size = begun(), 0
        (part.news if isinstance(command, News) else part.commands).append(data)
        size += len(data)
    yield part


def _request_from_wire(message: wire.ForwardRequest) -> Request:
    """Raises ValueError."""
    news, commands = tuple(map(decode, message.news)), tuple(map(decode, message.commands))
    if not all(isinstance(one, News) for one in news) or any(isinstance(one, News) for one in commands):
        raise ValueError("a command is among the news, or news among the commands")
    traffic = tuple(_traffic_from_wire(count) for count in message.traffic)
    found = (
        message.front_end,
        message.epoch,
        message.anew,
        news,
        commands,
        traffic,
        message.more,
        message.traffic_number,
    )
    return Request(*found)  # type: ignore[arg-type]


def _answer_to_wire(answer: Answer) -> wire.ForwardResponse:
    return wire.ForwardResponse(
        outcomes=[
            wire.Outcome(reason=one.reason, detail=one.detail) if one else wire.Outcome() for one in answer.outcomes
        ],
        end=answer.end,
        waiting=answer.waiting,
        superseded=[wire.Superseded(client=client, epoch=epoch) for client, epoch in answer.superseded],
        unknown=answer.unknown,
        now_s=answer.now_s,
    )


def _answer_from_wire(message: wire.ForwardResponse) -> Answer:
    return Answer(
        tuple(Rejected(one.reason, one.detail) if one.reason else None for one in message.outcomes),
        message.end,
        message.waiting,
        tuple((one.client, one.epoch) for one in message.superseded),
        message.unknown,
        message.now_s,
    )


def _traffic_to_wire(count: TrafficCount) -> coordinator_pb2.Traffic:
    return coordinator_pb2.Traffic(
        direction=count.direction,
        tier=codec.tier_to_wire(Tier(count.tier)) if count.tier else coordinator_pb2.TIER_UNSPECIFIED,
        phase=codec.phase_to_wire(Phase(count.phase)),
        kind=count.kind,
        payload_bytes=count.payload_bytes,
        messages=count.messages,
    )


def _traffic_from_wire(message: coordinator_pb2.Traffic) -> TrafficCount:
    tier = "" if message.tier == coordinator_pb2.TIER_UNSPECIFIED else str(codec.tier_from_wire(message.tier))
    phase = str(codec.phase_from_wire(message.phase))
    return TrafficCount(message.direction, tier, phase, message.kind, message.payload_bytes, message.messages)
