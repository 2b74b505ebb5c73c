"""Figures of one coordinator among several, for Prometheus."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    """Of one coordinator, now.

    Attributes:
        leads: Whether it holds the lease.
        epoch: Of the lease, as it knows it; 0 where nobody has ever held it.
        changes: How often the lease has changed hands since this coordinator started, as far as it has seen.
        fenced: How often it has lost the lease while it led.
        lag_s: How long ago this coordinator last had all of the log, seconds; 0 where it leads.
        streams: How many clients' streams it holds itself.
        front_ends: How many streams each front end of this leader holds; empty where it does not lead.
    """

    leads: bool
    epoch: int
    changes: int
    fenced: int
    lag_s: float
    streams: int
    front_ends: Mapping[str, int]


class ClusterMetrics(Collector):
    """See the module. `figures`: asked at each scrape."""

    def __init__(self, figures: Callable[[], ClusterFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        now = self._figures()
        gauges = (
            ("leads", "1 for the coordinator that leads the run, 0 for the others.", int(now.leads)),
            ("lease_epoch", "The epoch of the lease, which grows with each change of hands.", now.epoch),
            (
                "follow_lag_seconds",
                "How long ago this coordinator last had all of the log; 0 where it leads.",
                now.lag_s,
            ),
            ("streams", "Clients whose streams this coordinator holds.", now.streams),
            ("front_ends", "Coordinators that this leader has heard of lately.", len(now.front_ends)),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"zowarmup_{name}", text, value=value)
        yield CounterMetricFamily(
            "zowarmup_lease_changes", "Changes of hands of the lease that were seen.", value=now.changes
        )
        yield CounterMetricFamily(
            "zowarmup_fenced", "Times that this coordinator lost the lease while it led.", value=now.fenced
        )
