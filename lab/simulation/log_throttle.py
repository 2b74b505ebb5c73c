"""A log for many clients: what a thousand of them report at one moment is logged once.

The progress line tells what is usual, so only warnings are shown, and each kind of them once in a while with how many
more there were. A kind is a message without what is filled into it.
"""

import logging
import time
from collections.abc import Callable

from zowarmup.common.system.logs import log_to_errors

EVERY_S = 10.0


class Rarely(logging.Filter):
    """Lets a kind of message pass once in EVERY_S."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._passed: dict[str, float] = {}
        self._withheld: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = str(record.msg), self._clock()
        if now - self._passed.get(kind, -EVERY_S) < EVERY_S:
            self._withheld[kind] = self._withheld.get(kind, 0) + 1
            return False
        self._passed[kind] = now
        if withheld := self._withheld.pop(kind, 0):
            record.msg = f"{record.getMessage()} (and {withheld} more like it)"
            record.args = ()
        return True


def quieten(verbose: bool) -> None:
    """Log to standard error: everything where `verbose`, else warnings, rarely."""
    handler = log_to_errors("%(asctime)s %(levelname)s %(message)s", verbose, logging.WARNING)
    if not verbose:
        handler.addFilter(Rarely())
    logging.getLogger("asyncio").setLevel(logging.ERROR)
