"""The delivery to trackers: an observer of the coordinator that never holds it up, and a thread for each tracker.

The observer only wakes the threads. What is to be delivered is read from the history, which has every version anyway: there is no
queue that could overflow, and what a tracker has missed while it did not answer is still there when it does. When a tracker is
opened it says what it has, so nothing is written twice, neither after a restart nor after a failure. A failure is logged when it
begins and when it is over; what is missing when the coordinator leaves is named then, and delivered at its next start.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from zowarmup.common.text import counted, printable
from zowarmup.server.core import events as ev
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.tracking.points import Standing, TrackedRun, VersionPoint, standing, tracked, values_of

log = logging.getLogger(__name__)

RETRY_S = 10.0
PAUSE_S = 0.5
"""What comes within it is delivered together, so that a run of many rounds a second makes few requests."""
POINTS_AT_ONCE = 100
LONGEST_REASON = 200
_TOLD = ev.Committed | ev.RolledBack | ev.Evaluated | ev.RunFinished | ev.RunGaveUp


class Tracker(Protocol):
    """A place that a run is written to. One thread calls it; whatever it raises is a failure, after which it is closed and, later,
    opened again. `setting`: the run file's, as "tracking.mlflow"."""

    setting: str

    def open(self, run: TrackedRun) -> Mapping[str, int]:
        """Find or make the run there; for each name the last version that it has a number of."""

    def write(self, points: Sequence[VersionPoint]) -> None:
        """Write numbers, in ascending order of versions."""

    def stand(self, now: Standing) -> None:
        """Say how the run stands. The same may be said again."""

    def close(self) -> None:
        """Let go of files and connections."""


def _cause(error: BaseException) -> str:
    """The innermost of an exception's causes, on one line: clients of HTTP wrap "Connection refused" in much else."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    said = next((line for line in str(error).splitlines() if line.strip()), "")
    return printable(f"{type(error).__name__}: {said}".removesuffix(": ")[:LONGEST_REASON])


class RunTracking:
    """Trackers of one run. It observes the coordinator; `history` must have recorded the events already.

    Args:
        trackers: Where it is written.
        state: With which it begins.
        history: Its versions.
        retry_s: A tracker that fails is tried again so often.
    """

    def __init__(
        self, trackers: Sequence[Tracker], state: State, history: History, *, retry_s: float = RETRY_S
    ) -> None:
        self._state = state
        self._deliveries = [
            _Delivery(tracker, tracked(state, history), history, lambda: self._state, retry_s) for tracker in trackers
        ]
        for delivery in self._deliveries:
            delivery.start()

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        self._state = state
        if any(isinstance(event, _TOLD) for event in events):
            for delivery in self._deliveries:
                delivery.wake()

    @property
    def pending(self) -> bool:
        """Whether something has not been delivered yet that can be: no tracker that fails is waited for."""
        return any(delivery.pending for delivery in self._deliveries)

    def close(self, within_s: float) -> None:
        """Deliver what can be delivered within that time, seconds, and log what was not."""
        ends_at_s = time.monotonic() + within_s
        for delivery in self._deliveries:
            delivery.stop()
        for delivery in self._deliveries:
            delivery.join(max(0.0, ends_at_s - time.monotonic()))
            delivery.say_what_is_missing()


class _Delivery(threading.Thread):
    """To one tracker. It is a daemon: a tracker that hangs holds up no end of the process."""

    def __init__(
        self, tracker: Tracker, run: TrackedRun, history: History, state: Callable[[], State], retry_s: float
    ) -> None:
        super().__init__(name=tracker.setting, daemon=True)
        self._tracker, self._run, self._history, self._state = tracker, run, history, state
        self._retry_s = retry_s
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._woken.set()
        self._last: dict[str, int] = {}
        """By name: the last version that the tracker has a number of."""
        self._next = 0
        """All versions below it have been looked at when they were complete."""
        self._opened = False
        self._failure = ""
        self._settled: Standing | None = None

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._stopping.set()
        self._woken.set()

    @property
    def pending(self) -> bool:
        return not self._failure and self.is_alive() and (self._woken.is_set() or not self._up_to_date())

    def run(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            stopping = self._stopping.is_set()
            try:
                self._deliver(stopping)
            except Exception as error:  # noqa: BLE001  (whatever the tracker's package raises)
                self._fail(error)
            if stopping:
                with contextlib.suppress(Exception):
                    self._tracker.close()
                return
            self._stopping.wait(self._retry_s if self._failure else PAUSE_S)
            if self._failure:
                self._woken.set()

    def say_what_is_missing(self) -> None:
        if missing := self._missing():
            reason = self._failure or "there was no time left"
            log.warning(
                "%s: %s not delivered (%s): the next start with this --data-dir delivers what is missing",
                self._tracker.setting,
                missing,
                reason,
            )

    def _deliver(self, stopping: bool) -> None:
        if not self._opened:
            self._last, self._next = dict(self._tracker.open(self._run)), 0
            self._opened, self._settled = True, None
        while points := self._points():
            self._tracker.write(points)
            for point in points:
                self._last |= dict.fromkeys(point.values, point.version)
        now = standing(self._state(), stopping)
        if now.state != "running" and now != self._settled:
            self._tracker.stand(now)
            self._settled = now
        if self._failure:
            log.info(
                "%s answers again: everything has been delivered, up to version %d", self._tracker.setting, self._next
            )
            self._failure = ""

    def _points(self) -> list[VersionPoint]:
        """The next that the tracker lacks. The newest version is looked at again: its evaluation is still to come."""
        found: list[VersionPoint] = []
        while len(found) < POINTS_AT_ONCE and (record := self._history.versions.get(self._next)):
            complete = self._next + 1 in self._history.versions
            values = values_of(record, self._history)
            lacking = {name: value for name, value in values.items() if self._last.get(name, -1) < self._next}
            if lacking:
                found.append(VersionPoint(record.version, record.committed_at, lacking))
            if not complete:
                break
            self._next += 1
        return found

    def _fail(self, error: Exception) -> None:
        reason = _cause(error)
        if not self._failure:
            log.warning(
                "%s: nothing can be delivered (%s); the run goes on, and what is missing follows when it answers",
                self._tracker.setting,
                reason,
            )
        self._failure, self._opened = reason, False
        with contextlib.suppress(Exception):
            self._tracker.close()

    def _up_to_date(self) -> bool:
        state = self._state()
        over = standing(state, False)
        return self._next >= state.version and (over.state == "running" or self._settled == over)

    def _missing(self) -> str:
        if self._failure and not self._opened:
            newest = max(self._last.values(), default=-1)
            left = self._state().version - newest
            return f"{counted(left, 'version')}, {newest + 1} to {self._state().version}," if left > 0 else "its end"
        left = self._state().version - self._next
        return f"{counted(left, 'version')}, {self._next + 1} to {self._state().version}," if left > 0 else ""
