"""Steps added up by compiled code: the same bits as NumPy's, and loaded only where it was allowed and pays.

Numba is in the `dev` extra, so both ways are run wherever these tests are.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zowarmup.common.exact import compiled, steps
from zowarmup.common.exact.directions import KEY_LIMIT, lanes
from zowarmup.common.exact.grid import LIMIT, Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Block, digest
from zowarmup.common.exact.steps import Step, allow_compiled, apply_steps

VECTORS = json.loads((Path(__file__).parents[3] / "golden" / "vectors.json").read_text())
SEEDS = st.one_of(st.integers(0, 3), st.integers(0, KEY_LIMIT - 1))


@pytest.fixture(autouse=True)
def as_at_the_start() -> Iterator[None]:
    """What is allowed is the process's: each test begins without, and leaves none."""
    steps._Compiled.allowed, steps._Compiled.walked = False, 0
    yield
    steps._Compiled.allowed, steps._Compiled.walked, steps._Compiled.after = False, 0, steps.LOADING


@pytest.fixture
def at_once() -> None:
    """Compiled code from the first step on."""
    assert allow_compiled(after=0)


# Around the edges of a byte, a word, a counter step and what is drawn at once.
@settings(max_examples=300)
@given(
    SEEDS,
    SEEDS,
    st.one_of(st.integers(0, 100), st.integers(2000, 2100), st.integers(0, 1 << 40)),
    st.one_of(st.integers(0, 100), st.integers(2000, 4200)),
    st.sampled_from([np.int32, np.int64]),
)
def test_the_same_sums(seed: int, group: int, start: int, count: int, integer: type[Any]) -> None:
    table = np.random.default_rng(count).integers(-(1 << 22), 1 << 22, 256).astype(integer)
    before = np.random.default_rng(start).integers(-(1 << 22), 1 << 22, count).astype(integer)
    sums = before.copy()
    compiled.add_up(sums, seed, group, start, table)
    assert np.array_equal(sums, before + table[lanes(seed, group, start, count)])


@pytest.mark.parametrize("case", ["apply_steps", "apply_steps_large"])
@pytest.mark.usefixtures("at_once")
def test_golden_steps(case: str) -> None:
    golden = VECTORS[case]
    grid = Grid(golden["exponent"])
    ticks = golden.get("weights") or [place * 2654435761 % 2**32 % 2001 - 1000 for place in range(golden["size"])]
    weights = grid.quantise(np.array(ticks) * grid.tick)
    apply_steps(
        weights,
        grid,
        [Step(int(s["seed"]), Block("b", s["start"], s["stop"]), tuple(s["ticks"])) for s in golden["steps"]],
    )
    assert digest(weights).hex() == golden["digest_after"]


@pytest.mark.usefixtures("at_once")
def test_what_does_not_fit_is_undone() -> None:
    grid, size = Grid(20), 2 * steps.REGION + 5
    weights = np.zeros(size, dtype=np.float32)
    weights[-1] = (LIMIT - 10) * grid.tick
    before = weights.copy()
    everywhere = Step(3, Block("b", 0, size), (LIMIT // 2,) * 3)
    with pytest.raises(HeadroomExceeded):
        apply_steps(weights, grid, [everywhere])
    assert weights.tobytes() == before.tobytes()


def test_loaded_when_numpy_has_taken_as_long() -> None:
    assert steps._cheaper(2000) is steps._by_numpy  # nobody has allowed it
    assert allow_compiled(after=1000)
    assert [steps._cheaper(work) is compiled.add_up for work in (400, 400, 400, 1)] == [False, False, True, True]


def test_a_process_that_did_not_allow_it_loads_nothing() -> None:
    """A low-tier device's memory is dear: it does without, even where Numba is installed."""
    script = """
import sys
import numpy as np
from zowarmup.common.exact import steps
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block
steps._Compiled.after = 0
steps.apply_steps(np.zeros(8, np.float32), Grid(20), [steps.Step(1, Block("b", 0, 8), (1,))])
sys.exit("numba" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_numba_that_does_not_work_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zowarmup.common.exact.compiled", None)  # as an import that fails
    assert allow_compiled(after=0)
    weights = np.zeros(8, dtype=np.float32)
    apply_steps(weights, Grid(20), [Step(1, Block("b", 0, 8), (1,))])
    assert weights.any()
