"""The messages between a device and its coordinator on the stream, as values, and which of them is to be done next.

Work, commits and contributions are the run's own vocabulary (`common.messages`); these are the words around them. A device
that was busy or away finds several messages. A later Fetch replaces the replica, so commits before it are moot; work
followed by anything that opens or closes a round is over; commits in a row are applied in one pass.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zowarmup.client.store.replica import Position
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Commit
from zowarmup.common.messages.masking import Keys, MaskingAsk, MaskingStep
from zowarmup.common.messages.values import Abstention, Artifact, Delta, Phase, Scalars, Work
from zowarmup.common.settings.run import SOFTWARE, ClientSpec


@dataclass(frozen=True, slots=True)
class Offer:
    """What is being trained, and what it asks of a device (GetRun). `now_s`: the coordinator's clock, seconds since 1970;
    `software`: its version, for people; `artifacts`: what is needed beside the program;
    `sha256`: of what decides what is measured, as the coordinator says it."""

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
    artifacts: tuple[Artifact, ...] = ()
    sha256: bytes = b""

    @property
    def model_bytes(self) -> int:
        """Of all that the model is made of: what moves, and what is fetched once beside the program."""
        return 4 * self.layout.size + sum(artifact.size_bytes for artifact in self.artifacts)

    def artifact(self, name: str) -> Artifact | None:
        """What the run has of that name, None where it has none."""
        return next((artifact for artifact in self.artifacts if artifact.name == name), None)


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


Message = Welcome | Work | MaskingAsk | Commit | Fetch | Accepted | Refused | Finished
Saying = Scalars | Delta | Keys | MaskingStep | Abstention | Report


@dataclass(frozen=True, slots=True)
class Commits:
    """Commits one after another, to be applied in one pass."""

    commits: tuple[Commit, ...]


InboxItem = Message | Commits


def agenda(messages: Sequence[Message]) -> tuple[InboxItem | None, list[Message]]:
    """The next thing to do, None where there is nothing, and what is left for afterwards."""
    waiting = _worthwhile(messages)
    if not waiting:
        return None, []
    first, rest = waiting[0], waiting[1:]
    if not isinstance(first, Commit):
        return first, rest
    # Nothing that stands between commits in `waiting` depends on them: work never does.
    return Commits((first, *(m for m in rest if isinstance(m, Commit)))), [m for m in rest if not isinstance(m, Commit)]


def _worthwhile(messages: Sequence[Message]) -> list[Message]:
    last_fetch = max((i for i, message in enumerate(messages) if isinstance(message, Fetch)), default=-1)
    last_turn = max((i for i, m in enumerate(messages) if isinstance(m, Work | Commit | Fetch | Finished)), default=-1)
    return [
        message
        for i, message in enumerate(messages)
        if not (isinstance(message, Commit | Fetch) and i < last_fetch)
        and not (isinstance(message, Work | MaskingAsk) and i < last_turn)
    ]


UPGRADE_REMEDY = "install the newer wheel here (deploy/raspberry-pi/install.sh keeps settings and identity; many devices: deploy/ansible)"
_VERSION = re.compile(r"(\S+) (\d+(?:\.\d+)*)(?![\d.])")


def upgrade_due(theirs: str, ours: str = SOFTWARE) -> bool:
    """Whether `theirs`, as in "zowarmup 0.2.0", is a later version of the same software; False where they cannot be
    compared."""
    here, there = _VERSION.match(ours), _VERSION.match(theirs)
    if here is None or there is None or here[1] != there[1]:
        return False
    return _numbers(there[2]) > _numbers(here[2])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
