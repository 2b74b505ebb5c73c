"""The line of progress of the lab's commands."""

import io
import math

import pytest
from rich.console import Console
from rich.text import Text

from zowarmup.lab.progress import progress


def printed(every_s: float, *moments: tuple[str, str]) -> list[str]:
    """What a pipe gets of moments, (line, key)."""
    out = io.StringIO()
    with progress(Console(file=out, width=20), every_s) as show:
        for line, key in moments:
            show(line, key=key)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("every_s", "moments", "lines"),
    [
        (0.0, (("a", ""), ("a", ""), ("b", "")), ["a", "b"]),
        (math.inf, (("a", ""), ("b", ""), ("c", "")), ["a"]),
        (math.inf, (("a", "warm-up"), ("b", "warm-up"), ("c", "zeroth-order")), ["a", "c"]),
        (0.0, (("a line that is longer than the console", ""),), ["a line that is longer than the console"]),
    ],
    ids=["a line once", "not too often", "what is new at once", "never wrapped"],
)
def test_a_pipe_gets_lines(every_s: float, moments: tuple[tuple[str, str], ...], lines: list[str]) -> None:
    assert printed(every_s, *moments) == lines


def test_a_terminal_gets_the_view_and_is_left_clean() -> None:
    out = io.StringIO()
    with progress(Console(file=out, force_terminal=True, width=20), 5.0) as show:
        show("a line of more than twenty characters")
        assert "a line of more than…" in out.getvalue()
        show("a line", lambda: Text("the whole view"))
        assert "the whole view" in out.getvalue()
        assert out.getvalue().count("a line") == 1
