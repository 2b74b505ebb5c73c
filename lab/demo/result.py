"""The result of a demo, and report.json."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zowarmup.cli.run_status import Status, VersionStatus, bytes_per_contribution, contributions, payload
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.tasks.protocol import Metric

WORKING_PHASES = (Phase.WARM_UP, Phase.ZEROTH_ORDER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """`status` and `versions` (ascending) are the last ones before the coordinator left; `clients` were started, by
    tier; `parameters` is the length of the model's flat vector; `peak_rss_bytes` the largest of a tier's processes;
    `seconds` from the first process to the end of the run."""

    model: str
    seed: int
    clients: Mapping[Tier, int]
    parameters: int
    status: Status
    versions: tuple[VersionStatus, ...]
    peak_rss_bytes: Mapping[Tier, int]
    seconds: float

    @property
    def metric(self) -> Metric:
        """The primary one of the run's task."""
        return self.status.metric

    @property
    def at_pivot(self) -> float | None:
        """That metric at the pivot."""
        return self.status.value(self.status.pivot_evaluation) if self.status.pivot_evaluation else None

    @property
    def final(self) -> float | None:
        """That metric in the end."""
        return self.status.value(self.status.evaluation) if self.status.evaluation else None

    @property
    def replicas_equal(self) -> bool:
        """Whether every client that was started has reported the final version with the coordinator's digest."""
        return len(self.status.replicas.agree) == len(self.status.clients) == sum(self.clients.values())

    @property
    def contributions(self) -> int:
        return sum(version.contributions for version in self.versions)

    @property
    def uplink_bytes(self) -> int:
        return sum(payload(self.status.traffic, "up", tier) for tier in self.clients)

    @property
    def fedavg_uplink_bytes(self) -> int:
        """At equal rounds: what the same contributions would have uploaded as FedAvg deltas, a float32 for each parameter."""
        return 4 * self.parameters * self.contributions

    def uplink_per_contribution(self, tier: Tier, phase: Phase) -> float | None:
        return bytes_per_contribution(self.status.traffic, tier, phase)

    def to_json(self) -> dict[str, Any]:
        """The content of report.json: bytes are payload bytes, those of FedAvg at equal rounds, memory is in MB of 10^6 bytes."""
        return {
            "model": self.model,
            "seed": self.seed,
            "parameters": self.parameters,
            "clients": {tier.value: count for tier, count in self.clients.items()},
            "metrics": {metric.name: self._reached(metric) for metric in self.status.metrics},
            "uplink_payload_bytes": self._payload("up"),
            "downlink_payload_bytes": self._payload("down"),
            "uplink_bytes_per_contribution": {
                tier.value: {phase.value: self.uplink_per_contribution(tier, phase) for phase in WORKING_PHASES}
                for tier in self.clients
            },
            "contributions": {
                tier.value: {phase.value: contributions(self.status.traffic, tier, phase) for phase in WORKING_PHASES}
                for tier in self.clients
            },
            "fedavg_uplink_payload_bytes": self.fedavg_uplink_bytes,
            "peak_rss_mb": {tier.value: round(peak / 1e6, 1) for tier, peak in self.peak_rss_bytes.items()},
            "replicas_equal": self.replicas_equal,
            "digest": self.status.digest,
            "rounds": self.status.version,
            "seconds": round(self.seconds, 1),
        }

    def _reached(self, metric: Metric) -> dict[str, float | None]:
        pivot, final = self.status.pivot_evaluation, self.status.evaluation
        found = {"pivot": pivot, "final": final}
        values = {when: one.metrics.get(metric.name, math.nan) if one else math.nan for when, one in found.items()}
        return {when: value if math.isfinite(value) else None for when, value in values.items()}

    def _payload(self, direction: str) -> dict[str, dict[str, int]]:
        """By tier and phase. What is said after the end (the replicas' reports) stands under "finished"."""
        return {
            tier.value: {phase.value: payload(self.status.traffic, direction, tier, phase) for phase in Phase}
            for tier in self.clients
        }
