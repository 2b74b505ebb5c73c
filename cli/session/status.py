"""A coordinator's answers to its operator as values, and sums over them that several commands show."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.tasks.protocol import Metric


@dataclass(frozen=True, slots=True)
class EvaluationStatus:
    """The task's `metrics` by name; `loss`: nats per example."""

    version: int
    metrics: Mapping[str, float]
    loss: float
    examples: int


@dataclass(frozen=True, slots=True)
class TrafficStatus:
    """Payload bytes of one kind. `direction`: up (from clients) or down; `tier` is None before enrolment."""

    direction: str
    tier: Tier | None
    phase: Phase
    kind: str
    payload_bytes: int
    messages: int


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """`version` and `digest` (hex) are its replica's, and `peak_memory_bytes` its process's, as last reported; `gone_s`
    counts since its stream closed; `revoked` holds why it was shut out, empty while it is a member."""

    name: str
    tier: Tier
    connected: bool
    examples: int
    version: int
    digest: str
    peak_memory_bytes: int
    gone_s: float
    revoked: str = ""


@dataclass(frozen=True, slots=True)
class PrivacyStatus:
    """Differential privacy of one example of one client: `epsilon` is what the client has told at most that has released most,
    `epsilon_budget` what each may, both at `delta`."""

    mode: str
    epsilon: float
    epsilon_budget: float
    delta: float
    releases: int
    releases_budget: int


@dataclass(frozen=True, slots=True)
class Replicas:
    """How the clients' last reports compare with the coordinator's model. Replicas that have not reported since this
    version was made say nothing."""

    agree: tuple[str, ...]
    differ: tuple[str, ...]
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """Where the run is. `metrics`: of the run's task, the primary one first; `digest` is hex; `pivot_version` and
    `final_version` are where the phases end or ended; `pivot_reason` is why the warm-up ended, empty before;
    `rollbacks` how often the run went back to its last good version, since when learning rates are multiplied by
    `rate_factor`; `gave_up` why it ended before its time, else empty; `certificate_expires_at_s`: when the
    coordinator's certificate expires, seconds since 1970, 0 without TLS; `refusals` counts what was refused since the
    coordinator's start, by reason; `privacy`: None where devices add no noise."""

    name: str
    run_id: str
    metrics: tuple[Metric, ...]
    phase: Phase
    round: int
    version: int
    digest: str
    activity: str
    pivot_version: int
    final_version: int
    clients: tuple[ClientStatus, ...]
    traffic: tuple[TrafficStatus, ...]
    evaluation: EvaluationStatus | None
    pivot_evaluation: EvaluationStatus | None
    paused: str
    participants: int
    contributed: int
    uptime_s: float
    clipped_scalars: int = 0
    clipped_deltas: int = 0
    rounds_below_tick: int = 0
    certificate_expires_at_s: float = 0.0
    pivot_reason: str = ""
    rollbacks: int = 0
    rate_factor: float = 1.0
    gave_up: str = ""
    refusals: Mapping[str, int] = field(default_factory=dict)
    privacy: PrivacyStatus | None = None

    @property
    def metric(self) -> Metric:
        """The primary one."""
        return self.metrics[0]

    def value(self, evaluation: EvaluationStatus) -> float:
        """The primary metric in an evaluation."""
        return evaluation.metrics.get(self.metric.name, math.nan)

    def shown(self, evaluation: EvaluationStatus) -> str:
        """The same for people."""
        return self.metric.shown(self.value(evaluation))

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The tiers that have members, high first."""
        return tuple(tier for tier in Tier if any(client.tier is tier for client in self.fleet))

    def members(self, tier: Tier) -> tuple[ClientStatus, ...]:
        return tuple(client for client in self.fleet if client.tier is tier)

    @property
    def fleet(self) -> tuple[ClientStatus, ...]:
        """The clients that have not been revoked."""
        return tuple(client for client in self.clients if not client.revoked)

    @property
    def replicas(self) -> Replicas:
        current = [client for client in self.fleet if client.version == self.version and client.digest]
        return Replicas(
            agree=tuple(client.name for client in current if client.digest == self.digest),
            differ=tuple(client.name for client in current if client.digest != self.digest),
            silent=tuple(client.name for client in self.fleet if client not in current),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values with units in the names, for `zowarmup status --json`. What is not finite, such as the loss of a
        model that has diverged, is None: JSON has no word for it."""
        replicas = self.replicas
        return {
            **{name: _finite(value) for name, value in asdict(self).items()},
            "replicas": {"agree": len(replicas.agree), "differ": len(replicas.differ), "silent": len(replicas.silent)},
        }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of the model: the `round` that made it, and the whole run's traffic when it was committed."""

    version: int
    round: int
    phase: Phase
    contributions: int
    committed_at_s: float
    evaluation: EvaluationStatus | None
    traffic: tuple[TrafficStatus, ...]


@dataclass(frozen=True, slots=True)
class Participant:
    """A client and what it did last. `since_s`: how long it has been connected or gone, None where it has not been seen
    since the coordinator started; `round`: the open one that it takes part in, 0 for none; `abstained`: why it last did,
    empty where it has contributed since; `agrees`: whether the digest that it last reported is the run's, None where it
    has reported none; `contributed_s`: how long ago it last contributed; `up_bytes` and `down_bytes`: on the wire, since
    the coordinator started."""

    name: str
    tier: Tier
    connected: bool
    since_s: float | None
    revoked: str
    round: int
    contributed: bool
    abstained: str
    version: int
    agrees: bool | None
    software: str
    contributed_s: float | None
    peak_memory_bytes: int
    up_bytes: int
    down_bytes: int
    examples: int

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.revoked:
            return "revoked"
        if not self.connected:
            return "not seen" if self.since_s is None else "gone"
        if self.abstained:
            return "abstains"
        if self.round:
            return f"contributed {self.round}" if self.contributed else f"in round {self.round}"
        return "connected"

    def to_json(self) -> dict[str, Any]:
        return {"state": self.state, **asdict(self)}


@dataclass(frozen=True, slots=True)
class InvitationStatus:
    """An invitation as its coordinator knows it, without its secret.

    Args:
        name: By which `zowarmup uninvite` knows it.
        expires_at_s: Until when it is good, seconds since 1970.
        closed: Why nobody can use it any more, as a clause; empty while it is open.
        clients: Who came by it, revoked or not.
    """

    name: str
    tier: Tier
    uses: int
    used: int
    expires_at_s: float
    closed: str
    clients: tuple[str, ...]

    @property
    def left(self) -> int:
        """How many more devices may use it."""
        return 0 if self.closed else self.uses - self.used

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "left": self.left}


@dataclass(frozen=True, slots=True)
class Issued:
    """An invitation: its secret (hex), until when it is good, seconds since 1970, and its name for `uninvite`."""

    token: str = field(repr=False)
    expires_at_s: float
    invitation: str


@dataclass(frozen=True, slots=True)
class Run:
    """What is being trained: `parameters` is the length of its flat vector."""

    name: str
    run_id: str
    parameters: int


def payload(
    traffic: Iterable[TrafficStatus],
    direction: str,
    tier: Tier | None,
    phase: Phase | None = None,
    kinds: Collection[str] = (),
) -> int:
    """Payload bytes that went `direction` for a tier, of one phase or all, of the given kinds or all."""
    return sum(
        row.payload_bytes
        for row in traffic
        if row.direction == direction
        and row.tier is tier
        and (phase is None or row.phase is phase)
        and (not kinds or row.kind in kinds)
    )


def contributions(traffic: Iterable[TrafficStatus], tier: Tier, phase: Phase) -> int:
    """How many contributions a tier has sent in a phase."""
    return sum(
        row.messages
        for row in traffic
        if row.direction == "up" and row.tier is tier and row.phase is phase and row.kind == "contribution"
    )


def bytes_per_contribution(traffic: Iterable[TrafficStatus], tier: Tier, phase: Phase) -> float | None:
    """What one contribution of a tier costs it to upload, its delta included; None before the first."""
    rows = tuple(traffic)
    count = contributions(rows, tier, phase)
    return payload(rows, "up", tier, phase, ("contribution", "delta")) / count if count else None
