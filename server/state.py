"""The coordinator's state and its pure fold, `evolve`.

The state is immutable: every event makes a new one. That is what lets the coordinator decide on a state whose events
are not on disk yet, and drop it if the disk refuses them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import TypeVar

from zowarmup.common.layout import Layout
from zowarmup.common.run import Rounds, RunFile
from zowarmup.common.work import Contribution, Phase, Tier
from zowarmup.server import events as ev

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Client:
    """A member of the fleet, until `revoked` holds the reason why it is not."""

    tier: Tier
    examples: int
    credential_sha256: str
    revoked: str = ""


@dataclass(frozen=True, slots=True)
class Invitation:
    """Good for the tier until `expires_at`, unix seconds, `uses` times, of which `used` are gone."""

    tier: Tier
    expires_at: float
    uses: int
    used: int = 0


@dataclass(frozen=True, slots=True)
class Presence:
    """Soft: what is known of a client since the coordinator started. `gone_at` is 0 while its stream `epoch` is open."""

    epoch: int = 0
    gone_at: float = 0.0
    version: int = 0
    digest: str = ""
    peak_memory_bytes: int = 0

    @property
    def connected(self) -> bool:
        return self.epoch > 0 and not self.gone_at


REMEMBERED = 32
"""So many of each tier's last contributions set the next deadline."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round in progress: open for contributions until `closed` holds the reason why it is not. It needs `needed` of
    them. `opened_at`, unix seconds, is 0 where it says nothing, as after a restart in its midst."""

    number: int
    phase: Phase
    version: int
    seeds: Mapping[str, int]
    examples: Mapping[str, int]
    deadline: float
    deadline_reason: str
    needed: int
    opened_at: float
    contributions: Mapping[str, Contribution] = field(default_factory=dict)
    closed: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """Participants that have not contributed, in ascending order."""
        return tuple(client for client in self.seeds if client not in self.contributions)


@dataclass(frozen=True, slots=True)
class State:
    """Where a run is. `round` counts openings, `version` commits; a retried round has a new number, so no seed is
    ever used twice. `previous` is the round before `current`; `rounds_done` counts the commits of the present phase,
    `abandoned` the abandoned rounds in a row. `took_s`: how long each tier's last contributions to the present phase
    took, seconds, oldest first."""

    run_id: str
    run_file: RunFile
    program: ev.Program
    layout: Layout
    phase: Phase
    digest: str
    snapshots: Mapping[int, ev.Snapshot]
    invitations: Mapping[str, Invitation] = field(default_factory=dict)
    clients: Mapping[str, Client] = field(default_factory=dict)
    presence: Mapping[str, Presence] = field(default_factory=dict)
    round: int = 0
    version: int = 0
    rounds_done: int = 0
    current: Round | None = None
    previous: Round | None = None
    abandoned: int = 0
    took_s: Mapping[Tier, tuple[float, ...]] = field(default_factory=dict)
    clipped_scalars: int = 0
    clipped_deltas: int = 0
    pivot_version: int | None = None
    paused: str = ""
    pivot_requested: str = ""
    stop_requested: str = ""
    evaluation: ev.Evaluated | None = None
    finished: str = ""

    @property
    def rules(self) -> Rounds:
        """How the present phase's rounds work."""
        return self.run_file.warmup if self.phase is Phase.WARM_UP else self.run_file.zeroth_order

    @property
    def eligible(self) -> tuple[str, ...]:
        """Connected clients that the present phase can use, in ascending order: the high tier in the warm-up, then
        everyone (paper, section 3)."""
        return tuple(
            sorted(
                name
                for name, presence in self.presence.items()
                if presence.connected and (self.phase is not Phase.WARM_UP or self.clients[name].tier is Tier.HIGH)
            )
        )

    @property
    def given_up(self) -> bool:
        """Whether the run has paused itself, after too many abandoned rounds."""
        return bool(self.paused) and self.abandoned >= self.run_file.server.abandoned_limit

    def is_gone(self, client: str) -> bool:
        """Whether its stream has been seen to close. After a restart nobody is gone: they may be on their way."""
        return client in self.presence and bool(self.presence[client].gone_at)

    @property
    def snapshot(self) -> ev.Snapshot:
        """The newest snapshot on disk."""
        return self.snapshots[max(self.snapshots)]


def quorum(state: State, needed: int) -> int:
    """How many must contribute for a round to count that needs so many to close at once."""
    return max(1, math.ceil(state.rules.quorum * needed - 1e-9))


def fold(state: State | None, events: Iterable[ev.Event]) -> State | None:
    for event in events:
        state = evolve(state, event)
    return state


def evolve(state: State | None, event: ev.Event) -> State:
    """The state after an event. Only RunCreated applies to None. Raises ValueError where an event cannot follow, which
    means that the ledger is damaged or from another version."""
    if isinstance(event, ev.RunCreated):
        if state is not None:
            raise ValueError("a second RunCreated in one ledger")
        return State(
            run_id=event.run_id,
            run_file=event.run_file,
            program=event.program,
            layout=Layout.from_json(event.program.layout),
            phase=Phase.WARM_UP,
            digest=event.initial.digest,
            snapshots={event.initial.version: event.initial},
            version=event.initial.version,
        )
    if state is None:
        raise ValueError(f"{type(event).__name__} before RunCreated")
    return _apply(event, state)


@singledispatch
def _apply(event: object, state: State) -> State:
    raise ValueError(f"{type(event).__name__} is not an event of this version")


@_apply.register
def _(event: ev.InvitationIssued, state: State) -> State:
    invitation = Invitation(event.tier, event.expires_at, event.uses)
    return replace(state, invitations={**state.invitations, event.token_sha256: invitation})


@_apply.register
def _(event: ev.ClientEnrolled, state: State) -> State:
    client = Client(event.tier, event.examples, event.credential_sha256)
    invitations = state.invitations
    if event.invitation:
        invitation = invitations[event.invitation]
        invitations = {**invitations, event.invitation: replace(invitation, used=invitation.used + 1)}
    return replace(state, clients={**state.clients, event.client: client}, invitations=invitations)


@_apply.register
def _(event: ev.ClientRevoked, state: State) -> State:
    client, current = replace(state.clients[event.client], revoked=event.reason), state.current
    if current is not None and not current.closed:
        current = replace(
            current,
            seeds=_without(current.seeds, event.client),
            examples=_without(current.examples, event.client),
            contributions=_without(current.contributions, event.client),
        )
    return replace(
        state,
        clients={**state.clients, event.client: client},
        presence=_without(state.presence, event.client),
        current=current,
    )


@_apply.register
def _(event: ev.RoundOpened, state: State) -> State:
    opened = Round(
        number=event.round,
        phase=event.phase,
        version=event.version,
        seeds=dict(zip(event.participants, event.seeds, strict=True)),
        examples=dict(zip(event.participants, event.examples, strict=True)),
        deadline=event.deadline,
        deadline_reason=event.deadline_reason,
        needed=event.needed or len(event.participants),
        opened_at=event.opened_at,
    )
    return replace(state, round=event.round, current=opened)


@_apply.register
def _(event: ev.DeadlineExtended, state: State) -> State:
    current = _current(state, event.round)
    extended = replace(current, deadline=event.deadline, deadline_reason=event.reason, opened_at=0.0)
    return replace(state, current=extended)


@_apply.register
def _(event: ev.Contributed, state: State) -> State:
    current = _current(state, event.contribution.round)
    contributions = {**current.contributions, event.client: event.contribution}
    took = state.took_s
    if event.took_s:
        tier = state.clients[event.client].tier
        took = {**took, tier: (*took.get(tier, ()), event.took_s)[-REMEMBERED:]}
    return replace(state, current=replace(current, contributions=contributions), took_s=took)


@_apply.register
def _(event: ev.RoundClosed, state: State) -> State:
    return replace(state, current=replace(_current(state, event.round), closed=event.reason))


@_apply.register
def _(event: ev.RoundAbandoned, state: State) -> State:
    previous = _current(state, event.round)
    return replace(state, current=None, previous=previous, abandoned=state.abandoned + 1)


@_apply.register
def _(event: ev.Committed, state: State) -> State:
    previous = _current(state, event.round)
    if event.version != state.version + 1:
        raise ValueError(f"version {event.version} committed after {state.version}")
    snapshots = state.snapshots if event.snapshot is None else {**state.snapshots, event.version: event.snapshot}
    return replace(
        state,
        version=event.version,
        digest=event.digest,
        snapshots=snapshots,
        current=None,
        previous=previous,
        abandoned=0,
        rounds_done=state.rounds_done + 1,
        clipped_scalars=state.clipped_scalars + event.clipped_scalars,
        clipped_deltas=state.clipped_deltas + event.clipped_deltas,
    )


@_apply.register
def _(event: ev.SnapshotTaken, state: State) -> State:
    return replace(state, snapshots={**state.snapshots, event.snapshot.version: event.snapshot})


@_apply.register
def _(event: ev.SnapshotsPruned, state: State) -> State:
    kept = {version: s for version, s in state.snapshots.items() if version not in event.versions}
    return replace(state, snapshots=kept)


@_apply.register
def _(event: ev.Pivoted, state: State) -> State:
    return replace(
        state, phase=Phase.ZEROTH_ORDER, pivot_version=event.version, rounds_done=0, pivot_requested="", took_s={}
    )


@_apply.register
def _(event: ev.Evaluated, state: State) -> State:
    return replace(state, evaluation=event)


@_apply.register
def _(event: ev.RunPaused, state: State) -> State:
    return replace(state, paused=event.reason)


@_apply.register
def _(event: ev.RunResumed, state: State) -> State:
    return replace(state, paused="", abandoned=0)


@_apply.register
def _(event: ev.PivotRequested, state: State) -> State:
    return replace(state, pivot_requested=event.reason)


@_apply.register
def _(event: ev.StopRequested, state: State) -> State:
    return replace(state, stop_requested=event.reason)


@_apply.register
def _(event: ev.RunFinished, state: State) -> State:
    return replace(state, phase=Phase.FINISHED, finished=event.reason)


@_apply.register
def _(event: ev.ClientConnected, state: State) -> State:
    before = state.presence.get(event.client, Presence())
    now = replace(before, epoch=event.epoch, gone_at=0.0)
    client = replace(state.clients[event.client], examples=event.examples)
    return replace(
        state,
        presence={**state.presence, event.client: now},
        clients={**state.clients, event.client: client},
    )


@_apply.register
def _(event: ev.ClientDisconnected, state: State) -> State:
    gone = replace(state.presence[event.client], gone_at=event.at)
    return replace(state, presence={**state.presence, event.client: gone})


@_apply.register
def _(event: ev.ClientReported, state: State) -> State:
    told = replace(
        state.presence.get(event.client, Presence()),
        version=event.version,
        digest=event.digest,
        peak_memory_bytes=event.peak_memory_bytes,
    )
    return replace(state, presence={**state.presence, event.client: told})


def _without(mapping: Mapping[str, _T], client: str) -> Mapping[str, _T]:
    return {name: value for name, value in mapping.items() if name != client}


def _current(state: State, round: int) -> Round:
    if state.current is None or state.current.number != round:
        raise ValueError(
            f"an event of round {round}, but the round in progress is {state.current and state.current.number}"
        )
    return state.current
