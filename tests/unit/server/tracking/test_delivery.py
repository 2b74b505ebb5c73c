"""Every version reaches a tracker once, in order, whatever happens to it, and nobody waits for it."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from tests.patience import PATIENCE
from tests.unit.server.projections.test_history import RUN, committed, digest
from tests.unit.server.test_coordinator import CREATED
from zowarmup.common.messages.values import Phase
from zowarmup.server.core import events as ev
from zowarmup.server.core.evolve import fold
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.tracking.delivery import RunTracking
from zowarmup.server.tracking.points import Standing, TrackedRun, VersionPoint


@dataclass
class Diary:
    """A tracker in memory: what was written, by name. `refuses`: how many of the next calls fail, with half of what they bring
    kept; `gate`: a call waits for it."""

    setting: str = "tracking.diary"
    runs: list[TrackedRun] = field(default_factory=list)
    steps: dict[str, list[int]] = field(default_factory=dict)
    stands: list[Standing] = field(default_factory=list)
    refuses: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def open(self, run: TrackedRun) -> Mapping[str, int]:
        self.gate.wait()
        self._refuse()
        self.runs.append(run)
        return {name: max(steps) for name, steps in self.steps.items()}

    def write(self, points: Sequence[VersionPoint]) -> None:
        self.gate.wait()
        kept = points[: len(points) // 2] if self.refuses else points
        for point in kept:
            for name in point.values:
                self.steps.setdefault(name, []).append(point.version)
        self._refuse()

    def stand(self, now: Standing) -> None:
        self.stands.append(now)

    def close(self) -> None:
        pass

    def _refuse(self) -> None:
        if self.refuses:
            self.refuses -= 1
            try:
                raise ConnectionRefusedError(111, "Connection refused")
            except OSError as error:
                raise RuntimeError("API request to somewhere failed\nwith more lines") from error


@dataclass
class Life:
    """A run whose versions a test commits. Every third version is evaluated, after it was committed."""

    history: History = field(default_factory=History)
    state: State = field(init=False)
    tracking: RunTracking | None = None

    def __post_init__(self) -> None:
        state = fold(None, [CREATED])
        assert state is not None
        self.state = state
        self.history.record(0.0, [replace(CREATED, run_file=RUN)])

    def commit(self, count: int) -> None:
        for version in range(self.state.version + 1, self.state.version + count + 1):
            opened = ev.RoundOpened(version, Phase.ZEROTH_ORDER, version - 1, ("a", "b"), (1, 2), (3, 3), 9.0)
            self._tell(version, [opened, committed(version, snapshot=version == 1)])
            if version % 3 == 0:
                self._tell(version, [ev.Evaluated(version, {"accuracy": 0.5}, 1.0, 10)])

    def finish(self) -> None:
        over = ev.RunFinished(self.state.version, "all rounds are done")
        self._tell(self.state.version, [over], phase=Phase.FINISHED, finished=over.reason)

    def _tell(self, version: int, events: list[ev.Event], **changed: object) -> None:
        self.history.record(float(version), events)
        self.state = replace(self.state, version=version, digest=digest(version), **changed)  # type: ignore[arg-type]
        if self.tracking:
            self.tracking(0.0, events, self.state)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20 * PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def every(last: int) -> dict[str, list[int]]:
    versions, evaluated = list(range(1, last + 1)), list(range(3, last + 1, 3))
    return {"participants": versions, "contributions": versions, "loss": evaluated, "accuracy": evaluated}


def test_what_was_before_and_what_comes_is_written_once_with_the_end() -> None:
    life, diary = Life(), Diary()
    life.commit(250)
    life.tracking = RunTracking([diary], life.state, life.history)
    until(lambda: diary.steps == every(250))
    life.commit(5)
    until(lambda: diary.steps == every(255))
    life.finish()
    until(lambda: not life.tracking.pending)  # type: ignore[union-attr]
    assert [(stand.state, stand.version) for stand in diary.stands] == [("finished", 255)]
    assert diary.stands[0].tags["digest"] == digest(255)
    life.tracking.close(5.0)
    assert len(diary.stands) == 1 and len(diary.runs) == 1


def test_a_tracker_that_fails_is_named_once_and_lacks_nothing_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    life, diary = Life(), Diary(refuses=5)
    life.commit(120)
    life.tracking = RunTracking([diary], life.state, life.history, retry_s=0.01)
    until(lambda: diary.steps == every(120))
    diary.refuses = 3
    life.commit(10)
    until(lambda: diary.steps == every(130))
    until(lambda: caplog.text.count("answers again") == 2)
    assert caplog.text.count("nothing can be delivered (ConnectionRefusedError: [Errno 111] Connection refused)") == 2
    life.tracking.close(5.0)
    assert [stand.state for stand in diary.stands] == ["stopped"]
    assert "not delivered" not in caplog.text


def test_a_tracker_that_hangs_holds_nobody_up_and_what_it_lacks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    life, hangs, diary = Life(), Diary(), Diary()
    hangs.gate.clear()
    life.tracking = RunTracking([hangs, diary], life.state, life.history)
    life.commit(40)
    until(lambda: diary.steps == every(40))
    began = time.monotonic()
    life.tracking.close(0.2)
    assert time.monotonic() - began < 0.2 * PATIENCE
    assert "tracking.diary: 40 versions, 1 to 40, not delivered (there was no time left)" in caplog.text
    hangs.gate.set()
    until(lambda: hangs.steps == every(40))


def test_a_restart_goes_on_where_the_tracker_is(caplog: pytest.LogCaptureFixture) -> None:
    life, diary = Life(), Diary()
    life.commit(30)
    first = RunTracking([diary], life.state, life.history)
    until(lambda: diary.steps == every(30))
    first.close(5.0)
    life.commit(5)  # nobody listens
    diary.refuses = 10**6
    second = RunTracking([diary], life.state, life.history, retry_s=0.01)
    until(lambda: not second.pending)
    second.close(5.0)
    assert "tracking.diary: 35 versions, 1 to 35, not delivered (ConnectionRefusedError" not in caplog.text
    assert "not delivered (ConnectionRefusedError: [Errno 111] Connection refused): the next start" in caplog.text
    diary.refuses = 0
    third = RunTracking([diary], life.state, life.history)
    until(lambda: diary.steps == every(35))
    third.close(5.0)
    assert [stand.state for stand in diary.stands] == ["stopped", "stopped"]
