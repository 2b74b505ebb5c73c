"""Work that ends early, at any of its batches, leaves nothing behind: the weights bit for bit, and the next contribution
what it would have been."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.algorithms import changed
from tests.client.conftest import Run, prepared
from tests.tasks import classification
from zowarmup.client.work.probing import Prober
from zowarmup.client.work.training import Trainer
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Phase, Tier, Work
from zowarmup.common.models.program import Program
from zowarmup.common.settings.run import Model
from zowarmup.data import load

DATA = load("digits:1/10")
TRAIN = Work(1, Phase.WARM_UP, 1, 55, 3600.0)
PROBE = Work(2, Phase.ZEROTH_ORDER, 1, 56, 3600.0)


class CutShort(Exception):
    pass


class Check:
    """Counts how often it is called, and raises at the call `last` (0: never)."""

    def __init__(self, last: int = 0) -> None:
        self.last, self.calls = last, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.last:
            raise CutShort


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def run(request: pytest.FixtureRequest) -> Run:
    return prepared(Model(name=request.param))


def cut_short_at_each(replica: Replica, contribute: Callable[[Check], object], weights: bytes, most: int) -> None:
    """Cut one contribution after the other short, each at a later batch, and then let one come to its end."""
    whole = Check()
    wanted = contribute(whole)
    assert whole.calls > 4
    for last in sorted({*range(1, min(most, whole.calls) + 1), whole.calls}):
        with pytest.raises(CutShort):
            contribute(Check(last))
        assert replica.weights.tobytes() == weights, f"at batch {last} of {whole.calls}"
    assert contribute(Check()) == wanted


@pytest.mark.parametrize("settings", [{}, {"local_steps": 4, "local_rate": 1e-4}, {"directions": "gaussian"}])
def test_a_probe_that_is_cut_short_restores_the_weights(run: Run, settings: dict[str, Any]) -> None:
    spec = changed(run.spec.zeroth_order, micro_batch=8, **settings)
    replica = Replica(run.layout, run.grid, run.weights.copy(), 1)
    program = Program(run.program, run.layout, replica.weights)
    prober = Prober(spec, replica, program, classification(), DATA, threading.Event())
    cut_short_at_each(replica, lambda check: prober.contribute(replica, PROBE, check), run.weights.tobytes(), 40)
    assert prober.contribute(replica, PROBE) == prober.contribute(replica, PROBE, Check())


def test_training_that_is_cut_short_leaves_nothing_behind(run: Run) -> None:
    replica = Replica(run.layout, run.grid, run.weights.copy(), 1)
    trainer = Trainer(run.spec, run.layout, DATA, 1, threading.Event(), Tier.HIGH)

    def contribute(check: Check) -> object:
        delta, content = trainer.contribute(replica, TRAIN, check)
        return delta, bytes(content)

    cut_short_at_each(replica, contribute, run.weights.tobytes(), 40)


def test_an_exact_gradient_that_is_cut_short_leaves_nothing_behind(run: Run) -> None:
    spec = replace(run.spec, zeroth_order=changed(run.spec.zeroth_order, gradient_projections=5, micro_batch=8))
    replica = Replica(run.layout, run.grid, run.weights.copy(), 1)
    trainer = Trainer(spec, run.layout, DATA, 1, threading.Event(), Tier.HIGH)
    cut_short_at_each(replica, lambda check: trainer.project(replica, PROBE, check), run.weights.tobytes(), 40)
    assert np.isfinite(trainer.project(replica, PROBE).projections).all()
