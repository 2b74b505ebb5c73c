"""Tables of a run: its versions, and what it has cost its clients.

They are sequences of rows that check nothing and hold no file, and columns for whoever has a library of tables.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.tasks.protocol import Metric
from zowarmup.common.text import amount

SHOWN = 20
"""So many versions of a history are printed."""


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version of the model and how it came about.

    Args:
        version: 0 are the initial weights.
        phase: In which it was made.
        round: That it was made in; 0 for the initial weights, and for a return to earlier ones.
        contributions: How many clients it was made of.
        loss: On the held-out set, nats per example; None where it was not evaluated.
        metrics: The task's, by name; empty where it was not evaluated.
        up_bytes: What all clients had sent until then, payload.
        down_bytes: The same of what they had received.
        seconds: Since the run began.
        digest: Of the weights, hex.
    """

    version: int
    phase: Phase
    round: int
    contributions: int
    loss: float | None
    metrics: Mapping[str, float]
    up_bytes: int
    down_bytes: int
    seconds: float
    digest: str


class HistoryTable(Sequence[VersionRow]):
    """The versions of a run, in order: a sequence of rows, and a table of columns.

    Args:
        rows: By version.
        metrics: The task's, the primary one first.
    """

    def __init__(self, rows: Iterable[VersionRow], metrics: tuple[Metric, ...]) -> None:
        self._rows, self.metrics = tuple(rows), metrics

    @overload
    def __getitem__(self, index: int) -> VersionRow: ...
    @overload
    def __getitem__(self, index: slice) -> "HistoryTable": ...
    def __getitem__(self, index: int | slice) -> "VersionRow | HistoryTable":
        return HistoryTable(self._rows[index], self.metrics) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[VersionRow]:
        return iter(self._rows)

    @property
    def evaluated(self) -> "HistoryTable":
        """The rows with an evaluation."""
        return HistoryTable((row for row in self._rows if row.loss is not None), self.metrics)

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns by name, those of metrics by their own, NaN where a version was not evaluated: what `pandas.DataFrame`
        takes."""
        table: dict[str, list[Any]] = {}
        for field in fields(VersionRow):
            if field.name == "metrics":
                for metric in self.metrics:
                    table[metric.name] = [row.metrics.get(metric.name, math.nan) for row in self._rows]
                continue
            values = [getattr(row, field.name) for row in self._rows]
            table[field.name] = [
                math.nan if value is None else str(value) if field.name == "phase" else value for value in values
            ]
        return table

    def __repr__(self) -> str:
        """What was evaluated, for people; of many rows the first and the last."""
        rows, metric = self.evaluated, self.metrics[0]
        lines = [f"{'version':>8}  {'phase':<13} {metric.title:>12} {'loss':>9} {'up':>9} {'down':>9}"]
        for row in rows:
            value, loss = metric.shown(row.metrics.get(metric.name, math.nan)), f"{row.loss:.4g}"
            sizes = f"{amount(row.up_bytes):>9} {amount(row.down_bytes):>9}"
            lines.append(f"{row.version:>8}  {row.phase:<13} {value:>12} {loss:>9} {sizes}")
        if len(lines) > SHOWN:
            lines = [*lines[: SHOWN // 2], f"{'...':>8}", *lines[-SHOWN // 2 :]]
        return "\n".join([*lines, f"({len(self)} versions, {len(rows)} of them evaluated)"])


@dataclass(frozen=True, slots=True)
class PayloadRow:
    """Payload of one kind until the last version. `direction`: "up" from clients or "down" to them; `kind`: of messages."""

    direction: str
    tier: Tier
    phase: Phase
    kind: str
    payload_bytes: int
    messages: int


@dataclass(frozen=True, slots=True)
class Costs:
    """What a run has cost its clients.

    Args:
        rows: Payload by direction, tier, phase and kind.
        forwards: Forward passes of one example, by all clients; a step of training counts as three.
        fedavg_up_bytes: What as many contributions had been in all with FedAvg, a float32 for each parameter.
    """

    rows: tuple[PayloadRow, ...]
    forwards: int
    fedavg_up_bytes: int

    def up_bytes(self, tier: Tier | str | None = None, phase: Phase | str | None = None) -> int:
        """Payload from clients: of one tier or both, in one phase or all."""
        return self._sum("up", tier, phase)

    def down_bytes(self, tier: Tier | str | None = None, phase: Phase | str | None = None) -> int:
        """The same to clients."""
        return self._sum("down", tier, phase)

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns by name: what `pandas.DataFrame` takes."""
        text = ("tier", "phase")
        return {
            field.name: [str(v) if field.name in text else v for v in (getattr(row, field.name) for row in self.rows)]
            for field in fields(PayloadRow)
        }

    def _sum(self, direction: str, tier: Tier | str | None, phase: Phase | str | None) -> int:
        return sum(
            row.payload_bytes
            for row in self.rows
            if row.direction == direction
            and (tier is None or row.tier == Tier(tier))
            and (phase is None or row.phase == Phase(phase))
        )
