"""Back-off of participants that fail their rounds, and of the rounds after abandoned ones.

A participant fails a round that ends without its contribution: it abstained (as it does where its contribution is refused),
its stream had broken, or it was late; or the round could not be aggregated with what it gave. It then rests: it is not drawn
where others suffice, for twice as long each time in a row, and all is forgotten with the next version that it contributes to.
Where others do not suffice for a round it is drawn all the same, so a small fleet pauses with a reason, and does not stop in
silence. Rounds that follow abandoned ones are spaced alike, so a run does not pause within moments. Pure, as `decide` is.
"""

from itertools import islice

from zowarmup.server.core import events as ev
from zowarmup.server.core.state import Round, State, quorum

REST_S, LONGEST_REST_S = 5.0, 600.0
"""How long a participant rests that has failed once, and at most."""
SPACING_S, LONGEST_SPACING_S = 2.0, 60.0
"""How long after the opening of the second abandoned round in a row the next one opens, and at most after any."""
DOUBLINGS = 30
NAMED = 3


def failures(state: State, ended: Round, now: float) -> tuple[ev.ParticipantsFailed, ...]:
    """What follows for the participants that a round ends without: an event, or none."""
    reasons = {client: f"abstains: {why}" for client, why in ended.abstained.items()}
    for client in ended.waited_for():
        if client in state.absent or state.is_gone(client):
            reasons[client] = "its connection was lost"
        elif now >= ended.deadline:
            reasons[client] = "it was late"
    for client in ended.members:
        if client not in ended.due:
            reasons.setdefault(client, "it was lost in the midst of the round")
    return _failed(state, ended.number, reasons, now)


def all_failed(state: State, ended: Round, reason: str, now: float) -> tuple[ev.ParticipantsFailed, ...]:
    """The same where what was contributed to a round cannot be aggregated. Whose fault that is nobody knows: those who are
    at fault again stay when the others have contributed to a version."""
    return _failed(state, ended.number, dict.fromkeys(ended.contributions, reason), now)


def _failed(state: State, round: int, reasons: dict[str, str], now: float) -> tuple[ev.ParticipantsFailed, ...]:
    found = []
    for client in sorted(reasons):
        before = state.failures.get(client)
        times = before.in_a_row + 1 if before else 1
        rest_s = min(LONGEST_REST_S, REST_S * 2 ** min(times - 1, DOUBLINGS))
        found.append(ev.Failure(client, times, now + rest_s, reasons[client]))
    return (ev.ParticipantsFailed(round, tuple(found)),) if found else ()


def resting(state: State, now: float) -> frozenset[str]:
    """The eligible clients that a round is not drawn from: those that rest but, where the others are fewer than a round needs to be opened, for
    as many as it lacks, those first whose rest ends first."""
    eligible = state.eligible
    found = [
        client for client in state.failures if _rests(state, client, now) and any(client in names for names in eligible)
    ]
    short = min(state.rules.clients_per_round, state.minimum) - (state.eligible_count - len(found))
    if short > 0:
        found = sorted(found, key=lambda client: (state.failures[client].rests_until, client))[short:]
    return frozenset(found)


def draw(state: State, round: int, count: int, now: float) -> tuple[str, ...]:
    """At most `count` participants for the next round, in ascending order. Of those whose last round failed there are no
    more than the quorum can spare (but one), where others can take their places: a group that fails together loses none."""
    rest, failures = resting(state, now), state.failures
    order = (client for client in state.draws.order(round, state.eligible) if client not in rest)
    participants = list(islice(order, count))
    doubtful = [client for client in participants if client in failures]
    needed = min(state.rules.clients_per_round, len(participants))
    spare = max(1, len(participants) - quorum(state, needed))
    if surplus := set(doubtful[spare:]):
        others = [client for client in participants if client not in surplus]
        others += islice((client for client in order if client not in failures), len(surplus))
        if len(others) == len(participants):
            participants = others
    return tuple(sorted(participants))


def _rests(state: State, client: str, now: float) -> bool:
    """A rest that would last longer than any can is from before a restart with another clock: it is over."""
    failure = state.failures.get(client)
    return failure is not None and now < failure.rests_until <= now + LONGEST_REST_S


def opens_in_s(state: State, now: float) -> float:
    """How long no round opens yet, because rounds before it were abandoned: none after the first, whose next is drawn
    without those that failed it."""
    previous, abandoned = state.previous, state.abandoned
    if previous is None or abandoned < 2 or not 0 < previous.opened_at <= now:
        return 0.0
    spacing_s: float = min(LONGEST_SPACING_S, SPACING_S * 2 ** min(abandoned - 2, DOUBLINGS))
    return max(0.0, previous.opened_at + spacing_s - now)


def responsible(state: State) -> str:
    """Who has failed most in a row, and how: "pi-2 (abstains: no data; 5 times in a row) and 2 more". Empty where nobody
    has."""
    found = sorted(state.failures.values(), key=lambda failure: (-failure.in_a_row, failure.client))
    named = [f"{one.client} ({one.reason}{_times(one.in_a_row)})" for one in found[:NAMED]]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(named) + more


def _times(in_a_row: int) -> str:
    return f"; {in_a_row} times in a row" if in_a_row > 1 else ""
