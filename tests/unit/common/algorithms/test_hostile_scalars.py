"""A client that sends nonsense, against a model that can be trained in a moment."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import aggregating
from tests.algorithms import zeroth_order_settings
from zowarmup.common.algorithms.protocol import ClientScalars, LossAndGradient
from zowarmup.common.algorithms.zowarmup import ZOWarmUp
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages.values import Phase, Scalars, Work

SIZE, CLIENTS, EXAMPLES, ROUNDS, PROBES, RATE = 30, 10, 24, 150, 8, 0.4
LAYOUT = Layout((Tensor("w", (SIZE,), 0),), SIZE, SIZE, (Block("all", 0, SIZE),))


class Regression:
    """Least squares: what a client holds."""

    def __init__(self, weights: NDArray[np.float32], seed: int) -> None:
        chance = np.random.default_rng(seed)
        self.weights = weights
        self.inputs = chance.normal(size=(EXAMPLES, SIZE))
        self.targets = self.inputs @ np.linspace(-1, 1, SIZE)

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        missed = self.inputs[examples] @ self.weights.astype(np.float64) - self.targets[examples]
        return LossAndGradient(float(np.sum(missed * missed)), None)

    def features(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        raise NotImplementedError("there is no head")

    @property
    def loss(self) -> float:
        return self.evaluate(np.arange(EXAMPLES), False).loss_sum / EXAMPLES


def million(scalars: Scalars) -> Scalars:
    return Scalars(scalars.round, (1e6,) * PROBES, ())


def uphill(scalars: Scalars) -> Scalars:
    """The way that makes the loss worse, as loudly as it can."""
    return Scalars(scalars.round, tuple(-1e4 * probe for probe in scalars.probes), ())


def trained(hostile: Callable[[Scalars], Scalars] | None, clip: float) -> tuple[float, int]:
    """The mean loss after all rounds, and how many scalars were clipped; one of the clients may be hostile."""
    spec: Any = {"rounds": ROUNDS, "probes": PROBES, "head_projections": 0, "rate": RATE, "clip": clip}
    algorithm, grid = ZOWarmUp(zeroth_order_settings(**spec), LAYOUT), Grid(18)
    weights = np.zeros(SIZE, np.float32)
    data = [Regression(weights, seed) for seed in range(CLIENTS)]
    clipped = 0
    for done in range(ROUNDS):
        contributions = []
        for client, local in enumerate(data):
            seed = done * CLIENTS + client
            work = Work(done + 1, Phase.ZEROTH_ORDER, done, seed, 60.0)
            scalars = algorithm.contribute(weights, grid, local, EXAMPLES, work)
            if hostile and client == 3:
                scalars = hostile(scalars)
            contributions.append(ClientScalars(seed, EXAMPLES, scalars))
        made = aggregating.aggregated(algorithm, contributions, done=done)
        clipped += made.clipped_scalars
        apply_steps(weights, grid, made.steps(grid))
    return float(np.mean([local.loss for local in data])), clipped


BEGAN = float(np.mean([Regression(np.zeros(SIZE, np.float32), seed).loss for seed in range(CLIENTS)]))
DEFAULT = zeroth_order_settings(rounds=1).clip


def test_honest_clients_are_hardly_clipped() -> None:
    honest, clipped = trained(None, DEFAULT)
    assert honest < 0.01 * BEGAN
    assert clipped < 0.02 * ROUNDS * CLIENTS * PROBES


@pytest.mark.parametrize("hostile", [million, uphill])
def test_one_of_ten_does_not_lead_the_model_away(hostile: Callable[[Scalars], Scalars]) -> None:
    bounded, clipped = trained(hostile, DEFAULT)
    assert bounded < 0.05 * BEGAN
    assert clipped >= ROUNDS * PROBES


def test_what_the_bound_is_for() -> None:
    unbounded, _ = trained(million, 0.0)
    assert unbounded > 0.8 * BEGAN, "the normaliser makes the others' steps vanish"
    loose, _ = trained(million, 10.0)
    assert loose < 0.3 * BEGAN, "slower, as it still counts ten times the others, but on its way"
