"""A replica with a frozen part: what a commit may move and what its digest says."""

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.common.exact.test_layout import LAYOUT
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.replica import Commit, Diverged, Replica
from zowarmup.common.exact.steps import Step

FROZEN, GRID = replace(LAYOUT, frozen=7), Grid(10)
STEP = Step(3, FROZEN.block("head"), (5, -2))


def made() -> Replica:
    return Replica(FROZEN, GRID, GRID.quantise(np.linspace(-1, 1, 25, dtype=np.float32)), 0)


def test_a_step_gives_the_digest_of_the_whole() -> None:
    replica, other = made(), made()
    assert replica.step([STEP]) == replica.digest()
    other.apply([Commit(1, replica.digest(), (STEP,))])
    assert other.version == 1 and other.weights.tobytes() == replica.weights.tobytes()


def test_other_weights_have_another_frozen_part() -> None:
    replica = made()
    replica.step([STEP])
    replica.replace(Grid(9), np.zeros(25, np.float32))
    found = replica.step([STEP])
    assert replica.grid == Grid(9)
    assert found == replica.digest() == FROZEN.digest(replica.weights)


def test_a_step_of_what_is_frozen_is_refused_and_changes_nothing() -> None:
    replica = made()
    before = replica.weights.tobytes()
    wrong = Step(3, FROZEN.block("all"), (1,))
    for attempt in (lambda: replica.step([STEP, wrong]), lambda: replica.apply([Commit(1, bytes(16), (wrong,))])):
        with pytest.raises(ValueError, match="would move what is frozen"):
            attempt()
    assert (replica.weights.tobytes(), replica.version) == (before, 0)


def test_what_differs_in_what_moves_is_found_at_the_next_commit() -> None:
    replica, other = made(), made()
    other.weights[10] += GRID.tick
    with pytest.raises(Diverged):
        other.apply([Commit(1, replica.step([STEP]), (STEP,))])
