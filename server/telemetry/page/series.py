"""The page's curves: the primary metric and the loss, and the bytes uploaded by tier, over the versions.

A curve has at most `MOST` points. One that is full loses every second of them, and so stays the same shape however long the
run goes on. What FedAvg would have uploaded is a whole delta for each contribution, as the demo's report counts it.
"""

import math
from collections.abc import Iterable
from typing import Any

from zowarmup.common.algorithms.fedavg import model_bytes
from zowarmup.common.messages.values import Tier
from zowarmup.server.core.events import TrafficCount
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History

MOST = 800
LATE = 1000
"""An evaluation comes at most so many versions after its own."""

Point = tuple[float | None, ...]


def uploaded(counts: Iterable[TrafficCount], tier: Tier) -> int:
    """Payload bytes that a tier has sent."""
    return sum(count.payload_bytes for count in counts if count.direction == "up" and count.tier == tier)


def finite(value: float) -> float | None:
    """The value, None where JSON has no word for it."""
    return value if math.isfinite(value) else None


class Series:
    """`curve`: (version, primary metric, loss in nats); `uplink`: (version, bytes of the high tier, of the low tier, of FedAvg);
    both ascending. `contributions`: how many the versions of the run are made of."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.curve: list[Point] = []
        self.uplink: list[Point] = []
        self.contributions = 0
        self._counted = 0
        self._evaluated = -1

    def whole(self) -> dict[str, Any]:
        """Everything, as of the last look."""
        return {"curve": self.curve, "uplink": self.uplink}

    def changes(self, state: State) -> dict[str, Any]:
        """Further points; or, as "curve_anew" and "uplink_anew", all of a curve that has been thinned."""
        found: dict[str, Any] = {}
        for name, points, further in (
            ("curve", self.curve, self._further_evaluations(state)),
            ("uplink", self.uplink, self._further_bytes(state)),
        ):
            points += further
            if len(points) > MOST:
                kept = points[:-1][::2] + points[-1:] if len(points) % 2 == 0 else points[::2]
                while len(kept) > MOST:
                    kept = kept[:-1][::2] + kept[-1:]
                points[:] = kept
                found[f"{name}_anew"] = points
            elif further:
                found[name] = further
        return found

    def _further_evaluations(self, state: State) -> list[Point]:
        found: list[Point] = []
        versions, metric = self._history.versions, state.program.metric.name
        first = max(self._evaluated + 1, state.version - LATE) if self._evaluated >= 0 else 0
        for number in range(first, state.version + 1):
            known = versions.get(number)
            if known is not None and known.evaluation is not None:
                value = known.evaluation.metrics.get(metric, math.nan)
                found.append((number, finite(value), finite(known.evaluation.loss)))
                self._evaluated = number
        return found

    def _further_bytes(self, state: State) -> list[Point]:
        found: list[Point] = []
        versions = self._history.versions
        stride = max(1, (state.version - self._counted) // MOST) if self._counted == 0 else state.version
        for number in range(self._counted + 1, state.version + 1):
            known = versions.get(number)
            if known is None:
                break  # the history hears of a commit a moment after the state has it
            self.contributions += known.contributions
            self._counted = number
            if number % stride == 0 or number == state.version:
                found.append(self._bytes(state, number))
        return found

    def _bytes(self, state: State, number: int) -> Point:
        counts = self._history.traffic.at(number)
        fedavg = model_bytes(state.layout.uploaded) * self.contributions
        return (number, uploaded(counts, Tier.HIGH), uploaded(counts, Tier.LOW), fedavg)
