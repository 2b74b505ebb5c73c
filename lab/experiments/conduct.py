"""Execution of an experiment: jobs side by side, each once.

One loop starts jobs, looks at those that run, and takes down what they came to. What is finished is on disk before the
next job starts, so the experiment can be stopped at any moment and goes on at its next start.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zowarmup.common.system.command import CommandError, Interrupts
from zowarmup.common.text import counted, duration
from zowarmup.lab.experiments.grid import Cell, Choice, Job, after_warm_up, cells, choose, choosing, trials
from zowarmup.lab.experiments.outcome import RunOutcome
from zowarmup.lab.experiments.running import Place, Running
from zowarmup.lab.experiments.table import ExperimentTable, Method

LOOK_S = 0.03
SHOWN = 4
FAILURES = 3
"""So many in a row, and the experiment stops: whatever it is, it is not the cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """`done` of `total` cells are over, `failed` could not be; `running` are the jobs at work. `left_s`: about how long the
    rest will take; None: nobody knows yet."""

    total: int
    done: int
    failed: int
    running: tuple[str, ...]
    left_s: float | None

    def line(self) -> str:
        parts = [f"{self.done:,} of {counted(self.total, 'cell')}"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.running:
            more = len(self.running) - SHOWN
            parts.append(", ".join(self.running[:SHOWN]) + (f" and {more} more" if more > 0 else ""))
        if self.left_s is not None and self.done + self.failed < self.total:
            parts.append(f"about {duration(self.left_s)} left")
        return " | ".join(parts)


def left_s(took: Mapping[str, Sequence[float]], waiting: Sequence[str], jobs: int) -> float | None:
    """About how many seconds the waiting jobs will take, `jobs` at a time: each as long as those of its kind have taken
    on average or, before there is one of them, as all have. `took` and `waiting` are by kind."""
    every = [seconds for some in took.values() for seconds in some]
    if not every:
        return None
    usual = sum(every) / len(every)
    means = {kind: sum(some) / len(some) for kind, some in took.items() if some}
    return sum(means.get(kind, usual) for kind in waiting) / jobs


def default_jobs(cores: int, memory_bytes: int, each_bytes: int) -> int:
    """How many jobs a machine carries at a time: a core each, and memory for all of them."""
    return max(1, min(cores, memory_bytes // each_bytes))


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """How an experiment is to be carried out: `jobs` at a time, at most `limit` more cells (None: all), of those only
    which `chosen` says, and whether finished runs are kept."""

    jobs: int
    limit: int | None
    chosen: Callable[[Cell], bool]
    keep: bool


@dataclass
class ExperimentResults:
    """What there is: outcomes of cells and of warm-ups by the job's name, and sentences about what failed."""

    cells: list[Cell] = field(default_factory=list)
    outcomes: dict[str, RunOutcome] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class ExperimentRunner:
    """Raises Usage where a cell cannot be run."""

    def __init__(
        self, table: ExperimentTable, out: Path, wish: JobRequest, noted: Interrupts, show: Callable[[Moment], None]
    ) -> None:
        self._table, self._out, self._wish = table, out, wish
        self._noted, self._show = noted, show
        self.found = ExperimentResults()
        self._running: dict[str, Running] = {}
        self._took: dict[str, list[float]] = {}
        self._started = self._failures = 0
        self._undecided: list[tuple[Method, list[int], list[Cell]]] = []
        self._unknown = 0
        for method, splits in itertools.product(table.method, choosing(table)):
            planned = self._wished(method, {}, splits)
            tried = trials(table, method, splits) if planned else []
            self._add(tried or planned)
            if tried:
                self._undecided.append((method, splits, tried))
                self._unknown += len(planned)

    def run(self) -> ExperimentResults:
        """Until all that is wished for is over. Raises Interrupted where a signal has come, and CommandError where too much
        fails; whatever was started is stopped then."""
        told = 0.0
        try:
            while True:
                while len(self._running) < self._wish.jobs and self._start_one():
                    pass
                if not self._running:
                    break
                for running in list(self._running.values()):
                    self._look_at(running)
                if time.monotonic() >= told + 1:
                    told = time.monotonic()
                    self._show(self.moment())
                self._noted.sleep(LOOK_S)
        finally:
            for running in self._running.values():
                running.stop()
        return self.found

    def moment(self) -> Moment:
        names = [cell.job.name for cell in self.found.cells]
        waiting = [cell.method for cell in self.found.cells if not self._settled(cell.job.name)]
        return Moment(
            total=len(names) + self._unknown,
            done=sum(name in self.found.outcomes for name in names),
            failed=sum(name in self.found.failed for name in names),
            running=tuple(self._running),
            left_s=left_s(self._took, [*waiting, *[""] * self._unknown], self._wish.jobs),
        )

    def _add(self, more: list[Cell]) -> None:
        """Cells come by seed and split, so that what is unfinished compares all methods as far as it goes."""
        table = self._table
        order = {method.name: place for place, method in enumerate(table.method)}
        self.found.cells += more
        self.found.cells.sort(key=lambda cell: (not cell.trial, cell.seed, cell.high_percent, order[cell.method]))

    def _settled(self, name: str) -> bool:
        return name in self.found.outcomes or name in self.found.failed

    def _start_one(self) -> bool:
        """Start, or take from disk, the next job that nothing stands in the way of; whether there was one."""
        for cell in self.found.cells:
            job = cell.job
            if self._settled(job.name) or job.name in self._running:
                continue
            if job.after is not None and job.after.name in self.found.failed:
                self._fail(job.name, f"{job.name}: its warm-up failed: {self.found.failed[job.after.name]}")
                return True
            if job.after is not None and job.after.name not in self.found.outcomes:
                job = job.after
            if job.name not in self._running and self._begin(job):
                return True
        return self._decide()

    def _begin(self, job: Job) -> bool:
        """Start it, or take what it came to from disk; False where it may not be started any more."""
        place, began = Place(self._out / "cells" / job.name), ""
        if job.after is not None:
            first = self.found.outcomes[job.after.name]
            if first.gave_up:
                self._fail(job.name, f"{job.name}: its warm-up gave up: {first.gave_up}")
                return True
            job, began = after_warm_up(job, first.rounds), first.digest
        wanted = job.fingerprint(began)
        if (outcome := place.find(wanted, job.shared)) is not None:
            self.found.outcomes[job.name] = outcome
            return True
        if self._wish.limit is not None and self._started >= self._wish.limit:
            return False
        self._started += not job.shared
        try:
            place.begin(wanted)
            if job.after is not None:
                checkpoint = Place(self._out / "cells" / job.after.name).checkpoint
                job = job.beginning_with(str(checkpoint.resolve()))
            self._running[job.name] = Running(job, place, wanted, began, self._out / "model-cache", self._noted)
        except OSError as error:
            raise CommandError(f"{place.path} cannot be written: {error.strerror or error}; make room") from error
        return True

    def _look_at(self, running: Running) -> None:
        name = running.job.name
        try:
            if not running.over():
                return
            outcome = running.outcome()
            running.place.settle(running.wanted, outcome, self._wish.keep)
        except CommandError as failure:
            del self._running[name]
            running.stop()
            self._fail(name, str(failure))
            self._failures += 1
            if self._failures >= FAILURES:
                raise CommandError(f"{FAILURES} jobs failed one after the other; the last: {failure}") from failure
            return
        del self._running[name]
        self._failures = 0
        self.found.outcomes[name] = outcome
        kind = next((cell.method for cell in self.found.cells if cell.job.name == name), "warm-up")
        self._took.setdefault(kind, []).append(time.monotonic() - running.since)

    def _fail(self, name: str, sentence: str) -> None:
        self.found.failed[name] = sentence

    def _decide(self) -> bool:
        """Choose the settings of a method, for the splits whose trials are over; whether there was one."""
        for method, splits, tried in self._undecided:
            if all(self._settled(cell.job.name) for cell in tried):
                scores = [(cell.choice, score(self.found.outcomes.get(cell.job.name))) for cell in tried]
                chosen = self._wished(method, choose(scores), splits)
                self._undecided.remove((method, splits, tried))
                self._unknown -= len(chosen)
                self._add(chosen)
                return True
        return False

    def _wished(self, method: Method, choice: Choice, splits: list[int]) -> list[Cell]:
        return [cell for cell in cells(self._table, method, choice, splits) if self._wish.chosen(cell)]


def score(outcome: RunOutcome | None) -> float | None:
    """The metric in the end, its negative where lower is better; None where it came to nothing."""
    if outcome is None or outcome.last is None:
        return None
    return outcome.last.value if outcome.metric.higher_is_better else -outcome.last.value
