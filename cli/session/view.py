"""A run's status on a terminal of 80 columns, with its curve so far and its remaining time.

One block of facts, each with its unit, and one table of bytes by tier and phase. Colour marks only what needs an
eye: a paused run, a replica that differs.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zowarmup.cli.session.status import Status, VersionStatus, bytes_per_contribution, payload
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.pace import time_left
from zowarmup.common.text import amount, counted, duration

NAMES_SHOWN = 3
KEPT = 1000
CURVE = 30
_LEVELS, _ASCII = "▁▂▃▄▅▆▇█", "_.-=*#"
CERTIFICATE_S = 30 * 86400


def status_view(status: Status, further: Sequence[tuple[str, str]] = ()) -> RenderableType:
    """All of a status; for `zowarmup status` and `watch`, which has `further` rows (name, text)."""
    return Group(heading(status), Text(), facts(status, further), Text(), bytes_table(status))


def heading(status: Status) -> Text:
    return Text.assemble((status.name, "bold"), ("  run ", "dim"), (status.run_id, "dim"))


def facts(status: Status, further: Sequence[tuple[str, str]] = ()) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("phase", phase_text(status))
    rows.add_row("version", f"{status.version} of {status.final_version} (pivot at {status.pivot_version})")
    if status.pivot_reason:
        rows.add_row("pivot", status.pivot_reason)
    rows.add_row("now", activity_text(status))
    rows.add_row(status.metric.title, evaluation_text(status))
    for name, text in further:
        rows.add_row(name, Text(text))
    for tier in status.tiers:
        rows.add_row(f"{tier} tier", clients_text(status, tier))
    if not status.tiers:
        rows.add_row("clients", "none has enrolled yet")
    rows.add_row("replicas", replicas_text(status))
    if revoked := [client.name for client in status.clients if client.revoked]:
        rows.add_row("revoked", _some(revoked))
    if (privacy := status.privacy) is not None:
        told = (
            f"{privacy.mode}: epsilon {privacy.epsilon:.3g} of {privacy.epsilon_budget:.3g} at delta {privacy.delta:g}"
        )
        rows.add_row(
            "privacy", f"{told}, by at most {privacy.releases} of {privacy.releases_budget} releases of a client"
        )
    if status.refusals:
        rows.add_row("refused", ", ".join(f"{count} {reason}" for reason, count in status.refusals.items()))
    if status.rollbacks:
        times = counted(status.rollbacks, "time")
        rows.add_row("went back", f"{times} to the last good version; learning rates are x {status.rate_factor:g}")
    if status.clipped_scalars or status.clipped_deltas:
        scalars, deltas = counted(status.clipped_scalars, "scalar"), counted(status.clipped_deltas, "delta")
        rows.add_row("clipped", f"{scalars} and {deltas}, as outliers in their round")
    if status.rounds_below_tick:
        rows.add_row(
            "small steps", f"{counted(status.rounds_below_tick, 'round')} moved no direction by more than a tick"
        )
    if said := certificate_text(status, time.time()):
        rows.add_row("certificate", Text(said, style="red"))
    rows.add_row("up for", duration(status.uptime_s))
    return rows


def certificate_text(status: Status, now: float) -> str:
    """That the coordinator's certificate expires within 30 days, or has; empty while it is good for longer, and without
    TLS. `now`: seconds since 1970."""
    left = status.certificate_expires_at_s - now
    if not status.certificate_expires_at_s or left > CERTIFICATE_S:
        return ""
    date = time.strftime("%Y-%m-%d", time.gmtime(status.certificate_expires_at_s))
    when = f"expires in {left / 86400:.0f} days, on {date}" if left > 0 else f"expired on {date}"
    return f"{when}: devices refuse it then; renew it with zowarmup certs server, without a restart"


def phase_text(status: Status) -> Text:
    text = Text(status.phase.value, style="bold")
    if status.phase is not Phase.FINISHED:
        text.append(f", round {status.round}", style="not bold")
    return text


def activity_text(status: Status) -> Text:
    if status.gave_up:
        return Text(f"gave up: {status.gave_up}", style="red")
    if status.paused:
        return Text(f"paused: {status.paused}", style="yellow")
    return Text(status.activity or "nothing is being waited for")


def evaluation_text(status: Status) -> str:
    if status.evaluation is None:
        return "not evaluated yet"
    now, pivot = status.evaluation, status.pivot_evaluation
    text = f"{status.shown(now)} of {counted(now.examples, 'example')} at version {now.version}"
    if pivot is not None and pivot.version != now.version:
        text += f" (at the pivot: {status.shown(pivot)})"
    for metric in status.metrics[1:]:
        text += f", {metric.title} {metric.shown(now.metrics.get(metric.name, math.nan))}"
    return f"{text}, loss {now.loss:.2f} nats"


def clients_text(status: Status, tier: Tier) -> str:
    members = status.members(tier)
    gone = sorted((client for client in members if not client.connected), key=lambda client: client.gone_s)
    text = f"{len(members) - len(gone)} of {counted(len(members), 'client')} connected"
    if gone:
        named = [f"{c.name} gone for {duration(c.gone_s)}" if c.gone_s else f"{c.name} away" for c in gone]
        text += f" ({_some(named)})"
    return text


def replicas_text(status: Status) -> Text:
    replicas = status.replicas
    total = len(status.fleet)
    if replicas.differ:
        return Text(f"{_some(replicas.differ)} of {total} differ at version {status.version}", style="red")
    if status.phase is not Phase.FINISHED:
        return Text("no difference is reported; each checks the digest of every commit")
    text = Text(f"{len(replicas.agree)} of {total} report the coordinator's digest at version {status.version}")
    if replicas.silent:
        text.append(f" ({_some(replicas.silent)} did not)")
    return text


def bytes_table(status: Status) -> Table:
    """Payload by tier and phase, both ways."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("payload")
    table.add_column("phase")
    for name in ("up", "down", "up per contribution"):
        table.add_column(name, justify="right")
    tiers: tuple[Tier | None, ...] = (*Tier, None)
    for tier in tiers:
        for phase in Phase:
            up = payload(status.traffic, "up", tier, phase)
            down = payload(status.traffic, "down", tier, phase)
            if not up and not down:
                continue
            each = bytes_per_contribution(status.traffic, tier, phase) if tier else None
            name = f"{tier} tier" if tier else "not yet enrolled"
            table.add_row(name, phase.value, amount(up), amount(down), amount(each) if each else "-")
    return table


def status_line(status: Status) -> str:
    """A status in one line, for a log or a pipe."""
    reached = f", {status.metric.title} {status.shown(status.evaluation)}" if status.evaluation else ""
    now = (status.paused and f"paused: {status.paused}") or status.activity
    return f"{status.phase}, version {status.version} of {status.final_version}{reached}" + (f"; {now}" if now else "")


def _some(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown


@dataclass(frozen=True, slots=True)
class Pace:
    """`versions`: the last `KEPT` of a run, ascending."""

    versions: tuple[VersionStatus, ...] = ()

    def since(self, present: int) -> int:
        """From which version on `following` wants to know, where the run is at version `present`: an evaluation comes
        a moment after its version, so those without one are asked for again."""
        later = max(0, present - KEPT + 1)
        if not self.versions:
            return later
        evaluated = [version.version for version in self.versions if version.evaluation is not None]
        return max(later, min(self.versions[-1].version, (evaluated[-1] if evaluated else -1) + 1))

    def following(self, later: Sequence[VersionStatus]) -> "Pace":
        """With all versions from the first of `later` on as they are there."""
        if not later:
            return self
        before = (version for version in self.versions if version.version < later[0].version)
        return Pace((*before, *later)[-KEPT:])

    def rows(self, status: Status, ascii_only: bool = False) -> list[tuple[str, str]]:
        """(name, text) of what can be said."""
        found = []
        evaluated = [version.evaluation for version in self.versions if version.evaluation is not None]
        if len(evaluated) > 1:
            levels = _ASCII if ascii_only else _LEVELS
            first, last = evaluated[0], evaluated[-1]
            metric = sparkline([status.value(one) for one in evaluated], levels)
            loss = sparkline([one.loss for one in evaluated], levels)
            found = [
                ("curve", f"{metric}  {status.shown(first)} to {status.shown(last)}"),
                ("", f"{loss}  {first.loss:.2f} to {last.loss:.2f} nats, versions {first.version} to {last.version}"),
            ]
        if left := self.left(status):
            found.append(("left", left))
        return found

    def left(self, status: Status) -> str:
        """How long the present phase will go on at the pace of its last rounds; empty where that is not known."""
        if status.phase is Phase.FINISHED or status.paused:
            return ""
        of_phase = [
            version.committed_at_s for version in self.versions if version.phase is status.phase and version.round
        ]
        warming_up = status.phase is Phase.WARM_UP
        end = status.pivot_version if warming_up else status.final_version
        return time_left(of_phase, end - status.version, " to the pivot" if warming_up else "")


def sparkline(values: Sequence[float], levels: str = _LEVELS, width: int = CURVE) -> str:
    """One character for each of at most `width` equal stretches of the values, by their mean; what is not finite is the
    highest there is."""
    count = min(width, len(values))
    edges = [len(values) * place // count for place in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    finite = [mean for mean in means if abs(mean) < float("inf")]
    if not finite:
        return levels[-1] * count
    low, high = min(finite), max(finite)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((mean - low) * scale)] if abs(mean) < float("inf") else levels[-1] for mean in means)
