"""Releases under programs that a coordinator has made up: an example that is another moves them by the bound, and they are always made."""

import json
import logging
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import changed
from tests.client.conftest import Run, prepared
from tests.client.mixing_programs import STRANGE, failing, mixing
from tests.tasks import classification
from zowarmup.client.store.passes import PassFile
from zowarmup.client.store.releases import ReleaseFile
from zowarmup.client.work.example_passes import ExamplePasses
from zowarmup.client.work.probing import Prober
from zowarmup.client.work.releasing import Releasing
from zowarmup.common.algorithms.private_release import Mechanism
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Phase, Work
from zowarmup.common.models.program import Program
from zowarmup.common.settings.privacy import Budget
from zowarmup.common.settings.run import Model
from zowarmup.data import Dataset, load

DATA = load("digits:1/10").select(np.arange(40))
ROWS = replace(DATA, inputs=DATA.inputs.astype(np.float32) / 16, scale=1.0)
WORK = Work(2, Phase.ZEROTH_ORDER, 1, 56, 3600.0)
PLACE = 7
MODES = pytest.mark.parametrize("algorithm", ["zowarmup", "decomfl"], ids=["local", "aggregate"])
PARTS = pytest.mark.parametrize("train", ["head", "all"])


@pytest.fixture(scope="module")
def run() -> Run:
    return prepared(Model(name="mlp"))


def nothing(count: int) -> NDArray[np.float64]:
    return np.zeros(count)


def made(run: Run, program: bytes, data: Dataset, passes: ExamplePasses | None = None, **settings: Any) -> Any:
    spec = changed(run.spec.zeroth_order, slices="whole", whitening=0, **settings)
    frozen: dict[str, Any] = {"frozen": run.layout.block("head").start} if spec.moved == "head" else {}
    layout = replace(run.layout, **frozen)
    replica = Replica(layout, run.grid, run.weights.copy(), 1)
    forward = Program(program, layout, replica.weights)
    return Prober(spec, replica, forward, classification(), data, threading.Event(), passes=passes), replica


def other(value: float) -> Dataset:
    """The same examples, of which one has such inputs."""
    inputs = ROWS.inputs.copy()
    inputs[PLACE] = value
    return replace(ROWS, inputs=inputs)


@MODES
@PARTS
@pytest.mark.parametrize("change", [mixing, failing])
def test_one_example_moves_a_release_by_the_bound_at_most_whatever_the_program_is(
    run: Run, change: Any, train: str, algorithm: str
) -> None:
    clip, program = 0.05, change(run.program)
    mechanism = Mechanism(clip, 0.01, nothing)

    def clipped(data: Dataset) -> NDArray[np.float64]:
        prober, replica = made(run, program, data, train=train, algorithm=algorithm)
        first, second = (prober.clipped(replica, WORK, mechanism) for _ in range(2))
        assert (first == second).all(), "features are kept as they were"
        return first  # type: ignore[no-any-return]

    plain = clipped(ROWS)
    assert (plain != 0).any()
    moved = [float(np.linalg.norm(clipped(other(value)) - plain)) for value in (3.0, 2 * STRANGE)]
    assert 0 < max(moved) <= 2 * clip * np.sqrt(len(plain)) * (1 + 1e-6)


@PARTS
def test_an_example_that_fails_counts_as_nothing_and_the_device_answers(
    run: Run, train: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Exactly: what the others contribute is what they do beside an example that has no finite loss. And nothing that leaves says so."""
    quiet, program = Mechanism(0.05, 0.01, nothing), failing(run.program)
    prober, replica = made(run, program, other(2 * STRANGE), train=train)
    honest, held = made(run, run.program, other(np.nan), train=train)
    with caplog.at_level(logging.WARNING):
        found = prober.clipped(replica, WORK, quiet)
    assert (found == honest.clipped(held, WORK, quiet)).all()
    assert (replica.weights == run.weights).all()
    assert f"round 2: 1 of {len(ROWS)} examples failed and count as nothing in it; the first: " in caplog.text
    releasing = Releasing(Budget(multiplier=4.0, releases=3, delta=1e-5, clip=1.0), ReleaseFile(tmp_path / "releases"))
    for number, data in enumerate((ROWS, other(2 * STRANGE), replace(ROWS, inputs=ROWS.inputs + np.float32(STRANGE)))):
        prober, replica = made(run, program, data, train=train)
        answer = releasing.answer(prober, replica, replace(WORK, round=2 + number), lambda: None)
        assert np.isfinite([*answer.probes, *answer.projections]).all()
        assert json.loads((tmp_path / "releases").read_text())["count"] == number + 1


def test_an_example_has_its_part_of_the_time_and_takes_none_of_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    passes = ExamplePasses(4, 40.0)

    def takes(seconds: float) -> float:
        now[0] += seconds
        return seconds

    passes.begin()
    assert passes.attempt(0, lambda: takes(1e6)) is None
    assert passes.attempt(1, lambda: takes(9.0)) == 9.0
    assert passes.attempt(1, lambda: takes(2.0)) is None
    assert passes.attempt(2, lambda: takes(9.5)) == 9.5
    passes.begin()
    assert passes.attempt(0, lambda: takes(9.5)) == 9.5


def test_an_example_that_has_ended_a_process_is_left_out_by_the_next(run: Run, tmp_path: Path) -> None:
    file, quiet = tmp_path / "releases.passes", Mechanism(0.05, 0.01, nothing)
    code = (
        "import os, sys; from pathlib import Path; from zowarmup.client.store.passes import PassFile\n"
        f"from zowarmup.client.work.example_passes import ExamplePasses as P\nat = P({len(ROWS)}, 1e3, PassFile(Path(sys.argv[1]), {len(ROWS)}))\n"
        f"at.attempt(1, int)\nat.attempt({PLACE}, lambda: os._exit(9))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == 9
    passes = ExamplePasses(len(ROWS), 1e6, PassFile(file, len(ROWS)))
    prober, replica = made(run, run.program, ROWS, passes, train="all")
    without, held = made(run, run.program, other(np.nan), train="all")
    assert (prober.clipped(replica, WORK, quiet) == without.clipped(held, WORK, quiet)).all()
    assert PassFile(file, len(ROWS)).left_out == 1, "for the rest of the run"
    assert PassFile(file, 3).left_out == 0, "of another data set"


def test_what_a_pass_takes_of_the_memory_is_there_for_the_next() -> None:
    """Without that, one of 40 MB fails for the 30 MB that one before it has taken, and given back, as the runtime has them in its hands."""
    code = """if True:
        import sys
        import numpy as np
        from tests.client.mixing_programs import MEMORY, demanding
        from zowarmup.common.models.program import Program, ProgramMemory, limit_memory
        limit_memory(64 << 20)
        program = Program(demanding(), MEMORY, np.zeros(4, np.float32), 1, apart=sys.argv[1] == "apart")
        for size in (30, 40, 80, 50, 1, 55):
            try:
                program.forward(np.full((1, 4), size << 18, np.float32))
                print("ok", end=" ")
            except ProgramMemory:
                print("full", end=" ")
    """

    def outcome(kind: str) -> str:
        done = subprocess.run([sys.executable, "-c", code, kind], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert outcome("apart") == "ok ok full ok ok ok"
    assert outcome("together") != outcome("apart")
