"""The outcome of a run, folded from its events, and as it is kept when the event log is gone."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zowarmup.common.algorithms import algorithm_of
from zowarmup.common.algorithms.protocol import Algorithm
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.tasks.protocol import Metric
from zowarmup.server.core import events as ev


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The model after so many rounds, evaluated: `value` of the primary metric; `uplink_bytes` and `client_forwards`
    are all clients' until then."""

    round: int
    value: float
    loss: float
    uplink_bytes: int
    client_forwards: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """A run that is over. `metric`: the primary one of its task; `digest` of its last weights and `began` of its first,
    hex; `seconds` from the opening of each round to its commit, added up; bytes are payload. `gave_up`: why it ended
    before its time; empty where it did not."""

    metric: Metric
    rounds: int
    began: str
    digest: str
    uplink_bytes: int
    downlink_bytes: int
    client_forwards: int
    seconds: float
    curve: tuple[Point, ...]
    gave_up: str = ""

    @property
    def last(self) -> Point | None:
        """The evaluation of the last weights; None where the run gave up."""
        return None if self.gave_up or not self.curve or self.curve[-1].round != self.rounds else self.curve[-1]


def outcome_of(events: Iterable[tuple[float, ev.Event]]) -> RunOutcome:
    """A fold over a whole ledger, whose first event is RunCreated."""
    fold = _Fold()
    for at, event in events:
        fold.see(at, event)
    return fold.outcome()


class _Fold:
    def __init__(self) -> None:
        self._algorithms: dict[Phase, Algorithm] = {}
        self._metric: Metric
        self._phase, self._private = Phase.WARM_UP, False
        self._began = self._digest = self._gave_up = ""
        self._members: dict[str, tuple[Tier, int]] = {}
        self._bytes: dict[tuple[str, str, str, str], int] = {}
        self._spent = 0
        self._opened = self._seconds = 0.0
        self._rounds = 0
        self._at: dict[int, tuple[int, int]] = {0: (0, 0)}
        self._evaluated: dict[int, ev.Evaluated] = {}

    def see(self, at: float, event: ev.Event) -> None:
        match event:
            case ev.RunCreated():
                self._began, self._digest = event.initial.digest, event.initial.digest
                self._private = event.run_file.privacy.on
                layout, self._metric = Layout.from_json(event.program.layout), event.program.metric
                self._algorithms = {
                    phase: algorithm_of(event.run_file, phase, layout) for phase in (Phase.WARM_UP, Phase.ZEROTH_ORDER)
                }
            case ev.ClientEnrolled():
                self._members[event.client] = event.tier, event.examples
            case ev.RoundOpened():
                self._opened, self._phase = at, event.phase
            case ev.Contributed():
                algorithm = self._algorithms[self._phase]
                counted = algorithm.release_forwards if self._private else algorithm.forwards
                self._spent += counted(*self._members[event.client])
            case ev.Committed():
                self._seconds += at - self._opened
                self._rounds, self._digest = event.version, event.digest
                for row in event.traffic:
                    self._bytes[row.direction, row.tier, row.phase, row.kind] = row.payload_bytes
                self._at[event.version] = self._traffic("up"), self._spent
            case ev.Evaluated():
                self._evaluated[event.version] = event
            case ev.RunPaused() | ev.RunGaveUp():
                self._gave_up = event.reason
            case ev.RunResumed() | ev.RunFinished():
                self._gave_up = ""

    def outcome(self) -> RunOutcome:
        points = [
            Point(
                round=version,
                value=event.metrics[self._metric.name],
                loss=event.loss,
                uplink_bytes=self._at[version][0],
                client_forwards=self._at[version][1],
            )
            for version, event in sorted(self._evaluated.items())
        ]
        return RunOutcome(
            metric=self._metric,
            rounds=self._rounds,
            began=self._began,
            digest=self._digest,
            uplink_bytes=self._traffic("up"),
            downlink_bytes=self._traffic("down"),
            client_forwards=self._spent,
            seconds=round(self._seconds, 3),
            curve=tuple(points),
            gave_up=self._gave_up,
        )

    def _traffic(self, direction: str) -> int:
        """Of all enrolled clients."""
        return sum(count for (way, tier, *_), count in self._bytes.items() if way == direction and tier)


def read_outcome(ledger: Path) -> RunOutcome:
    """Raises LedgerError where it cannot be read."""
    from zowarmup.server.store.ledger import Ledger

    opened = Ledger(ledger, read_only=True)
    try:
        return outcome_of(opened.read())
    finally:
        opened.close()
