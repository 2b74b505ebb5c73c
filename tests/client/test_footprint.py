"""Measuring a round's work: it takes some time, and leaves the replica as it was."""

import pytest

from tests.client.conftest import Run
from zowarmup.client.diagnostics.footprint import probe, timed, train
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Tier


@pytest.mark.parametrize("examples", [0, 40])
def test_measured_work_leaves_the_replica_as_it_was(run: Run, examples: int) -> None:
    replica = Replica(run.layout, run.grid, run.weights.copy(), 1)
    forward_s, walk_s = probe(run.spec, replica, run.program, examples)
    assert min(forward_s, walk_s) > 0
    assert train(Tier.HIGH, run.spec, replica, examples) > 0
    assert replica.weights.tobytes() == run.weights.tobytes()


def test_a_job_is_done_once_and_timed() -> None:
    done = list[int]()
    assert timed(lambda: done.append(1)) >= 0
    assert done == [1]
