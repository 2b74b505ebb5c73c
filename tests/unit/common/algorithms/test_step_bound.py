"""How far a round can move the model, whatever its scalars say: no further than the learning rate allows."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import aggregating
from tests.algorithms import zeroth_order_algorithm, zeroth_order_settings
from tests.closed_forms import LAYOUT
from zowarmup.common.algorithms.descent import STEEPEST
from zowarmup.common.algorithms.local_scalars import STEEP
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.step_builder import Moments, Move, held
from zowarmup.common.exact.directions import lanes
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages.values import Scalars, Tier

GRID, EXAMPLES, ROUNDS = Grid(14), 10, 10
ALGORITHMS: list[dict[str, Any]] = [
    {},
    {"clip": 0.0},
    {"head_projections": 0},
    {"slices": "whole", "weighting": "uniform"},
    {"local_steps": 3, "local_rate": 0.1},
    {"directions": "gaussian"},
    {"directions": "gaussian", "clip": 0.0},
    {"algorithm": "decomfl"},
    {"algorithm": "fedkseed", "pool": 8},
    {"step": "raw", "rate": 0.001},
    {"step": "raw", "rate": 0.001, "directions": "gaussian", "clip": 0.0},
    {"step": "adam"},
    {"step": "adam", "clip": 0.0, "directions": "gaussian"},
    {"step": "adam", "algorithm": "decomfl", "clip": 0.0},
    {"local_steps": 3, "directions": "gaussian", "clip": 0.0},
    {"gradient_projections": 6},
    {"algorithm": "fedkseed", "pool": 3, "step": "raw", "rate": 0.001},
]
# What float32 holds and `check` lets pass: zeros and subnormal numbers, ordinary ones and the steepest.
SCALARS = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, STEEP, -STEEP, 1.0, -1.0]),
    st.floats(-STEEP, STEEP, width=32, allow_subnormal=True),
    st.floats(-8, 8, width=32),
)


@pytest.mark.parametrize("settings", ALGORITHMS, ids=str)
@given(data=st.data())
def test_no_round_moves_a_block_further_than_the_learning_rate_allows(settings: dict[str, Any], data: Any) -> None:
    head = {} if {"pool", "head_projections"} & settings.keys() else {"head_projections": 5}
    given: dict[str, Any] = {"rounds": ROUNDS, "probes": 4, "rate": 0.5, "tau": 0.75, **head, **settings}
    spec = zeroth_order_settings(**given)
    zo = zeroth_order_algorithm(spec, LAYOUT, 77)
    clients, done = data.draw(st.integers(1, 6)), data.draw(st.integers(0, ROUNDS - 1))
    moments: Moments = ()
    for number in range(data.draw(st.integers(1, 3))):
        parts = []
        for client in range(clients):
            examples = data.draw(st.integers(1, EXAMPLES))
            tier = data.draw(st.sampled_from(Tier))
            probes, projections = zo.counts(tier, examples)
            drawn = [tuple(data.draw(st.lists(SCALARS, min_size=n, max_size=n))) for n in (probes, projections)]
            seed = 1000 * number + (0 if spec.shared_directions else client)
            parts.append(ClientScalars(seed, examples, Scalars(1, drawn[0], drawn[1]), tier))
        made = aggregating.aggregated(zo, parts, done=done, moments=moments)
        steps, moments = made.steps(GRID), made.optimizer_state
        moved = np.zeros(LAYOUT.size, np.float32)
        apply_steps(moved, GRID, steps)
        local = spec.probes if spec.algorithm == "fedkseed" else spec.local_steps
        factor = STEEPEST if spec.step == "raw" else 1 - done / ROUNDS
        allowed = local * spec.rate * spec.tau**2 * factor
        for block in {step.block for step in steps}:
            # Each direction's ticks are whole: it goes up to one further than it should.
            rounded = sum(len(step.ticks) for step in steps if step.block == block) * GRID.tick
            found = math.sqrt(np.mean(np.square(moved[block.start : block.stop].astype(np.float64))))
            assert found <= allowed + rounded, block.name


def test_projections_that_dwarf_the_probes_move_the_head_by_the_rate_at_most() -> None:
    """The fault that this bound is for: probes of nearly nothing, projections of an ordinary size."""
    zo = zeroth_order_algorithm(zeroth_order_settings(rounds=10, probes=4, head_projections=5, rate=0.5), LAYOUT, 0)
    parts = [
        ClientScalars(seed, 10, Scalars(1, (1e-7, -1e-7, 1e-7, 1e-7), (3.0, -4.0, 2.0, 5.0, 1.0))) for seed in range(4)
    ]
    moved = np.zeros(LAYOUT.size, np.float32)
    apply_steps(moved, Grid(20), aggregating.steps(zo, Grid(20), 0, parts))
    head = LAYOUT.block("head")
    assert 0.01 < float(np.abs(moved[head.start : head.stop]).max()) <= 0.5


def test_a_burst_after_quiet_rounds_moves_adam_by_the_rate_at_most() -> None:
    """Adam's divisor remembers the quiet: on its own it would let a burst move ten times as far, with beta2 = 0.99."""
    wide = Block("all", 0, 3000)
    layout = Layout((Tensor("w", (3000,), 0),), 3000, 3000, (wide,))
    zo = zeroth_order_algorithm(
        zeroth_order_settings(rounds=1000, step="adam", rate=0.5, probes=8, head_projections=0), layout, 0
    )
    chance = np.random.default_rng(0)
    moments: Moments = ()
    for number in range(300):
        quiet = Scalars(1, tuple(chance.normal(0, 1e-3, 8).tolist()), ())
        moments = aggregating.aggregated(zo, [ClientScalars(number, 80, quiet)], moments=moments).optimizer_state
    burst = [ClientScalars(999, 80, Scalars(1, tuple(chance.normal(0, 1, 8).tolist()), ()))]
    moved = np.zeros(3000, np.float32)
    apply_steps(moved, Grid(16), aggregating.steps(zo, Grid(16), 0, burst, moments))
    assert math.sqrt(np.mean(np.square(moved.astype(np.float64)))) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("size", [1, 7, 400])
def test_moves_that_conspire_are_held_too(size: int) -> None:
    """Along the singular vector by which these directions move the block furthest."""
    block, count = Block("b", 3, 3 + size), 64
    signs = [2.0 * (lanes(5, k // 8, 3, size) >> np.uint8(k % 8) & 1) - 1 for k in range(count)]
    _, _, right = np.linalg.svd(np.array(signs).T)
    moves = [Move(5, block, k, float(1e-3 * right[0, k])) for k in range(count)]
    found = np.array([move.length for move in held(moves, 1e-4)]) @ np.array(signs)
    assert math.sqrt(np.mean(found**2)) == pytest.approx(1e-4, rel=1e-3)
    assert held(moves, 1.0) == moves
    scaled = {move.direction: move.length for move in held(moves[::-1], 1e-4)}
    assert scaled == {move.direction: move.length for move in held(moves, 1e-4)}
