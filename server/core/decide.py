"""The decision function: the events that follow from a command. Pure.

`decide(state, command, now)` returns the events that the command causes and the state they lead to, or raises Rejected, and
then nothing has changed. It first responds to the command itself, then lets the run settle: rounds that can close are
closed, the pivot is made, the next round opens, the run finishes. Every settling step carries its reason, and `waiting`
says why none is possible: the same sentence goes to the log, to `zowarmup status` and to the waiting client.

    goes back an evaluated version is not good (`guard`); after some such times the run gives up
    pivots   the warm-up's rounds are done | its loss no longer falls | the operator asked, between rounds
    finishes the zeroth-order rounds are done | the privacy budget of too many clients is used up | the operator asked, between
             rounds

With the guard on it pivots, finishes and pauses itself only at a version that has been evaluated, so none of it with a model
that is lost.
How a round opens and ends is in `rounds`.
"""

from dataclasses import dataclass, replace

from zowarmup.common.messages.masking import Given, Keys
from zowarmup.common.messages.values import Phase, Tier, Work
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core import masking, membership
from zowarmup.server.core.contributions import naming_faults
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.guard import SLOWER, fault, gives_up
from zowarmup.server.core.plateau import plateau
from zowarmup.server.core.resting import all_failed, failures, opens_in_s, responsible
from zowarmup.server.core.rounds import RETURN_S, absence, end_round, gone, grace, open_round, parenthesis, took
from zowarmup.server.core.state import Round, State

DOUBTFUL = 2
"""After so many rounds in a row that were abandoned the version is evaluated, before the next one or a pause."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The events that a command causes, in order, and the state they lead to: each is folded once, here."""

    events: tuple[ev.Event, ...]
    state: State


def decide(state: State | None, command: cmd.Command, now: float) -> Decision:
    """What follows from a command.

    Args:
        state: The state that the command meets; None before there is a run.
        command: What is asked for.
        now: Seconds by a clock that never jumps (`clock`).

    Returns:
        The events, none where nothing follows, and the state after them.

    Raises:
        Rejected: Nothing follows, for the reason it names.
    """
    if isinstance(command, cmd.CreateRun):
        if state is not None:
            raise Rejected("exists", f"run {state.run_id} exists already")
        if bool(command.secret) != (command.run_file.draws == "secret"):
            raise Rejected("invalid", f'draws = {command.run_file.draws!r}: only with "secret" is there a secret')
        created = ev.RunCreated(command.run_id, command.run_file, command.program, command.initial, command.secret)
        return Decision((created,), evolve(None, created))
    if state is None:
        raise Rejected("no_run", "there is no run yet")
    events: list[ev.Event] = []
    caused = _respond(command, state, now)
    while True:
        for event in caused:
            state = evolve(state, event)
        events += caused
        if (settling := _settle(state, now)) is None:
            return Decision(tuple(events), state)
        ended = state.current if isinstance(settling, ev.RoundClosed | ev.RoundAbandoned) else None
        caused = (settling, *failures(state, ended, now)) if ended else (settling,)


def noted(state: State, command: cmd.ConnectClient | cmd.DisconnectClient | cmd.RecordReport, now: float) -> Decision:
    """What a coordinator that follows another makes of its own clients' streams: the soft events alone, and the run does not
    settle. What else follows is the leader's to decide. Raises Rejected."""
    events = tuple(event for event in _respond(command, state, now) if not ev.is_durable(event))
    for event in events:
        state = evolve(state, event)
    return Decision(events, state)


def waiting(state: State, now: float) -> str:
    """What the run is waiting for and why, as a sentence; empty while contributions are computed or aggregated: a round
    waits once every participant that is connected has done its part."""
    if state.phase is Phase.FINISHED:
        return state.finished if state.gave_up else f"finished: {state.finished}"
    if state.progress.rejected:
        return f"going back to the last good version: {state.progress.rejected}"
    if awaits_evaluation(state):
        return f"waiting: version {state.version} is being evaluated"
    if state.paused:
        return f"paused: {state.paused}"
    if state.current is not None:
        busy = state.current.closed or state.current.stage is not Stage.KEYS
        return "" if busy else absence(state, state.current, now)
    needed, have = state.minimum, state.eligible_count
    if have >= needed:
        soon = opens_in_s(state, now)
        return f"waiting: {_abandonment(state)}; the next one opens in {soon:.0f} s" if soon else ""
    kind = "high-tier clients" if Tier.LOW not in state.tiers else "clients"
    return f"waiting: {have} of {needed} {kind} connected{parenthesis(gone(state, state.presence, now))}"


def work_for(state: State, client: str, now: float) -> Work | None:
    """What a client still has to do in the round in progress. One that has abstained may try again on a new stream."""
    current = state.current
    if current is None or current.closed or client not in current.seeds or client in current.contributions:
        return None
    if current.stage is not Stage.KEYS:
        return None  # it is too late for its keys
    left_s, stepping = max(0.0, current.deadline - now), state.rules.steps_locally
    factor = state.progress.rate_factor if stepping or state.trains(client) else 1.0
    return replace(_work(state, current, client), deadline_s=left_s, rate_factor=factor)


def _work(state: State, current: Round, client: str) -> Work:
    """A client's part of the round in progress, without what changes while it lasts."""
    whitening = current.phase is Phase.ZEROTH_ORDER and state.layout.whitening is not None
    done = state.rounds_done if state.rules.steps_locally or whitening else 0
    return Work(current.number, current.phase, current.version, current.seeds[client], 0.0, done)


def _settle(state: State, now: float) -> ev.Event | None:
    """The next event that follows from the state and the time alone, or None."""
    if state.phase is Phase.FINISHED:
        return None
    if state.current is not None:
        return None if state.current.closed else _end_round(state, state.current, now)
    if state.progress.rejected:
        return None
    if reason := gives_up(state.run_file.guard, state.progress):
        return ev.RunGaveUp(state.version, reason)
    if (turn := _turn(state)) is not None:
        return None if awaits_evaluation(state) else turn
    if state.paused:
        return None
    if awaits_evaluation(state):
        return None
    if state.abandoned >= state.run_file.server.abandoned_limit:
        remedy = "check the clients, or revoke them"
        if state.fault:
            remedy = "correct the algorithm's code, start the coordinator again"
        return ev.RunPaused(f"{_abandonment(state)}; {remedy}, then `zowarmup resume`")
    return open_round(state, now)


def _end_round(state: State, current: Round, now: float) -> ev.Event | None:
    if current.stage is not Stage.KEYS:
        return masking.end_stage(state, now)
    ended = end_round(state, now)
    if state.sums and isinstance(ended, ev.RoundClosed):
        return masking.next_stage(state, current, ended.reason, now)
    return ended


def awaits_evaluation(state: State) -> bool:
    """Whether the present version is evaluated before the run does anything else: the phase is over, or rounds in a row were
    abandoned. With a model that is lost, clients have no finite loss and abstain."""
    if not state.run_file.guard.on or state.current is not None or state.progress.rejected:
        return False
    if state.phase is Phase.FINISHED or (state.evaluation is not None and state.evaluation.version == state.version):
        return False
    doubtful = state.abandoned >= min(DOUBTFUL, state.run_file.server.abandoned_limit)
    return _turn(state) is not None or (doubtful and not state.paused)


def _abandonment(state: State) -> str:
    """That rounds in a row were abandoned, and who has failed them: the algorithm's code, or clients."""
    if state.fault:
        return f"{state.abandoned} rounds in a row were abandoned, the last one because of {state.fault}"
    named = responsible(state)
    return f"{state.abandoned} rounds in a row were abandoned{f', without {named}' if named else ''}"


def _turn(state: State) -> ev.Event | None:
    """The end of the phase, where it is due between two rounds."""
    if state.phase is Phase.FINISHED:
        return None
    taken_back = state.progress.taken_back(state.version)
    if state.stop_requested:
        return ev.RunFinished(state.version, f"stopped: {state.stop_requested}{taken_back}")
    if state.phase is Phase.WARM_UP and (reason := _pivot(state)):
        return ev.Pivoted(state.version, reason)
    if state.phase is Phase.ZEROTH_ORDER and state.rounds_done >= state.rules.rounds:
        return ev.RunFinished(state.version, f"all {state.rules.rounds} zeroth-order rounds are done{taken_back}")
    if state.phase is Phase.ZEROTH_ORDER and (reason := _spent(state)):
        return ev.RunFinished(state.version, f"{reason}{taken_back}")
    return None


def _spent(state: State) -> str:
    """That so many clients have used their privacy budget up that no round can open; empty where that is not so."""
    budget = state.budget
    if budget is None or state.most_released < budget.releases:
        return ""
    members = [name for name, client in state.clients.items() if not client.revoked and client.tier in state.tiers]
    left = sum(not state.used_up(name) for name in members)
    if left == len(members) or left >= state.minimum:
        return ""
    return (
        f"the privacy budget is used up after {state.rounds_done} of {state.rules.rounds} zeroth-order rounds: a round needs "
        f"{state.minimum} clients, and {left} of {len(members)} may release more"
    )


def _pivot(state: State) -> str:
    if state.pivot_requested or state.rounds_done >= state.rules.rounds:
        return state.pivot_requested or f"{state.rounds_done} of {state.rules.rounds} warm-up rounds are done"
    return plateau(state.run_file.warmup, state.losses)


def _respond(command: cmd.Command, state: State, now: float) -> tuple[ev.Event, ...]:
    """The events of the command itself. The commands of a crowd stand first."""
    match command:
        case cmd.Contribute():
            return _contribute(command, state, now)
        case cmd.TakeStep():
            membership.check_member(state, command.client)
            return masking.take_step(command, state)
        case cmd.ConnectClient():
            return _connect_client(command, state)
        case cmd.RecordReport():
            return _record_report(command, state)
        case cmd.DisconnectClient():
            return _disconnect_client(command, state, now)
        case cmd.Tick():
            return ()
        case cmd.Abstain():
            return _abstain(command, state)
        case cmd.Enrol():
            return membership.enrol(command, state)
        case cmd.Invite():
            return membership.invite(command)
        case cmd.Revoke():
            return membership.revoke(command, state)
        case cmd.Uninvite():
            return membership.uninvite(command, state)
        case cmd.Restart():
            return _restart(command, state, now)
        case cmd.CommitRound():
            return _commit_round(command, state)
        case cmd.AbandonRound():
            return _abandon_round(command, state, now)
        case cmd.RecordSnapshot():
            return () if command.snapshot.version in state.snapshots else (ev.SnapshotTaken(command.snapshot),)
        case cmd.PruneSnapshots():
            return _prune_snapshots(command, state)
        case cmd.RecordEvaluation():
            return _record_evaluation(command, state)
        case cmd.RollBack():
            return _roll_back(command, state)
        case cmd.Pause():
            return () if state.paused else (ev.RunPaused(command.reason),)
        case cmd.Resume():
            return (ev.RunResumed(),) if state.paused else ()
        case cmd.Pivot():
            return _request_pivot(command, state)
        case cmd.Stop():
            return _request_stop(command, state)
        case _:
            raise TypeError(f"{type(command).__name__} is not a command")


def _restart(command: cmd.Restart, state: State, now: float) -> tuple[ev.Event, ...]:
    if state.current is None or state.current.closed:
        return ()
    lasts_s = state.rules.deadline_s
    if state.current.stage is not Stage.KEYS:
        lasts_s = min(lasts_s, max(masking.STAGE_S, RETURN_S))
    return (ev.DeadlineExtended(state.current.number, now + lasts_s, "the coordinator restarted", now + RETURN_S),)


def _connect_client(command: cmd.ConnectClient, state: State) -> tuple[ev.Event, ...]:
    membership.check_member(state, command.client)
    before = state.clients[command.client].examples
    changed = (ev.ExamplesChanged(command.client, command.examples, before),) if command.examples != before else ()
    return (
        *changed,
        ev.ClientConnected(
            command.client, command.epoch, command.examples, command.version, command.digest, command.software
        ),
    )


def _disconnect_client(command: cmd.DisconnectClient, state: State, now: float) -> tuple[ev.Event, ...]:
    presence = state.presence.get(command.client)
    if presence is None or presence.epoch != command.epoch or not presence.connected:
        return ()  # a newer stream has superseded that one
    return (ev.ClientDisconnected(command.client, now, now + grace(state)),)


def _record_report(command: cmd.RecordReport, state: State) -> tuple[ev.Event, ...]:
    membership.check_member(state, command.client)
    return (ev.ClientReported(command.client, command.version, command.digest, command.peak_memory_bytes),)


def _contribute(command: cmd.Contribute, state: State, now: float) -> tuple[ev.Event, ...]:
    membership.check_member(state, command.client)
    previous, contribution = state.previous, command.contribution
    if previous and contribution.round == previous.number and command.client in previous.contributions:
        return ()  # it counted; only the answer was lost
    current = _drawn_for(state, command.client, contribution.round)
    if command.client in current.contributions:
        return ()  # sent again after a lost answer: it counts once and gets the same answer
    if current.closed or current.stage is not Stage.KEYS:
        reason = current.closed or "the keys for it are advertised"
        raise Rejected("late", f"round {current.number} is closed: {reason}")
    try:
        _check(state, command.client, contribution)
    except ValueError as error:
        raise Rejected("malformed", str(error)) from error
    return (ev.Contributed(command.client, contribution, took(current, now)),)


def _abstain(command: cmd.Abstain, state: State) -> tuple[ev.Event, ...]:
    membership.check_member(state, command.client)
    current = _drawn_for(state, command.client, command.abstention.round)
    if current.closed or command.client in current.given or command.client in current.abstained:
        return ()
    return (ev.Abstained(command.client, command.abstention),)


def another_round(state: State, number: int) -> Rejected:
    """The refusal of what is for round `number`, which is not the round in progress: over, or never opened."""
    last = f"the last one is {state.round}" if state.round else "none has been opened yet"
    if 1 <= number <= state.round:
        return Rejected("late", f"round {number} is over; {last}")
    return Rejected("not_assigned", f"there has been no round {number}; {last}")


def _drawn_for(state: State, client: str, number: int) -> Round:
    """The round in progress. Raises Rejected where it is another one, or the client was not drawn for it."""
    current = state.current
    if current is None or number != current.number:
        raise another_round(state, number)
    if client not in current.seeds:
        raise Rejected("not_assigned", f"{client} was not drawn for round {current.number}")
    return current


def _check(state: State, client: str, contribution: Given) -> None:
    current = state.current
    assert current is not None
    if state.sums:
        masking.check_keys(state, current, client, contribution)
        return
    if isinstance(contribution, Keys):
        raise ValueError("keys: this run has no secure aggregation")  # noqa: TRY004  (what a client says is no bug)
    work = _work(state, current, client)
    algorithm, tier = state.algorithm(current.phase), state.clients[client].tier
    with naming_faults(state.rules_of(current.phase).algorithm):
        algorithm.check(work, tier, current.examples[client], contribution)


def _commit_round(command: cmd.CommitRound, state: State) -> tuple[ev.Event, ...]:
    current, made = state.current, command.committed
    if current is None or not current.closed or current.number != made.round or made.version != state.version + 1:
        raise Rejected("stale", f"version {made.version} of round {made.round} does not follow {state.version}")
    return (made,)


def _abandon_round(command: cmd.AbandonRound, state: State, now: float) -> tuple[ev.Event, ...]:
    current = state.current
    if current is None or not current.closed or current.number != command.round:
        raise Rejected("stale", f"round {command.round} is not closed and waiting to be aggregated")
    failed = all_failed(state, current, "what its round was given cannot be aggregated", now)
    return (ev.RoundAbandoned(command.round, command.reason), *failed)


def _prune_snapshots(command: cmd.PruneSnapshots, state: State) -> tuple[ev.Event, ...]:
    versions = tuple(v for v in command.versions if v in state.snapshots and v != state.snapshot.version)
    return (ev.SnapshotsPruned(versions),) if versions else ()


def _record_evaluation(command: cmd.RecordEvaluation, state: State) -> tuple[ev.Event, ...]:
    found = ev.Evaluated(command.version, command.metrics, command.loss, command.examples)
    progress = state.progress
    wrong = fault(state.run_file.guard, progress, state.program, found, command.constant)
    if not wrong or state.phase is Phase.FINISHED:
        return (found,)
    current, good = state.current, progress.good
    closing: tuple[ev.Event, ...] = ()
    if current is not None:
        closing = (ev.RoundAbandoned(current.number, f"it began at a version that is rejected: {wrong}"),)
    if good is None:
        return (
            found,
            *closing,
            ev.RunGaveUp(state.version, f"there is no version to go back to: {wrong}"),
        )
    return (replace(found, rejected=wrong), *closing)


def _roll_back(command: cmd.RollBack, state: State) -> tuple[ev.Event, ...]:
    progress = state.progress
    if not progress.rejected or command.version != state.version + 1:
        raise Rejected("stale", f"version {command.version} does not go back from {state.version}")
    good = progress.good
    if good is None or command.digest != good.digest:
        raise Rejected("malformed", f"version {command.version} is not the last good one's weights")
    return (
        ev.RolledBack(
            command.version,
            good.version,
            good.digest,
            command.steps,
            command.snapshot,
            command.traffic,
            rate_factor=progress.rate_factor * SLOWER,
            reason=progress.rejected,
        ),
    )


def _request_pivot(command: cmd.Pivot, state: State) -> tuple[ev.Event, ...]:
    if state.phase is not Phase.WARM_UP:
        raise Rejected("not_warming_up", f"the run is in its {state.phase} phase; the pivot is behind it")
    return (ev.PivotRequested(command.reason),)


def _request_stop(command: cmd.Stop, state: State) -> tuple[ev.Event, ...]:
    if state.phase is Phase.FINISHED:
        raise Rejected("finished", "the run is finished already")
    return (ev.StopRequested(command.reason),)
