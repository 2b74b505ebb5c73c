"""The exact core on torch tensors gives NumPy's bits: on this machine's processor always, on CUDA where there is one."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zowarmup.common.exact import directions, steps, tensors
from zowarmup.common.exact.directions import KEY_LIMIT
from zowarmup.common.exact.grid import LIMIT, Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Block, digest
from zowarmup.common.exact.steps import Direction, Step
from zowarmup.common.exact.tensors import TorchVector

VECTORS = json.loads((Path(__file__).parents[3] / "golden" / "vectors.json").read_text())
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
on_every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_CUDA)])
GRID, SIZE = Grid(20), 300
SEEDS = st.one_of(st.integers(0, 3), st.integers(0, KEY_LIMIT - 1))


def blocks() -> st.SearchStrategy[Block]:
    edges = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).filter(lambda pair: pair[0] != pair[1])
    return edges.map(lambda pair: Block(f"{min(pair)}-{max(pair)}", min(pair), max(pair)))


TICKS = st.lists(st.integers(-2000, 2000), max_size=20).map(tuple)
STEPS = st.lists(st.builds(Step, SEEDS, blocks(), TICKS), max_size=6)
properties = settings(max_examples=60)


def drawn() -> NDArray[np.float32]:
    ticks = np.random.default_rng(0).integers(-LIMIT // 2, LIMIT // 2, SIZE, endpoint=True)
    weights = (ticks * GRID.tick).astype(np.float32)
    weights[::7] = -0.0  # what no step moves keeps even the sign of its zeros
    return weights


def on(device: str, weights: NDArray[np.float32]) -> TorchVector:
    vector = TorchVector(weights.size, torch.device(device))
    vector.load(weights)
    return vector


def same(vector: TorchVector, weights: NDArray[np.float32]) -> bool:
    return vector.tensor.cpu().numpy().tobytes() == weights.tobytes()


@on_every_device
def test_golden_directions(device: str) -> None:
    for golden in VECTORS["lanes"]:
        wanted = bytes.fromhex(golden["bytes"])
        found = tensors.lanes(
            int(golden["seed"]), int(golden["group"]), golden["start"], len(wanted), torch.device(device)
        )
        assert bytes(found.tolist()) == wanted


@on_every_device
@properties
@given(SEEDS, SEEDS, st.one_of(st.integers(0, 100), st.integers(0, 1 << 60)), st.integers(0, 200))
def test_directions(device: str, seed: int, group: int, start: int, count: int) -> None:
    found = tensors.lanes(seed, group, start, count, torch.device(device))
    assert np.array_equal(found.cpu().numpy(), directions.lanes(seed, group, start, count))


@on_every_device
@pytest.mark.parametrize("case", ["apply_steps", "apply_steps_large"])
def test_golden_steps(case: str, device: str) -> None:
    golden = VECTORS[case]
    grid = Grid(golden["exponent"])
    ticks = golden.get("weights") or [place * 2654435761 % 2**32 % 2001 - 1000 for place in range(golden["size"])]
    vector = on(device, grid.quantise(np.array(ticks) * grid.tick))
    vector.apply_steps(
        grid, [Step(int(s["seed"]), Block("b", s["start"], s["stop"]), tuple(s["ticks"])) for s in golden["steps"]]
    )
    assert digest(vector.tensor.cpu().numpy()).hex() == golden["digest_after"]


@on_every_device
@properties
@given(STEPS)
def test_steps(device: str, made: list[Step]) -> None:
    weights = drawn()
    vector = on(device, weights)
    vector.apply_steps(GRID, made)
    steps.apply_steps(weights, GRID, made)
    assert same(vector, weights)


@on_every_device
@properties
@given(blocks(), SEEDS, st.integers(0, 30), st.integers(0, 30), st.integers(-LIMIT, LIMIT))
def test_probes_move_and_come_back(device: str, block: Block, seed: int, one: int, other: int, ticks: int) -> None:
    weights = np.abs(drawn())  # as on the grid, where there is no negative zero
    vector, before = on(device, weights), weights.copy()
    leaving, entering = Direction(seed, one, block), Direction(seed, other, block)
    moves: list[Callable[[steps.Weights], None]] = [
        lambda w: steps.perturb(w, GRID, leaving, -ticks),
        lambda w: steps.swap_direction(w, GRID, leaving, entering, ticks),
        lambda w: steps.perturb(w, GRID, entering, -ticks),
    ]
    for move in moves:
        move(vector)
        move(weights)
        assert same(vector, weights)
    assert same(vector, before)


@on_every_device
def test_what_does_not_fit_changes_nothing(device: str) -> None:
    weights = drawn()
    weights[-1] = (LIMIT - 1) * GRID.tick
    vector, everywhere = on(device, weights), Block("b", 0, SIZE)
    with pytest.raises(HeadroomExceeded):
        vector.apply_steps(GRID, [Step(1, everywhere, (1,)), Step(2, Block("end", SIZE - 1, SIZE), (LIMIT, LIMIT))])
    with pytest.raises(HeadroomExceeded):
        vector.perturb(GRID, Direction(1, 0, everywhere), LIMIT + 1)
    with pytest.raises(ValueError, match="ends at 301, the weights at 300"):
        vector.perturb(GRID, Direction(1, 0, Block("beyond", 0, SIZE + 1)), 1)
    with pytest.raises(ValueError, match="ends at 301, the weights at 300"):
        vector.apply_steps(GRID, [Step(1, Block("beyond", 0, SIZE + 1), (1,))])
    with pytest.raises(ValueError, match="two blocks"):
        vector.cross(GRID, Direction(1, 0, everywhere), Direction(1, 0, Block("c", 0, 9)), 1)
    assert same(vector, weights)
