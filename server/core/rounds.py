"""A round's life: when it opens, how long it may last and how it ends, each with the reason.

    opens     enough eligible clients are connected (which of them may be drawn, and how soon after abandoned rounds, is in
              `resting`)
    closes    as many have contributed as are needed | quorum has, and the missing are gone or abstain, or the deadline is
              over
    abandoned so many abstain that there can be no quorum | no quorum with those that may still come, and enough others
              are connected for a round | the deadline is over without a quorum

Where quorum is met, no participant is waited for whose stream has broken. Where it is not, one may still come for a grace:
what it computed in between counts if it is back by then. Afterwards it is *lost* to the round, unless it comes back all
the same, and the round needs what it would have needed had the lost not been drawn, but never fewer than a round may open
with.

How long a round may last is learnt: 3 times the second slowest of the last 32 contributions of the slowest tier taking part,
and 5 s, but never more than the run file allows. The very slowest is left out as a mishap, unless there are fewer than 4.
What a contribution took is part of its event, so a replay decides as the coordinator did. A round after an abandoned one has
the longest time there is: what was learnt has just proved too short, or there is nobody to be short for.

A round that is closed is aggregated; where that fails it is abandoned, too. Pure, as `decide` is, which asks.
"""

from collections.abc import Iterable

from zowarmup.server.core import events as ev
from zowarmup.server.core.resting import draw, opens_in_s
from zowarmup.server.core.state import Round, State, quorum

NAMED = 3
"""So many clients by name in a sentence, and how many more."""
GRACE_S = 5.0
"""The grace. A device whose connection broke tries again within a second, and then at growing intervals."""
GRACE_SHARE = 0.5
"""It is never more than this share of the round: where a round is short, little work is lost with a contribution."""
RETURN_S = 40.0
"""The same after a restart of the coordinator. Devices that found it away try again every 30 s at least."""
TIMES, SPARE_S, FEWEST = 3, 5.0, 4
SHORTEST_S = 1e-3


def open_round(state: State, now: float) -> ev.Event | None:
    """The next round, or None where too few eligible clients are connected, or it is too soon after abandoned ones."""
    rules = state.rules
    if state.eligible_count < state.minimum or opens_in_s(state, now):
        return None
    number = state.round + 1
    participants = draw(state, number, rules.drawn, now)
    drawn_seeds = state.draws.seeds(number, len(participants))
    if rules.shared_directions or state.sums:  # where each has its own of a pool, a sum along one is often of one alone
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


def grace(state: State) -> float:
    """Seconds for which the open round waits for a participant whose stream has just broken."""
    current = state.current
    if current is None or not current.opened_at:
        return GRACE_S
    return min(GRACE_S, GRACE_SHARE * (current.deadline - current.opened_at))


def end_round(state: State, now: float) -> ev.Event | None:
    """What ends the open round, or None while it goes on."""
    current = state.current
    assert current is not None
    participants, have = len(current.seeds), len(current.contributions)
    if not participants:
        return ev.RoundAbandoned(current.number, "every participant has been revoked")
    if have == participants:
        return ev.RoundClosed(current.number, f"all {participants} participants contributed")
    enough = min(current.needed, participants)
    if have >= enough:
        return ev.RoundClosed(current.number, f"{have} of {participants} contributed, {enough} were needed")
    usual = quorum(state, enough)
    possible, over = participants - len(current.abstained), now >= current.deadline
    if have < usual <= possible and not over and not state.absent:
        return None  # what most contributions meet, so nothing is asked that depends on how many there are
    lost, least = _without_the_lost(state, current, now)
    met = have >= usual and all(map(state.is_gone, current.waited_for()))
    if met or (have >= least and (over or have + lost == possible)):
        cause = "the deadline is over" if over else "the others are gone or abstain"
        detail = f"{have} of {participants} contributed{absent(state, current, now)}, {cause}"
        return ev.RoundClosed(current.number, detail)
    if possible < usual:
        detail = f"{possible} of {participants} could contribute, quorum is {usual}"
    elif over:
        detail = f"{have} of {participants} contributed by the deadline, quorum is {least}"
    elif possible - lost < least and _another_could_open(state):
        detail = f"{possible - lost} of {participants} can contribute, quorum is {least} and others are connected"
    else:
        return None
    return ev.RoundAbandoned(current.number, f"{detail}{absent(state, current, now)}")


def _another_could_open(state: State) -> bool:
    """Whether a round that is abandoned now is followed by another. Not where the run would pause instead: what pauses a
    run takes its time."""
    return state.eligible_count >= state.minimum and state.abandoned + 1 < state.run_file.server.abandoned_limit


def absence(state: State, current: Round, now: float) -> str:
    """What the open round waits for where each participant that is connected has done its part, as a sentence; empty
    where one still computes."""
    away = {client: return_by for client, return_by in state.absent.items() if current.waits_for(client)}
    have, participants = len(current.contributions), len(current.seeds)
    if not away or have + len(current.abstained) + len(away) < participants:
        return ""
    lost, least = _without_the_lost(state, current, now)
    text = f"waiting: {have} of {participants} contributed to round {current.number}{absent(state, current, now)}"
    if lost < len(away) and participants - len(current.abstained) - lost >= least:
        return f"{text}, at most {max(away.values()) - now:.0f} s more for those who may be back"
    why = f"another round needs {state.minimum} connected clients and there are {state.eligible_count}"
    if state.eligible_count >= state.minimum:
        why = f"{state.abandoned} rounds in a row were abandoned"
    return f"{text}, quorum is {least}; {why}; at most {max(0.0, current.deadline - now):.0f} s more"


def _without_the_lost(state: State, current: Round, now: float) -> tuple[int, int]:
    """How many participants are lost to the round, and its quorum without them."""
    lost = sum(
        min(return_by, current.deadline) <= now
        for client, return_by in state.absent.items()
        if current.waits_for(client)
    )
    drawn, rules = len(current.seeds), state.rules
    fewest = min(rules.clients_per_round, state.minimum)
    return lost, quorum(state, min(current.needed, drawn, max(fewest, drawn - lost)))


def absent(state: State, current: Round, now: float) -> str:
    """ " (pi-2 abstains: ..., pi-3 gone for 42 s)" for those that abstain and those that are gone."""
    abstaining = sorted(current.abstained.items())
    named = [f"{client} abstains: {reason}" for client, reason in abstaining[:NAMED]]
    if len(abstaining) > NAMED:
        named.append(f"{len(abstaining) - NAMED} more abstain")
    return parenthesis([*named, *gone(state, current.missing, now), *_not_back(state, current)])


def gone(state: State, clients: Iterable[str], now: float) -> list[str]:
    """["pi-3 gone for 42 s"] for those of the clients that were here and are not."""
    if sum(map(len, state.ready.values())) == len(state.presence):
        return []
    found = sorted(client for client in clients if state.is_gone(client))
    named = [f"{c} gone for {now - state.presence[c].gone_at:.0f} s" for c in found[:NAMED]]
    if len(found) > NAMED:
        named.append(f"{len(found) - NAMED} more gone")
    return named


def _not_back(state: State, current: Round) -> list[str]:
    """The same for those that have not been seen since the coordinator restarted."""
    found = sorted(client for client in current.missing if client in state.absent and client not in state.presence)
    named = [f"{client} not back since the restart" for client in found[:NAMED]]
    if len(found) > NAMED:
        named.append(f"{len(found) - NAMED} more not back")
    return named


def parenthesis(parts: list[str]) -> str:
    """ " (one, another)", or nothing where there is none."""
    return f" ({', '.join(parts)})" if parts else ""


def took(current: Round, now: float) -> float:
    """Seconds since the round was opened, or 0 where that tells nothing about a client: a restart interrupted the
    round."""
    return max(SHORTEST_S, now - current.opened_at) if current.opened_at else 0.0


def lasts(state: State, participants: tuple[str, ...]) -> tuple[float, str]:
    """Seconds that the next round may last, and why."""
    longest = state.rules.deadline_s
    if not state.rules.learn_deadline:
        return longest, "as the run file says"
    tiers = {state.clients[client].tier for client in participants}
    if unknown := sorted(tiers - {tier for tier, took in state.took_s.items() if took}):
        return longest, f"as the run file says: no {' or '.join(unknown)}-tier contribution to this phase was timed yet"
    if state.abandoned:
        return longest, "as the run file says, after an abandoned round"
    slowest = max(_slowest_usual(state.took_s[tier]) for tier in tiers)
    learnt = TIMES * slowest + SPARE_S
    if learnt >= longest:
        return longest, f"as the run file says: contributions take up to {slowest:.3g} s"
    return learnt, f"{TIMES} times {slowest:.3g} s, which the slowest usually take, and {SPARE_S:g} s"


def _slowest_usual(took: tuple[float, ...]) -> float:
    ascending = sorted(took)
    return ascending[-2] if len(ascending) >= FEWEST else ascending[-1]
