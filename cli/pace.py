"""A run's curve so far and its remaining time, estimated from its versions: for `zowarmup watch`."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from zowarmup.cli.run_status import Status, VersionStatus
from zowarmup.cli.units import counted, duration
from zowarmup.common.messages.values import Phase

RECENT = 20
"""So many of the last rounds say how long one takes."""
KEPT = 1000
CURVE = 30
_LEVELS, _ASCII = "▁▂▃▄▅▆▇█", "_.-=*#"


@dataclass(frozen=True, slots=True)
class Pace:
    """`versions`: the last `KEPT` of a run, ascending."""

    versions: tuple[VersionStatus, ...] = ()

    def since(self, present: int) -> int:
        """From which version on `following` wants to know, where the run is at version `present`: an evaluation comes
        a moment after its version, so those without one are asked for again."""
        later = max(0, present - KEPT + 1)
        if not self.versions:
            return later
        evaluated = [version.version for version in self.versions if version.evaluation is not None]
        return max(later, min(self.versions[-1].version, (evaluated[-1] if evaluated else -1) + 1))

    def following(self, later: Sequence[VersionStatus]) -> "Pace":
        """With all versions from the first of `later` on as they are there."""
        if not later:
            return self
        before = (version for version in self.versions if version.version < later[0].version)
        return Pace((*before, *later)[-KEPT:])

    def rows(self, status: Status, ascii_only: bool = False) -> list[tuple[str, str]]:
        """(name, text) of what can be said."""
        found = []
        evaluated = [version.evaluation for version in self.versions if version.evaluation is not None]
        if len(evaluated) > 1:
            levels = _ASCII if ascii_only else _LEVELS
            first, last = evaluated[0], evaluated[-1]
            metric = sparkline([status.value(one) for one in evaluated], levels)
            loss = sparkline([one.loss for one in evaluated], levels)
            found = [
                ("curve", f"{metric}  {status.shown(first)} to {status.shown(last)}"),
                ("", f"{loss}  {first.loss:.2f} to {last.loss:.2f} nats, versions {first.version} to {last.version}"),
            ]
        if left := self.left(status):
            found.append(("left", left))
        return found

    def left(self, status: Status) -> str:
        """How long the present phase will go on at the pace of its last rounds; empty where that is not known."""
        if status.phase is Phase.FINISHED or status.paused:
            return ""
        recent = [version for version in self.versions if version.phase is status.phase and version.round][-RECENT:]
        if len(recent) < 2:
            return ""
        each_s = (recent[-1].committed_at_s - recent[0].committed_at_s) / (len(recent) - 1)
        end = status.pivot_version if status.phase is Phase.WARM_UP else status.final_version
        rounds = end - status.version
        if each_s <= 0 or rounds < 1:
            return ""
        to = " to the pivot" if status.phase is Phase.WARM_UP else ""
        took = f"{each_s:.2g} s" if each_s < 10 else duration(each_s)
        return f"about {duration(rounds * each_s)}{to}: {counted(rounds, 'round')}, of which the last took {took} each"


def sparkline(values: Sequence[float], levels: str = _LEVELS, width: int = CURVE) -> str:
    """One character for each of at most `width` equal stretches of the values, by their mean; what is not finite is the
    highest there is."""
    count = min(width, len(values))
    edges = [len(values) * place // count for place in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    finite = [mean for mean in means if abs(mean) < float("inf")]
    if not finite:
        return levels[-1] * count
    low, high = min(finite), max(finite)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((mean - low) * scale)] if abs(mean) < float("inf") else levels[-1] for mean in means)
