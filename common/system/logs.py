"""Logs of a process, in which nobody else writes a line.

Much of what is logged came from the other side of a connection, or from a file: a record is one line, its message escaped
and bounded, and lines that follow, as of a traceback, are indented, so that none of them looks like a record.
"""

import logging
from typing import TextIO

from zowarmup.common.printable import printable

INDENT = "    "


class Lines(logging.Formatter):
    """A formatter whose records are one line each, with the lines of a traceback indented below."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: "logging._SysExcInfoType") -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


def log_to(stream: TextIO, form: str, verbose: bool) -> None:
    """Log to a stream from now on, in a form of logging's: all where `verbose`, else INFO and above."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines(form))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])


def _indented(text: str) -> str:
    return "\n".join(INDENT + printable(line) for line in text.split("\n"))
