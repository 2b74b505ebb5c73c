"""The result of a demo: report.json, report.html, which is the live page as it was in the end, and report.png, which is the
metric and uploaded bytes over the rounds as one slide.

In the figure two panels share the rounds. Lines are labelled where they end rather than in a box; the pivot runs through
both. The dashed line is what as many rounds of FedAvg would have uploaded, from the same clients.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import blended_transform_factory

from zowarmup.cli.session.status import Status, VersionStatus, bytes_per_contribution, contributions, payload
from zowarmup.common.algorithms.fedavg import model_bytes
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import BUILT_IN
from zowarmup.common.system.command import CommandError
from zowarmup.common.system.files import replacing
from zowarmup.common.tasks.protocol import Metric
from zowarmup.common.text import amount, counted
from zowarmup.lab.demo.page import FILE

WORKING_PHASES = (Phase.WARM_UP, Phase.ZEROTH_ORDER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """`data` is what was learnt, and `held_out` what it was tried on, for a sentence; `status` and `versions` (ascending) are the last ones before the coordinator left; `clients` were started, by
    tier; `parameters` is the length of the model's flat vector;
    `seconds` from the first process to the end of the run; `page`: the live page as one file."""

    data: str
    held_out: str
    model: str
    seed: int
    clients: Mapping[Tier, int]
    parameters: int
    status: Status
    versions: tuple[VersionStatus, ...]
    seconds: float
    page: bytes = b""

    @property
    def metric(self) -> Metric:
        """The primary one of the run's task."""
        return self.status.metric

    @property
    def at_pivot(self) -> float | None:
        """That metric at the pivot."""
        return self.status.value(self.status.pivot_evaluation) if self.status.pivot_evaluation else None

    @property
    def final(self) -> float | None:
        """That metric in the end."""
        return self.status.value(self.status.evaluation) if self.status.evaluation else None

    @property
    def replicas_equal(self) -> bool:
        """Whether every client that was started has reported the final version with the coordinator's digest."""
        return len(self.status.replicas.agree) == len(self.status.clients) == sum(self.clients.values())

    @property
    def contributions(self) -> int:
        return sum(version.contributions for version in self.versions)

    @property
    def uplink_bytes(self) -> int:
        return sum(payload(self.status.traffic, "up", tier) for tier in self.clients)

    @property
    def fedavg_uplink_bytes(self) -> int:
        """At equal rounds: what the same contributions would have uploaded as FedAvg deltas, a float32 for each parameter."""
        return model_bytes(self.parameters) * self.contributions

    def peak_memory_bytes(self, tier: Tier) -> int:
        """The largest that a client of that tier has reported."""
        return max((client.peak_memory_bytes for client in self.status.members(tier)), default=0)

    def uplink_per_contribution(self, tier: Tier, phase: Phase) -> float | None:
        return bytes_per_contribution(self.status.traffic, tier, phase)

    def to_json(self) -> dict[str, Any]:
        """The content of report.json: bytes are payload bytes, those of FedAvg at equal rounds, memory is in MB of 10^6 bytes."""
        return {
            "data": self.data,
            "held_out": self.held_out,
            "model": self.model,
            "seed": self.seed,
            "parameters": self.parameters,
            "clients": {tier.value: count for tier, count in self.clients.items()},
            "metrics": {metric.name: self._reached(metric) for metric in self.status.metrics},
            "uplink_payload_bytes": self._payload("up"),
            "downlink_payload_bytes": self._payload("down"),
            "uplink_bytes_per_contribution": {
                tier.value: {phase.value: self.uplink_per_contribution(tier, phase) for phase in WORKING_PHASES}
                for tier in self.clients
            },
            "contributions": {
                tier.value: {phase.value: contributions(self.status.traffic, tier, phase) for phase in WORKING_PHASES}
                for tier in self.clients
            },
            "fedavg_uplink_payload_bytes": self.fedavg_uplink_bytes,
            "peak_rss_mb": {tier.value: round(self.peak_memory_bytes(tier) / 1e6, 1) for tier in self.clients},
            "replicas_equal": self.replicas_equal,
            "digest": self.status.digest,
            "rounds": self.status.version,
            "seconds": round(self.seconds, 1),
        }

    def _reached(self, metric: Metric) -> dict[str, float | None]:
        pivot, final = self.status.pivot_evaluation, self.status.evaluation
        found = {"pivot": pivot, "final": final}
        values = {when: one.metrics.get(metric.name, math.nan) if one else math.nan for when, one in found.items()}
        return {when: value if math.isfinite(value) else None for when, value in values.items()}

    def _payload(self, direction: str) -> dict[str, dict[str, int]]:
        """By tier and phase. What is said after the end (the replicas' reports) stands under "finished"."""
        return {
            tier.value: {phase.value: payload(self.status.traffic, direction, tier, phase) for phase in Phase}
            for tier in self.clients
        }


def write_report(result: Result, out: Path) -> tuple[Path, Path, Path]:
    """Write all of it into `out`; the paths. Raises CommandError where they cannot be written."""
    numbers, page, figure = out / "report.json", out / FILE, out / "report.png"
    try:
        with replacing(page) as partial:
            partial.write_bytes(result.page)
        with replacing(numbers) as partial:
            partial.write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")
        draw(result, figure)
    except OSError as error:
        raise CommandError(
            f"{out}: the report cannot be written: {error.strerror or error}; free space, or name another folder"
        ) from error
    return numbers, page, figure


INK, QUIET, FAINT, WARM = "#1d2733", "#6b7785", "#e3e7ec", "#f5f0e6"
COLOURS = {Tier.HIGH: "#b4552d", Tier.LOW: "#2b6f94"}
CURVE = "#1d2733"
EDGE, LEFT, RIGHT = 0.03, 0.08, 0.80  # of the text and of the panels, as shares of the width
LABEL_GAP = 0.112  # least distance of labels at the right edge, as a share of the panel's height


def draw(result: Result, path: Path) -> None:
    """Write the figure, 1920 by 1080 pixels."""
    figure = Figure(figsize=(12.8, 7.2), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 1, height_ratios=(1.15, 1), left=LEFT, right=RIGHT, top=0.79, bottom=0.085, hspace=0.25
    )
    top = figure.add_subplot(grid[0])
    bottom = figure.add_subplot(grid[1], sharex=top)
    _fitted(figure, 0.94, title(result), fontsize=21, fontweight="bold", color=INK)
    _fitted(figure, 0.888, subtitle(result), fontsize=12.5, color=QUIET)
    for axes in (top, bottom):
        _plain(axes)
        axes.axvspan(0, result.status.pivot_version, color=WARM, linewidth=0, zorder=0)
        axes.axvline(result.status.pivot_version, color=QUIET, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    _metric(top, result)
    _uplink(bottom, result)
    figure.savefig(path)


def title(result: Result) -> str:
    """The result in one line."""
    final, pivot, metric = result.final, result.at_pivot, result.metric
    each = result.uplink_per_contribution(Tier.LOW, Phase.ZEROTH_ORDER)
    if final is None:
        return "Training a mixed fleet"
    climbed = _rounded(metric, final) if pivot is None else f"{_rounded(metric, pivot)} to {_rounded(metric, final)}"
    if each is None:
        return f"{metric.title.capitalize()} {climbed}" if pivot is None else f"From {climbed} {metric.title}"
    return f"From {climbed} {metric.title} with {amount(each)} a round from each low-tier client"


def _rounded(metric: Metric, value: float) -> str:
    return f"{100 * value:.0f} %" if metric.share else f"{value:.3g}"


def subtitle(result: Result) -> str:
    fleet = " and ".join(f"{count} {tier}-tier" for tier, count in result.clients.items())
    saved = result.fedavg_uplink_bytes / max(1, result.uplink_bytes)
    model = result.model.upper() if result.model in BUILT_IN else result.model
    return (
        f"{result.data[0].upper()}{result.data[1:]}, {model} of {result.parameters:,} parameters; {fleet} "
        f"{'client' if sum(result.clients.values()) == 1 else 'clients'}. FedAvg by everyone would upload "
        f"{saved:.0f} times as much in as many rounds."
    )


def _fitted(figure: Figure, height: float, line: str, fontsize: float, **style: Any) -> None:
    """A line across the whole figure, smaller where it would not fit."""
    text = figure.text(EDGE, height, line, fontsize=fontsize, va="center", **style)
    width = text.get_window_extent().width / figure.bbox.width
    text.set_fontsize(fontsize * min(1, (1 - 2 * EDGE) / width))


def _plain(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color=FAINT, linewidth=0.8, zorder=0)
    axes.tick_params(length=0, labelsize=11, labelcolor=QUIET, pad=6)


def _heading(axes: Any, text: str) -> None:
    place = blended_transform_factory(axes.figure.transFigure, axes.transAxes)
    axes.text(EDGE, 1.065, text, transform=place, fontsize=12.5, fontweight="bold", color=INK, va="bottom")


def _metric(axes: Any, result: Result) -> None:
    metric = result.metric
    points = [(v.version, result.status.value(v.evaluation)) for v in result.versions if v.evaluation is not None]
    pivot, last = result.status.pivot_version, max(1, result.status.version)
    highest = 1.0 if metric.share else 1.05 * max((value for _, value in points if math.isfinite(value)), default=1.0)
    axes.set_ylim(0, highest)
    axes.set_xlim(0, last)
    axes.yaxis.set_major_locator(FixedLocator([share * highest for share in (0, 0.25, 0.5, 0.75, 1)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _rounded(metric, value)))
    axes.tick_params(labelbottom=False)
    _heading(axes, f"{metric.title.capitalize()} on {result.held_out}")
    if not points:
        return
    axes.plot(*zip(*points, strict=True), color=CURVE, linewidth=2.6, solid_capstyle="round", zorder=3)
    at, value = points[-1]
    axes.plot([at], [value], "o", color=CURVE, markersize=7, clip_on=False, zorder=4)
    _beside(axes, value, metric.shown(value), CURVE, 15)
    if result.at_pivot is not None and 0 < pivot < last:
        axes.plot([pivot], [result.at_pivot], "o", color="white", markeredgecolor=CURVE, markersize=7,
                  markeredgewidth=2, zorder=5)  # fmt: skip
        # Below the curve and, since it rises from here, to the right of where it starts: to the left near the end.
        early = pivot < 0.6 * last
        axes.annotate(
            f"The pivot, {metric.shown(result.at_pivot)}: after {counted(pivot, 'round')} of warm-up on\n"
            "the high tier alone, everyone trains.",
            xy=(pivot, max(0.29 * highest, result.at_pivot) - 0.06 * highest),
            xytext=(18 if early else -18, 0),
            textcoords="offset points",
            fontsize=12,
            color=INK,
            ha="left" if early else "right",
            va="top",
            linespacing=1.35,
        )


def _uplink(axes: Any, result: Result) -> None:
    last = max(1, result.status.version)
    axes.set_yscale("log")
    lines: list[tuple[str, str, list[int], list[float]]] = []
    for tier, count in result.clients.items():
        rows = [(v.version, payload(v.traffic, "up", tier)) for v in result.versions]
        name = f"{tier} tier ({counted(count, 'client')})"
        lines.append((name, COLOURS[tier], [x for x, y in rows if y], [float(y) for _, y in rows if y]))
    total, rounds, sums = 0, [], []
    for version in result.versions:
        total += model_bytes(result.parameters) * version.contributions
        if total:
            rounds.append(version.version)
            sums.append(float(total))
    lines.append(("FedAvg, equal rounds", QUIET, rounds, sums))
    drawn = [line for line in lines if line[2]]
    for name, colour, x, y in drawn:
        dashed = name == "FedAvg, equal rounds"
        axes.plot(x, y, color=colour, linewidth=1.8 if dashed else 2.6, linestyle=(0, (4, 3)) if dashed else "-",
                  solid_capstyle="round", zorder=2 if dashed else 3)  # fmt: skip
    if drawn:
        low, high = min(min(line[3]) for line in drawn), max(max(line[3]) for line in drawn)
        axes.set_ylim(low / 2, high * 2.5)
    axes.yaxis.set_major_locator(LogLocator(base=10, numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value).replace(".00", "").replace(".0", "")))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_xlim(0, last)
    _heading(axes, "Uploaded so far, payload (logarithmic scale)")
    axes.set_xlabel("round", fontsize=11, color=QUIET, labelpad=4)
    places = _apart([_height(axes, line[3][-1]) for line in drawn])
    for (name, colour, _, y), place in zip(drawn, places, strict=True):
        axes.text(1.012, place, f"{name}\n", transform=axes.transAxes, fontsize=11, color=colour, va="center",
                  linespacing=1.25)  # fmt: skip
        axes.text(1.012, place, f"\n{amount(y[-1])}", transform=axes.transAxes, fontsize=12.5, color=colour,
                  fontweight="bold", va="center", linespacing=1.25)  # fmt: skip


def _beside(axes: Any, value: float, text: str, colour: str, fontsize: float) -> None:
    axes.text(1.012, _height(axes, value), text, transform=axes.transAxes, fontsize=fontsize, fontweight="bold",
              color=colour, va="center")  # fmt: skip


def _height(axes: Any, value: float) -> float:
    """Where a value lies in the panel, 0 at the bottom to 1 at the top."""
    place: float = axes.transAxes.inverted().transform(axes.transData.transform((0, value)))[1]
    return place


def _apart(heights: Sequence[float], gap: float = 2 * LABEL_GAP) -> list[float]:
    """The heights, moved as little as it takes to have `gap` between neighbours."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = [heights[index] for index in order]
    for _ in range(100):
        for lower in range(len(placed) - 1):
            lack = gap - (placed[lower + 1] - placed[lower])
            if lack > 1e-6:
                placed[lower] -= lack / 2
                placed[lower + 1] += lack / 2
    return [placed[order.index(index)] for index in range(len(heights))]
