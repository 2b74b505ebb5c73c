"""Features that are kept: the same contributions with one forward pass over the data as with one a round."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import changed
from tests.client.conftest import Run, prepared
from tests.tasks import classification
from zowarmup.client.work.features import Features
from zowarmup.client.work.probing import Prober
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.values import Phase, Work
from zowarmup.common.models.program import Program
from zowarmup.common.settings.run import Model
from zowarmup.data import load

DATA = load("digits:1/10")
WORK = Work(2, Phase.ZEROTH_ORDER, 1, 56, 3600.0)


class Counted:
    """A program that counts the examples which go through it."""

    def __init__(self, program: Program) -> None:
        self._program, self.examples = program, 0

    def load(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._program.load(weights)

    def forward(self, inputs: Any) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        self.examples += len(inputs)
        return self._program.forward(inputs)


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def run(request: pytest.FixtureRequest) -> Run:
    return prepared(Model(name=request.param))


def made(run: Run, local_steps: int = 1) -> tuple[Prober, Replica, Counted]:
    spec = changed(run.spec.zeroth_order, train="head", local_steps=local_steps)
    layout = replace(run.layout, frozen=run.layout.block("head").start)
    replica = Replica(layout, run.grid, run.weights.copy(), 1)
    program = Counted(Program(run.program, layout, replica.weights))
    return Prober(spec, replica, program, classification(), DATA, threading.Event()), replica, program


@pytest.mark.parametrize("local_steps", [1, 3])
def test_one_forward_pass_serves_all_rounds(run: Run, local_steps: int) -> None:
    prober, replica, program = made(run, local_steps)
    for number in range(3):
        given = replace(WORK, seed=56 + number)
        found = prober.contribute(replica, given)
        fresh, other, _ = made(run, local_steps)
        other.weights[:] = replica.weights
        assert found == fresh.contribute(other, given), "as if nothing had been kept"
        replica.step([Step(number, replica.layout.block("head"), (900, -500))])
    assert program.examples == len(DATA)


def test_another_trunk_has_other_features(run: Run) -> None:
    prober, replica, program = made(run)
    first = prober.contribute(replica, WORK)
    moved = replica.weights.copy()
    moved[: replica.layout.frozen] *= 0.5
    replica.replace(run.grid, moved)
    assert prober.contribute(replica, WORK) != first
    assert program.examples == 2 * len(DATA)


def test_the_gradient_is_that_of_the_program(run: Run) -> None:
    """Against the head's gradient as every other contribution has it."""
    prober, replica, program = made(run)
    prober.contribute(replica, WORK)
    everyone = np.arange(len(DATA))
    plain = Prober(run.spec.zeroth_order, replica, program, classification(), DATA, threading.Event())
    kept, computed = prober.evaluate(everyone, True), plain.evaluate(everyone, True)
    assert kept.loss_sum == pytest.approx(computed.loss_sum, rel=1e-5)
    assert kept.head_gradient_sum is not None and computed.head_gradient_sum is not None
    np.testing.assert_allclose(kept.head_gradient_sum, computed.head_gradient_sum, rtol=1e-4, atol=1e-4)


def test_what_would_take_too_much_memory_is_not_kept(run: Run) -> None:
    layout = run.layout
    assert layout.head is not None
    limit = 10 * layout.head.features * 4
    rows, places = np.ones((2, layout.head.features), np.float32), np.array([0, 3])
    for examples, keeps in ((10, True), (11, False)):
        features = Features(layout, examples, limit)
        features.take(b"frozen")
        features.keep(places, rows)
        assert (features.kept(places) is not None) == keeps
        assert features.kept(np.array([0, 1])) is None
        features.take(b"other")
        assert features.kept(places) is None
