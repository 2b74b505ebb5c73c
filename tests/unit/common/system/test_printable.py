"""What came from elsewhere neither moves a cursor nor writes a line of its own, in logs and on terminals."""

import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.common.system.logs import INDENT, Lines
from zowarmup.common.system.printable import LONGEST, printable, printable_lines

FORGED = "done\n2026-11-27 10:00:00,000 INFO all is well\r\x1b[2J\x1b]0;title\x07\u202e\x85\u2028\x9b31m\ud800"
FORM = "%(asctime)s %(levelname)s %(message)s"


@given(st.text(alphabet=st.characters()))
def test_whatever_is_shown_is_one_printable_line_and_can_be_written(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()  # no half of a surrogate pair is left
    if text.isprintable():
        assert shown == text


def test_a_long_text_is_cut_with_how_much_is_missing() -> None:
    assert printable("a" * (LONGEST + 5)) == "a" * LONGEST + "... (5 more characters)"
    assert len(printable("\0" * 10**6)) < 5 * LONGEST
    assert printable_lines("one\n\x1btwo") == "one\n\\x1btwo"


@pytest.mark.parametrize("words", [FORGED, "%s", "x" * 10**6])
@pytest.mark.parametrize("tracebacks", [False, True])
def test_a_record_is_one_line_whatever_it_repeats(words: str, tracebacks: bool) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines(FORM, tracebacks))
    log = logging.getLogger("test.printable")
    log.handlers, log.propagate = [handler], False
    log.warning("refused: %s", words)
    try:
        raise ValueError(words)
    except ValueError:
        log.exception("failed")
    first, second, *trace = stream.getvalue().splitlines()
    assert "WARNING refused: " in first and "ERROR failed" in second
    assert bool(trace) is tracebacks and ("ValueError" in second) is not tracebacks
    assert all(line.startswith(INDENT) and line.isprintable() for line in (*trace, INDENT))
    assert first.isprintable() and len(stream.getvalue()) < 30 * LONGEST
