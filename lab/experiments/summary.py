"""The results of an experiment: a row for each cell, the table with its means, and the curves. Pure.

Everything that a cell took is counted from the first round of its warm-up on, whether that was run for it alone or not.
"""

import csv
import io
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from zowarmup.common.tasks.protocol import Metric
from zowarmup.common.text import amount
from zowarmup.lab.experiments.grid import Cell, at_the_edge, choices, said
from zowarmup.lab.experiments.outcome import Point, RunOutcome
from zowarmup.lab.experiments.table import ExperimentTable


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """One cell. `value` of the primary metric in the end, and `value_at_pivot` (None: there is none); `pivot` is
    the round that the warm-up ended with, `checkpoint` the digest of the weights then, `settings` what was tuned."""

    method: str
    high_percent: int
    seed: int
    value: float | None
    loss: float | None
    value_at_pivot: float | None
    rounds: int
    pivot: int
    probes: int
    uplink_bytes: int
    downlink_bytes: int
    client_forwards: int
    seconds: float
    digest: str
    checkpoint: str
    settings: str
    gave_up: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """`mean` and standard deviation (n - 1; 0 of a single one) of `count` values."""

    mean: float
    deviation: float
    count: int


def row_of(cell: Cell, outcome: RunOutcome, first: RunOutcome | None) -> ResultRow:
    """`first`: what its warm-up came to, where that was a run of its own."""
    last, begun = outcome.last, outcome.curve[0] if outcome.curve else None
    run = cell.job.run
    return ResultRow(
        method=cell.method,
        high_percent=cell.high_percent,
        seed=cell.seed,
        value=last.value if last else None,
        loss=last.loss if last else None,
        value_at_pivot=begun.value if first is not None and begun is not None and begun.round == 0 else None,
        rounds=outcome.rounds + (first.rounds if first else 0),
        pivot=first.rounds if first else run.warmup.rounds,
        probes=getattr(run.zeroth_order, "probes", 0) if run.zeroth_order.rounds else 0,
        uplink_bytes=outcome.uplink_bytes + (first.uplink_bytes if first else 0),
        downlink_bytes=outcome.downlink_bytes + (first.downlink_bytes if first else 0),
        client_forwards=outcome.client_forwards + (first.client_forwards if first else 0),
        seconds=round(outcome.seconds + (first.seconds if first else 0), 3),
        digest=outcome.digest,
        checkpoint=first.digest if first else "",
        settings=said(cell.choice),
        gave_up=outcome.gave_up,
    )


def curve_of(cell: Cell, outcome: RunOutcome, first: RunOutcome | None) -> list[Point]:
    """The whole curve, the warm-up's first. One that was evaluated on another set than the cell is left out of it."""
    after = cell.job.after
    if first is None or after is None:
        return list(outcome.curve)
    same = after.run.evaluation.data == cell.job.run.evaluation.data
    early = [point for point in first.curve if point.round < first.rounds] if same else []
    late = [
        replace(
            point,
            round=point.round + first.rounds,
            uplink_bytes=point.uplink_bytes + first.uplink_bytes,
            client_forwards=point.client_forwards + first.client_forwards,
        )
        for point in outcome.curve
    ]
    return early + late


def spread(values: Sequence[float]) -> Spread | None:
    """None of no values."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(mean=statistics.fmean(values), deviation=deviation, count=len(values))


def by_place(rows: Iterable[ResultRow]) -> dict[tuple[str, int], list[ResultRow]]:
    """By method and split, over seeds."""
    found: dict[tuple[str, int], list[ResultRow]] = {}
    for row in rows:
        found.setdefault((row.method, row.high_percent), []).append(row)
    return found


def rows_csv(rows: Iterable[ResultRow], metric: Metric) -> str:
    names = [field.name for field in fields(ResultRow)]
    return _csv(_titled(names, metric), ([getattr(row, name) for name in names] for row in rows))


def curves_csv(curves: Mapping[tuple[str, int, int], Sequence[Point]], metric: Metric) -> str:
    """By method, split and seed."""
    names = [field.name for field in fields(Point)]
    lines = ([*key, *(getattr(point, name) for name in names)] for key, points in curves.items() for point in points)
    return _csv(["method", "high_percent", "seed", *_titled(names, metric)], lines)


def _titled(names: Sequence[str], metric: Metric) -> list[str]:
    """Columns, with the metric's name for `value`."""
    return [re.sub("^value", metric.name, name) for name in names]


def markdown(table: ExperimentTable, rows: Sequence[ResultRow], source: str, metric: Metric) -> str:
    """The table, and below it what each method took."""
    places = by_place(rows)
    seeds, unit = len(table.seeds), " in percent" if metric.share else ""
    best = "highest" if metric.higher_is_better else "lowest"
    lines = [
        f"# {table.title}",
        "",
        (
            f"{metric.title.capitalize()} on {table.evaluation.get('data', 'the held-out set')}{unit}, mean (standard deviation, n - 1) over "
            f"{seeds} seeds, after the last round; columns: the share of the {table.clients} clients that is high-tier. The "
            f"{best} mean of each column is bold. Made by"
        ),
        "",
        f"    zowarmup experiment {source}",
        "",
        *_grid(table, lambda method, percent: _reached(table, places, metric, method, percent)),
    ]
    missing = [key for key in _keys(table) if sum(row.value is not None for row in places.get(key, [])) < seeds]
    if missing:
        lines += ["", "[n]: of so many seeds only, since others gave up or are still to be run."]
    lines += [
        "",
        (
            "What clients uploaded (payload), and forward passes over examples in millions (a training step counts as 3), all "
            "clients and rounds together, mean over seeds:"
        ),
        "",
        *_grid(table, lambda method, percent: _cost(places.get((method, percent), []))),
    ]
    tuned: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        if row.settings:
            tuned.setdefault((row.method, row.settings), set()).add(row.high_percent)
    if tuned and table.tune:
        lines += [
            "",
            f"Chosen on {table.tune.evaluation}, which is no part of the test set and which no client held then:",
            "",
        ]
        by_itself = table.tune.high_percent is None
        for (method, settings), splits in tuned.items():
            where = f" at {', '.join(map(str, sorted(splits)))} %" if by_itself else ""
            lines.append(f"- {method}{where}: {settings}{_edge(table, method, settings)}")
    return "\n".join(lines) + "\n"


def _keys(table: ExperimentTable) -> list[tuple[str, int]]:
    return [(method.name, percent) for method in table.method for percent in table.high_percent]


def _grid(table: ExperimentTable, text: Callable[[str, int], str]) -> list[str]:
    lines = ["| % high | " + " | ".join(map(str, table.high_percent)) + " |"]
    lines.append("|---|" + "---|" * len(table.high_percent))
    for method in table.method:
        cells = [text(method.name, percent) for percent in table.high_percent]
        lines.append(f"| {method.name} | " + " | ".join(cells) + " |")
    return lines


def _edge(table: ExperimentTable, name: str, settings: str) -> str:
    method = next(method for method in table.method if method.name == name)
    chosen = next((choice for choice in choices(method) if said(choice) == settings), {})
    return " (at the edge of the values that were tried)" if at_the_edge(method, chosen) else ""


def _reached(
    table: ExperimentTable,
    places: Mapping[tuple[str, int], Sequence[ResultRow]],
    metric: Metric,
    method: str,
    percent: int,
) -> str:
    def of(name: str) -> Spread | None:
        return spread([row.value for row in places.get((name, percent), []) if row.value is not None])

    found = of(method)
    if found is None:
        return "-"
    text = f"{found.mean:.4g} ({found.deviation:.2g})"
    if metric.share:
        text = f"{100 * found.mean:.1f} ({100 * found.deviation:.1f})"
    means = [other.mean for one in table.method if (other := of(one.name))]
    best = max(means) if metric.higher_is_better else min(means)
    text = f"**{text}**" if found.mean == best and len(table.method) > 1 else text
    return text if found.count == len(table.seeds) else f"{text} [{found.count}]"


def _cost(rows: Sequence[ResultRow]) -> str:
    if not rows:
        return "-"
    forwards = statistics.fmean(row.client_forwards for row in rows) / 1e6
    return f"{amount(statistics.fmean(row.uplink_bytes for row in rows))}, {forwards:.1f}"


def _csv(names: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(lines)
    return text.getvalue()
