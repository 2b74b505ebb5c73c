"""The process's log, in which a record is one line.

Much of what is logged came from the other side of a connection, or from a file: a record is one line, its message escaped
and bounded, and lines that follow, as of a traceback, are indented, so that none of them looks like a record.
"""

import logging
import sys
from copy import copy

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
