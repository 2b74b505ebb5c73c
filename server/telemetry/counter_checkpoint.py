"""A checkpoint of the traffic counters, so that none goes back after a restart.

Counts are saved with each commit. What came after the last one is lost with a kill -9, though a scrape may have shown it;
Prometheus takes a counter that has fallen for one that began anew, and would add all of it once more to its rates. So a
scrape leaves what it shows here, and a restart goes on from whichever is larger. The file is a convenience: it is not
synced, and without it, or with a damaged one, the counts are those of the last commit.
"""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path

from zowarmup.common.system.files import read_given, replacing
from zowarmup.server.core.events import TrafficCount


class CounterCheckpoint:
    """The counts that were shown last, in a file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: tuple[TrafficCount, ...] = ()

    def keep(self, counts: tuple[TrafficCount, ...]) -> None:
        """Remember counts that are about to be shown. A disk that refuses is no reason not to show them."""
        if counts == self._kept:
            return
        with contextlib.suppress(OSError):
            with replacing(self._path) as fresh:
                fresh.write_text(json.dumps([astuple(count) for count in counts]), encoding="utf-8")
            self._kept = counts

    def or_larger(self, saved: Iterable[TrafficCount]) -> tuple[TrafficCount, ...]:
        """The counts of the last commit, or what has been shown since where that is more."""
        found = {_key(count): count for count in saved}
        for told in self._read():
            known = found.get(_key(told), told)
            sums = (max(pair) for pair in zip(_sums(known), _sums(told), strict=True))
            found[_key(told)] = TrafficCount(*_key(told), *sums)
        return tuple(count for _, count in sorted(found.items()))

    def _read(self) -> list[TrafficCount]:
        try:
            counts = [TrafficCount(*row) for row in json.loads(read_given(self._path))]
        except (OSError, ValueError, TypeError, RecursionError):
            return []
        sound = all(isinstance(w, str) for c in counts for w in _key(c)) and all(
            type(n) is int and 0 <= n < 2**63 for c in counts for n in _sums(c)
        )
        return counts if sound else []


def _key(count: TrafficCount) -> tuple[str, str, str, str]:
    return count.direction, count.tier, count.phase, count.kind


def _sums(count: TrafficCount) -> tuple[int, int, int]:
    return count.payload_bytes, count.messages, count.wire_bytes
