"""What a demo shows while it runs, and the table that it ends with."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zowarmup.cli.run_status import Status, VersionStatus, bytes_per_contribution, payload
from zowarmup.cli.units import counted, duration, size
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.lab.demo.result import WORKING_PHASES, Result

SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40
LINE_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A demo at one moment. `status` is None until the coordinator answers; `waiting` says what for."""

    title: str
    clients: Mapping[Tier, int]
    elapsed_s: float
    status: Status | None
    versions: Sequence[VersionStatus]
    peak_rss_bytes: Mapping[Tier, int]
    waiting: str


@contextmanager
def stage(console: Console) -> Iterator[Callable[[Scene], None]]:
    """Shows scenes: drawn in place on a terminal, else as a line at times (when the phase changes, and every 5 s)."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda scene: live.update(scene_view(scene), refresh=True)
    else:
        told: tuple[Phase | None, float] | None = None

        def tell(scene: Scene) -> None:
            nonlocal told
            phase = scene.status.phase if scene.status else None
            if told is None or told[0] is not phase or time.monotonic() - told[1] >= LINE_S:
                told = phase, time.monotonic()
                console.print(scene_line(scene), soft_wrap=True, markup=False)

        yield tell


def scene_view(scene: Scene) -> RenderableType:
    head = Table.grid(expand=False)
    head.add_column(width=66, no_wrap=True)
    head.add_column(width=12, justify="right", no_wrap=True)
    head.add_row(Text(scene.title, style="bold"), Text(duration(scene.elapsed_s), style="dim"))
    # Its length varies, so it comes last, and nothing jumps.
    now = _labelled()
    now.add_row("now", scene.waiting)
    return Group(head, Text(), _progress(scene), Text(), _tiers(scene), Text(), now)


def scene_line(scene: Scene) -> str:
    """The moment in one line, for a log or a pipe."""
    status = scene.status
    if status is None:
        return f"{duration(scene.elapsed_s)}: {scene.waiting}"
    reached = f", {status.metric.title} {status.shown(status.evaluation)}" if status.evaluation else ""
    return (
        f"{duration(scene.elapsed_s)}: {status.phase}, version {status.version} of {status.final_version}"
        f"{reached}; {scene.waiting}"
    )


def _progress(scene: Scene) -> Table:
    rows = _labelled()
    rows.add_column(overflow="fold")
    rows.columns[1].width = SPARK_WIDTH
    status = scene.status
    pivot, final = (status.pivot_version, status.final_version) if status else (0, 0)
    done = status.version if status else 0
    for phase, total, completed in (
        (Phase.WARM_UP, pivot, min(done, pivot)),
        (Phase.ZEROTH_ORDER, final - pivot, max(0, done - pivot)),
    ):
        bar = ProgressBar(total=max(total, 1), completed=completed, width=SPARK_WIDTH, finished_style="bar.complete")
        rows.add_row(phase.value, bar, f"{completed} of {counted(total, 'round')}" if status else "")
    if status is not None:
        rows.add_row(status.metric.title, sparkline(status, scene.versions, pivot, final), _metric(status))
    else:
        rows.add_row("", Text(), Text())
    return rows


def _labelled() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", width=12)
    table.add_column(overflow="fold")
    return table


def _metric(status: Status) -> Text:
    if status.evaluation is None:
        return Text()
    text = Text(status.shown(status.evaluation), style="bold")
    if status.pivot_evaluation:
        text.append(f", was {status.shown(status.pivot_evaluation)}", style="not bold dim")
    return text


def sparkline(
    status: Status, versions: Sequence[VersionStatus], pivot: int, final: int, width: int = SPARK_WIDTH
) -> Text:
    """The metric over versions 0 to `final`, from 0 to 1, or to the highest so far where it is no share, one character
    for each slot that has an evaluation (its last one); slots without one repeat the one before. What came by warm-up
    is dim."""
    slots: dict[int, float] = {}
    for version in versions:
        if version.evaluation is not None:
            slots[min(width - 1, version.version * width // max(final, 1))] = status.value(version.evaluation)
    highest = 1.0 if status.metric.share else max((v for v in slots.values() if math.isfinite(v)), default=1.0)
    text = Text()
    last: float | None = None
    for slot in range(max(slots, default=-1) + 1):
        last = slots.get(slot, last)
        mark = " " if last is None else _spark(last / highest if highest else 0.0)
        text.append(mark, style="dim" if slot * max(final, 1) < pivot * width else "green")
    return text


def _spark(height: float) -> str:
    """For a height from 0 to 1; what is no number is the highest."""
    return SPARKS[max(0, int(min(height, 0.999) * len(SPARKS)))] if math.isfinite(height) else SPARKS[-1]


def _tiers(scene: Scene) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("tier")
    table.add_column("clients", justify="right")
    table.add_column("up, each warm-up", justify="right", max_width=10)
    table.add_column("up, each zeroth-order", justify="right", max_width=13)
    table.add_column("up in all", justify="right", max_width=9)
    table.add_column("down in all", justify="right", max_width=9)
    table.add_column("peak memory", justify="right", max_width=8)
    traffic = scene.status.traffic if scene.status else ()
    for tier, count in scene.clients.items():
        over = scene.status is not None and scene.status.phase is Phase.FINISHED
        connected = sum(client.connected for client in scene.status.members(tier)) if scene.status else 0
        each = [bytes_per_contribution(traffic, tier, phase) for phase in WORKING_PHASES]
        table.add_row(
            tier.value,
            str(count) if over else f"{connected} of {count}",  # they leave when it is over
            *(size(value) if value else "-" for value in each),
            size(payload(traffic, "up", tier)),
            size(payload(traffic, "down", tier)),
            size(scene.peak_rss_bytes.get(tier, 0)) if scene.peak_rss_bytes.get(tier) else "-",
        )
    return table


def result_view(result: Result) -> RenderableType:
    """The table at the end."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    pivot, final, metric = result.at_pivot, result.final, result.metric
    if final is not None:
        before = "" if pivot is None else f", from {metric.shown(pivot)} at the pivot"
        facts.add_row(metric.title, Text.assemble((metric.shown(final), "bold"), before))
    facts.add_row("replicas", _replicas(result))
    facts.add_row("uplink", _uplink(result))
    facts.add_row("took", f"{duration(result.seconds)} for {counted(result.status.version, 'round')}")
    scene = Scene(
        title="",
        clients=result.clients,
        elapsed_s=result.seconds,
        status=result.status,
        versions=result.versions,
        peak_rss_bytes=result.peak_rss_bytes,
        waiting="",
    )
    return Group(facts, Text(), _tiers(scene))


def _replicas(result: Result) -> Text:
    total = sum(result.clients.values())
    if result.replicas_equal:
        return Text(f"the coordinator's and all {total} clients' are equal ({result.status.digest[:8]})")
    agree = len(result.status.replicas.agree)
    return Text(f"NOT shown to be equal: {agree} of {total} clients agree with the coordinator", style="red")


def _uplink(result: Result) -> str:
    text = f"{size(result.uplink_bytes)} from all; FedAvg at equal rounds: {size(result.fedavg_uplink_bytes)}"
    if result.uplink_bytes:
        text += f", {result.fedavg_uplink_bytes / result.uplink_bytes:.0f} times as much"
    return text
