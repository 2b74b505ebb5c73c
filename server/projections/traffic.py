"""Payload bytes between clients and the coordinator, counted by direction, tier, phase and kind of message.

Payload is serialised messages. What sockets carry beside them is the kernel's to count (`server/telemetry/tcp_info.py`); of it
this module knows whose each connection is. Counts are saved with each commit, so the run's totals survive a restart up to
the last one.
"""

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core.events import TrafficCount

_EVERYONE = ("", *Tier)
_UP: Mapping[str, Iterable[str]] = {
    "control": _EVERYONE,
    "contribution": Tier,
    "delta": (Tier.HIGH,),
    "measurement": Tier,
}
_DOWN: Mapping[str, Iterable[str]] = {
    "control": _EVERYONE,
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


class Traffic:
    """Totals of the run, which go on from those `saved`. `phase` says which one the run is in. `peers`: the tier of whom each
    connection was last called by, None for a stranger, by the peer as gRPC writes it.

    One thread counts; others may read."""

    def __init__(self, phase: Callable[[], Phase], saved: Iterable[TrafficCount] = ()) -> None:
        self._phase = phase
        self._saved = {(c.direction, c.tier, c.phase, c.kind): (c.payload_bytes, c.messages) for c in saved}
        self._totals = self._saved.copy()
        self._taken: dict[Key, tuple[int, int]] = {}
        self._clients: dict[str, list[int]] = {}
        self.peers: OrderedDict[str, Tier | None] = OrderedDict()

    def call(self, peer: str, tier: Tier | None = None, name: str = "") -> "CallTraffic":
        """A call has come in from `peer`, by the client `name` of a tier, or by a stranger."""
        self.peers[peer] = tier or self.peers.get(peer)
        if len(self.peers) > MOST_CONNECTIONS:
            self.peers.popitem(last=False)
        return CallTraffic(self, tier, self._clients.setdefault(name, [0, 0]) if name else [0, 0])

    def members(self) -> frozenset[str]:
        """The peers that were called from with a member's credential."""
        return frozenset(peer for peer, tier in self.peers.copy().items() if tier is not None)

    def forget(self, peer: str) -> None:
        """That connection is no more."""
        self.peers.pop(peer, None)

    def of(self, client: str) -> tuple[int, int]:
        """Bytes (up, down) of a client's messages since the coordinator started."""
        up, down = self._clients.get(client, (0, 0))
        return up, down

    def counts(self) -> tuple[TrafficCount, ...]:
        """The run's totals."""
        return tuple(TrafficCount(*key, *count) for key, count in sorted(self._totals.copy().items()))

    def since(self, saved: Iterable[TrafficCount]) -> tuple[TrafficCount, ...]:
        """The totals that are not among those saved."""
        known = set(saved)
        return tuple(count for count in self.counts() if count not in known)

    def include(self, counts: Iterable[TrafficCount]) -> None:
        """Take into the run's totals what other coordinators have carried."""
        for count in counts:
            key = (count.direction, count.tier, count.phase, count.kind)
            for totals in (self._totals, self._saved):
                payload, messages = totals.get(key, (0, 0))
                totals[key] = (payload + count.payload_bytes, messages + count.messages)

    def take(self) -> tuple[TrafficCount, ...]:
        """What this coordinator has carried since this was last called."""
        taken = []
        for key, (payload, messages) in sorted(self._totals.copy().items()):
            before = self._taken.get(key, self._saved.get(key, (0, 0)))
            if (payload, messages) != before:
                taken.append(TrafficCount(*key, payload - before[0], messages - before[1]))
                self._taken[key] = payload, messages
        return tuple(taken)

    def go_on_from(self, saved: Iterable[TrafficCount]) -> None:
        """The run's totals are those saved by now, and what this coordinator has not told anybody yet: from here on it saves them."""
        untold = self.take()
        latest = {(c.direction, c.tier, c.phase, c.kind): (c.payload_bytes, c.messages) for c in saved}
        own = {
            key: (total[0] - self._saved.get(key, (0, 0))[0], total[1] - self._saved.get(key, (0, 0))[1])
            for key, total in self._totals.items()
        }
        for count in untold:
            key = (count.direction, count.tier, count.phase, count.kind)
            payload, messages = latest.get(key, (0, 0))
            latest[key] = (payload + count.payload_bytes, messages + count.messages)
        self._totals = latest
        self._saved = {
            key: (total[0] - own.get(key, (0, 0))[0], total[1] - own.get(key, (0, 0))[1])
            for key, total in latest.items()
        }
        self._taken = dict(latest)

    def since_start(self) -> dict[Key, int]:
        """Bytes that this coordinator has carried since it started."""
        return {key: total - self._saved.get(key, (0, 0))[0] for key, (total, _) in self._totals.copy().items()}

    def add(self, direction: str, tier: Tier | None, kind: str, payload_bytes: int) -> None:
        key = (direction, str(tier or ""), str(self._phase()), kind)
        payload, messages = self._totals.get(key, (0, 0))
        self._totals[key] = (payload + payload_bytes, messages + 1)


class CallTraffic:
    """One call's messages. `tier` is None until it is known; `of_client`: the client's bytes [up, down], to be added to."""

    __slots__ = ("_of_client", "_traffic", "tier")

    def __init__(self, traffic: Traffic, tier: Tier | None, of_client: list[int]) -> None:
        self._traffic, self.tier, self._of_client = traffic, tier, of_client

    def up(self, kind: str, payload_bytes: int) -> None:
        """A message from the client."""
        self._of_client[0] += payload_bytes
        self._traffic.add("up", self.tier, kind, payload_bytes)

    def down(self, kind: str, payload_bytes: int) -> None:
        """A message to the client."""
        self._of_client[1] += payload_bytes
        self._traffic.add("down", self.tier, kind, payload_bytes)


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
                counts.extend((row.payload_bytes, row.messages))
                versions.append(version)

    @property
    def latest(self) -> tuple[TrafficCount, ...]:
        return tuple(count for _, count in sorted(self._latest.items()))

    def at(self, version: int) -> tuple[TrafficCount, ...]:
        """All counts as of a version. Safe in any thread."""
        found = []
        for key, (versions, counts) in sorted(self._columns.copy().items()):
            if place := bisect_right(versions, version):
                found.append(TrafficCount(*key, *counts[2 * place - 2 : 2 * place]))
        return tuple(found)
