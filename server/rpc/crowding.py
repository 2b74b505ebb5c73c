"""Connections of strangers cut off while many are open, so that members still find room.

gRPC closes whoever comes when its limit is reached, a member that reconnects too. So while more than half of the
connections that are possible are open, those whose caller has shown no member's credential may take half of what members
leave; beyond, the oldest of the network that has most are cut off. A member shows its credential as soon as it has
connected.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from zowarmup.common.settings.addresses import network

log = logging.getLogger(__name__)

EVERY_S, SHARE = 0.2, 5.0
"""Looked at so often, or seldom enough to take a `SHARE`-th of the time."""
FILES = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"


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


def source_of(peer: str) -> str:
    """The network of a peer that is written as gRPC writes it."""
    return network(peer.partition(":")[2].rpartition(":")[0].removeprefix("%5B").removesuffix("%5D"))


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


async def keep_room(port: int, most: int, members: Callable[[], Collection[str]]) -> None:
    """Cut off surplus strangers for as long as it runs. `members`: peers that have shown a member's credential."""
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
        await asyncio.sleep(max(EVERY_S, SHARE * (time.monotonic() - began)))
