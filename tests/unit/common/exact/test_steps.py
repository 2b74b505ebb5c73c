"""Steps and probes: exact whatever the order, grouping and split, and refused as a whole where they do not fit."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zowarmup.common.exact import steps as steps_module
from zowarmup.common.exact.directions import KEY_LIMIT, lanes
from zowarmup.common.exact.grid import LIMIT, Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Block, digest
from zowarmup.common.exact.steps import Direction, Step, apply_steps, perturb, swap_direction

VECTORS = json.loads((Path(__file__).parents[3] / "golden" / "vectors.json").read_text())
GRID = Grid(20)
SIZE = 300
ALL = Block("all", 0, SIZE)

Vector = NDArray[np.float32]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short vectors then cross the edges that long ones do."""
    monkeypatch.setattr(steps_module, "REGION", 100)
    monkeypatch.setattr(steps_module, "PIECE", 32)


def blocks(size: int = SIZE) -> st.SearchStrategy[Block]:
    edges = st.tuples(st.integers(0, size), st.integers(0, size)).filter(lambda pair: pair[0] != pair[1])
    return edges.map(lambda pair: Block(f"{min(pair)}-{max(pair)}", min(pair), max(pair)))


SEEDS = st.one_of(st.integers(0, 3), st.integers(0, KEY_LIMIT - 1))
TICKS = st.lists(st.integers(-2000, 2000), max_size=20).map(tuple)
STEPS = st.lists(st.builds(Step, SEEDS, blocks(), TICKS), max_size=6)
DIRECTIONS = st.builds(Direction, SEEDS, st.integers(0, 30), blocks())
# Fixtures here only set constants, so one for all of a property's examples is right.
properties = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def drawn(seed: int = 0, size: int = SIZE, reach: int = LIMIT // 2) -> Vector:
    """Weights on GRID, up to `reach` ticks."""
    ticks = np.random.default_rng(seed).integers(-reach, reach, size, endpoint=True)
    return (ticks * GRID.tick).astype(np.float32)


def applied(weights: Vector, *calls: list[Step]) -> Vector:
    weights = weights.copy()
    for steps in calls:
        apply_steps(weights, GRID, steps)
    return weights


def signs(direction: Direction) -> NDArray[np.float64]:
    """z in full, zero outside its block: float64 (SIZE,)."""
    group, bit = divmod(direction.index, 8)
    block = direction.block
    z = np.zeros(SIZE)
    z[block.start : block.stop] = 2.0 * (lanes(direction.seed, group, 0, SIZE) >> bit & 1)[block.start : block.stop] - 1
    return z


def same(one: Vector, other: Vector) -> bool:
    return one.tobytes() == other.tobytes()


@pytest.mark.parametrize("case", ["apply_steps", "apply_steps_large"])
@pytest.mark.parametrize("pieces", ["small", "as they are"])
def test_golden_steps(case: str, pieces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pieces == "as they are":
        monkeypatch.undo()
    golden = VECTORS[case]
    grid = Grid(golden["exponent"])
    ticks = golden.get("weights") or [place * 2654435761 % 2**32 % 2001 - 1000 for place in range(golden["size"])]
    weights = grid.quantise(np.array(ticks) * grid.tick)
    assert digest(weights).hex() == golden["digest_before"]
    steps = [Step(int(s["seed"]), Block("b", s["start"], s["stop"]), tuple(s["ticks"])) for s in golden["steps"]]
    apply_steps(weights, grid, steps)
    assert digest(weights).hex() == golden["digest_after"]
    if "result" in golden:
        assert (weights * 2.0**grid.exponent).tolist() == golden["result"]


def test_golden_perturb() -> None:
    golden = VECTORS["perturb"]
    grid = Grid(golden["exponent"])
    before = grid.quantise(np.array(golden["weights"]) * grid.tick)
    weights = before.copy()
    direction = Direction(int(golden["seed"]), golden["index"], Block("b", golden["start"], golden["stop"]))
    perturb(weights, grid, direction, golden["ticks"])
    assert digest(weights).hex() == golden["digest_after"]
    assert (weights * 2.0**grid.exponent).tolist() == golden["result"]
    perturb(weights, grid, direction, -golden["ticks"])
    assert same(weights, before)


@properties
@given(STEPS)
def test_a_float64_reference_agrees_exactly(steps: list[Step]) -> None:
    weights = drawn()
    expected = weights.astype(np.float64)
    for step in steps:
        for index, ticks in enumerate(step.ticks):
            expected += ticks * GRID.tick * signs(Direction(step.seed, index, step.block))
    found = applied(weights, steps)
    assert np.array_equal(found.astype(np.float64), expected)
    assert GRID.contains(found)


@properties
@given(STEPS, st.randoms(use_true_random=False))
def test_any_order_and_any_grouping(steps: list[Step], random: Any) -> None:
    weights = drawn()
    expected = applied(weights, steps)
    shuffled = random.sample(steps, len(steps))
    assert same(applied(weights, shuffled), expected)
    assert same(applied(weights, *([step] for step in shuffled)), expected)
    cut = random.randint(0, len(steps))
    assert same(applied(weights, shuffled[:cut], shuffled[cut:]), expected)


@properties
@given(SEEDS, blocks(), TICKS, st.lists(st.integers(0, SIZE), max_size=5), st.integers(8, 400), st.integers(1, 20))
def test_any_split_of_the_range(
    seed: int, block: Block, ticks: tuple[int, ...], cuts: list[int], region: int, words: int
) -> None:
    weights = drawn()
    expected = applied(weights, [Step(seed, block, ticks)])
    edges = sorted({block.start, block.stop, *(cut for cut in cuts if block.start < cut < block.stop)})
    parts = [Block(f"part {low}", low, high) for low, high in pairwise(edges)]
    steps = [Step(seed, part, ticks) for part in parts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps_module, "REGION", region)
        patch.setattr(steps_module, "PIECE", 8 * words)
        assert same(applied(weights, steps), expected)
        assert same(applied(weights, *([step] for step in reversed(steps))), expected)


@properties
@given(st.lists(st.tuples(DIRECTIONS, st.integers(-LIMIT, LIMIT)), min_size=1, max_size=3))
def test_perturb_is_exact_and_taken_back_exactly(moves: list[tuple[Direction, int]]) -> None:
    weights = drawn(reach=LIMIT - 1)
    for direction, ticks in moves:
        before = weights.copy()
        perturb(weights, GRID, direction, ticks)
        assert np.array_equal(weights.astype(np.float64), before + ticks * GRID.tick * signs(direction))
        perturb(weights, GRID, direction, -ticks)
        assert same(weights, before)


@properties
@given(DIRECTIONS, SEEDS, st.integers(0, 30), st.integers(-LIMIT // 2, LIMIT // 2))
def test_cross_is_one_perturb_and_then_another(leaving: Direction, seed: int, index: int, ticks: int) -> None:
    entering = Direction(seed, index, leaving.block)
    by_two = drawn(reach=LIMIT - 1)
    perturb(by_two, GRID, leaving, -ticks)
    by_one = by_two.copy()
    perturb(by_two, GRID, leaving, ticks)
    perturb(by_two, GRID, entering, ticks)
    swap_direction(by_one, GRID, leaving, entering, ticks)
    assert same(by_one, by_two)


def test_fifty_cycles_of_probing_leave_every_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    size = 200_001
    before = drawn(3, size, LIMIT - 1)
    weights = before.copy()
    block = Block("trunk", 3, size - 5)
    probes = [Direction(9, index, block) for index in range(50)]
    ticks = GRID.whole_ticks(1e-3)
    perturb(weights, GRID, probes[0], ticks)
    for probe, following in pairwise(probes):
        perturb(weights, GRID, probe, -2 * ticks)
        swap_direction(weights, GRID, probe, following, ticks)
    perturb(weights, GRID, probes[-1], -ticks)
    assert same(weights, before)


def test_sums_beyond_32_bits_on_the_way_are_exact() -> None:
    weights = drawn()
    most = (1 << 31) - 1
    steps = [Step(1, ALL, (most,)), Step(1, ALL, (most,)), Step(1, ALL, (-most,)), Step(1, ALL, (-most,))]
    assert same(applied(weights, [*steps, Step(2, ALL, (5,))]), applied(weights, [Step(2, ALL, (5,))]))


@properties
@given(st.integers(0, SIZE - 1), st.sampled_from([-1, 1]), STEPS)
def test_beyond_the_headroom_nothing_is_changed(place: int, sign: int, steps: list[Step]) -> None:
    weights = drawn(reach=LIMIT // 2)
    # By steps alone this one weight comes to the limit exactly.
    last = Step(0, Block("one", place, place + 1), (sign,))
    move = applied(np.zeros(SIZE, np.float32), [*steps, last])[place]
    side = 1 if move > 0 else -1
    weights[place] = side * GRID.limit - move
    if not GRID.contains(weights):
        return  # the move is zero: the weight would begin at the limit
    before = weights.copy()
    with pytest.raises(HeadroomExceeded):
        apply_steps(weights, GRID, [*steps, last])
    assert same(weights, before)
    # One tick less fits.
    weights[place] -= side * GRID.tick
    apply_steps(weights, GRID, [*steps, last])
    assert weights[place] == side * (GRID.limit - GRID.tick)


@pytest.mark.parametrize("ticks", [(1 << 31) - 1, 1 << 24, -(1 << 24) - 1, (1 << 30) + 12345])
def test_overflow_is_never_wrapped(ticks: int) -> None:
    weights = drawn()
    before = weights.copy()
    for steps in ([Step(5, ALL, (ticks,))], [Step(5, ALL, (ticks,))] * 4, [Step(5, Block("b", 299, 300), (ticks,))]):
        with pytest.raises(HeadroomExceeded):
            apply_steps(weights, GRID, steps)
        assert same(weights, before)


@pytest.mark.parametrize("ticks", [LIMIT + 1, -LIMIT - 1])
def test_a_probe_too_long_is_refused(ticks: int) -> None:
    weights = drawn()
    before = weights.copy()
    with pytest.raises(HeadroomExceeded):
        perturb(weights, GRID, Direction(0, 0, ALL), ticks)
    with pytest.raises(HeadroomExceeded):
        swap_direction(weights, GRID, Direction(0, 0, ALL), Direction(0, 1, ALL), ticks)
    assert same(weights, before)


def test_nothing_to_do() -> None:
    weights = drawn()
    assert same(applied(weights, []), weights)
    assert same(applied(weights, [Step(1, ALL, ()), Step(1, ALL, (0,) * 9)]), weights)


@pytest.mark.parametrize("weights", [np.zeros(299, np.float32), np.zeros(300), np.zeros((300, 1), np.float32)])
def test_a_vector_that_does_not_match_is_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match="weights"):
        apply_steps(weights, GRID, [Step(1, ALL, (1,))])
    with pytest.raises(ValueError, match="weights"):
        perturb(weights, GRID, Direction(1, 0, ALL), 1)


def test_cross_between_two_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="two blocks"):
        swap_direction(drawn(), GRID, Direction(1, 0, ALL), Direction(1, 1, Block("b", 0, 5)), 1)


@pytest.mark.parametrize(
    ("seed", "ticks"), [(-1, ()), (KEY_LIMIT, ()), (0, (1 << 31,)), (0, (1 << 30, -(1 << 30))), (0, (0.5,))]
)
def test_what_is_not_a_step(seed: int, ticks: Any) -> None:
    with pytest.raises(ValueError, match="step"):
        Step(seed, ALL, ticks)


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (KEY_LIMIT, 0), (0, -1)])
def test_what_is_not_a_direction(seed: int, index: int) -> None:
    with pytest.raises(ValueError, match="direction"):
        Direction(seed, index, ALL)
