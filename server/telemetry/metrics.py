"""The metrics of a coordinator, gathered at each scrape.

Nothing is counted here but what nobody else keeps: sums come from the totals (a fold over the events, so they go on after
a restart), bytes from the traffic, and the rest from the state. The state is immutable and the sums are replaced rather
than changed, so a scrape runs in a thread of its own beside the event loop. Labels are small fixed sets of words, never
a client's name: a fleet of 10,000 costs as much as one of ten. Every combination that can occur is there from the first
scrape on, so that rates and ratios are never without one of their sides. docs/metrics.md has the table.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import PROTOCOL, VERSION
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core.errors import REASONS
from zowarmup.server.core.guard import limit
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.projections.refusals import Refusals
from zowarmup.server.projections.totals import ROUND_S, Durations, Histogram
from zowarmup.server.projections.traffic import OCCURRING, Traffic
from zowarmup.server.store.ledger import size_bytes
from zowarmup.server.telemetry.counter_checkpoint import CounterCheckpoint
from zowarmup.server.telemetry.families import Families

WORKING = (Phase.WARM_UP, Phase.ZEROTH_ORDER)
WAITING = ("clients", "contributions", "combining", "opening", "paused", "paused-itself", "lost", "disk", "finished")
APPEND_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
CATCH_UPS = ("steps", "snapshot")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the figures come from. `catch_ups` by way, `appends` of the ledger; `certificate_expires_at`:
    unix seconds, None without TLS; `told` keeps what was shown of the traffic."""

    coordinator: Coordinator
    history: History
    traffic: Traffic
    refusals: Refusals
    data_dir: Path
    ledger: Path
    blobs: Path
    certificate_expires_at: Callable[[], float | None] = lambda: None
    catch_ups: Mapping[str, int] = field(default_factory=dict)
    appends: Durations = field(default_factory=lambda: Durations(APPEND_S))
    told: CounterCheckpoint | None = None


def registry(sources: Sources) -> CollectorRegistry:
    """What there is to scrape: the run's metrics, and the usual ones of the process."""
    found = CollectorRegistry()
    found.register(Metrics(sources))
    ProcessCollector(registry=found)
    PlatformCollector(registry=found)
    GCCollector(registry=found)
    return found


class Metrics(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._told = Families({"run": sources.coordinator.state.run_file.name})

    def collect(self) -> Iterator[Metric]:
        """Raises nothing that a full disk or a departed client could cause."""
        state = self._sources.coordinator.state
        yield Families({}).gauge(
            "zowarmup_build_info",
            "1; the labels say what runs.",
            ("version", "protocol"),
            {(VERSION, str(PROTOCOL)): 1},
        )
        yield from self._traffic(state)
        yield from self._rounds(state)
        yield from self._fleet(state)
        yield from self._model(state)
        yield from self._disk()

    def _traffic(self, state: State) -> Iterator[Metric]:
        shown = self._sources.traffic.counts()
        if self._sources.told is not None:
            self._sources.told.keep(shown)
        counts = {(c.direction, c.tier, c.phase, c.kind): c for c in shown}
        deltas = {("up", str(tier), str(Phase.WARM_UP), "delta") for tier in state.run_file.warmup.tiers}
        keys = sorted({*OCCURRING, *deltas, *counts})
        for name, text, of in (
            ("payload", "Serialised messages between clients and the coordinator.", "payload_bytes"),
            ("wire", "The same as sockets carry them: with gRPC, HTTP/2 and TLS.", "wire_bytes"),
        ):
            yield self._told.counter(
                f"zowarmup_{name}_bytes",
                text,
                ("direction", "tier", "phase", "kind"),
                {
                    (direction, tier or "none", phase, kind): getattr(counts.get((direction, tier, phase, kind)), of, 0)
                    for direction, tier, phase, kind in keys
                },
            )
        cost = self._sources.history.totals.fedavg_bytes
        yield self._told.counter(
            "zowarmup_fedavg_bytes",
            "What as many rounds of FedAvg had cost as were committed, by the same clients: model down, delta up.",
            ("direction", "tier", "phase"),
            {
                (d, tier, phase): cost.get((d, tier, phase), 0)
                for d in ("up", "down")
                for tier in Tier
                for phase in WORKING
            },
        )

    def _rounds(self, state: State) -> Iterator[Metric]:
        totals, current, trained = self._sources.history.totals, state.current, state.run_file.warmup.tiers
        yield self._told.counter(
            "zowarmup_rounds",
            "Rounds that have ended.",
            ("phase", "outcome"),
            {(phase, o): totals.rounds.get((phase, o), 0) for phase in WORKING for o in ("committed", "abandoned")},
        )
        yield self._told.histogram(
            "zowarmup_round_duration_seconds",
            "Committed rounds, from opening to commit.",
            ("phase",),
            {(phase,): totals.durations.get(phase, Histogram(ROUND_S)) for phase in WORKING},
        )
        for name, text, of in (
            ("contributions", "Contributions that count.", totals.contributions),
            ("dropouts", "Participants of rounds that have ended without their contribution.", totals.dropouts),
            ("abstentions", "Those of them that had none to give, and said so.", totals.abstentions),
        ):
            sums = {(phase, tier): of.get((phase, tier), 0) for phase in WORKING for tier in Tier}
            sums = {key: n for key, n in sums.items() if n or key[0] is not Phase.WARM_UP or key[1] in trained}
            yield self._told.counter(f"zowarmup_{name}", text, ("phase", "tier"), sums)
        yield self._told.gauge(
            "zowarmup_round_participants",
            "Participants of the round in progress.",
            ("phase",),
            {(phase,): len(current.seeds) if current and current.phase is phase else 0 for phase in WORKING},
        )
        yield self._told.gauge(
            "zowarmup_round_missing",
            "Participants of the round in progress that may still contribute.",
            (),
            {(): len(current.seeds) - len(current.contributions) - len(current.abstained) if current else 0},
        )
        refused = dict(self._sources.refusals.counts())
        yield self._told.counter(
            "zowarmup_refusals",
            "What the coordinator has refused since it started.",
            ("reason",),
            {(reason,): refused.get(reason, 0) for reason in sorted({*REASONS, *refused})},
        )
        yield self._told.counter(
            "zowarmup_clipped",
            "Outlying scalars and deltas that were bounded.",
            ("kind",),
            {("scalar",): state.clipped_scalars, ("delta",): state.clipped_deltas},
        )
        yield self._told.counter(
            "zowarmup_rounds_below_tick",
            "Committed rounds in which no direction moved by more than one tick of the grid.",
            (),
            {(): state.rounds_below_tick},
        )
        if self._sources.history.totals.committed_at:
            yield self._told.gauge(
                "zowarmup_last_round_timestamp_seconds",
                "When the last round was committed.",
                (),
                {(): self._sources.history.totals.committed_at},
            )

    def _fleet(self, state: State) -> Iterator[Metric]:
        clients = {(tier, where): 0 for tier in Tier for where in ("connected", "away", "revoked")}
        peaks = dict.fromkeys(Tier, 0)
        presence = state.presence
        for name, client in state.clients.items():
            here = presence.get(name)
            where = "revoked" if client.revoked else "connected" if here is not None and here.connected else "away"
            clients[client.tier, where] += 1
            if here is not None and here.peak_memory_bytes > peaks[client.tier]:
                peaks[client.tier] = here.peak_memory_bytes
        yield self._told.gauge("zowarmup_clients", "Clients that have enrolled.", ("tier", "state"), clients)
        yield self._told.gauge(
            "zowarmup_client_peak_memory_bytes",
            "The largest peak of resident memory that a client has reported since the coordinator started.",
            ("tier",),
            {(tier,): peak for tier, peak in peaks.items()},
        )
        done = dict(self._sources.catch_ups)
        yield self._told.counter(
            "zowarmup_catch_ups",
            "Replicas that were brought up to date by commits they had missed, or by a snapshot.",
            ("way",),
            {(way,): done.get(way, 0) for way in CATCH_UPS},
        )
        yield self._told.counter(
            "zowarmup_replica_disagreements",
            "Replicas that were seen not to be the run's.",
            (),
            {(): self._sources.history.disagreements},
        )

    def _model(self, state: State) -> Iterator[Metric]:
        waits = waits_for(state, bool(str(self._sources.coordinator.trouble)))
        yield self._told.gauge(
            "zowarmup_waiting",
            "What the run waits for: 1 for that word, 0 for the others.",
            ("reason",),
            {(reason,): int(reason == waits) for reason in WAITING},
        )
        yield self._told.gauge(
            "zowarmup_phase",
            "1 for the present phase, 0 for the others.",
            ("phase",),
            {(phase,): int(phase is state.phase) for phase in Phase},
        )
        yield self._told.gauge("zowarmup_paused", "1 while the run is paused.", (), {(): int(bool(state.paused))})
        yield self._told.gauge("zowarmup_model_version", "Commits since the initial weights.", (), {(): state.version})
        yield self._told.gauge("zowarmup_model_parameters", "Trainable parameters.", (), {(): state.layout.trainable})
        if state.pivot_version is not None:
            yield self._told.gauge("zowarmup_pivot_version", "The version at the pivot.", (), {(): state.pivot_version})
        if (evaluation := state.evaluation) is not None:
            yield self._told.gauge(
                "zowarmup_evaluation_metric",
                "The task's metrics on the held-out set. better: higher or lower; unit: ratio of what goes from 0 to 1.",
                ("metric", "better", "unit"),
                {
                    (
                        metric.name,
                        "higher" if metric.higher_is_better else "lower",
                        "ratio" if metric.share else "",
                    ): evaluation.metrics[metric.name]
                    for metric in state.program.metrics
                },
            )
            yield self._told.gauge("zowarmup_loss", "On the held-out set, nats per example.", (), {(): evaluation.loss})
            yield self._told.gauge(
                "zowarmup_evaluated_version", "The version that these are of.", (), {(): evaluation.version}
            )
        progress = state.progress
        if math.isfinite(progress.best):
            yield self._told.gauge(
                "zowarmup_lowest_loss", "The lowest loss on the held-out set so far, nats.", (), {(): progress.best}
            )
            yield self._told.gauge(
                "zowarmup_loss_limit",
                "The loss above which a version is rejected, nats; +Inf where the guard is off.",
                (),
                {(): limit(state.run_file.guard, progress, state.program.baseline)},
            )
        yield self._told.counter(
            "zowarmup_rollbacks", "Returns to the last good version.", (), {(): progress.rollbacks}
        )
        yield self._told.gauge(
            "zowarmup_learning_rate_factor",
            "What learning rates are multiplied by since the last return.",
            (),
            {(): progress.rate_factor},
        )

    def _disk(self) -> Iterator[Metric]:
        of = self._sources
        yield self._told.gauge("zowarmup_ledger_size_bytes", "The ledger on disk.", (), {(): size_bytes(of.ledger)})
        yield self._told.histogram(
            "zowarmup_ledger_append_duration_seconds",
            "One synced transaction of the ledger, since the coordinator started.",
            (),
            {(): of.appends.histogram},
        )
        yield self._told.gauge(
            "zowarmup_blobs_size_bytes",
            "Snapshots, the program and uploads on disk.",
            (),
            _blobs_size(of.blobs),
        )
        with contextlib.suppress(OSError):  # without these two, where the disk fails
            disk = shutil.disk_usage(of.data_dir)
            yield self._told.gauge(
                "zowarmup_disk_free_bytes", "Free on the data directory's file system.", (), {(): disk.free}
            )
            yield self._told.gauge("zowarmup_disk_size_bytes", "Size of that file system.", (), {(): disk.total})
        if (expires_at := of.certificate_expires_at()) is not None:
            yield self._told.gauge(
                "zowarmup_certificate_expiry_timestamp_seconds",
                "When the coordinator's certificate expires.",
                (),
                {(): expires_at},
            )


def waits_for(state: State, disk_refuses: bool) -> str:
    """The word, out of `WAITING`, for what happens next."""
    if disk_refuses:
        return "disk"
    if state.phase is Phase.FINISHED:
        return "lost" if state.gave_up else "finished"
    if state.current is not None:
        return "combining" if state.current.closed else "contributions"
    if state.paused:
        return "paused-itself" if state.paused_itself else "paused"
    enough = state.eligible_count >= (state.rules.minimum_clients or state.rules.clients_per_round)
    return "opening" if enough else "clients"


def _blobs_size(folder: Path) -> dict[tuple[()], float]:
    """Nothing where it cannot be listed now, as where no file descriptor is left."""
    try:
        return {(): sum(_size(path) for path in folder.rglob("*"))}
    except OSError:
        return {}


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none (any more), or it is a folder."""
    try:
        return 0 if path.is_dir() else os.stat(path).st_size
    except OSError:
        return 0
