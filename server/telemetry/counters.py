"""Counters of what happens in a run, for Prometheus.

They observe the coordinator's events and begin at zero with its process, as Prometheus expects of counters. The run's own
totals are folded from the event log, for `zowarmup status` and the history of versions.
"""

from collections.abc import Sequence

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram

from zowarmup.common.algorithms.fedavg import model_bytes
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core import events as ev
from zowarmup.server.core.state import State

prometheus_client.disable_created_metrics()

WORKING = (Phase.WARM_UP, Phase.ZEROTH_ORDER)
ROUND_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)


class Counters:
    """Counters of the coordinator's events, at zero until it `begin`s to be told of them. `state`: of the run."""

    def __init__(self, registry: CollectorRegistry, state: State) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"zowarmup_{name}", text, labels, registry=registry)

        of_fedavg = (
            "What as many rounds of FedAvg had cost as were committed, by the same clients: model down, delta up."
        )
        self._fedavg = counter("fedavg_bytes", of_fedavg, "direction", "tier", "phase")
        self._rounds = counter("rounds", "Rounds that have ended.", "phase", "outcome")
        self._durations = Histogram(
            "zowarmup_round_duration_seconds",
            "Committed rounds, from opening to commit.",
            ("phase",),
            registry=registry,
            buckets=ROUND_S,
        )
        self._contributions = counter("contributions", "Contributions that count.", "phase", "tier")
        self._dropouts = counter(
            "dropouts", "Participants of rounds that have ended without their contribution.", "phase", "tier"
        )
        self._abstentions = counter("abstentions", "Those of them that had none to give, and said so.", "phase", "tier")
        self._clipped = counter("clipped", "Outlying scalars and deltas that were bounded.", "kind")
        self._below_tick = counter(
            "rounds_below_tick",
            "Committed rounds in which no direction moved by more than one tick of the grid.",
        )
        self._rollbacks = counter("rollbacks", "Returns to the last good version.")
        for phase in WORKING:
            self._durations.labels(phase)
            for outcome in ("committed", "abandoned"):
                self._rounds.labels(phase, outcome)
            for tier in Tier:
                if phase is not Phase.WARM_UP or tier in state.run_file.warmup.tiers:
                    for one in (self._contributions, self._dropouts, self._abstentions):
                        one.labels(phase, tier)
                for direction in ("up", "down"):
                    self._fedavg.labels(direction, tier, phase)
        for kind in ("scalar", "delta"):
            self._clipped.labels(kind)
        self.begin(state)

    def begin(self, state: State) -> None:
        """Count from this state on."""
        current = state.current
        self._phase, self._opened_at = state.phase, current.opened_at if current else 0.0
        self._present = set(current.seeds) if current else set()
        self._missing = self._present - set(current.contributions if current else ())

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        def tier(client: str) -> Tier:
            return state.clients[client].tier

        for event in events:
            match event:
                case ev.RoundOpened():
                    self._phase, self._opened_at = event.phase, event.opened_at
                    self._present, self._missing = set(event.participants), set(event.participants)
                case ev.Contributed():
                    self._missing.discard(event.client)
                    self._contributions.labels(self._phase, tier(event.client)).inc()
                case ev.Abstained():
                    self._abstentions.labels(self._phase, tier(event.client)).inc()
                case ev.ClientRevoked():
                    self._present.discard(event.client)
                    self._missing.discard(event.client)
                case ev.RoundAbandoned():
                    self._end("abandoned", state)
                case ev.Committed():
                    self._clipped.labels("scalar").inc(event.clipped_scalars)
                    self._clipped.labels("delta").inc(event.clipped_deltas)
                    self._below_tick.inc(event.below_tick)
                    if self._opened_at:
                        self._durations.labels(self._phase).observe(max(0.0, now - self._opened_at))
                    whole = model_bytes(state.layout.uploaded)
                    for client in self._present:
                        self._fedavg.labels("down", tier(client), self._phase).inc(whole)
                    for client in self._present - self._missing:
                        self._fedavg.labels("up", tier(client), self._phase).inc(whole)
                    self._end("committed", state)
                case ev.RolledBack():
                    self._rollbacks.inc()

    def _end(self, outcome: str, state: State) -> None:
        self._rounds.labels(self._phase, outcome).inc()
        for client in self._missing:
            self._dropouts.labels(self._phase, state.clients[client].tier).inc()
        self._present, self._missing = set(), set()
