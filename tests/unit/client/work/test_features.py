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
from zowarmup.common.algorithms.whitening import covariance, moments_of, sign_vectors, whitened, whitening
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.values import Phase, Work
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.models.export import export_program
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
        features.take(run.weights, b"frozen")
        features.keep(places, rows)
        assert (features.kept(places) is not None) == keeps
        assert features.kept(np.array([0, 1])) is None
        features.take(run.weights + np.float32(1), b"other")
        assert features.kept(places) is None


def whitening_run(run: Run) -> tuple[Any, Layout, NDArray[np.float32], bytes]:
    """The run's model with a buffer for whitening: settings, layout, weights, program."""
    spec = replace(run.spec, zeroth_order=changed(run.spec.zeroth_order, train="head", whitening=3))
    module = build(spec.model, spec.input_shape, 10, 0)
    layout = describe(module, spec.input_shape, train="head", whitening=3)
    return spec.zeroth_order, layout, flatten(module, layout), export_program(module, layout, spec.input_shape)


def test_the_features_of_the_round_that_whitens_serve_all_later_ones(run: Run) -> None:
    settings, layout, weights, onnx = whitening_run(run)
    replica = Replica(layout, run.grid, weights, 1)
    program = Counted(Program(onnx, layout, replica.weights))
    prober = Prober(settings, replica, program, classification(), DATA, threading.Event())
    first = prober.contribute(replica, replace(WORK, done=0))
    assert len(first.projections) == 4 * layout.head.features + 1  # type: ignore[union-attr]
    signs = sign_vectors(1, layout.block("head").start, layout.head.features, 3)  # type: ignore[union-attr]
    everyone = np.arange(len(DATA))
    rows = whitening(*covariance([(1.0, moments_of(prober.features(everyone), signs), signs)]), 3)
    replica.replace(run.grid, whitened(replica.weights, layout, rows))
    second = prober.contribute(replica, replace(WORK, done=1))
    assert program.examples == len(DATA), "one pass over the data in both"
    plain = Program(onnx, layout, replica.weights)
    fresh = Prober(settings, replica, plain, classification(), DATA, threading.Event())
    assert second == fresh.contribute(replica, replace(WORK, done=1)), "as if nothing had been kept"
    outputs, _ = plain.forward(DATA.batch(everyone).inputs)
    loss = classification().loss(outputs, DATA.batch(everyone))
    assert prober.evaluate(everyone, True).loss_sum == pytest.approx(loss, rel=1e-4)


def test_where_everything_below_the_head_is_constant_its_buffers_still_count(run: Run) -> None:
    tensors = (Tensor("out.weight", (2, 3), 0), Tensor("out.bias", (2,), 6), Tensor("norm.mean", (3,), 8))
    blocks = (Block("all", 0, 8), Block("head", 0, 8))
    layout = Layout(tensors, 8, 11, blocks, Head("out.weight", "out.bias", 3, 2))
    weights, features = np.zeros(11, np.float32), Features(layout, 5)
    features.take(weights, layout.frozen_digest(weights))
    features.keep(np.arange(5), np.ones((5, 3), np.float32))
    weights[:8] = 1
    features.take(weights, layout.frozen_digest(weights))
    assert features.kept(np.arange(5)) is not None, "the head has moved"
    weights[9] = 1
    features.take(weights, layout.frozen_digest(weights))
    assert features.kept(np.arange(5)) is None
