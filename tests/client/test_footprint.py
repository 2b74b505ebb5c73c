"""Measuring a round's work: it takes some time, and leaves the replica as it was."""

from dataclasses import replace

import pytest

from tests.algorithms import changed
from tests.client.conftest import Run
from zowarmup.client.diagnostics.footprint import probe, timed, train
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.privacy import Privacy


@pytest.mark.parametrize("examples", [0, 40])
@pytest.mark.parametrize("private", [False, True])
def test_measured_work_leaves_the_replica_as_it_was(run: Run, examples: int, private: bool) -> None:
    replica = Replica(run.layout, run.grid, run.weights.copy(), 1)
    spec = run.spec
    if private:
        rounds, warmup = changed(spec.zeroth_order, slices="whole"), changed(spec.warmup, rounds=0)
        spec = replace(spec, zeroth_order=rounds, warmup=warmup, privacy=Privacy(mode="local", epsilon=8.0))
    forward_s, walk_s = probe(spec, replica, run.program, examples)
    assert min(forward_s, walk_s) > 0
    assert train(Tier.HIGH, run.spec, replica, examples) > 0
    assert replica.weights.tobytes() == run.weights.tobytes()


def test_a_job_is_done_once_and_timed() -> None:
    done = list[int]()
    assert timed(lambda: done.append(1)) >= 0
    assert done == [1]
