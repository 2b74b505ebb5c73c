"""Rows: what is measured, beside what, and whether its goal holds.

A *benchmark* is a function `name(repeats) -> list[Row]` registered with `@benchmark`; it runs in a fresh process of its
own, with one thread where libraries compute (`OMP_NUM_THREADS` = 1). It measures each row beside its *reference* in
that process, interleaved (`beside`), so that whatever else the machine does meets both. A row may also name its
*floor*, the physical limit, which says how much better it could be at all.

Modules that register benchmarks are in `MODULES`. They import what they measure inside their functions, so that
listing them costs nothing.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

MODULES = ("numerics", "probes", "adapters", "low_tier", "small_talk", "warm_up", "restart")
REPEATS, QUICK_REPEATS = 9, 3
"""How often each side of a row is measured, at least; at least 7 for a figure to be quoted."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What must be at most (or at least) `bound`: a row's ratio to its reference, or its value."""

    of: Literal["ratio", "value"]
    bound: float
    at_least: bool = False

    def holds(self, value: float, ratio: float | None) -> bool:
        found = value if self.of == "value" else ratio
        if found is None:
            return False
        return found >= self.bound if self.at_least else found <= self.bound

    def __str__(self) -> str:
        return f"{self.of} {'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ratio` is value / reference wherever there is a reference, the median of paired ratios;
    `spread` half of the distance between its quartiles (those of the value, without a reference), as a share.
    `floor_ratio` is value / floor. `holds` is None where there is no goal."""

    name: str
    value: float | None
    unit: str
    reference: float | None = None
    ratio: float | None = None
    goal: str = ""
    holds: bool | None = None
    spread: float | None = None
    floor: float | None = None
    floor_ratio: float | None = None
    beside: str = ""
    """What the reference is, in words."""
    limit: str = ""
    """What the floor is, in words."""
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def row(
    name: str,
    unit: str,
    values: Sequence[float],
    *,
    references: Sequence[float] = (),
    beside: str = "",
    goal: Goal | None = None,
    floor: float | None = None,
    limit: str = "",
    note: str = "",
) -> Row:
    """The row of some measurements, and of as many of their reference, taken in turn."""
    value = statistics.median(values)
    ratios = [mine / theirs for mine, theirs in zip(values, references, strict=True)] if references else []
    ratio = statistics.median(ratios) if ratios else None
    return Row(
        name=name,
        value=value,
        unit=unit,
        reference=statistics.median(references) if references else None,
        ratio=ratio,
        goal=str(goal or ""),
        holds=goal.holds(value, ratio) if goal else None,
        spread=spread(ratios or values),
        floor=floor,
        floor_ratio=value / floor if floor else None,
        beside=beside,
        limit=limit,
        note=note,
    )


def failed(name: str, note: str) -> Row:
    """The row of a benchmark that did not end: its goals do not hold."""
    return Row(name, None, "", holds=False, note=note)


def spread(values: Sequence[float]) -> float | None:
    """Half of the distance between the quartiles, as a share of the median; None for fewer than three values."""
    if len(values) < 3:
        return None
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle if middle else None


def beside(
    repeats: int, clock: Callable[[], float] = time.perf_counter, **sides: Callable[[], object]
) -> dict[str, list[float]]:
    """Seconds that each of `sides` takes, `repeats` times, in turn and each time in another order; a first turn that
    warms caches does not count. Where only this process computes, `clock` may be `time.process_time`: the same as the
    wall's on a machine with nothing else to do, and not disturbed by what else has the processor."""
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            sides[name]()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


Measure = Callable[[int], list[Row]]
REGISTERED: dict[str, Measure] = {}


def benchmark(measure: Measure) -> Measure:
    """Register a benchmark by its function's name. It is called with the number of repeats."""
    REGISTERED[measure.__name__] = measure
    return measure
