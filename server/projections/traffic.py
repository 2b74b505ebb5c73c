"""Bytes between clients and the coordinator, counted by direction, tier, phase and kind of message.

Payload is serialised messages. Wire bytes are what their sockets carry: each message as `framing` reckons it, under its own
kind, and everything else (handshakes, headers, window updates, pings) under "connection". That rest is reckoned too, as
far as it does not depend on time, and put right by what the system says of a socket (`Traffic.correct`), for as long as
the socket lives. Counts are saved with each commit, so they survive a restart up to the last one.
"""

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core.events import TrafficCount
from zowarmup.server.projections.framing import Wire

_EVERYONE = ("", *Tier)
_UP: Mapping[str, Iterable[str]] = {
    "control": _EVERYONE,
    "connection": _EVERYONE,
    "contribution": Tier,
    "delta": (Tier.HIGH,),
    "measurement": Tier,
}
_DOWN: Mapping[str, Iterable[str]] = {
    "control": _EVERYONE,
    "connection": _EVERYONE,
    "snapshot": Tier,
    "program": Tier,
    "commit": Tier,
    "measurement": Tier,
}
Key = tuple[str, str, str, str]
OCCURRING: tuple[Key, ...] = tuple(
    (direction, str(tier), str(phase), kind)
    for direction, kinds in (("up", _UP), ("down", _DOWN))
    for phase in Phase
    for kind, tiers in kinds.items()
    for tier in tiers
)
"""(direction, tier, phase, kind) of all that may be counted in any run. Where the low tier trains (HeteroFL), so may its
deltas."""
MOST_CONNECTIONS = 50_000
MOST_UNREAD_BYTES = 4096
CHUNK_BYTES = 1 << 15
"""Messages from here on are pieces of something large, which share their window updates."""


@dataclass(slots=True)
class CountedConnection:
    """A socket's bytes that have been counted. `tier`: of whom it was last called by; `name`: the client whose it is,
    empty where that is not known yet, None where several share it. `carried`: what the system said of it last."""

    tier: Tier | None
    name: str | None = ""
    up: int = 0
    down: int = 0
    carried: tuple[int, int] = (0, 0)


class Traffic:
    """Counts that only grow, from `saved` on. `phase` says which one the run is in."""

    def __init__(
        self, phase: Callable[[], Phase], saved: Iterable[TrafficCount] = (), wire: Wire | None = None
    ) -> None:
        self._phase, self._wire = phase, wire or Wire()
        self._counts: dict[Key, tuple[int, int, int]] = {
            (c.direction, c.tier, c.phase, c.kind): (c.payload_bytes, c.messages, c.wire_bytes) for c in saved
        }
        self._connections: OrderedDict[str, CountedConnection] = OrderedDict()
        self._clients: dict[str, list[int]] = {}

    def call(self, peer: str, tier: Tier | None = None, name: str = "") -> "CallTraffic":
        """A call has come in from `peer` (as gRPC writes it), by the client `name` of a tier, or by a stranger."""
        known = self._connections.get(peer)
        if known is None:
            known = self._connections[peer] = CountedConnection(tier, name)
            self._rest(known, *self._wire.connection)
            while len(self._connections) > MOST_CONNECTIONS:
                self._connections.popitem(last=False)
            self._rest(known, *self._wire.call(len(name), first=True))
        else:
            known.tier = tier or known.tier
            if name and known.name != name:
                known.name = None if known.name != "" else name
            self._rest(known, *self._wire.call(len(name), first=False))
        return CallTraffic(self, known, tier, name)

    def of(self, client: str) -> tuple[int, int]:
        """Wire bytes (up, down) of a client since the coordinator started: its messages, and the rest of its connections
        where it does not share them."""
        up, down = self._clients.get(client, (0, 0))
        return up, down

    def peers(self) -> tuple[str, ...]:
        """Those that are connected, as far as is known."""
        return tuple(self._connections)

    def members(self) -> frozenset[str]:
        """The peers, among them, that were called from with a member's credential."""
        return frozenset(peer for peer, connection in self._connections.items() if connection.tier is not None)

    def correct(self, asked: Iterable[str], sockets: Mapping[str, tuple[int, int]]) -> None:
        """Count what the system says that the sockets of `asked` peers carried (bytes received and sent so far) beyond
        what is counted already, and forget the peers whose sockets are no more."""
        for peer in asked:
            if (carried := sockets.get(peer)) is None:
                self._connections.pop(peer, None)
            elif (connection := self._connections.get(peer)) is not None:
                up, down = max(0, carried[0] - connection.up), max(0, carried[1] - connection.down)
                if max(up, down) <= MOST_UNREAD_BYTES or carried == connection.carried:
                    self._rest(connection, up, down)
                connection.carried = carried

    def counts(self) -> tuple[TrafficCount, ...]:
        """May be called from any thread."""
        return tuple(TrafficCount(*key, *count) for key, count in sorted(self._counts.copy().items()))

    def since(self, saved: Iterable[TrafficCount]) -> tuple[TrafficCount, ...]:
        """The counts that are not among those saved."""
        known = set(saved)
        return tuple(count for count in self.counts() if count not in known)

    def _rest(self, connection: CountedConnection, up: int, down: int) -> None:
        """Bytes that belong to no message."""
        connection.up += up
        connection.down += down
        self._add("up", connection.tier, "connection", 0, 0, up)
        self._add("down", connection.tier, "connection", 0, 0, down)
        if connection.name:
            of_client = self.counted(connection.name)
            of_client[0] += up
            of_client[1] += down

    def counted(self, client: str) -> list[int]:
        """The client's count of wire bytes, [up, down], to be added to."""
        return self._clients.setdefault(client, [0, 0])

    def _add(self, direction: str, tier: Tier | None, kind: str, payload: int, messages: int, wire: int) -> None:
        key = (direction, str(tier or ""), str(self._phase()), kind)
        before = self._counts.get(key, (0, 0, 0))
        self._counts[key] = (before[0] + payload, before[1] + messages, before[2] + wire)


class CallTraffic:
    """One call's messages. `tier` is None until it is known."""

    __slots__ = ("_connection", "_of_client", "_traffic", "tier")

    def __init__(self, traffic: Traffic, connection: CountedConnection, tier: Tier | None, name: str = "") -> None:
        self._traffic, self._connection, self.tier = traffic, connection, tier
        self._of_client = traffic.counted(name) if name else [0, 0]

    def up(self, kind: str, payload_bytes: int) -> None:
        """A message from the client."""
        traffic, connection = self._traffic, self._connection
        wire = traffic._wire.message(payload_bytes)
        connection.up += wire
        self._of_client[0] += wire
        traffic._add("up", self.tier, kind, payload_bytes, 1, wire)
        if payload_bytes < CHUNK_BYTES:
            traffic._rest(connection, traffic._wire.windows, traffic._wire.windows)

    def down(self, kind: str, payload_bytes: int) -> None:
        """A message to the client."""
        wire = self._traffic._wire.message(payload_bytes)
        self._connection.down += wire
        self._of_client[1] += wire
        self._traffic._add("down", self.tier, kind, payload_bytes, 1, wire)


class TrafficLog:
    """The counts as of each version, from the rows that each commit changed. Columns of integers: a run of a hundred
    thousand versions keeps them all."""

    def __init__(self) -> None:
        self._latest: dict[Key, TrafficCount] = {}
        self._columns: dict[Key, tuple[array[int], array[int]]] = {}

    def record(self, version: int, rows: Iterable[TrafficCount]) -> None:
        """What a commit saved: the counts that differ from those of the version before, or all."""
        for row in rows:
            key = (row.direction, row.tier, row.phase, row.kind)
            if self._latest.get(key) != row:
                self._latest[key] = row
                versions, counts = self._columns.setdefault(key, (array("q"), array("q")))
                counts.extend((row.payload_bytes, row.messages, row.wire_bytes))
                versions.append(version)

    @property
    def latest(self) -> tuple[TrafficCount, ...]:
        return tuple(count for _, count in sorted(self._latest.items()))

    def at(self, version: int) -> tuple[TrafficCount, ...]:
        """All counts as of a version."""
        found = []
        for key, (versions, counts) in sorted(self._columns.items()):
            if place := bisect_right(versions, version):
                found.append(TrafficCount(*key, *counts[3 * place - 3 : 3 * place]))
        return tuple(found)
