"""The cells of a table, and the runs of each cell. Pure.

A cell is one method at one share of high-tier clients with one seed. It is a run file, and a run of it from the first
round to the last would give its number. But what cells have in common is run once: the warm-up of a cell with both phases
is a run of its own, whose last weights (the checkpoint) the zeroth-order rounds begin with, in a run with
`model.weights` and no warm-up. Two methods with the same warm-up, split and seed therefore start from the same bits, have
the same shards, and draw the same clients and seeds in each round after the pivot, whose rounds count from 1.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from zowarmup.common.algorithms import settings_class
from zowarmup.common.algorithms.settings import WarmUp
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import RunFile
from zowarmup.common.system.command import Usage
from zowarmup.lab.experiments.table import ExperimentTable, Method, Section, slug
from zowarmup.server.setup.run_file import RunFileError, run_file_of

# In an experiment everybody is there: a round that not all contribute to is one that has failed.
ROUNDS: Section = {"quorum": 1.0, "learn_deadline": False}
SERVER: Section = {"address": "127.0.0.1:0", "abandoned_limit": 1, "keep_snapshots": 1}

Choice = Mapping[str, Mapping[str, Any]]
"""Settings that were tuned, by section."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a coordinator with `run`, and a fleet of `clients`, the first `high` of which train, that shares out
    `data`. `name` is its folder. `after`: the warm-up whose checkpoint it begins with; `total`: where that decides by
    itself when it is over, how many rounds both have together. `shared`: whether it is such a warm-up."""

    name: str
    run: RunFile
    data: str
    clients: int
    high: int
    after: "Job | None" = None
    total: int = 0
    shared: bool = False

    def beginning_with(self, weights: str) -> "Job":
        """The same from the weights in a file."""
        return replace(self, run=replace(self.run, model=replace(self.run.model, weights=weights)))

    def fingerprint(self, checkpoint: str = "") -> str:
        """Equal for equal work by the same version of zowarmup, beginning with the checkpoint of that digest."""
        said = asdict(self.run)
        del said["server"], said["name"]
        work = [version("zowarmup"), said, self.data, self.clients, self.high, checkpoint]
        text = json.dumps(work, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`choice`: the tuned settings that it has or, where it is a trial, that it tries."""

    method: str
    high_percent: int
    seed: int
    job: Job
    choice: Choice
    trial: bool = False


def choosing(table: ExperimentTable) -> list[list[int]]:
    """The table's splits, those together for which a method chooses its settings once."""
    by_itself = table.tune is not None and table.tune.high_percent is None
    return [[percent] for percent in table.high_percent] if by_itself else [table.high_percent]


def cells(table: ExperimentTable, method: Method, choice: Choice, splits: Sequence[int] | None = None) -> list[Cell]:
    """A method's cells at these of the table's splits (None: all), by seed and split. Raises Usage where one cannot be
    run."""
    return [
        _cell(table, method, choice, percent, seed, table.data, "")
        for seed in table.seeds
        for percent in (table.high_percent if splits is None else splits)
    ]


def trials(table: ExperimentTable, method: Method, splits: Sequence[int] | None = None) -> list[Cell]:
    """What a method tries before its settings for these splits (None: all) are chosen; empty where it tunes nothing."""
    tune = table.tune
    if not method.tune or tune is None:
        return []
    if tune.high_percent is not None:
        splits = tune.high_percent
    return [
        _cell(table, method, choice, percent, seed, tune.data, tune.evaluation)
        for choice in choices(method)
        for seed in tune.seeds
        for percent in (table.high_percent if splits is None else splits)
    ]


def choices(method: Method) -> Iterator[Choice]:
    """Every combination of the values that a method tunes, in the order in which they are written."""
    settings = [(section, name, values) for section, named in method.tune.items() for name, values in named.items()]
    for combination in itertools.product(*(values for _, _, values in settings)):
        choice: dict[str, dict[str, Any]] = {}
        for (section, name, _), value in zip(settings, combination, strict=True):
            choice.setdefault(section, {})[name] = value
        yield choice


def choose(tried: Sequence[tuple[Choice, float | None]]) -> Choice:
    """The choice with the highest mean score, of equal ones the first; one of whose runs came to nothing (None) is
    taken only where all are such."""
    means: dict[str, list[float]] = {}
    known = {said(choice): choice for choice, _ in tried}
    for choice, score in tried:
        means.setdefault(said(choice), []).append(-1e9 if score is None else score)
    best = max(means, key=lambda key: sum(means[key]) / len(means[key]))
    return known[best]


def said(choice: Choice) -> str:
    """A choice in words: zeroth_order.rate=0.4 warmup.rate=0.1."""
    return " ".join(f"{section}.{name}={value}" for section, named in choice.items() for name, value in named.items())


def at_the_edge(method: Method, choice: Choice) -> bool:
    """Whether a number that was chosen is the smallest or the largest of those it was chosen from."""
    for section, named in choice.items():
        for name, value in named.items():
            values = method.tune.get(section, {}).get(name, [])
            numbers = [one for one in values if isinstance(one, int | float)]
            if len(numbers) > 1 and value in (min(numbers), max(numbers)):
                return True
    return False


def after_warm_up(job: Job, rounds: int) -> Job:
    """The job whose warm-up took so many rounds: where the total is fixed, the rest is what is left. Raises Usage where
    nothing is."""
    if not job.total:
        return job
    left = job.total - rounds
    if left < 1:
        raise Usage(f"{job.name}: its warm-up took {rounds} of {job.total} rounds: allow more in all")
    return replace(job, run=replace(job.run, zeroth_order=replace(job.run.zeroth_order, rounds=left)))


def _cell(
    table: ExperimentTable, method: Method, choice: Choice, percent: int, seed: int, data: str, evaluation: str
) -> Cell:
    name = f"{slug(method.name)}-{percent}-{seed}"
    if evaluation:
        name = f"tuning-{name}-{slug(said(choice))}"
    high = round(table.clients * percent / 100)
    sections = table.sections(method)
    for section, settings in choice.items():
        sections[section] = {**sections[section], **settings}
    if evaluation:
        sections["evaluation"] = {**sections["evaluation"], "data": evaluation}
    run = _run(table, name, seed, sections, high)
    whole = Job(name=name, run=run, data=f"{data},seed={seed}", clients=table.clients, high=high)
    return Cell(
        method=method.name,
        high_percent=percent,
        seed=seed,
        job=_divided(whole, table),
        choice=choice,
        trial=bool(evaluation),
    )


def _run(table: ExperimentTable, name: str, seed: int, sections: Mapping[str, Section], high: int) -> RunFile:
    """The run file of a whole cell. Raises Usage."""
    warmup, rest = {**ROUNDS, **sections["warmup"]}, {**ROUNDS, **sections["zeroth_order"]}
    trained = warmup.get("rounds", 0)
    if table.rounds and isinstance(trained, int):
        rest.setdefault("rounds", max(0, table.rounds - trained))
    raw = {
        "name": name[:64],
        "seed": seed,
        "draws": "seed",
        **sections,
        "warmup": warmup,
        "zeroth_order": rest,
        "guard": {"factor": 0.0},  # methods are compared as they are
        "server": {**SERVER, **sections["server"]},
    }
    try:
        training = table.clients if Tier.LOW in run_file_of(raw, name).warmup.tiers else high
        for section, all_of_them in ((warmup, training), (rest, table.clients)):
            drawn = max(1, min(table.participants or all_of_them, all_of_them))
            section.update({"clients_per_round": drawn, "minimum_clients": all_of_them, **section})
        run = run_file_of(raw, name)
    except RunFileError as error:
        raise Usage(str(error)) from error
    if run.warmup.rounds and not training:
        raise Usage(f"{name}: high_percent leaves no client of {table.clients} to train in the warm-up: raise it")
    if not run.warmup.rounds + run.zeroth_order.rounds:
        raise Usage(f"{name}: has no rounds: give warmup.rounds, zeroth_order.rounds, or rounds for both together")
    return run


def _divided(job: Job, table: ExperimentTable) -> Job:
    """The job, without its warm-up where it has both phases and its model is the same whatever is trained in the second."""
    run = job.run
    if not run.warmup.rounds or not run.zeroth_order.rounds or run.model.pretrained:
        return job
    waits = run.warmup.pivot == "auto"
    if waits and not table.watched:
        raise Usage(
            f'{job.name}: warmup.pivot = "auto" decides on a held-out set: name one that is no test set as watched'
        )
    evaluation = replace(run.evaluation, data=table.watched) if waits else run.evaluation
    training = RunFile(
        name="warm-up",
        seed=run.seed,
        draws=run.draws,
        model=run.model,
        warmup=run.warmup,
        zeroth_order=_no_rounds("zeroth_order"),
        evaluation=evaluation,
        guard=run.guard,
        server=run.server,
    )
    first = replace(job, run=training, shared=True)
    first = replace(first, name=f"warm-up-{job.high}of{job.clients}-{run.seed}-{first.fingerprint()[:10]}")
    none: WarmUp = _no_rounds("warmup")
    if any(map(run.zeroth_order.trains, Tier)):  # as the warm-up does
        none = replace(run.warmup, rounds=0, pivot="rounds", patience=5, least_improvement=0.02)
    total = table.rounds if waits and run.warmup.rounds + run.zeroth_order.rounds == table.rounds else 0
    return replace(job, run=replace(run, warmup=none), after=first, total=total)


def _no_rounds(section: str) -> Any:
    """The settings of a phase without rounds."""
    settings: Any = settings_class(section, None)
    return settings(rounds=0)
