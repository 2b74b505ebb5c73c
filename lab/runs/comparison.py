"""The figure of several runs: the metric over the rounds, and over what was uploaded."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from zowarmup.common.system.command import CommandError
from zowarmup.common.system.files import replacing
from zowarmup.common.text import amount, listed
from zowarmup.lab.experiments.figure import COLOURS, plain
from zowarmup.lab.runs.stored_runs import StoredRun

STYLES = ("-", "--", ":")


def draw_comparison(runs: Sequence[StoredRun], path: Path) -> None:
    """Write the figure.

    Args:
        runs: Those to compare; they have one metric.
        path: The file; its end says of which kind (.png, .svg, .pdf).

    Raises:
        CommandError: None was evaluated yet, they have no metric in common, or the file cannot be written.
    """
    drawn = [run for run in runs if any(math.isfinite(point.value) for point in run.curve)]
    if not drawn:
        raise CommandError("--plot: no run has been evaluated yet: there is nothing to compare")
    metrics = {run.metric.name: run.metric for run in drawn}
    if len(metrics) > 1:
        raise CommandError(f"--plot: these runs have different metrics ({listed(metrics)}): name the folders of some")
    (metric,) = metrics.values()
    figure = Figure(figsize=(10.4, 4.6), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    over_rounds, over_bytes = figure.subplots(1, 2)
    for place, (run, label) in enumerate(zip(drawn, labels(drawn), strict=True)):
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": STYLES[place // len(COLOURS) % len(STYLES)]}
        points = [point for point in run.curve if math.isfinite(point.value)]
        over_rounds.plot([p.version for p in points], [p.value for p in points], linewidth=1.8, label=label, **style)
        sent = [point for point in points if point.uplink_bytes]
        over_bytes.plot([p.uplink_bytes for p in sent], [p.value for p in sent], linewidth=1.8, **style)
    over_bytes.set_xscale("log")
    over_bytes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    plain(over_rounds, metric, "version", f"{metric.title} over the rounds")
    plain(over_bytes, metric, "uploaded by all clients (payload)", "and over what was uploaded")
    figure.legend(loc="outside lower center", ncols=min(4, len(drawn)), frameon=False)
    try:
        with replacing(path, ".new" + path.suffix) as partial:
            figure.savefig(partial, bbox_inches="tight", pad_inches=0.15)
    except (OSError, ValueError) as error:  # ValueError: no such kind of file
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise CommandError(f"--plot {path}: cannot be written: {reason}; name a file such as runs.png") from error


def labels(runs: Sequence[StoredRun]) -> list[str]:
    """What to call each: its name, with its folder where several have that name."""
    counts = Counter(run.name for run in runs)
    return [run.name if counts[run.name] == 1 else f"{run.name} ({run.folder})" for run in runs]
