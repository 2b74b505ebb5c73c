"""Rate limits, and limits on the size and time of messages, applied before a message is parsed.

A message that is too long is refused unread: gRPC's own limit, which holds for the whole server, has to let a delta's
chunks through, so the limit of every other call is applied here, to the bytes as they arrive. Rates are token buckets;
each piece of work that is handed out is worth the messages that it takes, so no honest client can meet its rate.
"""

import asyncio
import contextlib
import inspect
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
from google.protobuf.message import DecodeError

from zowarmup.common.messages.codec import chunk_in
from zowarmup.common.messages.values import Phase
from zowarmup.server.core.errors import Rejected
from zowarmup.server.rpc.auth import Context, abort

SMALL_BYTES = 1 << 16
"""A contribution with as many scalars as a run may ask for has half of that."""
CHUNK_BYTES = 1 << 21
"""The longest piece of a delta; its header comes on top."""
LONGEST_BYTES = CHUNK_BYTES + 1024
OURS = "/zowarmup."
BULK = "/zowarmup.v1.CoordinatorService/UploadDelta"
FORWARD = "/zowarmup.v1.ClusterService/Forward"
"""Many clients' commands: of another coordinator's messages gRPC's own limit holds."""
ARRIVAL_S = 10.0
"""A call's only message must have come within this time: it is seldom more than a packet."""
BURST_S = 4.0
SMALLEST_BURST = 20.0
ENROLMENTS_PER_S, ENROLMENTS_AT_ONCE = 100.0, 5000.0
TAKEN = {Phase.WARM_UP: 4, Phase.ZEROTH_ORDER: 1}
"""Messages and calls that a piece of work takes: FetchSnapshot, GetUpload, UploadDelta and a contribution, or that alone."""

LimitedTask = Literal["round", "snapshot"]


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Limits of the time and bytes of one call, in seconds and bytes.

    Attributes:
        hello_s: For the first message on a stream.
        stream_s: For a stream whose reader takes nothing.
        download_s: For a download whose reader takes nothing. A message of 512 KB takes 26 s on a link of 20 kB/s, twice
            that where two share it, and counts as taken only at its end.
        measured_s: For the bytes with which a device measures its link.
        measured_bytes: So many of them are taken and sent, bytes each way.
    """

    hello_s: float = 20.0
    stream_s: float = 60.0
    download_s: float = 120.0
    measured_s: float = 30.0
    measured_bytes: int = 4 << 20


CALL_LIMITS = CallLimits()


@dataclass(frozen=True, slots=True)
class MessageTooLong:
    """In the place of a message that was not parsed."""

    size_bytes: int

    def rejected(self) -> Rejected:
        return Rejected("too_long", f"a message of {self.size_bytes} bytes: at most {SMALL_BYTES} are allowed here")


@dataclass(frozen=True, slots=True)
class MalformedMessage(MessageTooLong):
    """The same for bytes that are no message."""

    def rejected(self) -> Rejected:
        return Rejected("malformed", f"{self.size_bytes} bytes that are not a message of this call")


@dataclass(frozen=True, slots=True)
class Chunk:
    """In the place of an UploadDeltaRequest with nothing but a chunk, as it came; `size_bytes`: the whole message's."""

    chunk: memoryview
    size_bytes: int


@dataclass(slots=True)
class TokenBucket:
    """`left` of `burst` tokens at time `at`, seconds; `rate` of them come back every second."""

    rate: float
    burst: float
    left: float
    at: float

    def take(self, now: float) -> bool:
        """Spend a token, if there is one."""
        self.left = min(self.burst, self.left + max(0.0, now - self.at) * self.rate)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True

    def give(self, tokens: int) -> None:
        """So many more, up to the burst."""
        self.left = min(self.burst, self.left + tokens)


@dataclass(slots=True)
class RateLimiter:
    """What each member of the fleet may still say; `rate`: messages a second. Streams and calls of one client share."""

    rate: float
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, TokenBucket] = field(default_factory=dict)
    _granted: dict[tuple[str, LimitedTask], int] = field(default_factory=dict)
    _enrolments: TokenBucket | None = None

    def spend(self, client: str) -> None:
        """One message. Raises Rejected where they come too fast."""
        if not self._bucket(client).take(self.clock()):
            raise Rejected(
                "too_many",
                f"{client} sends more than {self.rate:g} messages a second (server.messages_per_second): slow down",
            )

    def grant(self, client: str, task: LimitedTask, number: int, messages: int) -> None:
        """The work of a round, or a snapshot to fetch, was asked of the client, and takes so many messages to do. Numbers
        only rise; what is asked for again grants nothing."""
        # Else reconnecting would earn more messages than it costs.
        if number > self._granted.get((client, task), -1):
            self._granted[client, task] = number
            self._bucket(client).give(messages)

    def enrol(self) -> None:
        """One enrolment, of anyone. Raises Rejected where they come too fast."""
        now = self.clock()
        if self._enrolments is None:
            self._enrolments = TokenBucket(ENROLMENTS_PER_S, ENROLMENTS_AT_ONCE, ENROLMENTS_AT_ONCE, now)
        if not self._enrolments.take(now):
            raise Rejected("too_many", f"more than {ENROLMENTS_PER_S:g} devices a second want to enrol: try again")

    def _bucket(self, client: str) -> TokenBucket:
        if (bucket := self._buckets.get(client)) is None:
            burst = max(SMALLEST_BURST, BURST_S * self.rate)
            bucket = self._buckets[client] = TokenBucket(self.rate, burst, burst, self.clock())
        return bucket


def _without_refused(
    stream: Callable[[Any, Context], AsyncIterator[Any]],
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    """A handler of a service that is not ours, and does not know what may be in the place of its messages."""

    async def whole(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if isinstance(request, MessageTooLong):
                raise request.rejected()
            yield request

    async def answers(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for message in stream(whole(requests), context):
            yield message

    return answers


class MessageSizeInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses messages that are too long for their call, no messages of it, or too long in coming, and lets answers through
    that are bytes already. Every handler that it makes takes a stream of requests: a call's only request is read here, and
    `arriving` is entered with its peer until it has come, `arrival_s` seconds at most."""

    def __init__(
        self,
        refusals: Counter[str],
        arriving: Callable[[str], contextlib.AbstractContextManager[None]] = lambda peer: contextlib.nullcontext(),
        arrival_s: float = ARRIVAL_S,
    ) -> None:
        self._refusals, self._arriving, self._arrival_s = refusals, arriving, arrival_s
        self.trusts: Callable[[Mapping[str, str]], bool] = lambda shown: False
        """Whether metadata are another coordinator's, whose messages may be long."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return handler
        parse, write = handler.request_deserializer, handler.response_serializer
        unary, responses = handler.unary_unary, handler.unary_stream

        def read(data: bytes) -> Any:
            try:
                return parse(data)
            except (DecodeError, ValueError):
                return MalformedMessage(len(data))

        def bounded(data: bytes) -> Any:
            return read(data) if len(data) <= SMALL_BYTES else MessageTooLong(len(data))

        def piece(data: bytes) -> Any:
            return read(data) if (chunk := chunk_in(data)) is None else Chunk(chunk, len(data))

        def written(message: Any) -> bytes:
            data: bytes = message if isinstance(message, bytes) else write(message)
            return data

        async def one_answer(requests: object, context: Context) -> Any:
            return await unary(await self._request(context), context)

        async def answers(requests: object, context: Context) -> None:
            request = await self._request(context)
            if not inspect.isasyncgenfunction(responses):
                await responses(request, context)
                return
            async for message in responses(request, context):
                await context.write(message)

        if unary is not None:
            whole = details.method == FORWARD and self.trusts(dict(details.invocation_metadata or ()))
            of = read if whole else bounded
            return grpc.stream_unary_rpc_method_handler(one_answer, of, written)
        if responses is not None:
            return grpc.stream_stream_rpc_method_handler(answers, bounded, written)
        if handler.stream_unary is not None:
            of = piece if details.method == BULK else bounded
            return grpc.stream_unary_rpc_method_handler(handler.stream_unary, of, written)
        if handler.stream_stream is not None:
            stream = (
                handler.stream_stream if details.method.startswith(OURS) else _without_refused(handler.stream_stream)
            )
            return grpc.stream_stream_rpc_method_handler(stream, bounded, written)
        return handler

    async def _request(self, context: Context) -> Any:
        """The only request of a call. Where there is none, or it is refused, the call ends."""
        try:
            with self._arriving(context.peer()):
                async with asyncio.timeout(self._arrival_s):
                    request = await context.read()
        except Rejected as too_many:
            rejected = too_many
        except TimeoutError:
            rejected = Rejected("too_slow", f"the call's message has not come within {self._arrival_s:g} s")
        else:
            if isinstance(request, MessageTooLong):
                rejected = request.rejected()
            elif request is grpc.aio.EOF:  # type: ignore[attr-defined]
                # Or gRPC has ended the call by itself, and hears no status any more: so it is not counted.
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a call without a message")
            else:
                return request
        await abort(context, rejected, self._refusals)
