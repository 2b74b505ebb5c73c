"""The guard on progress: whether an evaluated version is good, and to which one the run returns otherwise.

A version is rejected where its held-out loss is not finite, or more than `factor` times the lowest so far while its
primary metric is also well worse than the best, or more than the square of `factor` times the lowest. A model trained on
data with few classes is often sure of what it gets wrong, so its loss may be large, and grow, while it is right as often as before.
It is rejected as well where it says the same of every example after one that had learnt: such a model has the loss of
guessing, which may be within the limit. (Its metric alone does not tell it from an honest one: of rounds with one client
each, which has one class, many end at an accuracy of guessing, and the next ones are good again.) The run then goes back to
the last good version: versions only move forward, so that is a new one with the good one's weights. Where the loss is small, many times
as much is still a good model: the lowest loss counts as no less than a share of what guessing costs (`Baseline`).

What is decided is an event (`Evaluated.rejected`, `RolledBack`, `RunGaveUp`), and an evaluation is on record before the
next version is (`round_jobs`), so a restart decides nothing anew.
"""

import math
from dataclasses import dataclass, replace

from zowarmup.common.settings.run import Guard
from zowarmup.common.tasks.protocol import Baseline, Metric
from zowarmup.server.core import events as ev

GUESSING_SHARE = 0.1
"""The lowest loss counts as no less than this share of the loss of guessing."""
KEPT_SHARE = 0.9
"""A version that keeps this share of the best metric so far is not lost where its loss alone is large."""
LEARNT = 0.5
"""The skill (`skill`) of a model that has learnt."""
SLOWER = 0.5
"""What the learning rate is multiplied by whenever the run goes back."""


@dataclass(frozen=True, slots=True)
class GoodVersion:
    """The last good version: its evaluation, its digest, and the server optimizer's state of the zeroth-order rounds then."""

    evaluation: ev.Evaluated
    digest: str
    moments: tuple[float, ...]

    @property
    def version(self) -> int:
        return self.evaluation.version


@dataclass(frozen=True, slots=True)
class Progress:
    """`best`: the lowest held-out loss so far, nats; `best_metric`: the best value of the primary metric. Both it and
    `good` are None before the first evaluation. `rejected`: why the present version is not good, while the run has yet
    to go back from it. `rollbacks`: how often it has; `rate_factor`: what its learning rates are multiplied by since;
    `reason`: why it went back last; `returned`: the version that was made then, and the one whose weights it has."""

    best: float = math.inf
    best_metric: float | None = None
    good: GoodVersion | None = None
    rejected: str = ""
    rollbacks: int = 0
    rate_factor: float = 1.0
    reason: str = ""
    returned: tuple[int, int] | None = None

    def factor_after(self, rollbacks: int) -> float:
        """What learning rates are multiplied by after so many returns."""
        return SLOWER**rollbacks

    def evaluated(
        self, event: ev.Evaluated, metric: Metric, present: int, digest: str, moments: tuple[float, ...]
    ) -> "Progress":
        """After an evaluation, at the version `present`, which has that digest and those moments. `metric`: the primary one."""
        if event.rejected:
            return replace(self, rejected=event.rejected)
        if not math.isfinite(event.loss) or event.version != present:
            return self
        value, known = event.metrics[metric.name], self.best_metric
        best_metric = value if known is None or metric.better(value, known) else known
        good = GoodVersion(event, digest, moments)
        return replace(self, best=min(self.best, event.loss), best_metric=best_metric, good=good)

    def rolled_back(self, event: ev.RolledBack) -> "Progress":
        """Once the run is at the good version's weights again."""
        assert self.good is not None
        evaluation = replace(self.good.evaluation, version=event.version)
        return replace(
            self,
            good=replace(self.good, evaluation=evaluation),
            rejected="",
            rollbacks=self.rollbacks + 1,
            rate_factor=event.rate_factor,
            reason=event.reason,
            returned=(event.version, event.to),
        )

    def taken_back(self, version: int) -> str:
        """Whose weights a version has that a return has made, as the end of a sentence; empty for any other."""
        if self.returned is None or self.returned[0] != version:
            return ""
        return f", but the model is that of version {self.returned[1]}: what followed was rejected"


def limit(rules: Guard, progress: Progress, baseline: Baseline) -> float:
    """The largest held-out loss, nats, that a version may have whose metric has fallen; infinite before the first evaluation
    and where the guard is off."""
    if not rules.on:
        return math.inf
    return rules.factor * max(progress.best, GUESSING_SHARE * baseline.loss)


def skill(value: float, metric: Metric, baseline: Baseline) -> float:
    """The share of the way from guessing to the best there can be that a model has come: 0 for guessing, 1 for a perfect one;
    not a number where there is no best."""
    way = metric.best - baseline.metric
    return 1 - (metric.best - value) / way if way else 0.0


def fault(rules: Guard, progress: Progress, program: ev.ProgramRecord, found: ev.Evaluated, constant: bool) -> str:
    """Why a version with these held-out results is rejected, as a sentence; empty where it is not, where the run goes back
    already, and where the version is not one that the present one descends from. `constant`: whether it says the same of
    every example."""
    good, version, loss = progress.good, found.version, found.loss
    if not rules.on or progress.rejected or (good is not None and version <= good.version):
        return ""
    if not math.isfinite(loss):
        return f"the held-out loss of version {version} is not finite ({loss})"
    metric, best = program.metric, progress.best_metric
    if best is None:
        return ""
    value, most = found.metrics[metric.name], limit(rules, progress, program.baseline)
    kept = metric.keeps(value, KEPT_SHARE, best)
    said = f"its {metric.title} is {metric.shown(value)}, the best so far {metric.shown(best)}"
    if constant and not kept and skill(best, metric, program.baseline) >= LEARNT:
        return f"version {version} says the same of every held-out example; {said}"
    if loss <= most or (kept and loss <= rules.factor * most):
        return ""
    return (
        f"the held-out loss of version {version} is {loss:.4g} nats, the lowest so far {progress.best:.4g}, "
        f"and with guard.factor = {rules.factor:g} at most {most:.4g} is allowed; {said}"
    )


def gives_up(rules: Guard, progress: Progress) -> str:
    """Why the run ends before its time, as a sentence; empty while it does not."""
    if not rules.on or progress.rollbacks <= rules.rollbacks:
        return ""
    return f"it went back {progress.rollbacks} times, to half the learning rate each time, and last because {progress.reason}"
