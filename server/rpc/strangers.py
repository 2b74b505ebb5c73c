"""Limits on callers without a credential of this run, for each network and for all together.

A call by a member or the operator is not counted here (`RateLimiter` bounds members), so a flood from a network delays
newcomers there, and no member. Calls to health and reflection always count, whoever makes them: no credential is looked at.
"""

import asyncio
import contextlib
import inspect
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import grpc

from zowarmup.common.settings.addresses import network
from zowarmup.server.core.errors import Rejected
from zowarmup.server.projections.refusals import Refusals
from zowarmup.server.rpc.auth import Context, abort, begin
from zowarmup.server.rpc.limits import OURS, TokenBucket

INVITED_PER_S, INVITED_AT_ONCE = 20.0, 1000.0
"""Calls of one network where devices join by invitation: each asks GetRun once before it enrols."""
OPEN_PER_S, OPEN_AT_ONCE = 50.0, 5000.0
"""The same where whoever comes may join: a network's devices also enrol."""
EVERYONE = 20.0
"""All networks together may call so many times as often as one."""
NETWORKS = 10_000
"""So many are remembered; beyond, those that called longest ago are forgotten."""
ARRIVING, ALL_ARRIVING = 1024, 4096
"""Calls of one network, and of all, whose only message has not come."""
LASTING, ALL_LASTING, LASTING_S = 8, 64, 600.0
"""Streams that stay open as long as their caller likes, and for how long they may."""

_LASTING = ("/Watch", "/ServerReflectionInfo")
_AFTER_THE_TOKEN = "/zowarmup.v1.CoordinatorService/Enrol"


def source_of(peer: str) -> str:
    """The network that a peer, as gRPC writes it, calls from."""
    return network(unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]"))


class Strangers:
    """What they may still use. `per_s`, `at_once`: calls of one network, as a token bucket; `clock`: seconds, monotonic."""

    def __init__(self, per_s: float, at_once: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._at_once, self._clock = per_s, at_once, clock
        self._everyone = TokenBucket(EVERYONE * per_s, EVERYONE * at_once, EVERYONE * at_once, clock())
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._arriving, self._lasting = Counter[str](), Counter[str]()

    def spend(self, peer: str) -> None:
        """One call. Raises Rejected where they come too fast."""
        source, now = source_of(peer), self._clock()
        if (bucket := self._buckets.get(source)) is None:
            bucket = self._buckets[source] = TokenBucket(self._per_s, self._at_once, self._at_once, now)
            if len(self._buckets) > NETWORKS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(source)
        if not bucket.take(now):
            raise Rejected("too_many", f"{source} calls more than {self._per_s:g} times a second: try again later")
        if not self._everyone.take(now):
            raise Rejected("too_many", "callers without a credential call too often, all together: try again later")

    @contextlib.contextmanager
    def arriving(self, peer: str) -> Iterator[None]:
        """While the only message of a call has not come; of members too. Raises Rejected where too many wait for theirs."""
        with self._counted(self._arriving, source_of(peer), ARRIVING, ALL_ARRIVING, "calls without their message"):
            yield

    @contextlib.contextmanager
    def lasting(self, peer: str) -> Iterator[None]:
        """A stream that lasts as long as its caller likes. Raises Rejected where there are too many."""
        with self._counted(self._lasting, source_of(peer), LASTING, ALL_LASTING, "streams to health and reflection"):
            yield

    @contextlib.contextmanager
    def _counted(self, counts: Counter[str], source: str, most: int, most_of_all: int, what: str) -> Iterator[None]:
        if counts[source] >= most or counts.total() >= most_of_all:
            raise Rejected(
                "too_many", f"{counts[source]} {what} of {source} are open, {counts.total()} in all: try later"
            )
        counts[source] += 1
        try:
            yield
        finally:
            counts[source] -= 1
            if not counts[source]:
                del counts[source]


class Callers(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Counts the calls of strangers, and refuses those that are too many. `knows`: whether a call's metadata show a
    credential of this run; it may be set later. To stand outside of `MessageSizeInterceptor`, which makes handlers that read their
    requests themselves."""

    def __init__(self, strangers: Strangers, refusals: Refusals) -> None:
        self.knows: Callable[[Mapping[str, str]], bool] = lambda shown: False
        self._strangers, self._refusals = strangers, refusals

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler, method = await continuation(details), details.method
        ours = method.startswith(OURS)
        if handler is None or (ours and self.knows(dict(details.invocation_metadata or ()))):
            return handler
        return self._charged(handler, method, lasting=not ours and method.endswith(_LASTING))

    def _charged(self, handler: Any, method: str, lasting: bool) -> Any:
        answer = handler.stream_unary or handler.stream_stream

        async def charged(requests: Any, context: Context) -> Any:
            peer = context.peer()
            try:
                if method != _AFTER_THE_TOKEN:
                    self._strangers.spend(peer)
                with self._strangers.lasting(peer) if lasting else contextlib.nullcontext():
                    async with asyncio.timeout(LASTING_S if lasting else None):
                        if lasting:
                            await begin(context)
                        if not inspect.isasyncgenfunction(answer):
                            return await answer(requests, context)
                        async for message in answer(requests, context):
                            await context.write(message)
            except Rejected as rejected:
                await abort(context, rejected, self._refusals)
            except TimeoutError:
                await abort(context, Rejected("too_slow", f"open for {LASTING_S:g} s: call again"), self._refusals)

        wrap = (
            grpc.stream_unary_rpc_method_handler
            if handler.stream_unary is not None
            else grpc.stream_stream_rpc_method_handler
        )
        return wrap(charged, handler.request_deserializer, handler.response_serializer)
