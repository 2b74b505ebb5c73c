"""Metric families for Prometheus: a name, a help text, and a sample for each combination of labels."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from zowarmup.server.projections.totals import Histogram

_Words = TypeVar("_Words", bound=tuple[str, ...])


class Families:
    """`constant`: labels that every sample has. The keys of what is told are the values of `labels`, in their order."""

    def __init__(self, constant: Mapping[str, str]) -> None:
        self._names, self._values = tuple(constant), tuple(constant.values())

    def counter(self, name: str, text: str, labels: Sequence[str], sums: Mapping[_Words, float]) -> Metric:
        """A sum that only grows; "_total" is added to the name."""
        family = CounterMetricFamily(name, text, labels=(*self._names, *labels))
        for words, value in sums.items():
            family.add_metric((*self._values, *map(str, words)), value)
        return family

    def gauge(self, name: str, text: str, labels: Sequence[str], now: Mapping[_Words, float]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=(*self._names, *labels))
        for words, value in now.items():
            family.add_metric((*self._values, *map(str, words)), value)
        return family

    def histogram(self, name: str, text: str, labels: Sequence[str], of: Mapping[_Words, Histogram]) -> Metric:
        family = HistogramMetricFamily(name, text, labels=(*self._names, *labels))
        for words, histogram in of.items():
            upto, buckets = 0, []
            for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
                upto += count
                buckets.append((bound, upto))
            family.add_metric((*self._values, *map(str, words)), buckets, histogram.sum_s)
        return family
