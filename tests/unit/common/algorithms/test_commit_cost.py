"""What an algorithm says that its commits cost, beside commits that it makes of scalars from a normal distribution."""

from typing import Any

import numpy as np
import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.faults.small import LAYOUT
from zowarmup.common.algorithms.protocol import ClientScalars, Start
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.replica import Commit
from zowarmup.common.messages.codec import encode_commit
from zowarmup.common.messages.values import Scalars, Tier

EXAMPLES, ROUNDS, SAMPLES = 100, 90, 9
TIERS = (Tier.HIGH, *(Tier.LOW,) * 9)


@pytest.mark.parametrize("exponent", [12, 18, 20])
@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "zowarmup"},
        {"algorithm": "zowarmup", "step": "raw", "rate": 0.01},
        {"algorithm": "zowarmup", "step": "adam", "rate": 0.01},
        {"algorithm": "zowarmup", "directions": "gaussian", "probes": 8},
        {"algorithm": "zowarmup", "gradient_projections": 16, "head_projections": 0},
        {"algorithm": "decomfl"},
        {"algorithm": "decomfl", "aggregate": "median", "weighting": "uniform"},
        {"algorithm": "fedkseed", "pool": 64, "step": "raw"},
    ],
    ids=str,
)
def test_commits_take_about_what_is_said(settings: dict[str, Any], exponent: int) -> None:
    spec, grid = zeroth_order_settings(rounds=ROUNDS, **settings), Grid(exponent)
    algorithm = spec.build(LAYOUT, pool_seed=1)
    weights = grid.quantise(np.random.default_rng(0).uniform(-1, 1, LAYOUT.size).astype(np.float32))
    sizes, walks = [], []
    for done in range(ROUNDS // SAMPLES // 2, ROUNDS, ROUNDS // SAMPLES):
        chance, parts = np.random.default_rng(done), []
        for number, tier in enumerate(TIERS):
            values = (tuple(chance.normal(size=count).tolist()) for count in algorithm.counts(tier, EXAMPLES))
            seed = done if spec.shared_directions else 1000 * done + number
            parts.append(ClientScalars(seed, EXAMPLES, Scalars(done + 1, *values), tier))
        steps = algorithm.aggregate(Start(weights, grid, done), parts).steps(grid)
        sizes.append(len(encode_commit(Commit(done + 1, bytes(16), steps), LAYOUT)) - 20)
        walks.append(sum(-(-len(step.ticks) // 8) * step.block.size for step in steps) / LAYOUT.trainable)
    said = algorithm.commit_cost(TIERS, EXAMPLES, grid)
    assert said.bytes == pytest.approx(np.mean(sizes), rel=0.05)
    assert said.walks == pytest.approx(np.mean(walks))


def test_where_anyone_trains_a_commit_is_a_whole_model() -> None:
    mixed, fedavg = zeroth_order_settings("mixed", rounds=1).build(LAYOUT), warmup_settings(rounds=1).build(LAYOUT)
    whole = fedavg.commit_cost((Tier.HIGH,), EXAMPLES, Grid(18))
    assert whole == mixed.commit_cost((Tier.LOW, Tier.HIGH), EXAMPLES, Grid(18)) == (4 * LAYOUT.size, 0)
    assert mixed.commit_cost((Tier.LOW,), EXAMPLES, Grid(18)).bytes < 200
