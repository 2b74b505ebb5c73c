"""A figure of runs: the primary metric over the versions and over what was uploaded.

matplotlib is loaded when something is drawn, and no window is opened: a notebook shows the figure, a script saves it.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zowarmup.api.errors import RunError, SettingsError
from zowarmup.api.history import HistoryTable
from zowarmup.common.text import amount, in_words

INK, QUIET, FAINT, WARM = "#1d2733", "#6b7785", "#e3e7ec", "#f5f0e6"
COLOURS = ("#2b6f94", "#b4552d", "#4c8c4a", "#7d5ba6", "#c99a2e", "#8a3b52", "#5f7a76", "#333333")
LINES = ("-", "--", ":", "-.")
DPI = 120
DECADES = 30.0
"""What was uploaded is drawn on a logarithmic scale where the most is so many times the least."""


@dataclass(frozen=True, slots=True)
class RunCurve:
    """A run to draw, by its `name` in the figure: its evaluated versions, and where its warm-up ended, None where it has not."""

    name: str
    rows: HistoryTable
    pivot: int | None


def draw(curves: Sequence[RunCurve], path: Path | str | None) -> Any:
    """Draw runs beside each other, as `plot` says it, and write the figure where there is a path. Raises SettingsError and
    RunError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator
    except ModuleNotFoundError as error:
        raise RunError(f"a figure needs {error.name}: pip install 'zowarmup[server]'") from None

    class RunFigure(Figure):
        """One that a notebook shows without being told."""

        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    if len(metrics := {curve.rows.metrics[0] for curve in curves}) != 1:
        raise SettingsError(
            "there is no run to draw" if not metrics else "the runs have different metrics: draw them apart"
        )
    (metric,) = metrics
    figure = RunFigure(figsize=(10.5, 3.9), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    over, against = figure.subplots(1, 2, sharey=True)
    for place, curve in enumerate(curves):
        rows = [row for row in curve.rows if math.isfinite(row.metrics[metric.name])]
        values = [row.metrics[metric.name] for row in rows]
        style = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": LINES[place // len(COLOURS) % len(LINES)],
            "linewidth": 2,
        }
        over.plot([row.version for row in rows], values, label=curve.name, **style)
        sent = [(row.up_bytes, value) for row, value in zip(rows, values, strict=True) if row.up_bytes]
        against.plot(*zip(*sent, strict=True) if sent else ([], []), label=curve.name, **style)
        if curve.pivot and rows and curve.pivot < rows[-1].version:
            over.axvline(curve.pivot, color=style["color"], linewidth=1, linestyle=(0, (1, 2)))
    for axes, label in ((over, "version (dotted: the pivot)"), (against, "uploaded by all clients, payload")):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=9, labelcolor=QUIET)
        axes.set_xlabel(label, fontsize=9, color=QUIET)
    over.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    sizes = [row.up_bytes for curve in curves for row in curve.rows if row.up_bytes]
    if sizes and max(sizes) > DECADES * min(sizes):
        against.set_xscale("log")
    against.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    over.set_ylabel(f"{metric.title}, held-out", fontsize=9, color=QUIET)
    if metric.share:
        over.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    if len(curves) > 1:
        over.legend(frameon=False, fontsize=9)
    else:
        over.set_title(curves[0].name, fontsize=11, fontweight="bold", color=INK, loc="left")
    if path is not None:
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: the figure cannot be written: {in_words(error)}") from error
    return figure
