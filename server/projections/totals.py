"""The projection of events to totals, which go on after a restart where they were.

Kept beside the history and read by the metrics. Sums are replaced, never changed in place, so another thread may read
them at any time.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core import events as ev

_K = TypeVar("_K")

ROUND_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)
WEIGHT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each duration occurred: `counts[i]` of at most `bounds[i]` seconds (and above the bound before), the
    last count of longer ones; `sum_s` of them all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...] = ()
    sum_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.counts:
            object.__setattr__(self, "counts", (0,) * (len(self.bounds) + 1))

    def with_one(self, seconds: float) -> "Histogram":
        place = bisect_left(self.bounds, seconds)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return Histogram(self.bounds, counts, self.sum_s + seconds)


class Durations:
    """A histogram that grows. One thread adds, others may read."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.histogram = Histogram(bounds)

    def add(self, seconds: float) -> None:
        self.histogram = self.histogram.with_one(max(0.0, seconds))


@dataclass(slots=True)
class _Open:
    """The round in progress, of the `present` (participants that are still members)."""

    number: int
    phase: Phase
    opened_at: float
    present: set[str]
    contributed: set[str] = field(default_factory=set)


class Totals:
    """`rounds` by (phase, "committed" or "abandoned"); `durations` from opening to commit, by phase; `contributions`,
    `dropouts` (participants of a round that ended without theirs) and `abstentions` (those that said why) by (phase, tier); `fedavg_bytes` by (direction,
    tier, phase): what the same number of rounds had cost as FedAvg, the model to each participant and a delta
    from each that contributed; `committed_at`: the last commit, unix seconds, 0 before the first."""

    def __init__(self) -> None:
        self.rounds: Mapping[tuple[Phase, str], int] = {}
        self.durations: Mapping[Phase, Histogram] = {}
        self.contributions: Mapping[tuple[Phase, Tier], int] = {}
        self.abstentions: Mapping[tuple[Phase, Tier], int] = {}
        self.dropouts: Mapping[tuple[Phase, Tier], int] = {}
        self.fedavg_bytes: Mapping[tuple[str, Tier, Phase], int] = {}
        self.committed_at = 0.0
        self._tiers: dict[str, Tier] = {}
        self._vector_bytes = 0
        self._open: _Open | None = None

    def record(self, at: float, event: ev.Event) -> None:
        """Add an event, stamped `at` (unix seconds)."""
        match event:
            case ev.RunCreated():
                self._vector_bytes = WEIGHT_BYTES * Layout.from_json(event.program.layout).size
            case ev.ClientEnrolled():
                self._tiers[event.client] = event.tier
            case ev.ClientRevoked() if self._open:
                self._open.present.discard(event.client)
                self._open.contributed.discard(event.client)
            case ev.RoundOpened():
                self._open = _Open(event.round, event.phase, at, set(event.participants))
            case ev.Contributed() if self._open:
                self._open.contributed.add(event.client)
                key = (self._open.phase, self._tiers[event.client])
                self.contributions = _plus(self.contributions, {key: 1})
            case ev.Abstained() if self._open:
                key = (self._open.phase, self._tiers[event.client])
                self.abstentions = _plus(self.abstentions, {key: 1})
            case ev.RoundAbandoned() if self._open:
                self._end(self._open, "abandoned")
            case ev.Committed() if self._open:
                self._commit(self._open, at)
                self._end(self._open, "committed")

    def _commit(self, round: _Open, at: float) -> None:
        self.committed_at = at
        lasted = self.durations.get(round.phase, Histogram(ROUND_S)).with_one(max(0.0, at - round.opened_at))
        self.durations = {**self.durations, round.phase: lasted}
        cost: dict[tuple[str, Tier, Phase], int] = {}
        for direction, clients in (("down", round.present), ("up", round.contributed)):
            for client in clients:
                key = (direction, self._tiers[client], round.phase)
                cost[key] = cost.get(key, 0) + self._vector_bytes
        self.fedavg_bytes = _plus(self.fedavg_bytes, cost)

    def _end(self, round: _Open, outcome: str) -> None:
        self.rounds = _plus(self.rounds, {(round.phase, outcome): 1})
        missing: dict[tuple[Phase, Tier], int] = {}
        for client in round.present - round.contributed:
            key = (round.phase, self._tiers[client])
            missing[key] = missing.get(key, 0) + 1
        self.dropouts = _plus(self.dropouts, missing)
        self._open = None


def _plus(sums: Mapping[_K, int], more: Mapping[_K, int]) -> Mapping[_K, int]:
    return {**sums, **{key: sums.get(key, 0) + count for key, count in more.items()}}
