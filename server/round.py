"""A round's life: when it opens, and how it ends, each with the reason.

    opens     enough eligible clients are connected
    closes    as many have contributed as are needed | quorum has, and the missing are gone or abstain, or the deadline is
              over
    abandoned so many abstain that there can be no quorum | the deadline is over without one

A round that is closed is combined; where that comes to nothing it is abandoned, too. Pure, as `decide` is, which asks.
"""

import math
from collections.abc import Iterable

from zowarmup.common.work import Phase
from zowarmup.server import events as ev
from zowarmup.server.deadlines import lasts
from zowarmup.server.sampling import draw, seeds
from zowarmup.server.state import Round, State, quorum

NAMED = 3
"""So many clients by name in a sentence, and how many more."""


def open_round(state: State, now: float) -> ev.Event | None:
    """The next round, or None where too few eligible clients are connected."""
    rules = state.rules
    if state.eligible_count < (rules.minimum_clients or rules.clients_per_round):
        return None
    number = state.round + 1
    drawn = math.ceil(rules.clients_per_round * (1 + rules.over_selection) - 1e-9)
    participants = draw(state.run_file.seed, number, state.eligible, drawn)
    drawn_seeds = seeds(state.run_file.seed, number, len(participants))
    if state.phase is Phase.ZEROTH_ORDER and state.zeroth_order.shared_seeds:
        drawn_seeds = drawn_seeds[:1] * len(participants)
    lasts_s, reason = lasts(state, participants)
    return ev.RoundOpened(
        round=number,
        phase=state.phase,
        version=state.version,
        participants=participants,
        seeds=drawn_seeds,
        examples=tuple(state.clients[client].examples for client in participants),
        deadline=now + lasts_s,
        deadline_reason=reason,
        needed=min(rules.clients_per_round, len(participants)),
        opened_at=now,
    )


def end_round(state: State, now: float) -> ev.Event | None:
    """What ends the open round, or None while it goes on."""
    current = state.current
    assert current is not None
    participants, have = len(current.seeds), len(current.contributions)
    enough = min(current.needed, participants)
    least = quorum(state, enough)
    if not participants:
        return ev.RoundAbandoned(current.number, "every participant has been revoked")
    if have == participants:
        return ev.RoundClosed(current.number, f"all {participants} participants contributed")
    if have >= enough:
        return ev.RoundClosed(current.number, f"{have} of {participants} contributed, {enough} were needed")
    over = now >= current.deadline
    possible = participants - len(current.abstained)
    if have < least <= possible and not over:
        return None
    if have >= least and (over or all(map(state.is_gone, current.waited_for()))):
        cause = "the deadline is over" if over else "the others are gone or abstain"
        detail = f"{have} of {participants} contributed{absent(state, current, now)}, {cause}"
        return ev.RoundClosed(current.number, detail)
    if possible < least:
        detail = f"{possible} of {participants} could contribute, quorum is {least}{absent(state, current, now)}"
        return ev.RoundAbandoned(current.number, detail)
    if over:
        detail = f"{have} of {participants} contributed by the deadline, quorum is {least}{absent(state, current, now)}"
        return ev.RoundAbandoned(current.number, detail)
    return None


def absent(state: State, current: Round, now: float) -> str:
    """ " (pi-2 abstains: ..., pi-3 gone for 42 s)" for those that abstain and those that are gone."""
    abstaining = sorted(current.abstained.items())
    named = [f"{client} abstains: {reason}" for client, reason in abstaining[:NAMED]]
    if len(abstaining) > NAMED:
        named.append(f"{len(abstaining) - NAMED} more abstain")
    return parenthesis([*named, *gone(state, current.missing, now)])


def gone(state: State, clients: Iterable[str], now: float) -> list[str]:
    """["pi-3 gone for 42 s"] for those of the clients that were here and are not."""
    if sum(state.connected.values()) == len(state.presence):
        return []
    found = sorted(client for client in clients if state.is_gone(client))
    named = [f"{c} gone for {now - state.presence[c].gone_at:.0f} s" for c in found[:NAMED]]
    if len(found) > NAMED:
        named.append(f"{len(found) - NAMED} more gone")
    return named


def parenthesis(parts: list[str]) -> str:
    """ " (one, another)", or nothing where there is none."""
    return f" ({', '.join(parts)})" if parts else ""
