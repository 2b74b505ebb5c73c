"""The results of an experiment in files: NAME.csv, NAME_curves.csv and NAME.md as `summary` has them, and NAME.png.

The figure has curves of the metric against cost, and its final values against what was varied: a row of panels for each
split. Curves are means over seeds, the shade a standard deviation to either side; where seeds were evaluated at different
costs, the mean is over the points of the same round.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from zowarmup.common.system.command import CommandError
from zowarmup.common.system.files import replacing
from zowarmup.common.tasks import DEFAULT, task_class
from zowarmup.common.tasks.protocol import Metric
from zowarmup.common.text import amount
from zowarmup.lab.experiments.conduct import ExperimentResults
from zowarmup.lab.experiments.outcome import Point
from zowarmup.lab.experiments.summary import ResultRow, curve_of, curves_csv, markdown, row_of, rows_csv, spread
from zowarmup.lab.experiments.table import CURVES, ExperimentTable

INK, QUIET, FAINT = "#1d2733", "#6b7785", "#e3e7ec"
COLOURS = ("#2b6f94", "#b4552d", "#4c8c4a", "#7d5ba6", "#c99a2e", "#8a3b52", "#5f7a76", "#333333")
AXES = {
    "rounds": ("round", "round"),
    "uplink": ("uplink_bytes", "uploaded by all clients (payload)"),
    "compute": ("client_forwards", "forward passes over examples (a training step: 3)"),
    "high_percent": ("high_percent", "high-tier clients, %"),
    "pivot": ("pivot", "round of the pivot"),
    "probes": ("probes", "probes a contribution, S"),
}
Curves = Mapping[tuple[str, int, int], Sequence[Point]]


def write_results(table: ExperimentTable, found: ExperimentResults, source: str, folder: Path, name: str) -> list[Path]:
    """Write what the finished cells say. Raises CommandError."""
    done = [cell for cell in found.cells if not cell.trial and cell.job.name in found.outcomes]
    order = {method.name: place for place, method in enumerate(table.method)}
    done.sort(key=lambda cell: (order[cell.method], cell.high_percent, cell.seed))
    pairs = [
        (cell, found.outcomes[cell.job.name], found.outcomes.get(cell.job.after.name) if cell.job.after else None)
        for cell in done
    ]
    rows = [row_of(*pair) for pair in pairs]
    # Before the first cell is over nothing of a metric is shown but its name.
    metric = pairs[0][1].metric if pairs else task_class(table.model.get("task", DEFAULT)).metrics[0]
    curves = {
        (cell.method, cell.high_percent, cell.seed): curve_of(cell, outcome, first) for cell, outcome, first in pairs
    }
    texts = {
        f"{name}.csv": rows_csv(rows, metric),
        f"{name}_curves.csv": curves_csv(curves, metric),
        f"{name}.md": markdown(table, rows, source, metric),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            with replacing(folder / file) as partial:
                partial.write_text(text, encoding="utf-8")
        if table.plots and rows:
            draw(table, rows, curves, metric, folder / f"{name}.png")
            return [*(folder / file for file in texts), folder / f"{name}.png"]
    except OSError as error:
        raise CommandError(
            f"{folder}: the results cannot be written: {error.strerror or error}; free space, or name another folder"
        ) from error
    return [folder / file for file in texts]


def draw(table: ExperimentTable, rows: Sequence[ResultRow], curves: Curves, metric: Metric, path: Path) -> None:
    """Write the figure that the table asks for. Raises OSError."""
    kinds = [kind for kind in table.plots if kind in CURVES]
    finals = [kind for kind in table.plots if kind not in CURVES]
    down, across = (len(table.high_percent) if kinds else 0) + bool(finals), max(len(kinds), len(finals), 1)
    figure = Figure(figsize=(4.6 * across + 0.6, 3.1 * down + 1.3), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(table.title, fontsize=13, fontweight="bold", color=INK)
    panels = figure.subplots(down, across, squeeze=False)
    for column, kind in enumerate(kinds):
        for line, percent in enumerate(table.high_percent):
            _curves(panels[line][column], table, curves, metric, kind, percent)
    for column, kind in enumerate(finals):
        _finals(panels[down - 1][column], table, rows, metric, kind)
    for panel in panels.flat:
        if not panel.has_data():
            panel.set_axis_off()
    handles: dict[str, Any] = {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, len(handles)), frameon=False
        )
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)  # a title or legend wider than the panels is not cut


def mean_curve(curves: Sequence[Sequence[Point]], what: str) -> list[tuple[float, float, float]]:
    """(x, mean of the metric, deviation) at each round that all seeds were evaluated at; x is the mean of `what`."""
    by_round: dict[int, list[Point]] = {}
    for curve in curves:
        for point in curve:
            by_round.setdefault(point.round, []).append(point)
    found = []
    for _, points in sorted(by_round.items()):
        here = spread([point.value for point in points])
        if len(points) == len(curves) and here is not None:
            x = statistics.fmean(float(getattr(point, what)) for point in points)
            found.append((x, here.mean, here.deviation))
    return found


def _curves(panel: Any, table: ExperimentTable, curves: Curves, metric: Metric, kind: str, percent: int) -> None:
    what, label = AXES[kind]
    for method, colour in zip(table.method, _colours(table), strict=True):
        some = [
            curve for (name, split, _), curve in curves.items() if (name, split) == (method.name, percent) and curve
        ]
        points = mean_curve(some, what)
        if kind == "uplink":
            points = [point for point in points if point[0] > 0]  # the axis is logarithmic
        if points:
            xs, means, deviations = zip(*points, strict=True)
            panel.plot(xs, means, color=colour, linewidth=1.8, label=method.name)
            lower = [max(0.0, mean - deviation) for mean, deviation in zip(means, deviations, strict=True)]
            most = 1.0 if metric.share else math.inf
            upper = [min(most, mean + deviation) for mean, deviation in zip(means, deviations, strict=True)]
            panel.fill_between(xs, lower, upper, color=colour, alpha=0.12, linewidth=0)
    if kind == "uplink":
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    if kind == "compute":
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g} M"))
    plain(panel, metric, label, f"{percent} % high-tier")


def _finals(panel: Any, table: ExperimentTable, rows: Sequence[ResultRow], metric: Metric, kind: str) -> None:
    """Final values. Where every method is a value of its own (a pivot, a number of probes), the line goes through the
    methods and there is one for each split; else there is one for each method."""
    what, label = AXES[kind]
    of_methods = kind == "high_percent"
    groups: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if row.value is None:
            continue
        group, x = (
            (row.method, float(row.high_percent))
            if of_methods
            else (f"{row.high_percent} % high-tier", _x(rows, row, what))
        )
        groups.setdefault(group, {}).setdefault(x, []).append(row.value)
    colours = dict(zip([method.name for method in table.method], _colours(table), strict=True))
    for place, (group, found) in enumerate(groups.items()):
        spreads = [(x, spread(values)) for x, values in sorted(found.items())]
        points = [(x, one.mean, one.deviation) for x, one in spreads if one is not None]
        xs, means, deviations = zip(*points, strict=True)
        colour = colours.get(group, COLOURS[place % len(COLOURS)])
        panel.errorbar(xs, means, deviations, color=colour, marker="o", markersize=4, capsize=3, label=group)
    plain(panel, metric, label, "in the end")


def _x(rows: Sequence[ResultRow], row: ResultRow, what: str) -> float:
    """Where a row stands: the mean of its method and split, so that what differs from seed to seed is one place."""
    return statistics.fmean(
        float(getattr(one, what)) for one in rows if (one.method, one.high_percent) == (row.method, row.high_percent)
    )


def _colours(table: ExperimentTable) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(table.method))]


def plain(panel: Any, metric: Metric, label: str, heading: str) -> None:
    """Dress a panel whose y axis is a metric.

    Args:
        panel: Of matplotlib's.
        metric: Names the axis, and says how its values are shown.
        label: Of the x axis.
        heading: Of the panel.
    """
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.grid(color=FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelsize=9, labelcolor=QUIET)
    if metric.share:
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    panel.set_ylabel(metric.title, fontsize=9, color=QUIET)
    panel.set_xlabel(label, fontsize=9, color=QUIET)
    panel.set_title(heading, fontsize=10, color=INK, loc="left")
