"""Text for people: exceptions in words, printable lines, amounts of bytes."""

import io
import json
import logging
import traceback
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.client.work import executor
from zowarmup.common.system.logs import INDENT, Lines
from zowarmup.common.text import (
    LONGEST_ERROR,
    LONGEST_LINE,
    amount,
    counted,
    duration,
    in_words,
    is_foreign,
    out_of_memory,
    percent,
    printable,
    printable_lines,
    where,
)


def caught(code: str, file: str) -> Exception:
    try:
        exec(compile(code, file, "exec"), {"json": json, "np": np})  # noqa: S102
    except Exception as error:  # noqa: BLE001
        return error
    raise AssertionError("nothing was raised")


def test_the_innermost_foreign_line_is_named() -> None:
    error = caught("def f():\n    return json.loads('{')\nf()", "/home/me/models.py")
    assert where(error) == "/home/me/models.py, line 2"
    assert in_words(error).startswith("JSONDecodeError: ")
    assert in_words(error).endswith(" (/home/me/models.py, line 2)")
    assert where(caught("\n\nx = = 1", "/home/me/models.py")) == "/home/me/models.py, line 3"


@pytest.mark.parametrize(
    ("file", "foreign"),
    [
        ("/home/me/models.py", True),
        ("models.py", True),
        ("/venv/lib/python3.11/site-packages/timm/models/vit.py", True),
        ("/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", False),
        (traceback.__file__, False),
        ("<frozen importlib._bootstrap>", False),
        ("", False),
        (executor.__file__, False),
        (str(Path(executor.__file__).parents[2] / "my_models.py"), True),
    ],
)
def test_whose_a_file_is(file: str, foreign: bool) -> None:
    assert is_foreign(file) is foreign


@pytest.mark.parametrize("text", ["", "\n\n", "one\ntwo", "\x00\x1b[31m\u2028", "x" * 1000, "e\u0301 \u202e"])
def test_it_is_one_short_printable_line(text: str) -> None:
    said = in_words(caught(f"raise RuntimeError({text!r})", "/home/me/" + "long/" * 100 + "models.py"))
    assert 1 <= len(said) <= LONGEST_ERROR
    assert said.isprintable()
    assert said.endswith("models.py, line 1)")


def test_memory_that_was_refused() -> None:
    assert out_of_memory(caught("np.empty(1 << 55)", "models.py"))
    torch_says = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"
    assert out_of_memory(RuntimeError(torch_says))
    assert out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not out_of_memory(ValueError("out of memory"))
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert in_words(MemoryError()) == "out of memory (MemoryError)"


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
    assert printable("a" * (LONGEST_LINE + 5)) == "a" * LONGEST_LINE + "... (5 more characters)"
    assert len(printable("\0" * 10**6)) < 5 * LONGEST_LINE
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
    assert first.isprintable() and len(stream.getvalue()) < 30 * LONGEST_LINE


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (264, "264 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (38_440, "38.4 kB"),
        (999_600, "1 MB"),
        (44_695_848, "44.7 MB"),
        (712_000_000, "712 MB"),
        (24_105_000_000, "24.1 GB"),
    ],
)
def test_amount(count: int, text: str) -> None:
    assert amount(count) == text


def test_other_numbers_have_their_unit() -> None:
    assert (amount(4e12), amount(999_600)) == ("4000 GB", "1 MB")
    assert percent(0.9578) == "95.8 %"
    assert [duration(s) for s in (8.4, 59.6, 65, 7380)] == ["8 s", "1 min 00 s", "1 min 05 s", "2 h 03 min"]
    assert [counted(n, "client") for n in (0, 1, 9)] == ["0 clients", "1 client", "9 clients"]
