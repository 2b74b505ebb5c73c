"""How long a round may last, learnt from the durations of contributions.

Learnt: 3 times the second slowest of the last 32 contributions of the slowest tier taking part, and 5 s, but never more
than the run file allows. The very slowest is left out as a mishap, unless there are fewer than 4. What a contribution
took is part of its event, so a replay decides as the coordinator did. A round after an abandoned one has the longest
time there is: what was learnt has just proved too short, or there is nobody to be short for.
"""

from zowarmup.server.core.state import Round, State

TIMES = 3
SPARE_S = 5.0
FEWEST = 4
SHORTEST_S = 1e-3


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
