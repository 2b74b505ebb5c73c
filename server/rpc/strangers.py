"""Limits on callers without a credential of this run: on their calls, for each network and for all together, and on their
connections.

A call by a member or the operator is not counted here (`RateLimiter` bounds members), so a flood from a network delays
newcomers there, and no member. Calls to health and reflection always count, whoever makes them: no credential is looked at.

gRPC closes whoever connects when its limit is reached, a member that reconnects too. So while more than half of the
connections that are possible are open, those whose caller has shown no member's credential may take half of what members
leave; beyond, the oldest of the network that has most are cut off. A member shows its credential as soon as it has
connected.
"""

import asyncio
import contextlib
import inspect
import logging
import os
import socket
import sys
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import grpc

from zowarmup.common.settings.addresses import network
from zowarmup.server.core.errors import Rejected
from zowarmup.server.rpc.auth import Context, abort, begin
from zowarmup.server.rpc.limits import OURS, TokenBucket

log = logging.getLogger(__name__)

INVITED_PER_S, INVITED_AT_ONCE = 20.0, 1000.0
"""Calls of one network where devices join by invitation: each asks GetRun once before it enrols."""
OPEN_PER_S, OPEN_AT_ONCE = 50.0, 5000.0
"""The same where whoever comes may join: a network's devices also enrol."""
EVERYONE = 20.0
"""All networks together may call so many times as often as one."""
NETWORKS = 10_000
ARRIVING, ALL_ARRIVING = 1024, 4096
"""Calls of one network, and of all, whose only message has not come."""
LASTING, ALL_LASTING, LASTING_S = 8, 64, 600.0
"""Streams that stay open as long as their caller likes, and for how long they may."""
EVERY_S, SHARE = 0.2, 5.0
FILES = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"

_LASTING = ("/Watch", "/ServerReflectionInfo")
_AFTER_THE_TOKEN = "/zowarmup.v1.CoordinatorService/Enrol"


def source_of(peer: str) -> str:
    """The network that a peer, as gRPC writes it, calls from."""
    return network(unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]"))


class Strangers:
    """What they may still use. `per_s`, `at_once`: calls of one network, as a token bucket; `clock`: seconds, monotonic;
    `networks`: so many are remembered, and those that called longest ago are forgotten; `arriving_at_once`: so many calls of
    one network may wait for their message."""

    def __init__(
        self,
        per_s: float,
        at_once: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        networks: int = NETWORKS,
        arriving_at_once: int = ARRIVING,
    ) -> None:
        self._per_s, self._at_once, self._clock = per_s, at_once, clock
        self._everyone = TokenBucket(EVERYONE * per_s, EVERYONE * at_once, EVERYONE * at_once, clock())
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._networks, self._arriving_at_once = networks, arriving_at_once
        self._arriving, self._lasting = Counter[str](), Counter[str]()

    def spend(self, peer: str) -> None:
        """One call. Raises Rejected where they come too fast."""
        source, now = source_of(peer), self._clock()
        if (bucket := self._buckets.get(source)) is None:
            bucket = self._buckets[source] = TokenBucket(self._per_s, self._at_once, self._at_once, now)
            if len(self._buckets) > self._networks:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(source)
        if not bucket.take(now):
            raise Rejected("too_many", f"{source} calls more than {self._per_s:g} times a second: try again later")
        if not self._everyone.take(now):
            raise Rejected("too_many", "callers without a credential call too often, all together: try again later")

    @contextlib.contextmanager
    def arriving(self, peer: str) -> Iterator[None]:
        """While the only message of a call has not come; of members too. Raises Rejected where too many wait for theirs."""
        with self._counted(
            self._arriving, source_of(peer), self._arriving_at_once, ALL_ARRIVING, "calls without their message"
        ):
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
    credential of this run; it may be set later. `lasting_s`: so long may a stream to health or reflection be open. To stand
    outside of `MessageSizeInterceptor`, which makes handlers that read their requests themselves."""

    def __init__(self, strangers: Strangers, refusals: Counter[str], lasting_s: float = LASTING_S) -> None:
        self.knows: Callable[[Mapping[str, str]], bool] = lambda shown: False
        self._strangers, self._refusals, self._lasting_s = strangers, refusals, lasting_s

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
                    async with asyncio.timeout(self._lasting_s if lasting else None):
                        if lasting:
                            await begin(context)
                        if not inspect.isasyncgenfunction(answer):
                            return await answer(requests, context)
                        async for message in answer(requests, context):
                            await context.write(message)
            except Rejected as rejected:
                await abort(context, rejected, self._refusals)
            except TimeoutError:
                await abort(
                    context, Rejected("too_slow", f"open for {self._lasting_s:g} s: call again"), self._refusals
                )

        wrap = (
            grpc.stream_unary_rpc_method_handler
            if handler.stream_unary is not None
            else grpc.stream_stream_rpc_method_handler
        )
        return wrap(charged, handler.request_deserializer, handler.response_serializer)


def surplus(found: Iterable[str], members: Collection[str], since: Mapping[str, float], most: int) -> list[str]:
    """The peers to cut off of those `found`, by address as gRPC writes it. `members`: the peers that have shown a member's
    credential; `since`: when each was seen first, seconds; `most`: how many connections are possible."""
    found = list(found)
    if len(found) <= most // 2:
        return []
    strangers: defaultdict[str, list[str]] = defaultdict(list)
    for peer in sorted(found, key=lambda peer: since[peer]):
        if peer not in members:
            strangers[source_of(peer)].append(peer)
    count = sum(map(len, strangers.values()))
    allowed = max(0, most - (len(found) - count)) // 2
    if count <= allowed:
        return []
    # The same number for each network, and those that have less keep what they have.
    left, each = allowed, 0
    for place, theirs in enumerate(sorted(map(len, strangers.values()))):
        each = left // (len(strangers) - place)
        if theirs > each:
            break
        left -= theirs
    return [peer for theirs in strangers.values() for peer in theirs[: max(0, len(theirs) - each)]]


def connected(port: int) -> dict[str, int]:
    """The descriptor of each connection that this process has at a port of its own, by its peer."""
    found = {}
    for name in os.listdir(FILES):
        with contextlib.suppress(OSError, IndexError):  # closed by now, or no connection
            one = _borrowed(int(name))
            try:
                if one.getsockname()[1] == port:
                    found[_written(one.getpeername())] = int(name)
            finally:
                one.detach()
    return found


def cut_off(peer: str, descriptor: int) -> None:
    """End a connection, if that descriptor still is the peer's: whoever holds it reads its end."""
    with contextlib.suppress(OSError):
        one = _borrowed(descriptor)
        try:
            if _written(one.getpeername()) == peer:
                one.shutdown(socket.SHUT_RDWR)
        finally:
            one.detach()


def _borrowed(descriptor: int) -> socket.socket:
    """A descriptor of gRPC's as a socket, to be detached and never closed: closing what is a file by now would also take its
    locks away."""
    return socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, descriptor)


def descriptors() -> int:
    """How many this process has open."""
    told = os.stat(FILES).st_size if sys.platform == "linux" else 0  # since Linux 6.2
    return told or len(os.listdir(FILES))


def _written(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    host, port = address[:2]
    if ":" not in host:
        return f"ipv4:{host}:{port}"
    if host.startswith("::ffff:") and "." in host:
        return f"ipv4:{host[7:]}:{port}"
    return f"ipv6:%5B{host}%5D:{port}"


async def keep_room(
    port: int,
    most: int,
    members: Callable[[], Collection[str]],
    *,
    every_s: float = EVERY_S,
    share: float = SHARE,
) -> None:
    """Cut off surplus strangers for as long as it runs. `members`: peers that have shown a member's credential. Connections
    are counted every `every_s` seconds, or seldom enough to take a `share`-th of the time."""
    since: dict[str, float] = {}
    while True:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            if descriptors() > most // 2:
                found = await asyncio.to_thread(connected, port)
                since = {peer: since.get(peer, began) for peer in found}
                chosen = surplus(found, members(), since, most)
                for peer in chosen:
                    cut_off(peer, found[peer])
                if chosen:
                    (source, count), *_ = Counter(map(source_of, chosen)).most_common(1)
                    log.warning(
                        "of %d connections, %d of strangers are cut off (%d from %s), as %d are possible",
                        len(found),
                        len(chosen),
                        count,
                        source,
                        most,
                    )
        await asyncio.sleep(max(every_s, share * (time.monotonic() - began)))
