"""The process's log, in which a record is one line.

Much of what is logged came from the other side of a connection, or from a file: a record is one line, its message escaped
and bounded, and lines that follow, as of a traceback, are indented, so that none of them looks like a record.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass

from zowarmup.common.text import in_words, printable

INDENT = "    "
VERBOSE = "--verbose"
"""The option by which all programs show tracebacks."""
_NOISY = ("asyncio", "grpc", "grpc._cython.cygrpc")


class Lines(logging.Formatter):
    """A formatter whose records are one line each, an exception in words at its end; with `tracebacks`, its traceback
    follows, indented."""

    def __init__(self, form: str, tracebacks: bool = False) -> None:
        super().__init__(form)
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        if self._tracebacks or not record.exc_info:
            return super().format(record)
        plain, error = copy(record), record.exc_info[1]
        plain.exc_info, plain.exc_text, plain.stack_info = None, None, None
        if error is not None:
            plain.msg = f"{record.getMessage()}: {in_words(error)} ({VERBOSE} shows the traceback)"
            plain.args = ()
        return super().format(plain)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: "logging._SysExcInfoType") -> str:
        return indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return indented(super().formatStack(stack_info))


class _Errors(logging.StreamHandler):  # type: ignore[type-arg]
    """A log on standard error, as it is at the moment: a progress line may have taken its place. Where it cannot be
    written (a full disk, a reader that has left), nobody reads why."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handleError(record)


@dataclass(slots=True)
class _Kind:
    left: float
    at_s: float
    withheld: int = 0


class Throttle(logging.Filter):
    """A rate limit for handlers: of each kind of message `at_once` pass, and `per_s` a second; the next that passes says how
    many did not. A kind is a logger and a message without what is filled into it. Messages below INFO pass: somebody has
    asked for them.

    Args:
        own: other limits, (at_once, per_s), of some loggers.
        clock: seconds, monotonic.
    """

    KINDS = 1000

    def __init__(
        self,
        at_once: float,
        per_s: float,
        own: Mapping[str, tuple[float, float]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._limits, self._own, self._clock = (at_once, per_s), own or {}, clock
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            return True
        key, now_s = (record.name, str(record.msg)), self._clock()
        at_once, per_s = self._own.get(record.name, self._limits)
        if (kind := self._kinds.get(key)) is None:
            if len(self._kinds) >= self.KINDS:
                self._kinds.clear()
            kind = self._kinds[key] = _Kind(at_once, now_s)
        kind.left, kind.at_s = min(at_once, kind.left + (now_s - kind.at_s) * per_s), now_s
        if kind.left < 1:
            kind.withheld += 1
            return False
        kind.left -= 1
        if kind.withheld:
            record.msg, record.args = f"{record.getMessage()} (and {kind.withheld} more like it)", ()
            kind.withheld = 0
        return True


def log_to_errors(form: str, verbose: bool, level: int = logging.INFO) -> logging.Handler:
    """Log on standard error from now on.

    Args:
        form: a format of logging's.
        verbose: everything, with tracebacks.
        level: else from this level on.

    Returns:
        The handler, which is the only one.
    """
    handler = _Errors()
    handler.setFormatter(Lines(form, verbose))
    logging.basicConfig(level=logging.DEBUG if verbose else level, handlers=[handler], force=True)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return handler


def indented(text: str) -> str:
    """Lines that follow a record."""
    return "\n".join(INDENT + printable(line) for line in text.split("\n"))
