"""Events: what has happened, in the past tense.

Events are the truth: the coordinator's state is a fold over them (`evolve`), and a restart is the same fold
over the ledger. Those marked soft, about who is connected just now, are folded but never written: after a restart
nobody is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.masking import Given
from zowarmup.common.messages.values import Abstention, Artifact, Phase, Tier
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import RunFile
from zowarmup.common.tasks.protocol import Baseline, Metric


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Full weights on disk: blob `sha256` holds version `version` as little-endian float32 on grid 2^-`exponent`
    (in places on others: `ranges`, as `Grid` has them), with xxh3-128 `digest` (both digests hex). Blob `optimiser` holds, in the same form, the warm-up's server optimizer's state then;
    empty where it has none."""

    version: int
    sha256: str
    exponent: int
    digest: str
    optimiser: str = ""
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def grid(self) -> Grid:
        return Grid(self.exponent, self.ranges)

    @property
    def blobs(self) -> tuple[str, ...]:
        """All that it needs on disk."""
        return (self.sha256, self.optimiser) if self.optimiser else (self.sha256,)


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """What a run trains: blob `sha256` is the ONNX forward pass, `layout` its layout as JSON, `card` what its targets and
    inputs mean. `metrics`: those of the run's task, the primary one first; `baseline`: of the held-out set. Both stand here so
    that whoever reads the events needs none of the task's code. `artifacts`: what devices need beside it;
    `architecture`: of a pretrained language model."""

    sha256: str
    size_bytes: int
    layout: str
    card: DataCard
    high_memory_bytes: int
    low_memory_bytes: int
    metrics: tuple[Metric, ...]
    baseline: Baseline
    artifacts: tuple[Artifact, ...] = ()
    architecture: Architecture | None = None

    @property
    def blobs(self) -> tuple[str, ...]:
        """All that it needs on disk."""
        return (self.sha256, *(artifact.sha256 for artifact in self.artifacts))

    def artifact(self, name: str) -> Artifact | None:
        """The artifact of that name, None where the run has none."""
        return next((artifact for artifact in self.artifacts if artifact.name == name), None)

    @property
    def metric(self) -> Metric:
        """The primary one."""
        return self.metrics[0]


@dataclass(frozen=True, slots=True)
class TrafficCount:
    """Serialised messages of one kind so far. `direction`: up (from clients) or down; `tier` is empty before enrolment."""

    direction: str
    tier: str
    phase: str
    kind: str
    payload_bytes: int
    messages: int


@dataclass(frozen=True, slots=True)
class RunCreated:
    """`secret`: what the draws follow from, 64 hex digits; empty where the run file says that they follow from its seed."""

    run_id: str
    run_file: RunFile
    program: ProgramRecord
    initial: Snapshot
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class InvitationIssued:
    """Whoever knows the token (stored hashed only) may enrol in `tier` from `issued_at` until `expires_at`, unix seconds by
    the calendar, `uses` times."""

    token_sha256: str
    tier: Tier
    expires_at: float
    uses: int
    issued_at: float = 0.0


@dataclass(frozen=True, slots=True)
class InvitationRevoked:
    """Nobody can enrol with that token any more. Those who came by it stay members."""

    token_sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClientEnrolled:
    """`invitation`: the hash of the token that it came with; empty where it came without. `identity`: its public Ed25519
    key, 64 hex digits; empty where the run has no secure aggregation."""

    client: str
    tier: Tier
    examples: int
    credential_sha256: str
    invitation: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class ExamplesChanged:
    """A member now claims to hold another number of `examples` than `before`."""

    client: str
    examples: int
    before: int


@dataclass(frozen=True, slots=True)
class ClientRevoked:
    """It is no longer a member, and no round waits for it or counts it. It never becomes one again."""

    client: str
    reason: str


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """`participants` in ascending order, each with its seed and number of examples at the same place in `seeds` and
    `examples`. It may last from `opened_at` until `deadline`, both in seconds by the coordinator's clock that never jumps
    (`clock`: unix time as of the coordinator's start), with why so long; it closes when `needed` have contributed."""

    round: int
    phase: Phase
    version: int
    participants: tuple[str, ...]
    seeds: tuple[int, ...]
    examples: tuple[int, ...]
    deadline: float
    deadline_reason: str = ""
    needed: int = 0
    opened_at: float = 0.0


@dataclass(frozen=True, slots=True)
class DeadlineExtended:
    """`return_by`, unix seconds: until then the round waits for the participants that are not connected (0: until the
    deadline)."""

    round: int
    deadline: float
    reason: str
    return_by: float = 0.0


@dataclass(frozen=True, slots=True)
class Contributed:
    """`took_s`: seconds since the round was opened; 0 where they say nothing about the client."""

    client: str
    contribution: Given
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StageBegan:
    """The round, one with secure aggregation, has come to the next stage, which may last until `deadline`; `reason`: what the
    one before came to."""

    round: int
    stage: Stage
    deadline: float
    reason: str


@dataclass(frozen=True, slots=True)
class StepTaken:
    """A member has sent what the stage asks for: `body`, in base64."""

    client: str
    round: int
    stage: Stage
    body: str


@dataclass(frozen=True, slots=True)
class Abstained:
    """A participant has nothing to contribute to the round, which does not wait for it."""

    client: str
    abstention: Abstention


@dataclass(frozen=True, slots=True)
class Failure:
    """A participant that failed `in_a_row` rounds, the last one for `reason` (a clause). Where others suffice it is not drawn
    before `rests_until`, by the coordinator's clock."""

    client: str
    in_a_row: int
    rests_until: float
    reason: str


@dataclass(frozen=True, slots=True)
class ParticipantsFailed:
    """The round has ended without these."""

    round: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """No further contribution counts; those present are being aggregated."""

    round: int
    reason: str


NOT_AGGREGATED = "its contributions cannot be aggregated: "
FAULTY = f"{NOT_AGGREGATED}algorithm "


@dataclass(frozen=True, slots=True)
class RoundAbandoned:
    """Too few contributed, or what they did cannot be aggregated: the model stays as it is."""

    round: int
    reason: str

    @property
    def fault(self) -> str:
        """What the algorithm's own code did wrong, where that is the reason; else empty."""
        return self.reason.removeprefix(NOT_AGGREGATED) if self.reason.startswith(FAULTY) else ""


@dataclass(frozen=True, slots=True)
class Committed:
    """The model's next version: by `steps` on the grid it is on, or by a `snapshot` where the grid changes. `traffic`:
    the counts that have changed since the version before (older ledgers have all of them).
    `clipped_scalars` and `clipped_deltas`: how many of the round's were outliers and bounded. `moments`:
    the server optimizer's state for the next round. `bounds`: to which its clients clip what they add to a sum."""

    version: int
    round: int
    digest: str
    steps: tuple[Step, ...]
    snapshot: Snapshot | None
    traffic: tuple[TrafficCount, ...]
    clipped_scalars: int = 0
    clipped_deltas: int = 0
    moments: tuple[float, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def below_tick(self) -> bool:
        """Whether it has steps, and none of them moves along a direction by more than one tick."""
        return bool(self.steps) and all(abs(tick) <= 1 for step in self.steps for tick in step.ticks)


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class SnapshotsPruned:
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pivoted:
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The task's `metrics` by name and the mean `loss` (nats per example) on so many held-out examples; not numbers, and 0
    examples, where the version cannot be evaluated. `rejected`: why the run goes back from this version; empty where it does
    not."""

    version: int
    metrics: Mapping[str, float]
    loss: float
    examples: int
    rejected: str = ""


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The model is at the weights of version `to` again, as a new `version` with the same `digest`: by `steps`, those
    since `to` taken back, or by a `snapshot`. From now on learning rates are multiplied by `rate_factor`."""

    version: int
    to: int
    digest: str
    steps: tuple[Step, ...]
    snapshot: Snapshot | None
    traffic: tuple[TrafficCount, ...]
    rate_factor: float
    reason: str


@dataclass(frozen=True, slots=True)
class RunPaused:
    reason: str


@dataclass(frozen=True, slots=True)
class RunResumed:
    pass


@dataclass(frozen=True, slots=True)
class PivotRequested:
    reason: str


@dataclass(frozen=True, slots=True)
class StopRequested:
    reason: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class RunGaveUp:
    """The run is over before its time, at the last good version's weights."""

    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class ClientConnected:
    """`version` and `digest` (hex, empty where it holds no replica) are its replica's; `software`: what it runs."""

    soft: ClassVar[bool] = True
    client: str
    epoch: int
    examples: int
    version: int = 0
    digest: str = ""
    software: str = ""


@dataclass(frozen=True, slots=True)
class ClientDisconnected:
    """`return_by`, unix seconds: until then a round that it takes part in waits for it."""

    soft: ClassVar[bool] = True
    client: str
    at: float
    return_by: float = 0.0


@dataclass(frozen=True, slots=True)
class ClientReported:
    soft: ClassVar[bool] = True
    client: str
    version: int
    digest: str
    peak_memory_bytes: int


DurableEvent = (
    RunCreated
    | InvitationIssued
    | InvitationRevoked
    | ClientEnrolled
    | ExamplesChanged
    | ClientRevoked
    | RoundOpened
    | DeadlineExtended
    | Contributed
    | StageBegan
    | StepTaken
    | Abstained
    | ParticipantsFailed
    | RoundClosed
    | RoundAbandoned
    | Committed
    | SnapshotTaken
    | SnapshotsPruned
    | Pivoted
    | Evaluated
    | RolledBack
    | RunPaused
    | RunResumed
    | PivotRequested
    | StopRequested
    | RunFinished
    | RunGaveUp
)
SoftEvent = ClientConnected | ClientDisconnected | ClientReported
Event = DurableEvent | SoftEvent


def is_durable(event: Event) -> bool:
    """Whether the event belongs in the ledger."""
    return not getattr(event, "soft", False)
