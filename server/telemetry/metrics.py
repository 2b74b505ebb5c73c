"""The metrics of a coordinator, gathered at each scrape.

Events are counted as they come (`counters`), the rest is read when it is asked for: the state is immutable, so a scrape
runs in a thread of its own beside the event loop. Labels are small fixed sets of words, never a client's name: a fleet of
10,000 costs as much as one of ten. Every combination that can occur is there from the first scrape on, so that rates and
ratios are never without one of their sides. docs/metrics.md has the table.
"""

import contextlib
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    make_asgi_app,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import PROTOCOL, VERSION
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core.errors import REASONS
from zowarmup.server.core.guard import limit
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.projections.traffic import OCCURRING, Traffic
from zowarmup.server.store.ledger import size_bytes
from zowarmup.server.telemetry.cluster_metrics import ClusterFigures, ClusterMetrics
from zowarmup.server.telemetry.counters import WORKING, Counters
from zowarmup.server.telemetry.tcp_info import TcpInfoUnavailable, WireBytes

log = logging.getLogger(__name__)

WAITING = ("clients", "contributions", "aggregating", "opening", "paused", "paused-itself", "lost", "disk", "finished")
APPEND_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
CATCH_UPS = ("steps", "snapshot")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the figures come from. `catch_ups` by way; `wire` is None where nobody counts it; `certificate_expires_at`: unix
    seconds, None without TLS. `leads`: of several coordinators, the one that leads tells of the run and its fleet, so that sums over
    them count nothing twice; `cluster`: figures of this one among them, None where it is the only one."""

    coordinator: Coordinator
    history: History
    traffic: Traffic
    refusals: Counter[str]
    data_dir: Path
    ledger: Path
    blobs: Path
    catch_ups: Mapping[str, int]
    wire: WireBytes | None = None
    certificate_expires_at: Callable[[], float | None] = lambda: None
    leads: Callable[[], bool] = lambda: True
    cluster: Callable[[], ClusterFigures] | None = None


_Words = TypeVar("_Words", bound=tuple[str, ...])


def _counts(name: str, text: str, labels: Sequence[str], sums: Mapping[_Words, float]) -> Metric:
    """A counter: a sum for each combination of values of the labels."""
    return _filled(CounterMetricFamily(f"zowarmup_{name}", text, labels=labels), sums)


def _gauges(name: str, text: str, labels: Sequence[str], now: Mapping[_Words, float]) -> Metric:
    return _filled(GaugeMetricFamily(f"zowarmup_{name}", text, labels=labels), now)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[_Words, float]) -> Metric:
    for words, value in values.items():
        family.add_metric(tuple(map(str, words)), value)
    return family


def _gauge(name: str, text: str, now: float) -> Metric:
    return GaugeMetricFamily(f"zowarmup_{name}", text, value=now)


class Gathered:
    """What is counted and held elsewhere."""

    def __init__(self, sources: Sources) -> None:
        self._sources, self._wire = sources, sources.wire

    def collect(self) -> Iterator[Metric]:
        """Raises nothing that a full disk or a departed client could cause."""
        state = self._sources.coordinator.state
        yield from self._traffic(state)
        yield from self._calls()
        if self._sources.leads():
            yield from self._round(state)
            yield from self._fleet(state)
            yield from self._model(state)
            yield from self._privacy(state)
        yield from self._disk()

    def _traffic(self, state: State) -> Iterator[Metric]:
        payload = self._sources.traffic.since_start()
        deltas = {("up", str(tier), str(Phase.WARM_UP), "delta") for tier in state.run_file.warmup.tiers}
        keys = sorted({*OCCURRING, *deltas, *payload})
        yield _counts(
            "payload_bytes",
            "Serialised messages between clients and the coordinator.",
            ("direction", "tier", "phase", "kind"),
            {(d, tier or "none", phase, kind): payload.get((d, tier, phase, kind), 0) for d, tier, phase, kind in keys},
        )
        if self._wire is not None:
            try:
                wire = self._wire.read()
            except TcpInfoUnavailable as error:
                log.info("wire bytes are not shown: the system does not say what sockets carry (%s)", error)
                self._wire = None
                return
            yield _counts(
                "wire_bytes",
                "What the sockets of clients have carried: messages, gRPC, HTTP/2 and TLS.",
                ("direction", "tier", "phase"),
                {
                    (direction, tier or "none", phase): wire[direction, tier, phase]
                    for direction in ("up", "down")
                    for tier in (None, *Tier)
                    for phase in Phase
                },
            )

    def _calls(self) -> Iterator[Metric]:
        refused = self._sources.refusals
        yield _counts(
            "refusals",
            "What the coordinator has refused.",
            ("reason",),
            {(reason,): refused.get(reason, 0) for reason in sorted({*REASONS, *refused})},
        )
        done = dict(self._sources.catch_ups)
        yield _counts(
            "catch_ups",
            "Replicas that were brought up to date by commits they had missed, or by a snapshot.",
            ("way",),
            {(way,): done.get(way, 0) for way in CATCH_UPS},
        )

    def _round(self, state: State) -> Iterator[Metric]:
        current = state.current
        yield _gauges(
            "round_participants",
            "Participants of the round in progress.",
            ("phase",),
            {(phase,): len(current.seeds) if current and current.phase is phase else 0 for phase in WORKING},
        )
        missing = len(current.seeds) - len(current.contributions) - len(current.abstained) if current else 0
        yield _gauge("round_missing", "Participants of the round in progress that may still contribute.", missing)
        # The history hears of a commit a moment after the state has it.
        versions = self._sources.history.versions
        present = versions.get(state.version) or versions.get(state.version - 1)
        if present is not None and present.version:
            text = "When the present version was committed."
            yield _gauge("last_round_timestamp_seconds", text, present.committed_at)

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
        yield _gauges("clients", "Clients that have enrolled.", ("tier", "state"), clients)
        yield _gauges(
            "client_peak_memory_bytes",
            "The largest peak of resident memory that a client has reported since the coordinator started.",
            ("tier",),
            {(tier,): peak for tier, peak in peaks.items()},
        )
        seen = self._sources.history.disagreements  # by other coordinators, too, who tell the leader
        yield _counts("replica_disagreements", "Replicas that were seen not to be the run's.", (), {(): seen})

    def _model(self, state: State) -> Iterator[Metric]:
        waits = waits_for(state, bool(str(self._sources.coordinator.trouble)))
        yield _gauges(
            "waiting",
            "What the run waits for: 1 for that word, 0 for the others.",
            ("reason",),
            {(reason,): int(reason == waits) for reason in WAITING},
        )
        phases = {(phase,): int(phase is state.phase) for phase in Phase}
        yield _gauges("phase", "1 for the present phase, 0 for the others.", ("phase",), phases)
        yield _gauge("paused", "1 while the run is paused.", int(bool(state.paused)))
        yield _gauge("model_version", "Commits since the initial weights.", state.version)
        yield _gauge("model_parameters", "Trainable parameters.", state.layout.trainable)
        if state.pivot_version is not None:
            yield _gauge("pivot_version", "The version at the pivot.", state.pivot_version)
        if (evaluation := state.evaluation) is not None:
            told = {
                (
                    metric.name,
                    "higher" if metric.higher_is_better else "lower",
                    "ratio" if metric.share else "",
                ): evaluation.metrics[metric.name]
                for metric in state.program.metrics
            }
            text = (
                "The task's metrics on the held-out set. better: higher or lower; unit: ratio of what goes from 0 to 1."
            )
            yield _gauges("evaluation_metric", text, ("metric", "better", "unit"), told)
            yield _gauge("loss", "On the held-out set, nats per example.", evaluation.loss)
            yield _gauge("evaluated_version", "The version that these are of.", evaluation.version)
        progress = state.progress
        if math.isfinite(progress.best):
            yield _gauge("lowest_loss", "The lowest loss on the held-out set so far, nats.", progress.best)
            highest = limit(state.run_file.guard, progress, state.program.baseline)
            text = "The loss above which a version is rejected, nats; +Inf where the guard is off."
            yield _gauge("loss_limit", text, highest)
        text = "What learning rates are multiplied by since the last return."
        yield _gauge("learning_rate_factor", text, progress.rate_factor)

    def _privacy(self, state: State) -> Iterator[Metric]:
        budget = state.budget
        told = budget.epsilon(state.most_released) if budget else math.inf
        yield _gauge("privacy_epsilon", "What the client has told of an example at most that has released most.", told)
        most = budget.epsilon(budget.releases) if budget else math.inf
        yield _gauge("privacy_epsilon_budget", "What each client may tell of an example.", most)

    def _disk(self) -> Iterator[Metric]:
        of = self._sources
        yield _gauge("ledger_size_bytes", "The ledger on disk.", size_bytes(of.ledger))
        yield _gauges("blobs_size_bytes", "Snapshots, the program and uploads on disk.", (), _blobs_size(of.blobs))
        with contextlib.suppress(OSError):  # without these two, where the disk fails
            disk = shutil.disk_usage(of.data_dir)
            yield _gauge("disk_free_bytes", "Free on the data directory's file system.", disk.free)
            yield _gauge("disk_size_bytes", "Size of that file system.", disk.total)
        if (expires_at := of.certificate_expires_at()) is not None:
            text = "When the coordinator's certificate expires."
            yield _gauge("certificate_expiry_timestamp_seconds", text, expires_at)


class RunMetrics:
    """A registry of the run's metrics and the usual ones of the process. The ledger's durations are there at once, the rest
    when the run is: from `show` on. `application`: the registry, for an HTTP server."""

    def __init__(self, run: str) -> None:
        self.registry = CollectorRegistry()
        self._run = run
        self._own = CollectorRegistry()
        self._counters: Counters | None = None
        appends = Histogram(
            "zowarmup_ledger_append_duration_seconds",
            "One synced transaction of the ledger.",
            registry=self._own,
            buckets=APPEND_S,
        )
        self.appended: Callable[[float], None] = appends.observe
        self.application = make_asgi_app(self.registry)
        self.registry.register(_OfRun(run, self._own.collect))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def show(self, sources: Sources) -> None:
        """Gather at each scrape what there is, from now on."""
        self._counters = Counters(self._own, sources.coordinator.state)
        self.registry.register(_OfRun(self._run, Gathered(sources).collect))
        if sources.cluster is not None:
            self.registry.register(_OfRun(self._run, ClusterMetrics(sources.cluster).collect))
        self.registry.register(_Build())

    def count(self, coordinator: Coordinator) -> None:
        """Count what happens in the run, from now on: the coordinator leads it. What a front end shows of it is at zero, so that
        a first round that it leads is seen to be one more."""
        assert self._counters is not None, "shown before"
        self._counters.begin(coordinator.state)
        coordinator.observe(self._counters)


class _OfRun(Collector):
    """Families, each sample with the run's name as a label."""

    def __init__(self, run: str, families: Callable[[], Iterable[Metric]]) -> None:
        self._run, self._families = run, families

    def collect(self) -> Iterator[Metric]:
        for family in self._families():
            family.samples = [s._replace(labels={"run": self._run, **s.labels}) for s in family.samples]
            yield family


class _Build(Collector):
    def collect(self) -> Iterator[Metric]:
        labels = ("version", "protocol")
        yield _gauges("build_info", "1; the labels say what runs.", labels, {(VERSION, str(PROTOCOL)): 1})


def waits_for(state: State, disk_refuses: bool) -> str:
    """The word, out of `WAITING`, for what happens next."""
    if disk_refuses:
        return "disk"
    if state.phase is Phase.FINISHED:
        return "lost" if state.gave_up else "finished"
    if state.current is not None:
        return "aggregating" if state.current.closed else "contributions"
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
