"""A dashboard drawn from recorded answers, for documents: where every panel is, what it shows, and how it is named.

It reads the committed JSON, as Grafana does, and draws what Grafana would, near enough: not its fonts, nor what moves.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from deploy.grafana.asking import Dashboard, Drawn, named
from deploy.grafana.panels import COLOURS, COLUMNS

INK, QUIET, FAINT, PAPER = "#1d2733", "#6b7785", "#e3e7ec", "#f4f5f7"
OTHERS = ("#2b6f94", "#b4552d", "#6a8f3c", "#8a5a9e", "#c29a2e", "#4d5a66", "#3f9c95", "#a33b4f")
WORD = "#2b6f94"
WIDTH_IN, LINE_IN, DPI = 15.0, 0.36, 84
MARKS = {"Pivot": "#7a4fa3", "Alerts": "#c0392b"}

Answer = list[dict[str, Any]]
"""The series of a range query: `metric` (labels) and `values` ([unix seconds, text] pairs)."""


@dataclass(frozen=True, slots=True)
class Recording:
    """`answers` by expression as the dashboard has it, variables and all; `start`, `end` in unix seconds."""

    start: float
    end: float
    answers: Mapping[str, Answer]


def draw(dashboard: Dashboard, recording: Recording, path: Path) -> None:
    """Write a PNG, of at most 256 colours."""
    lines = max(panel.top + panel.height for panel in dashboard.panels) + 1.6
    figure = Figure(figsize=(WIDTH_IN, lines * LINE_IN), dpi=DPI, facecolor=PAPER)
    across, down = 1 / COLUMNS, 1 / lines
    figure.text(0.006, 1 - 0.8 * down, dashboard.title, fontsize=17, fontweight="bold", color=INK, va="center")
    legend = "dashed: the pivot" + (" \N{MIDDLE DOT} shaded: an alert is firing" if "Alerts" in dashboard.marks else "")
    figure.text(0.994, 1 - 0.8 * down, legend, fontsize=9, color=QUIET, va="center", ha="right")
    for panel in dashboard.panels:
        left, top = panel.left * across, 1 - (panel.top + 1.4) * down
        width, height = panel.width * across, panel.height * down
        if panel.kind == "row":
            figure.text(0.006, top - 0.6 * down, panel.title, fontsize=12, fontweight="bold", color=INK, va="center")
            continue
        pad_x, pad_y = 0.05 * across, 0.1 * down
        card = (left + pad_x, top - height + pad_y, width - 2 * pad_x, height - 2 * pad_y)
        figure.add_artist(
            Rectangle(
                card[:2], card[2], card[3], facecolor="white", edgecolor=FAINT, transform=figure.transFigure, zorder=-1
            )
        )
        title_at = (left + 0.25 * across, top - 0.55 * down)
        figure.text(*title_at, panel.title, fontsize=10, fontweight="bold", color=INK, va="center")
        if panel.kind == "stat":
            _number(figure, panel, recording, left + width / 2, top - 0.58 * height)
            continue
        beside = 1.9 if panel.kind == "timeseries" else 3.4
        below = 2.1 if panel.kind == "timeseries" else 0.9
        place = (
            left + beside * across * 0.62,
            top - height + below * down,
            width - (beside * 0.62 + 0.35) * across,
            height - (below + 1.25) * down,
        )
        axes = figure.add_axes(place)
        _bare(axes)
        {"timeseries": _lines, "bargauge": _bars, "state-timeline": _words}[panel.kind](axes, panel, recording)
        if panel.kind != "bargauge":
            _time(axes, dashboard, recording)
    figure.savefig(path)
    with Image.open(path) as whole:
        whole.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _bare(axes: Axes) -> None:
    axes.set_facecolor("white")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=8, labelcolor=QUIET)


def _series(panel: Drawn, recording: Recording) -> list[tuple[str, list[float], list[float]]]:
    """(name, seconds since the start, finite values) of each series of a panel."""
    found = []
    for target in panel.targets:
        for one in recording.answers[target.expr]:
            points = [(float(t) - recording.start, float(v)) for t, v in one["values"] if math.isfinite(float(v))]
            if points:
                times, values = zip(*points, strict=True)
                found.append((named(target.legend, one["metric"]), list(times), list(values)))
    return found


def _lines(axes: Axes, panel: Drawn, recording: Recording) -> None:
    custom = panel.raw["fieldConfig"]["defaults"].get("custom", {})
    logarithmic = custom.get("scaleDistribution", {}).get("type") == "log"
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    series = _series(panel, recording)
    if logarithmic:
        series = [s for s in series if any(v > 0 for v in s[2])]
    others = iter(OTHERS * 4)
    colours = {name: COLOURS.get(name) or next(others) for name, _, _ in series}
    if stacked:
        there = {t for _, at, _ in series for t in at}
        times = _with_gaps(sorted(there))
        sums = [_filled(times, at, values, set(times) - there) for _, at, values in series]
        names = [name for name, _, _ in series]
        axes.stackplot(times, sums, labels=names, colors=[colours[n] for n in names], alpha=0.75, linewidth=0)
    else:
        style = "steps-post" if custom.get("lineInterpolation") == "stepAfter" else "default"
        for name, at, values in series:
            known = {t: v for t, v in zip(at, values, strict=True) if v > 0 or not logarithmic}
            times = at if custom["spanNulls"] and not logarithmic else _with_gaps(at)
            axes.plot(
                times,
                [known.get(t, math.nan) for t in times],
                label=name,
                color=colours[name],
                linewidth=1.5,
                drawstyle=style,
            )
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        defaults = panel.raw["fieldConfig"]["defaults"]
        if "min" in defaults:
            top = max((v for _, _, values in series for v in values), default=1.0)
            axes.set_ylim(defaults["min"], defaults.get("max", None if top > defaults["min"] else 1.0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, panel.unit)))
    if series:
        columns = 2 if panel.width <= 8 else 4
        axes.legend(
            loc="upper left", bbox_to_anchor=(-0.02, -0.17), ncol=columns, fontsize=8, frameon=False, labelcolor=QUIET,
            handlelength=1.2, columnspacing=1.4, borderaxespad=0, labelspacing=0.25,
        )  # fmt: skip


def _with_gaps(times: list[float]) -> list[float]:
    """The times, and one more, of which nothing is known, wherever some are missing."""
    steps = [b - a for a, b in itertools.pairwise(times)]
    usual = min(steps, default=1.0)
    between = [a + usual / 2 for a, step in zip(times, steps, strict=False) if step > 1.5 * usual]
    return sorted([*times, *between])


def _filled(times: Iterable[float], at: list[float], values: list[float], gaps: set[float]) -> list[float]:
    """The values at all `times`: 0 where this series has none, nothing in the `gaps` of all."""
    known = dict(zip(at, values, strict=True))
    return [math.nan if t in gaps else known.get(t, 0.0) for t in times]


def _bars(axes: Axes, panel: Drawn, recording: Recording) -> None:
    last = [(name, values[-1]) for name, _, values in _series(panel, recording)]
    names, values = zip(*reversed(last), strict=True)
    axes.barh(range(len(names)), values, color=[OTHERS[i % len(OTHERS)] for i in range(len(names))], height=0.62)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks([])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(0, 1.3 * max(values))
    for place, value in enumerate(values):
        axes.text(value + 0.02 * max(values), place, written(value, panel.unit), va="center", fontsize=8, color=INK)


def _words(axes: Axes, panel: Drawn, recording: Recording) -> None:
    series = list(reversed(_series(panel, recording)))
    for place, (_, at, values) in enumerate(series):
        step = min((b - a for a, b in itertools.pairwise(at)), default=1.0)
        axes.broken_barh(
            [(t, step * 1.05) for t, v in zip(at, values, strict=True) if v], (place - 0.36, 0.72), color=WORD
        )
    axes.set_yticks(range(len(series)), [name for name, _, _ in series])
    axes.set_ylim(-0.6, len(series) - 0.4)


def _time(axes: Axes, dashboard: Dashboard, recording: Recording) -> None:
    whole = recording.end - recording.start
    axes.set_xlim(0, whole)
    axes.xaxis.set_major_locator(MaxNLocator(7 if whole < 600 else 6, steps=[1, 1.5, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{int(t) // 60}:{int(t) % 60:02d}"))
    for name, expr in dashboard.marks.items():
        for one in recording.answers[expr]:
            moments = [float(t) - recording.start for t, _ in one["values"]]
            if name == "Pivot":
                axes.axvline(moments[0], color=MARKS[name], linewidth=1.1, linestyle=(0, (3, 2)), zorder=1)
            else:
                axes.axvspan(moments[0], moments[-1] + 1, color=MARKS[name], alpha=0.1, linewidth=0, zorder=0)


def _number(figure: Figure, panel: Drawn, recording: Recording, x: float, y: float) -> None:
    defaults = panel.raw["fieldConfig"]["defaults"]
    text, colour = defaults.get("noValue", "-"), INK
    series = _series(panel, recording)
    if series:
        name, _, values = max(series, key=lambda s: s[1][-1])
        named_only = panel.raw["options"]["textMode"] == "name"
        text = name if named_only else written(values[-1], panel.unit, defaults.get("decimals"))
        if panel.raw["options"]["colorMode"] != "none":
            steps = defaults["thresholds"]["steps"]
            reached = [s["color"] for s in steps if s["value"] is None or values[-1] >= s["value"]]
            colour = {"red": "#c0392b", "yellow": "#b8860b", "green": "#3c8a4a"}[reached[-1]]
    figure.text(x, y, text, fontsize=20, color=colour, ha="center", va="center")


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """A value as Grafana writes it in a unit, near enough."""
    if unit in ("decbytes", "Bps"):
        return _scaled(value, ("B", "kB", "MB", "GB", "TB"), decimals) + ("/s" if unit == "Bps" else "")
    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else decimals}f}%".replace(".0%", "%")
    if unit == "s":
        return _seconds(value)
    suffix = unit.removeprefix("suffix:") if unit.startswith("suffix:") else ""
    digits: Callable[[float], str] = (lambda v: f"{v:.{decimals}f}") if decimals is not None else (lambda v: f"{v:.3g}")
    shown = f"{value:.0f}" if value >= 1000 else digits(value)
    return shown + (suffix if suffix in ("/min", "\N{MULTIPLICATION SIGN}") else "")


def _scaled(value: float, units: tuple[str, ...], decimals: int | None) -> str:
    for unit in units[:-1]:
        if abs(value) < 1000:
            return f"{value:.3g} {unit}" if decimals is None else f"{value:.{decimals}f} {unit}"
        value /= 1000
    return f"{value:.3g} {units[-1]}"


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    for limit, divisor, unit in ((0.001, 1e-6, "µs"), (1, 1e-3, "ms"), (60, 1, "s"), (3600, 60, "min")):
        if abs(value) < limit:
            return f"{value / divisor:.3g} {unit}"
    if value < 86400 * 2:
        return f"{value / 3600:.3g} h"
    return f"{value / 86400:.0f} days" if value < 86400 * 730 else f"{value / 86400 / 365.25:.3g} years"
