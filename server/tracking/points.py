"""What a tracker is told of a run: its parameters once, numbers for each version, and how it ended.

All of it follows from the event log. A version's numbers are the same whenever they are asked for, and stand at step = version, so
a tracker that has missed some can be given them later.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.run import SOFTWARE
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History, VersionRecord

PARTICIPANTS, CONTRIBUTIONS, LOSS = "participants", "contributions", "loss"
_ONLY_HERE = ("server", "tracking")
"""Sections of a run file that say nothing of the experiment, and something of this machine."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as a tracker shows it.

    Args:
        run_id: Its own for ever.
        name: As its run file says.
        began_at: Seconds since 1970.
        parameters: The run file's, by "section.field", as text.
        tags: What else it is known by, as text.
    """

    run_id: str
    name: str
    began_at: float
    parameters: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class VersionPoint:
    """Numbers of a version, by name; `at` is when it was committed, seconds since 1970."""

    version: int
    at: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands: `state` is "running", "stopped", "finished" or "gave up"; `reason` why it gave up; `tags`: its version and
    digest, and what else has become known."""

    state: str
    version: int
    reason: str
    tags: Mapping[str, str]


def tracked(state: State, history: History) -> TrackedRun:
    """What a tracker is told first."""
    run = state.run_file
    parameters: dict[str, str] = {}
    for section, value in asdict(run).items():
        if section in _ONLY_HERE:
            continue
        fields: dict[str, Any] = value if isinstance(value, dict) else {"": value}
        parameters |= {f"{section}.{name}".rstrip("."): _text(one) for name, one in fields.items()}
    tags = {
        "run_id": state.run_id,
        "name": run.name,
        "algorithm": run.zeroth_order.algorithm,
        "warmup_algorithm": run.warmup.algorithm,
        "model": run.model.public.name,
        "task": run.model.task,
        "parameters": str(state.layout.trainable),
        "software": SOFTWARE,
    }
    return TrackedRun(state.run_id, run.name, history.versions[0].committed_at, parameters, tags)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def standing(state: State, stopped: bool) -> Standing:
    """How a run stands. `stopped`: its coordinator is about to leave."""
    tags = {"version": str(state.version), "digest": state.digest, "phase": state.phase.value}
    if state.pivot_version is not None:
        tags["pivot_version"] = str(state.pivot_version)
    over = "gave up" if state.gave_up else "finished" if state.phase is Phase.FINISHED else ""
    return Standing(over or ("stopped" if stopped else "running"), state.version, state.gave_up, tags)


def values_of(record: VersionRecord, history: History) -> dict[str, float]:
    """The numbers of a version: what is not one (the loss of a model that is lost) is left out."""
    values: dict[str, float] = {}
    if record.version:
        values = {PARTICIPANTS: record.participants, CONTRIBUTIONS: record.contributions}
        for count in history.traffic.at(record.version):
            if count.tier:
                name = f"{count.direction}link_bytes/{count.tier}"
                values[name] = values.get(name, 0) + count.payload_bytes
    if record.evaluation is not None:
        values |= {LOSS: record.evaluation.loss, **record.evaluation.metrics}
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
