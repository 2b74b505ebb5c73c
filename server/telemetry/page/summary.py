"""What the page says of the run beside its curves and devices: one value for each of its parts, which are compared.

The sentence of what goes on is that of `zowarmup status`. All instants are of the coordinator's clock.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.pace import RECENT, time_left
from zowarmup.common.settings.run import SOFTWARE
from zowarmup.common.text import counted, listed, printable
from zowarmup.server.core.activity import activity, planned
from zowarmup.server.core.events import Evaluated, TrafficCount
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.telemetry.page.series import finite

CERTIFICATE_S = 30 * 86400
ABSTAINING_SHOWN = 3
LONGEST_SENTENCE = 600


@dataclass(frozen=True, slots=True)
class PageSources:
    """What the page is made of.

    Args:
        state: The run's state now.
        clock: The coordinator's clock, seconds.
        history: Its versions and what each client did last.
        counts: The run's payload so far.
        carried: The bytes (up, down) of a client's messages since the coordinator started.
        refusals: What was refused since then, by reason.
        trouble: What the disk refuses, as a sentence; empty where it takes everything.
        expires_at: When the coordinator's certificate expires, seconds since 1970; None without TLS.
        live: Whether there is a coordinator; else all that is known is on disk.
    """

    state: Callable[[], State]
    clock: Callable[[], float]
    history: History
    counts: Callable[[], tuple[TrafficCount, ...]]
    carried: Callable[[str], tuple[int, int]]
    refusals: Mapping[str, int]
    trouble: Callable[[], str] = lambda: ""
    expires_at: Callable[[], float | None] = lambda: None
    live: bool = True


def run_of(state: State, live: bool) -> dict[str, Any]:
    """What never changes."""
    metrics = [
        {"name": m.name, "title": m.title, "share": m.share, "higher": m.higher_is_better}
        for m in state.program.metrics
    ]
    return {
        "name": printable(state.run_file.name),
        "id": state.run_id,
        "model": printable(state.run_file.model.public.name),
        "parameters": state.layout.trainable,
        "metrics": metrics,
        "warmup": state.run_file.warmup.rounds,
        "rounds": state.run_file.zeroth_order.rounds,
        "algorithms": [printable(state.run_file.warmup.algorithm), printable(state.run_file.zeroth_order.algorithm)],
        "software": SOFTWARE,
        "live": live,
    }


def summary(sources: PageSources, state: State, now: float, fleet: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that change, by name."""
    pivot_version, final_version = planned(state)
    counts = sources.counts()
    evaluation, pivot = state.evaluation, sources.history.versions.get(_or(state.pivot_version, -1))
    return {
        "phase": state.phase.value,
        "version": state.version,
        "digest": state.digest[:8],
        "pivot": {
            "at": pivot_version,
            "reason": printable(state.pivot_reason),
            "made": state.pivot_version is not None,
        },
        "final": final_version,
        "sentence": sentence(sources, state, now),
        "tone": _tone(sources, state),
        "left": _left(sources.history, state, pivot_version, final_version) if sources.live else "",
        "round": _round(state),
        "evaluation": _evaluation(evaluation),
        "at_pivot": _evaluation(pivot.evaluation if pivot else None),
        "fleet": fleet,
        "traffic": _traffic(counts),
        "warnings": warnings(sources, state),
    }


def sentence(sources: PageSources, state: State, now: float) -> str:
    """What goes on and, where the run waits, for what and why."""
    if state.gave_up:
        said = f"gave up: {state.gave_up}"
    elif state.paused:
        said = f"paused: {state.paused}"
    elif not sources.live and state.phase is not Phase.FINISHED:
        said = f"not finished: at version {state.version} of {planned(state)[1]} when this was written"
    else:
        said = sources.trouble() or activity(state, now) or "nothing is being waited for"
    return printable(said, LONGEST_SENTENCE)


def _tone(sources: PageSources, state: State) -> str:
    if state.gave_up or sources.trouble():
        return "bad"
    if state.phase is Phase.FINISHED:
        return "done"
    if state.paused:
        return "paused"
    return "working" if sources.live and state.current is not None else "waiting"


def _left(history: History, state: State, pivot_version: int, final_version: int) -> str:
    if state.phase is Phase.FINISHED or state.paused:
        return ""
    recent = (history.versions.get(number) for number in range(max(0, state.version - RECENT), state.version + 1))
    of_phase = [known.committed_at for known in recent if known and known.round and known.phase is state.phase]
    warming_up = state.phase is Phase.WARM_UP
    end = pivot_version if warming_up else final_version
    return time_left(of_phase, end - state.version, " to the pivot" if warming_up else "")


def _round(state: State) -> dict[str, Any] | None:
    current = state.current
    if current is None:
        return None
    return {
        "number": current.number,
        "phase": current.phase.value,
        "drawn": len(current.seeds),
        "needed": current.needed,
        "contributed": len(current.contributions),
        "abstained": len(current.abstained),
        "opened_at": current.opened_at,
        "deadline": current.deadline,
        "closed": printable(current.closed),
    }


def _evaluation(found: Evaluated | None) -> dict[str, Any] | None:
    if found is None:
        return None
    metrics = {name: finite(value) for name, value in found.metrics.items()}
    return {"version": found.version, "metrics": metrics, "loss": finite(found.loss), "examples": found.examples}


def _traffic(counts: tuple[TrafficCount, ...]) -> list[list[Any]]:
    """(tier, phase, bytes up, bytes down, bytes up of a contribution or None), of those that have sent or got anything."""
    rows: list[list[Any]] = []
    for tier in (*(tier.value for tier in Tier), ""):
        for phase in Phase:
            here = [count for count in counts if count.tier == tier and count.phase == phase]
            up = sum(count.payload_bytes for count in here if count.direction == "up")
            down = sum(count.payload_bytes for count in here if count.direction == "down")
            if not up and not down:
                continue
            sent = [count for count in here if count.direction == "up" and count.kind in ("contribution", "delta")]
            messages = sum(count.messages for count in sent if count.kind == "contribution")
            each = sum(count.payload_bytes for count in sent) / messages if tier and messages else None
            rows.append([tier, phase.value, up, down, None if each is None else round(each, 1)])
    return rows


def warnings(sources: PageSources, state: State) -> list[list[str]]:
    """(level, sentence): "critical", "warning" or "note", the gravest first."""
    found: list[list[str]] = []

    def tell(level: str, text: str) -> None:
        found.append([level, printable(text, LONGEST_SENTENCE)])

    if trouble := sources.trouble():
        tell("critical", trouble)
    if state.gave_up:
        tell("critical", f"the run gave up: {state.gave_up}")
    if seen := sources.history.disagreements:
        tell("critical", f"{counted(seen, 'replica')} {'was' if seen == 1 else 'were'} seen that are not the run's")
    if (expires_at := sources.expires_at()) and (left := expires_at - time.time()) < CERTIFICATE_S:
        when = f"expires in {left / 86400:.0f} days" if left > 0 else "has expired"
        tell("warning", f"the coordinator's certificate {when}: devices refuse it then")
    if times := state.progress.rollbacks:
        factor, why = state.progress.rate_factor, state.progress.reason
        text = f"the guard went back {counted(times, 'time')} to the last good version; learning rates are x {factor:g}"
        tell("warning", f"{text}: {why}" if why else text)
    if state.abandoned:
        tell(
            "warning",
            f"the last {counted(state.abandoned, 'round')} {'was' if state.abandoned == 1 else 'were'} abandoned",
        )
    current = state.current
    abstaining = sorted(current.abstained.items()) if current is not None else []
    for client, reason in abstaining[:ABSTAINING_SHOWN]:
        tell("warning", f"{client} abstains: {reason}")
    if len(abstaining) > ABSTAINING_SHOWN:
        tell("warning", f"{len(abstaining) - ABSTAINING_SHOWN} more abstain")
    if (budget := state.budget) is not None:
        tell("note", f"differential privacy: a client has used at most {budget.spent(state.most_released)}")
    if refused := dict(sources.refusals):
        tell("note", "refused: " + listed(f"{count:,} {reason}" for reason, count in sorted(refused.items())))
    if state.clipped_scalars or state.clipped_deltas:
        scalars, deltas = counted(state.clipped_scalars, "scalar"), counted(state.clipped_deltas, "delta")
        tell("note", f"{scalars} and {deltas} were clipped, as outliers in their round")
    if state.rounds_below_tick:
        tell("note", f"{counted(state.rounds_below_tick, 'round')} moved no direction by more than a tick")
    return found


def _or(value: int | None, other: int) -> int:
    return other if value is None else value
