"""The table file: TOML in, an ExperimentTable or one sentence for each error out.

The sections are a run file's, and hold for every cell; a method says what is different with it. Every run that comes
of it is checked as a coordinator would check it, before anything is started.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, with_config

from zowarmup.common.algorithms import SECTIONS as SETTINGS
from zowarmup.common.algorithms import settings_class
from zowarmup.common.algorithms.settings import require
from zowarmup.common.system.command import Usage
from zowarmup.common.system.files import TomlError, read_toml
from zowarmup.server.setup.run_file import RunFileError, checked

Plot = Literal["rounds", "uplink", "compute", "high_percent", "pivot", "probes"]
CURVES = ("rounds", "uplink", "compute")
SECTIONS = ("model", "text", "warmup", "zeroth_order", "evaluation", "server")
Section = dict[str, Any]
MOST_CLIENTS, MOST_CELLS = 100_000, 100_000


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table: what of the run file's sections is different with it. `tune`: of settings in those sections,
    the values to choose from."""

    name: str
    model: Section = field(default_factory=dict)
    text: Section = field(default_factory=dict)
    warmup: Section = field(default_factory=dict)
    zeroth_order: Section = field(default_factory=dict)
    evaluation: Section = field(default_factory=dict)
    server: Section = field(default_factory=dict)
    tune: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(0 < len(self.name) <= 64 and "/" not in self.name, "name", self.name, '1 to 64 characters without "/"')
        for section, grids in self.tune.items():
            require(section in SECTIONS, "tune", section, f"of {', '.join(SECTIONS)}")
            for setting, values in grids.items():
                require(len(values) > 0, f"tune.{section}.{setting}", values, "values to choose from")


@dataclass(frozen=True, kw_only=True)
class Tune:
    """How methods with a `tune` choose: on `data` and `evaluation`, which know nothing of the test set, by the mean of
    the primary metric over these splits and seeds. `high_percent` left out (None): each of the table's splits chooses
    by itself."""

    data: str
    evaluation: str
    seeds: list[int]
    high_percent: list[int] | None = None

    def __post_init__(self) -> None:
        _require_splits([0] if self.high_percent is None else self.high_percent, self.seeds)
        require(not self.evaluation.endswith("test"), "evaluation", self.evaluation, "another than the test set")


@dataclass(frozen=True, kw_only=True)
class ExperimentTable:
    """`clients` share out `data`, of which the first `high_percent` train. `participants`: at most so many take part in a
    round (0: everyone). `rounds`: of both phases together; a method's zeroth-order rounds are those that its warm-up
    leaves, where it does not say how many (0: it does). `watched`: the set on which a warm-up with pivot = "auto" decides
    that it is over, instead of the test set."""

    title: str
    data: str
    clients: int
    high_percent: list[int]
    seeds: list[int]
    method: list[Method]
    participants: int = 0
    rounds: int = 0
    watched: str = ""
    plots: list[Plot] = field(default_factory=list)
    model: Section = field(default_factory=dict)
    text: Section = field(default_factory=dict)
    warmup: Section = field(default_factory=dict)
    zeroth_order: Section = field(default_factory=dict)
    evaluation: Section = field(default_factory=dict)
    server: Section = field(default_factory=dict)
    tune: Tune | None = None

    def __post_init__(self) -> None:
        require(1 <= self.clients <= MOST_CLIENTS, "clients", self.clients, f"1 to {MOST_CLIENTS}")
        require(0 <= self.participants <= self.clients, "participants", self.participants, "0 (everyone) to clients")
        require(0 <= self.rounds <= 1_000_000_000, "rounds", self.rounds, "0 to 1000000000")
        _require_splits(self.high_percent, self.seeds)
        names = [method.name for method in self.method]
        require(len(names) > 0, "method", names, "at least one [[method]]")
        require(
            len({slug(name) for name in names}) == len(names), "method", names, "names that differ, also as folders"
        )
        cells = len(names) * len(self.high_percent) * len(self.seeds)
        require(cells <= MOST_CELLS, "method", cells, f"at most {MOST_CELLS} cells")
        wishes = [method.name for method in self.method if method.tune]
        require(not wishes or self.tune is not None, "tune", None, f"given, since {', '.join(wishes)} tunes")

    def sections(self, method: Method) -> dict[str, Section]:
        """The sections of a method's run file, its own settings over the table's. Of the table's, it gets those that its
        algorithm has."""
        return {name: _together(name, getattr(self, name), getattr(method, name)) for name in SECTIONS}


def _together(section: str, shared: Section, own: Section) -> Section:
    together = {**shared, **own}
    known = SETTINGS.get(section)
    if known is None:
        return together
    try:
        has = _names(settings_class(section, together.get("algorithm")))
    except ValueError:  # which the run file's reader says better
        return together
    others = frozenset[str]().union(*map(_names, known.values())) - has
    return {name: value for name, value in together.items() if name in own or name not in others}


def _names(settings: Any) -> frozenset[str]:
    return frozenset(field.name for field in fields(settings))


for _part in (Method, Tune, ExperimentTable):
    with_config(ConfigDict(extra="forbid"))(_part)
_ADAPTER = TypeAdapter(ExperimentTable)


def read_table(path: Path) -> ExperimentTable:
    """Raises Usage naming the file, the field, what it holds and what is allowed."""
    try:
        raw = read_toml(path)
    except TomlError as error:
        raise Usage(str(error)) from error
    return table_of(raw, str(path))


def table_of(raw: Mapping[str, Any], source: str) -> ExperimentTable:
    """The table that `raw` says; `source` is what to call it. Raises Usage, a line for each reason."""
    try:
        return checked(_ADAPTER, ExperimentTable, raw, source)
    except RunFileError as error:
        raise Usage(str(error)) from error


def slug(text: str) -> str:
    """As a part of a folder's name."""
    return re.sub(r"[^a-z0-9.=]+", "-", text.lower()).strip("-")


def _require_splits(high_percent: list[int], seeds: list[int]) -> None:
    once = len(set(high_percent)) == len(high_percent) > 0
    require(once and all(0 <= p <= 100 for p in high_percent), "high_percent", high_percent, "0 to 100, each once")
    fit = all(0 <= seed < 1 << 63 for seed in seeds)
    require(len(set(seeds)) == len(seeds) > 0 and fit, "seeds", seeds, "0 to 2^63 - 1, each once")
