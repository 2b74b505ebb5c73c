"""Exceptions as one line: what it is, what it says, and whose code raised it."""

import json
import traceback
from pathlib import Path

import numpy as np
import pytest

from zowarmup.client.work import executor
from zowarmup.common.raised import LONGEST, in_words, is_foreign, out_of_memory, where


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
        (str(Path(executor.__file__).parents[1] / "my_models.py"), True),
    ],
)
def test_whose_a_file_is(file: str, foreign: bool) -> None:
    assert is_foreign(file) is foreign


@pytest.mark.parametrize("text", ["", "\n\n", "one\ntwo", "\x00\x1b[31m\u2028", "x" * 1000, "e\u0301 \u202e"])
def test_it_is_one_short_printable_line(text: str) -> None:
    said = in_words(caught(f"raise RuntimeError({text!r})", "/home/me/" + "long/" * 100 + "models.py"))
    assert 1 <= len(said) <= LONGEST
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
