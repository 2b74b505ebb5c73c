"""What goes on in a run, as a sentence, and where its phases end: what `zowarmup status`, `watch` and the live page say."""

from zowarmup.common.messages.values import Phase
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.server.core.decide import waiting
from zowarmup.server.core.masking import doing
from zowarmup.server.core.state import State


def planned(state: State) -> tuple[int, int]:
    """The versions at which the warm-up and the run end, as far as is known now."""
    if state.phase is Phase.FINISHED:
        return state.version if state.pivot_version is None else state.pivot_version, state.version
    left = max(0, state.rules.rounds - state.rounds_done)
    if state.pivot_version is None:
        pivot = state.version + left
        return pivot, pivot + state.run_file.zeroth_order.rounds
    return state.pivot_version, state.version + left


def activity(state: State, now: float) -> str:
    """What is going on, as a sentence."""
    current = state.current
    if current is None:
        return waiting(state, now) or "opening a round"
    if current.closed:
        return f"round {current.number}: aggregating {len(current.contributions)} contributions ({current.closed})"
    if sentence := waiting(state, now):
        return sentence
    missing = current.missing
    if current.stage is not Stage.KEYS:
        return f"round {current.number}, secure aggregation: {doing(current)}"
    named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    left = max(0.0, current.deadline - now)
    enough = f" ({current.needed} are needed)" if current.needed < len(current.seeds) else ""
    why = f" (deadline: {current.deadline_reason})" if current.deadline_reason else ""
    return (
        f"round {current.number}: {len(current.contributions)} of {len(current.seeds)} have contributed{enough}, "
        f"{left:.0f} s left for {named}{why}"
    )
