"""`evolve`: the next state of a run after an event.

A pure fold, without a clock or a decision: the live coordinator and a restart that reads the ledger run the same code
over the same events, so they come to the same state.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.server.core import events as ev
from zowarmup.server.core.persistent_map import PersistentMap
from zowarmup.server.core.plateau import with_loss
from zowarmup.server.core.sorted_names import SortedNames
from zowarmup.server.core.state import REMEMBERED, Client, IssuedInvitation, Presence, Round, State

_T = TypeVar("_T")


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
            secret=event.secret,
        )
    if state is None:
        raise ValueError(f"{type(event).__name__} before RunCreated")
    match event:  # the events of a crowd first
        case ev.ClientConnected():
            return _client_connected(event, state)
        case ev.Contributed():
            return _contributed(event, state)
        case ev.ClientReported():
            return _client_reported(event, state)
        case ev.ClientDisconnected():
            return _client_disconnected(event, state)
        case ev.StepTaken():
            return _step_taken(event, state)
        case ev.StageBegan():
            return _stage_began(event, state)
        case ev.Abstained():
            return _abstained(event, state)
        case ev.ExamplesChanged():
            return _examples_changed(event, state)
        case ev.ClientEnrolled():
            return _client_enrolled(event, state)
        case ev.InvitationIssued():
            return _invitation_issued(event, state)
        case ev.InvitationRevoked():
            return _invitation_revoked(event, state)
        case ev.ClientRevoked():
            return _client_revoked(event, state)
        case ev.RoundOpened():
            return _round_opened(event, state)
        case ev.DeadlineExtended():
            return _deadline_extended(event, state)
        case ev.ParticipantsFailed():
            return _participants_failed(event, state)
        case ev.RoundClosed():
            return replace(state, current=replace(_current(state, event.round), closed=event.reason))
        case ev.RoundAbandoned():
            return _round_abandoned(event, state)
        case ev.Committed():
            return _committed(event, state)
        case ev.SnapshotTaken():
            return _snapshot_taken(event, state)
        case ev.SnapshotsPruned():
            return _snapshots_pruned(event, state)
        case ev.Pivoted():
            return _pivoted(event, state)
        case ev.Evaluated():
            return _evaluated(event, state)
        case ev.RolledBack():
            return _rolled_back(event, state)
        case ev.RunPaused():
            return replace(state, paused=event.reason)
        case ev.RunResumed():
            return replace(state, paused="", abandoned=0, failures=PersistentMap())
        case ev.PivotRequested():
            return replace(state, pivot_requested=event.reason)
        case ev.StopRequested():
            return replace(state, stop_requested=event.reason)
        case ev.RunFinished():
            return replace(state, phase=Phase.FINISHED, finished=event.reason)
        case ev.RunGaveUp():
            return replace(state, phase=Phase.FINISHED, finished=f"gave up: {event.reason}", gave_up=event.reason)
        case _:
            raise ValueError(f"{type(event).__name__} is not an event of this version")


def _invitation_issued(event: ev.InvitationIssued, state: State) -> State:
    invitation = IssuedInvitation(event.tier, event.expires_at, event.uses, event.issued_at)
    return replace(state, invitations=state.invitations.set(event.token_sha256, invitation))


def _invitation_revoked(event: ev.InvitationRevoked, state: State) -> State:
    invitation = replace(state.invitations[event.token_sha256], revoked=event.reason)
    return replace(state, invitations=state.invitations.set(event.token_sha256, invitation))


def _client_enrolled(event: ev.ClientEnrolled, state: State) -> State:
    client = Client(
        event.tier, event.examples, event.credential_sha256, invitation=event.invitation, identity=event.identity
    )
    invitations = state.invitations
    if event.invitation:
        invitation = invitations[event.invitation]
        invitations = invitations.set(event.invitation, replace(invitation, used=invitation.used + 1))
    return replace(
        state,
        clients=state.clients.set(event.client, client),
        credentials=state.credentials.set(event.credential_sha256, event.client),
        invitations=invitations,
    )


def _examples_changed(event: ev.ExamplesChanged, state: State) -> State:
    client = replace(state.clients[event.client], examples=event.examples)
    return replace(state, clients=state.clients.set(event.client, client))


def _client_revoked(event: ev.ClientRevoked, state: State) -> State:
    client, current = replace(state.clients[event.client], revoked=event.reason), state.current
    if current is not None and not current.closed:
        current = replace(
            current,
            seeds=_without(current.seeds, event.client),
            examples=current.examples if current.members else _without(current.examples, event.client),
            # Of a round with secure aggregation that is beyond them, which is then abandoned, all stand in the roster.
            contributions=current.contributions if current.members else current.contributions.remove(event.client),
            abstained=current.abstained.remove(event.client),
        )
    return replace(
        state,
        clients=state.clients.set(event.client, client),
        presence=state.presence.remove(event.client),
        ready=_ready(state, event.client, False),
        absent=state.absent.remove(event.client),
        failures=state.failures.remove(event.client),
        current=current,
    )


def _round_opened(event: ev.RoundOpened, state: State) -> State:
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
    state = replace(state, round=event.round, current=opened, absent=PersistentMap())
    if state.budget is not None and event.phase is Phase.ZEROTH_ORDER:
        for client in event.participants:
            state = replace(state, releases=state.releases.set(client, state.releases.get(client, 0) + 1))
            if state.used_up(client):
                state = replace(state, ready=_ready(state, client, False))
    return state


def _deadline_extended(event: ev.DeadlineExtended, state: State) -> State:
    current = _current(state, event.round)
    extended = replace(current, deadline=event.deadline, deadline_reason=event.reason, opened_at=0.0)
    # A coordinator that takes over from another has streams of its own.
    away = (client for client in current.waited_for() if not state.presence.get(client, Presence()).connected)
    absent = dict.fromkeys(away, event.return_by) if event.return_by else {}
    return replace(state, current=extended, absent=PersistentMap(absent))


def _contributed(event: ev.Contributed, state: State) -> State:
    current = _current(state, event.contribution.round)
    contributions = current.contributions.set(event.client, event.contribution)
    took = state.took_s
    if event.took_s:
        tier = state.clients[event.client].tier
        took = {**took, tier: (*took.get(tier, ()), event.took_s)[-REMEMBERED:]}
    abstained = current.abstained.remove(event.client)
    return replace(state, current=replace(current, contributions=contributions, abstained=abstained), took_s=took)


def _step_taken(event: ev.StepTaken, state: State) -> State:
    current = _current(state, event.round)
    steps = {**current.steps, event.stage: current.steps[event.stage].set(event.client, event.body)}
    return replace(state, current=replace(current, steps=steps))


def _stage_began(event: ev.StageBegan, state: State) -> State:
    current = _current(state, event.round)
    if not current.members:
        current = _of_one_question(current)
    members = current.members or tuple(sorted(current.contributions))
    steps: Mapping[Stage, PersistentMap[str, str]] = {**current.steps, event.stage: PersistentMap()}
    begun = replace(current, stage=event.stage, members=members, steps=steps, deadline=event.deadline)
    return replace(state, current=replace(begun, deadline_reason=""))


def _of_one_question(current: Round) -> Round:
    """A round without those who were asked something else than most: the others would show no roster with them in it."""
    contributions, abstained = current.contributions, current.abstained
    for client in current.asked_otherwise:
        contributions = contributions.remove(client)
        abstained = abstained.set(client, "it was asked something else than most")
    return replace(current, contributions=contributions, abstained=abstained)


def _abstained(event: ev.Abstained, state: State) -> State:
    current = _current(state, event.abstention.round)
    abstained = current.abstained.set(event.client, event.abstention.reason)
    return replace(state, current=replace(current, abstained=abstained))


def _participants_failed(event: ev.ParticipantsFailed, state: State) -> State:
    failures = state.failures
    for failure in event.failures:
        failures = failures.set(failure.client, failure)
    return replace(state, failures=failures)


def _round_abandoned(event: ev.RoundAbandoned, state: State) -> State:
    previous = _current(state, event.round)
    return replace(state, current=None, previous=previous, abandoned=state.abandoned + 1, fault=event.fault)


def _committed(event: ev.Committed, state: State) -> State:
    previous, failures = _current(state, event.round), state.failures
    for client in previous.contributors if failures else ():
        failures = failures.remove(client)
    return replace(
        _at_version(state, event),
        current=None,
        previous=previous,
        abandoned=0,
        failures=failures,
        moments=event.moments,
        bounds=event.bounds,
        rounds_done=state.rounds_done + 1,
        clipped_scalars=state.clipped_scalars + event.clipped_scalars,
        clipped_deltas=state.clipped_deltas + event.clipped_deltas,
        rounds_below_tick=state.rounds_below_tick + event.below_tick,
    )


def _snapshot_taken(event: ev.SnapshotTaken, state: State) -> State:
    taken = event.snapshot
    return replace(
        state,
        snapshots={**state.snapshots, taken.version: taken},
        replay_signs=0 if taken.version == state.version else state.replay_signs,
    )


def _snapshots_pruned(event: ev.SnapshotsPruned, state: State) -> State:
    kept = {version: s for version, s in state.snapshots.items() if version not in event.versions}
    return replace(state, snapshots=kept)


def _pivoted(event: ev.Pivoted, state: State) -> State:
    return replace(
        state,
        phase=Phase.ZEROTH_ORDER,
        snapshots={version: replace(taken, optimiser="") for version, taken in state.snapshots.items()},
        pivot_version=event.version,
        rounds_done=0,
        pivot_reason=event.reason,
        losses=(),
        moments=(),
        bounds=(),
        pivot_requested="",
        took_s={},
        failures=PersistentMap(),
    )


def _evaluated(event: ev.Evaluated, state: State) -> State:
    losses = state.losses
    if state.phase is Phase.WARM_UP:
        losses = with_loss(state.run_file.warmup, losses, event.version, event.loss)
    progress = state.progress.evaluated(event, state.program.metric, state.version, state.digest, state.moments)
    return replace(state, evaluation=event, losses=losses, progress=progress)


def _rolled_back(event: ev.RolledBack, state: State) -> State:
    good = state.progress.good
    if good is None or good.version != event.to or good.digest != event.digest or state.current is not None:
        raise ValueError(f"version {event.version} goes back to {event.to}, which is not the last good one")
    progress = state.progress.rolled_back(event)
    rounds_done = 0 if _awaits_whitening(event.digest, state) else state.rounds_done
    return replace(
        _at_version(state, event),
        rounds_done=rounds_done,
        abandoned=0,
        failures=PersistentMap(),
        moments=good.moments,
        bounds=(),
        losses=(),
        evaluation=progress.good.evaluation if progress.good else None,
        progress=progress,
    )


def _awaits_whitening(digest: str, state: State) -> bool:
    """Whether these weights are the pivot's, of a run that whitens what its head reads in the first round, which must then
    come again."""
    if state.layout.whitening is None or state.pivot_version is None:
        return False
    pivot = state.snapshots.get(state.pivot_version)
    return pivot is not None and pivot.digest == digest


def _client_connected(event: ev.ClientConnected, state: State) -> State:
    before = state.presence.get(event.client, Presence())
    return replace(
        state,
        presence=state.presence.set(event.client, replace(before, epoch=event.epoch, gone_at=0.0)),
        ready=_ready(state, event.client, True),
        absent=state.absent.remove(event.client),
    )


def _client_disconnected(event: ev.ClientDisconnected, state: State) -> State:
    gone, absent = replace(state.presence[event.client], gone_at=event.at), state.absent
    if state.current is not None and event.client in state.current.seeds:
        absent = absent.set(event.client, event.return_by)
    return replace(
        state,
        presence=state.presence.set(event.client, gone),
        ready=_ready(state, event.client, False),
        absent=absent,
    )


def _client_reported(event: ev.ClientReported, state: State) -> State:
    told = replace(
        state.presence.get(event.client, Presence()),
        version=event.version,
        digest=event.digest,
        peak_memory_bytes=event.peak_memory_bytes,
    )
    return replace(state, presence=state.presence.set(event.client, told))


def _at_version(state: State, event: ev.Committed | ev.RolledBack) -> State:
    """The state with the model at the event's version."""
    if event.version != state.version + 1:
        raise ValueError(f"version {event.version} committed after {state.version}")
    signs = state.run_file.zeroth_order.replay_signs(event.steps)
    return replace(
        state,
        version=event.version,
        digest=event.digest,
        snapshots=state.snapshots if event.snapshot is None else {**state.snapshots, event.version: event.snapshot},
        replay_signs=0 if event.snapshot else state.replay_signs + signs,
    )


def _ready(state: State, client: str, connected: bool) -> Mapping[Tier, SortedNames]:
    """Who of each tier is connected and may release more, once this client is connected or is not."""
    tier = state.clients[client].tier
    before = state.ready.get(tier, SortedNames())
    after = before.add(client) if connected and not state.used_up(client) else before.discard(client)
    return state.ready if after is before else {**state.ready, tier: after}


def _without(mapping: Mapping[str, _T], client: str) -> Mapping[str, _T]:
    return {name: value for name, value in mapping.items() if name != client}


def _current(state: State, round: int) -> Round:
    if state.current is None or state.current.number != round:
        raise ValueError(
            f"an event of round {round}, but the round in progress is {state.current and state.current.number}"
        )
    return state.current
