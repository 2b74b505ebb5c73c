"""Commands: what is asked of the coordinator, in the imperative.

`decide` turns a command into events, or rejects it. A command carries no randomness but the secret of a new run, and other secrets come hashed. `decide` is
given the time; only invitations, whose validity people read on a calendar, need a date, and their commands carry it.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.masking import Given, MaskingStep
from zowarmup.common.messages.values import Abstention, Tier
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.common.settings.run import RunFile
from zowarmup.server.core.events import Committed, ProgramRecord, Snapshot, TrafficCount


@dataclass(frozen=True, slots=True)
class CreateRun:
    """`secret`: 64 random hex digits, which the draws follow from; empty where the run file has `draws = "seed"`."""

    run_id: str
    run_file: RunFile
    program: ProgramRecord
    initial: Snapshot
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Restart:
    """The coordinator is back after a stop: nobody is connected, and a round in progress gets its time again."""


@dataclass(frozen=True, slots=True)
class Invite:
    """`expires_s`: seconds from now; `date`: now, seconds since 1970 by the calendar."""

    token_sha256: str
    tier: Tier
    expires_s: float
    uses: int
    date: float = 0.0


@dataclass(frozen=True, slots=True)
class Enrol:
    """`token_sha256` is empty where there is no token; `identity`: the public key of a run with secure aggregation, hex; `invited`: whether one is needed here; `date`: now, seconds since
    1970 by the calendar, for an invitation's validity."""

    name: str
    tier: Tier
    examples: int
    credential_sha256: str
    token_sha256: str = ""
    invited: bool = False
    date: float = 0.0
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Revoke:
    """`with_invitation`: revoke also the invitation that it came by, so that it cannot come again by what is left of it."""

    client: str
    reason: str
    with_invitation: bool = False


@dataclass(frozen=True, slots=True)
class Uninvite:
    """`invitation`: the token's hash, or its first digits (`membership.identifier`)."""

    invitation: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectClient:
    """A client opened a stream. `epoch` is larger for every stream the coordinator accepts. `version` and `digest` (hex,
    empty where it holds no replica) are its replica's; `software`: what it runs."""

    client: str
    epoch: int
    examples: int
    version: int = 0
    digest: str = ""
    software: str = ""


@dataclass(frozen=True, slots=True)
class DisconnectClient:
    """That stream has closed."""

    client: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Contribute:
    client: str
    contribution: Given


@dataclass(frozen=True, slots=True)
class TakeStep:
    """What a client sends in a stage of a round with secure aggregation, any but the first: `body`, in base64."""

    client: str
    round: int
    stage: Stage
    body: str

    @classmethod
    def of(cls, client: str, step: MaskingStep) -> "TakeStep":
        return cls(client, step.round, step.stage, base64.b64encode(step.body).decode())


@dataclass(frozen=True, slots=True)
class Abstain:
    client: str
    abstention: Abstention


@dataclass(frozen=True, slots=True)
class RecordReport:
    client: str
    version: int
    digest: str
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class CommitRound:
    """The version that a closed round's contributions are aggregated to."""

    committed: Committed


@dataclass(frozen=True, slots=True)
class AbandonRound:
    """The contributions of a closed round cannot be aggregated."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class RecordSnapshot:
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class PruneSnapshots:
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RecordEvaluation:
    """What `events.Evaluated` has. `constant`: the model says all but the same of every example."""

    version: int
    metrics: Mapping[str, float]
    loss: float
    examples: int
    constant: bool = False


@dataclass(frozen=True, slots=True)
class RollBack:
    """The replica is back at the last good version's weights, as a new version: by `steps` or a `snapshot`."""

    version: int
    digest: str
    steps: tuple[Step, ...]
    snapshot: Snapshot | None
    traffic: tuple[TrafficCount, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    reason: str


@dataclass(frozen=True, slots=True)
class Resume:
    pass


@dataclass(frozen=True, slots=True)
class Pivot:
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    reason: str


Command = (
    CreateRun
    | Restart
    | Invite
    | Enrol
    | Revoke
    | Uninvite
    | ConnectClient
    | DisconnectClient
    | Contribute
    | TakeStep
    | Abstain
    | RecordReport
    | Tick
    | CommitRound
    | AbandonRound
    | RecordSnapshot
    | PruneSnapshots
    | RecordEvaluation
    | RollBack
    | Pause
    | Resume
    | Pivot
    | Stop
)
