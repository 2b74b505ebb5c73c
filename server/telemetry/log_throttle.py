"""A rate limit on log lines: a few of each kind pass a second, the others are counted.

A kind is a logger and a message without what is filled into it.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

AT_ONCE, PER_S = 20.0, 2.0
RUN_AT_ONCE, RUN_PER_S = 500.0, 50.0
"""For what the run itself tells (`event_logger`): a fast one commits often, and a fleet connects at once."""
REPORT_S = 10.0
KINDS = 1000

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kind:
    left: float
    at: float


class Throttle(logging.Filter):
    """For handlers. Lines below INFO pass: somebody has asked for them. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._reported = clock, clock()
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._withheld: Counter[tuple[str, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        at_once, per_s = (RUN_AT_ONCE, RUN_PER_S) if record.name == "zowarmup.run" else (AT_ONCE, PER_S)
        if (kind := self._kinds.get(key)) is None:
            if len(self._kinds) >= KINDS:
                self._kinds.clear()
            kind = self._kinds[key] = _Kind(at_once, now)
        kind.left, kind.at = min(at_once, kind.left + (now - kind.at) * per_s), now
        if kind.left < 1:
            self._withheld[key] += 1
            return False
        kind.left -= 1
        return True

    def report(self) -> None:
        """Log what was withheld, every REPORT_S seconds; to be called now and then."""
        if (now := self._clock()) < self._reported + REPORT_S or not self._withheld:
            return
        withheld, self._withheld, self._reported = self._withheld, Counter(), now
        for (_, kind), count in withheld.most_common(10):
            log.warning("%d more lines like this one were not logged: %s", count, kind)
