"""Blocks on grids of their own exponents: the same bits on every path, and nothing that ticks of two sizes could break."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.golden.reference import digest_in_ranges, moved_in_ranges
from zowarmup.client.store.replica import LocalReplica, SnapshotHeader
from zowarmup.common.algorithms.step_builder import Move, steps_of
from zowarmup.common.exact import steps as core
from zowarmup.common.exact.grid import LIMIT, Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor, digest
from zowarmup.common.exact.replica import merged
from zowarmup.common.exact.steps import Direction, Step, apply_steps, perturb, swap_direction
from zowarmup.server.core.contributions import settle_on_grid

GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "vectors.json").read_text())["apply_steps_in_ranges"]
EDGE, SIZE = 25, 40
GRID = Grid(14, ((EDGE, 20),))
EXPONENTS = [14] * EDGE + [20] * (SIZE - EDGE)
ALL, TRUNK, HEAD = Block("all", 0, SIZE), Block("trunk", 0, EDGE), Block("head", EDGE, SIZE)
LAYOUT = Layout(
    (Tensor("body", (5, 5), 0), Tensor("out.weight", (3, 4), EDGE), Tensor("out.bias", (3,), EDGE + 12)),
    SIZE,
    SIZE,
    (ALL, TRUNK, HEAD),
    Head("out.weight", "out.bias", 4, 3),
)
PATHS = ["numpy", "compiled", "torch"]
TICKS = st.lists(st.integers(-(2**12), 2**12), min_size=1, max_size=19)
STEPS = st.lists(
    st.builds(lambda seed, block, ticks: Step(seed, block, tuple(ticks)), st.integers(0, 2**64 - 1), st.sampled_from([ALL, TRUNK, HEAD]), TICKS),
    min_size=1,
    max_size=5,
)  # fmt: skip


def weights_of(ticks: list[int]) -> NDArray[np.float32]:
    return np.array([t * 2.0**-e for t, e in zip(ticks, EXPONENTS, strict=True)], np.float32)


def drawn(seed: int = 0) -> list[int]:
    chance = np.random.default_rng(seed)
    return [int(tick) for tick in chance.integers(-(LIMIT >> 3), LIMIT >> 3, SIZE)]


def said(made: list[Step]) -> list[dict[str, Any]]:
    return [{"seed": str(s.seed), "start": s.block.start, "stop": s.block.stop, "ticks": list(s.ticks)} for s in made]


def applied(path: str, weights: NDArray[np.float32], made: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "torch":
        torch = pytest.importorskip("torch")
        from zowarmup.common.exact.tensors import TorchVector

        vector = TorchVector(weights.size, torch.device("cpu"))
        vector.load(weights)
        apply_steps(vector, GRID, made)
        weights[:] = vector.tensor.numpy()
        return
    if path == "compiled":
        pytest.importorskip("numba")
        from zowarmup.common.exact.compiled import add_up

        monkeypatch.setattr(core, "_cheaper", lambda work: add_up)
    apply_steps(weights, GRID, made)


@pytest.mark.parametrize("path", PATHS)
def test_golden_steps(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Grid(GOLDEN["exponent"], tuple(map(tuple, GOLDEN["ranges"]))) == GRID
    weights = weights_of(GOLDEN["weights"])
    made = [Step(int(s["seed"]), Block("b", s["start"], s["stop"]), tuple(s["ticks"])) for s in GOLDEN["steps"]]
    applied(path, weights, made, monkeypatch)
    assert weights.tolist() == weights_of(GOLDEN["result"]).tolist()
    assert digest(weights).hex() == GOLDEN["digest_after"]


@pytest.mark.parametrize("path", PATHS)
@given(made=STEPS)
def test_steps_are_those_of_whole_numbers(path: str, made: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        weights, expected = weights_of(drawn()), moved_in_ranges(drawn(), EXPONENTS, said(made))
        if all(abs(tick) < LIMIT for tick in expected):
            applied(path, weights, made, monkeypatch)
            assert digest(weights).hex() == digest_in_ranges(expected, EXPONENTS)
            assert GRID.contains(weights)
            applied(path, weights, [step.reverse for step in merged(made)], monkeypatch)
        else:
            with pytest.raises(HeadroomExceeded):
                applied(path, weights, made, monkeypatch)
        assert weights.tobytes() == weights_of(drawn()).tobytes()


@given(st.sampled_from([ALL, TRUNK, HEAD]), st.integers(0, 30), st.integers(0, 30), st.integers(1, LIMIT >> 7))
def test_probes_move_and_come_back(block: Block, one: int, other: int, ticks: int) -> None:
    torch = pytest.importorskip("torch")
    from zowarmup.common.exact.tensors import TorchVector

    weights, before = weights_of(drawn()), weights_of(drawn())
    vector = TorchVector(SIZE, torch.device("cpu"))
    vector.load(weights)
    leaving, entering = Direction(5, one, block), Direction(6, other, block)
    length = ticks * 2.0 ** -min(EXPONENTS[block.start : block.stop])
    for there in (weights, vector):
        perturb(there, GRID, leaving, -ticks)
    assert set(np.abs(weights - before)[block.start : block.stop].tolist()) == {length}
    for there in (weights, vector):
        swap_direction(there, GRID, leaving, entering, ticks)
    assert vector.tensor.numpy().tobytes() == weights.tobytes()
    perturb(weights, GRID, entering, -ticks)
    assert weights.tobytes() == before.tobytes()


def test_a_probe_beyond_the_finer_part_is_refused() -> None:
    weights = weights_of(drawn())
    perturb(weights, GRID, Direction(1, 0, ALL), LIMIT >> 6)
    perturb(weights, GRID, Direction(1, 0, TRUNK), LIMIT)
    with pytest.raises(HeadroomExceeded):
        perturb(weights, GRID, Direction(1, 0, ALL), (LIMIT >> 6) + 1)


def test_a_step_that_64_bits_do_not_hold_in_the_finer_part_is_refused() -> None:
    grid, weights = Grid(-40, ((EDGE, 23),)), np.zeros(SIZE, np.float32)
    with pytest.raises(HeadroomExceeded, match="too long for the finest part of block all"):
        apply_steps(weights, grid, [Step(1, ALL, (1,))])
    apply_steps(weights, grid, [Step(1, TRUNK, (1,)), Step(1, HEAD, (1,))])
    assert set(np.abs(weights).tolist()) == {2.0**40, 2.0**-23}


def test_moves_become_ticks_of_their_block() -> None:
    moves = [Move(1, block, 0, 2.0**-10) for block in (ALL, TRUNK, HEAD)]
    assert [step.ticks for step in steps_of(moves, GRID, 0)] == [(16,), (16,), (1024,)]


def test_an_outlier_in_one_block_leaves_the_others_ticks_fine() -> None:
    weights = np.full(SIZE, 0.03, np.float32)
    assert settle_on_grid(weights.copy(), LAYOUT) == Grid(23), "alike: one exponent, and nothing more to send"
    weights[3] = 9.25
    before = weights.copy()
    grid = settle_on_grid(weights, LAYOUT)
    assert grid == Grid(16, ((EDGE, 23),))
    assert grid.contains(weights)
    assert np.abs(weights - before)[EDGE:].max() <= 2.0**-24
    weights[EDGE] = -1.0
    assert settle_on_grid(weights, LAYOUT) == Grid(16, ((EDGE, 19),))
    weights[EDGE] = -2.0
    assert settle_on_grid(weights, LAYOUT) == Grid(16), "two bits are not worth it"


def test_a_grid_checks_itself() -> None:
    for ranges in (((0, 20),), ((9, 20), (9, 21)), ((9, 20), (5, 21)), ((9, 24),), ((9, -65),)):
        with pytest.raises(ValueError, match="grid"):
            Grid(14, ranges)
        with pytest.raises(ValueError, match="grid"):
            SnapshotHeader(1, 14, bytes(16), 4, ranges)
    with pytest.raises(ValueError, match="several"):
        _ = GRID.tick
    with pytest.raises(ValueError, match="several"):
        _ = GRID.limit
    assert [(a, b, g.exponent) for a, b, g in GRID.within(20, 30)] == [(20, 25, 14), (25, 30, 20)]
    assert list(GRID.within(30, 35)) == [(30, 35, Grid(20))]
    assert (GRID.over(0, SIZE), GRID.over(EDGE, SIZE), GRID.coarser(3)) == (Grid(14), Grid(20), Grid(11, ((EDGE, 17),)))
    with pytest.raises(ValueError, match="grid exponent"):
        Grid(-60, ((9, 0),)).coarser(5)


def test_a_device_keeps_its_ranges(tmp_path: Path) -> None:
    weights = weights_of(drawn())
    replica = LocalReplica(tmp_path, LAYOUT)
    replica.open()
    replica.incoming(3).write_bytes(weights.tobytes())
    replica.load(SnapshotHeader(3, 14, digest(weights), weights.nbytes, GRID.ranges))
    again = LocalReplica(tmp_path, LAYOUT)
    again.open()
    assert again.held is not None and again.held.grid == GRID
