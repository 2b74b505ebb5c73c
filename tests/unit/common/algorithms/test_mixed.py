"""Mixed rounds: the high tier's FedAvg and everyone else's scalars in one version."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests import aggregating
from tests.algorithms import warmup_settings, zeroth_order_algorithm, zeroth_order_settings
from zowarmup.common.algorithms.fedavg import FedAvg
from zowarmup.common.algorithms.mixed import Mixed, share_of_trained
from zowarmup.common.algorithms.protocol import ClientScalars, Start, Trained
from zowarmup.common.algorithms.zowarmup import ZOWarmUp
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages.values import Scalars
from zowarmup.server.core.contributions import carried_out
from zowarmup.server.setup.run_file import RunFileError, run_file_of

LAYOUT = Layout((Tensor("w", (20,), 0),), 20, 20, (Block("all", 0, 20),))


def test_the_kinds_weigh_as_their_clients_do() -> None:
    by_examples, uniform = zeroth_order_settings(rounds=1), zeroth_order_settings(rounds=1, weighting="uniform")
    assert share_of_trained([30, 10], [30, 50], by_examples) == 40 / 120
    assert share_of_trained([30, 10], [60, 100, 7], uniform) == 0.4
    assert share_of_trained([30], [], by_examples) == 1.0


def test_a_claim_moves_the_share_by_two_medians_at_most() -> None:
    assert share_of_trained([1 << 47], [10, 20, 20], zeroth_order_settings(rounds=1)) == 40 / 90


TRAINED = (
    Trained(30, np.linspace(0, 0.3, 20).astype(np.float32), "high-1"),
    Trained(10, np.ones(20, np.float32), "high-2"),
)
PROBED = (ClientScalars(7, 20, Scalars(1, (2.0, -1.0), ())), ClientScalars(8, 20, Scalars(1, (0.5, 3.0), ())))


def start() -> Start:
    weights = Grid(18).quantise(np.random.default_rng(0).normal(size=20).astype(np.float32))
    return Start(weights, Grid(18), 3)


def mixed(**settings: Any) -> Mixed:
    spec = zeroth_order_settings("mixed", rounds=9, probes=2, **settings)
    made = zeroth_order_algorithm(spec, LAYOUT, 0, warmup_settings(rounds=0, clip=0))
    assert isinstance(made, Mixed)
    return made


@pytest.mark.parametrize("extent", [1, 7, 100])
def test_the_model_becomes_the_mean_of_what_each_kind_makes_in_float64(extent: int) -> None:
    began = start()
    found = mixed().aggregate(began, [*TRAINED, *PROBED])
    assert found.update is not None
    trained = aggregating.moved(
        FedAvg(warmup_settings(rounds=0, clip=0), LAYOUT), began.weights, [g[:2] for g in TRAINED]
    )
    probed = began.weights.copy()
    apply_steps(probed, Grid(18), aggregating.steps(mixed(), Grid(18), 3, PROBED, weights=began.weights))
    expected = (0.5 * trained.astype(np.float64) + 0.5 * probed.astype(np.float64)).astype(np.float32)
    assert np.array_equal(carried_out(replace(found.update, extent=extent), 20), expected)
    assert np.array_equal(began.weights, start().weights)


@pytest.mark.parametrize("step", ["normalized", "adam"])
def test_a_round_of_one_kind_is_that_kinds_own(step: Any) -> None:
    began = start()
    alone = ZOWarmUp(zeroth_order_settings(rounds=9, probes=2, step=step), LAYOUT).aggregate(began, PROBED)
    assert mixed(step=step).aggregate(began, PROBED) == alone
    trained = mixed(step=step).aggregate(replace(began, optimizer_state=(0.5, 2.0)), TRAINED)
    assert trained.update is not None and trained.optimizer_state == (0.5, 2.0), "the scalars' optimizer has not moved"
    expected = aggregating.moved(
        FedAvg(warmup_settings(rounds=0, clip=0), LAYOUT), began.weights, [g[:2] for g in TRAINED]
    )
    assert np.array_equal(carried_out(trained.update, 20), expected)


def test_exact_projections_do_not_go_together_with_training() -> None:
    raw = {"name": "x", "model": {"name": "mlp"}, "warmup": {"rounds": 1}, "evaluation": {"data": "digits:test"}}
    mixed = {"algorithm": "mixed", "rounds": 1, "gradient_projections": 8}
    with pytest.raises(RunFileError, match='gradient_projections is not a setting of algorithm "mixed"'):
        run_file_of({**raw, "zeroth_order": mixed}, "run.toml")
