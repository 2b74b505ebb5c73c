"""The messages between a device and its coordinator on the stream, as values.

Work, commits and contributions are the run's own vocabulary (`common.messages`); these are the words around them.
"""

from dataclasses import dataclass

from zowarmup.client.store.replica import Position
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Commit
from zowarmup.common.messages.values import Abstention, Delta, Phase, Scalars, Work
from zowarmup.common.settings.run import ClientSpec


@dataclass(frozen=True, slots=True)
class Offer:
    """What is being trained, and what it asks of a device (GetRun). `now_s`: the coordinator's clock, seconds since 1970;
    `software`: its version, for people."""

    run_id: str
    name: str
    spec: ClientSpec
    layout: Layout
    program_sha256: bytes
    program_bytes: int
    high_memory_bytes: int
    low_memory_bytes: int
    now_s: float = 0.0
    software: str = ""


@dataclass(frozen=True, slots=True)
class Hello:
    """What opens a stream: the run, where the replica is, how many examples this device holds."""

    run_id: str
    position: Position
    examples: int


@dataclass(frozen=True, slots=True)
class Report:
    """A replica's state and the process's peak resident memory."""

    position: Position
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answers Hello: where the run is; `waiting` says what for, empty when a round is in progress. `software`: the
    coordinator's."""

    epoch: int
    phase: Phase
    version: int
    waiting: str
    software: str = ""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Replace the replica by the snapshot of a version, for a reason."""

    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The contribution for a round is durable."""

    round: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The contribution for a round was refused; nothing changed."""

    round: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Finished:
    """No further version will come. `gave_up`: why the run ended before its time; empty where it did not."""

    version: int
    digest: bytes
    gave_up: str = ""


Message = Welcome | Work | Commit | Fetch | Accepted | Refused | Finished
Saying = Scalars | Delta | Abstention | Report
