"""A model's own code, in the real child process that builds it: it may print what it likes and end how it likes."""

import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.models.apart import ChildOutcome, carry_out, innermost, is_at, outcome_in
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.server.setup.prepare import BUILT, LOGGED_LINES, SPEC, Children, PreparationError, building_of, task_of

NET = """
import atexit, ctypes, logging, os, signal, subprocess, sys, warnings
from torch import nn
def net(shape, classes):
    {code}
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
"""
PRINTS = """print("to stdout"); print("to stderr", file=sys.stderr); logging.warning("logged"); warnings.warn("warned")
    os.write(1, b"by the system\\n"); ctypes.CDLL(None).puts(b"by C")
    atexit.register(print, '{"result": null}'); sys.stdout.write("no newline")
    subprocess.run(["echo", "by another process"])"""


def build(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / f"{name}.py").write_text(NET.replace("{code}", code))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec = ClientSpec(
        model=Model(name=f"{name}:net"),
        card=DataCard(shape=(1, 8, 8), classes=10),
        warmup=warmup_settings(rounds=1),
        zeroth_order=zeroth_order_settings(rounds=1),
    )
    (tmp_path / SPEC).write_text(spec.to_json())
    children = Children()
    try:
        building_of(spec, 0, tmp_path, children).finish(say_every_s=1000.0)  # on a busy machine it takes long
    finally:
        children.end()


def test_looking_where_code_is_never_ends_it(tmp_path: Path) -> None:
    """Half a second of running code that is looked at a thousand times."""
    until = time.monotonic() + 0.5

    def deep(depth: int) -> int:
        return depth and deep(depth - 1) + len(os.path.join("a", "b"))

    def job() -> None:
        while time.monotonic() < until:
            deep(50)

    file = tmp_path / "outcome.json"
    assert carry_out(file, "own", job, stuck_s=0.0005) == 0
    assert outcome_in(file) == ChildOutcome()


def test_what_it_prints_is_in_the_log_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    build(PRINTS + "\n    for i in range(5000): print('x' * 5000)", tmp_path, monkeypatch, "chatty")
    said = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("model chatty:net printed") for line in said)
    assert len(said) == LOGGED_LINES + 1
    assert max(map(len, said)) < 300
    assert {"to stderr", "by C"} & {line.rpartition(": ")[2] for line in said}
    assert "more lines" in said[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import threading; threading.Thread(target=threading.Event().wait).start()",
        "atexit.register(__import__('threading').Event().wait)",
        "atexit.register(ctypes.string_at, 0)",
        "subprocess.Popen(['sleep', '30'])",
    ],
)
def test_what_it_leaves_running_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    build(code, tmp_path, monkeypatch, "leaving")
    assert outcome_in(tmp_path / BUILT) == ChildOutcome(result="")


def test_weights_that_no_grid_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import torch\n    class Linear(nn.Linear):\n        def __init__(self, *of):\n"
    code += "            super().__init__(*of); torch.nn.init.constant_(self.weight, 1e30)\n"
    code += "    return nn.Sequential(nn.Flatten(), Linear(64, classes))"
    with pytest.raises(PreparationError, match=r"^model large:net: weights as large as 1e\+30 fit no grid: "):
        build(code, tmp_path, monkeypatch, "large")


def test_it_leaves_no_folder_among_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    build("pass", tmp_path, monkeypatch, "tidy")
    assert [path for path in temporary.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("sys.exit(0)", r"model ending:net: factory.* raised SystemExit: 0 \(.*ending\.py, line 5\)"),
        ("os._exit(0)", "building model ending:net ended without a result: its own code.* with exit status 0"),
        ("ctypes.string_at(0)", r"ended the process by signal 11 .* at .*ending\.py, line 5"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "it was killed, most often for want of memory"),
        ("input()", r"raised EOFError: .*ending\.py, line 5"),
        ("raise KeyboardInterrupt", r"raised KeyboardInterrupt \(.*ending\.py, line 5\)"),
        ("raise type('Own', (BaseException,), {})", r"raised Own \(.*ending\.py, line 5\)"),
        (
            "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})",
            r"raised Mute \(.*ending\.py, line 5\)",
        ),
        ("bytearray(1 << 55)", r"raised out of memory \(MemoryError\).*ending\.py, line 5"),
    ],
)
def test_how_it_ends_the_process_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    with pytest.raises(PreparationError, match=words) as failed:
        build(code, tmp_path, monkeypatch, "ending")
    assert len(str(failed.value).splitlines()) == 1


def test_where_it_is_stuck_can_be_read(tmp_path: Path) -> None:
    file, until = tmp_path / "out.json", time.monotonic() + 60

    def stuck() -> str:
        while not (found := is_at(file)) and time.monotonic() < until:
            time.sleep(0.01)
        return found

    assert carry_out(file, "m:f", stuck, stuck_s=0.05) == 0
    assert outcome_in(file) == ChildOutcome(is_at(file))
    assert is_at(file).startswith(f"{__file__}, line ")


def test_a_trace_without_foreign_code_names_nothing(tmp_path: Path) -> None:
    assert innermost("") == ""
    assert innermost(f'  File "{os.__file__}", line 3 in f\n  File "/m.py", line 7 in g\n') == "/m.py, line 7"
    assert outcome_in(tmp_path / "none") is None
    (tmp_path / "half").write_text('{"result"')
    assert outcome_in(tmp_path / "half") is None


def test_a_held_out_set_that_the_task_cannot_be_trained_on_is_refused() -> None:
    labelled = ClientSpec(
        model=Model(name="mlp"),
        card=DataCard(shape=(1, 8, 8), classes=10),
        warmup=warmup_settings(rounds=1),
        zeroth_order=zeroth_order_settings(rounds=1),
    )
    assert task_of(labelled, np.arange(10)).outputs == 10
    numbers = replace(labelled, card=DataCard(shape=(1, 8, 8), classes=0, target_size=2))
    for spec, targets, sentence in (
        (numbers, np.zeros((3, 2), np.float32), "needs data with classes"),
        (labelled, np.arange(11), "labels go from 0 to 10: must be 0 to 9"),
    ):
        with pytest.raises(
            PreparationError, match=f"evaluation.data is no data for model.task = 'classification': .*{sentence}"
        ):
            task_of(spec, targets)
