"""Crashes in a run that diverges and goes back: the same model comes out, at the same versions."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import changed
from tests.faults.backends import Backend
from tests.faults.small import PAIR, TRIO, WARM_UP_ROUNDS, TrueEvaluator, run_file
from tests.scenario.test_crash_algorithms import ALGORITHMS, WARM_UPS
from tests.scenario.test_crash_points import folder, outcome
from tests.tasks import accuracy_of, classification
from zowarmup.common.exact.layout import digest
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile
from zowarmup.server.aggregation.evaluation import Evaluator, MeasuredModel
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core import events as ev
from zowarmup.server.store.archive import LEDGER, open_archive
from zowarmup.server.store.fsck import check
from zowarmup.server.store.ledger import Ledger

__all__ = ["folder"]
pytestmark = pytest.mark.backends("files")
SHARES = 3


def diverging(rollbacks: int) -> RunFile:
    """Its warm-up moves by four times the way to the clients' optimum, its zeroth-order steps are 40 times too long."""
    plain = run_file(PAIR)
    return replace(
        plain,
        warmup=changed(plain.warmup, server_rate=80.0),
        zeroth_order=changed(plain.zeroth_order, step="raw", rate=0.4, clip=0.0),
        evaluation=Evaluation(data="digits:test", every=3),
        guard=Guard(factor=3.0, rollbacks=rollbacks),
    )


def returns(data_dir: Path) -> list[ev.RolledBack]:
    ledger = Ledger(data_dir / LEDGER, read_only=True)
    try:
        return [event for _, event in ledger.read() if isinstance(event, ev.RolledBack)]
    finally:
        ledger.close()


@pytest.mark.parametrize("share", range(SHARES))
def test_a_crash_at_any_write_of_a_run_that_gives_up_leads_to_the_same_good_model(
    folder: Path, backend: Backend, share: int
) -> None:
    """Two returns by snapshots, from the warm-up and from a coarser grid, and one by steps taken back."""
    settings = diverging(rollbacks=2)
    calm = outcome(folder / "calm", PAIR, settings=settings, evaluator=TrueEvaluator)
    made = returns(folder / "calm" / "server")
    assert [(back.version, back.to, back.snapshot is None) for back in made] == [
        (4, 0, False),
        (10, 6, False),
        (13, 10, True),
    ]
    assert calm.version == 13 and calm.lost == 0
    for place in range(1 + share, len(calm.places) + 1, SHARES):
        data_dir = folder / str(place)
        crashed = outcome(data_dir, PAIR, [place], settings=settings, evaluator=TrueEvaluator, backend=backend)
        told = f"a crash at place {place} of {len(calm.places)} ({calm.places[place - 1]})"
        assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0), told
        assert returns(data_dir / "server") == made, told
        found = check(data_dir / "server")
        assert (found.problems, found.notes, found.digest) == ([], [], calm.digest), told
        shutil.rmtree(data_dir)


@pytest.mark.parametrize("seed", range(3))
def test_many_crashes_in_a_run_that_recovers_lead_to_the_same_model(folder: Path, backend: Backend, seed: int) -> None:
    settings = diverging(rollbacks=8)
    calm = outcome(folder / "calm", PAIR, settings=settings, evaluator=TrueEvaluator)
    made = returns(folder / "calm" / "server")
    assert calm.version == 30 + len(made) and len(made) >= 4
    places = random.Random(seed).sample(range(1, len(calm.places) * 2 // 3), 25)
    crashed = outcome(folder / "many", PAIR, places, Coordinator, settings, TrueEvaluator, backend=backend)
    assert crashed.lives >= 12
    assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0)
    assert check(folder / "many" / "server").problems == []


def test_a_model_that_is_lost_between_two_evaluations_is_found_by_those_who_abstain(
    folder: Path, backend: Backend
) -> None:
    """Nobody's derivatives can be told any more, and the next evaluation would be at the end."""
    plain = diverging(rollbacks=8)
    settings = replace(
        plain, zeroth_order=replace(plain.zeroth_order, rate=40.0), evaluation=replace(plain.evaluation, every=1000)
    )
    calm = outcome(folder / "calm", PAIR, settings=settings, evaluator=TrueEvaluator)
    made = returns(folder / "calm" / "server")
    assert any(back.version < calm.version for back in made), "the run went on after a return"
    crashed = outcome(folder / "many", PAIR, range(20, 400, 15), Coordinator, settings, TrueEvaluator, backend=backend)
    assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0)
    assert check(folder / "many" / "server").problems == []


def test_a_return_is_told_by_the_shorter_of_steps_and_snapshot(folder: Path, backend: Backend) -> None:
    """Of many steps since the good version there may be more than there are weights."""
    plain = diverging(rollbacks=2)
    settings = replace(
        plain,
        zeroth_order=changed(plain.zeroth_order, probes=12, head_projections=400),
        evaluation=replace(plain.evaluation, every=6),
    )
    found = outcome(folder, PAIR, settings=settings, evaluator=TrueEvaluator, backend=backend)
    history = open_archive(folder / "server").history
    made = [back for back in returns(folder / "server") if back.to > WARM_UP_ROUNDS]
    assert made and all(back.snapshot is not None for back in made)
    assert any(set(range(back.to + 1, back.version)) <= set(history.commits) for back in made), (
        "steps alone lead there too"
    )
    assert found.lost == 0 and check(folder / "server").problems == []


class Fickle(Evaluator):
    """Rejects a third of all weights, always the same ones."""

    def __init__(self) -> None:
        self._task = classification()

    def evaluate(self, weights: NDArray[np.float32]) -> MeasuredModel:
        return (
            MeasuredModel(accuracy_of(0.1), 100.0, 1)
            if digest(weights)[0] % 3 == 0
            else MeasuredModel(accuracy_of(0.5), 1.0, 1)
        )


class Failing(Fickle):
    """Cannot run the model with such weights at all."""

    def evaluate(self, weights: NDArray[np.float32]) -> MeasuredModel:
        found = super().evaluate(weights)
        if found.loss > 1:
            raise RuntimeError("the program does not like these weights")
        return found


def test_a_version_that_cannot_be_evaluated_is_no_good(
    folder: Path, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(run_file(PAIR), evaluation=Evaluation(data="digits:test", every=2), guard=Guard(rollbacks=30))
    found = outcome(folder, PAIR, settings=settings, evaluator=Failing, backend=backend)
    made = returns(folder / "server")
    assert made and found.version == 30 + len(made)
    assert all("is not finite" in back.reason for back in made)
    assert f"version {made[0].version - 1} cannot be evaluated: the program does not like these weights" in caplog.text


@pytest.mark.parametrize("name", [*ALGORITHMS, *WARM_UPS])
def test_replicas_are_equal_after_returns_of_any_method_whatever_crashes(
    folder: Path, backend: Backend, name: str
) -> None:
    plain = run_file(TRIO)
    settings = replace(
        plain,
        warmup=changed(plain.warmup, **WARM_UPS.get(name, {})),
        zeroth_order=changed(plain.zeroth_order, **ALGORITHMS.get(name, {})),
        model=Model(name="hf:small" if "cut" in ALGORITHMS.get(name, {}) else "mlp"),
        evaluation=Evaluation(data="digits:test", every=2),
        guard=Guard(rollbacks=30),
        server=replace(plain.server, keep_snapshots=1),
    )
    calm = outcome(folder / "calm", TRIO, settings=settings, evaluator=Fickle)
    made = returns(folder / "calm" / "server")
    assert made and calm.lost == 0
    # Of rounds that are taken back none is given anew, unless the first one must whiten again what the pivot's head reads.
    assert calm.version == 30 + len(made) or (name == "whitened" and calm.version > 30 + len(made))
    places = random.Random(5).sample(range(1, len(calm.places) * 2 // 3), 10)
    crashed = outcome(folder / "crashed", TRIO, places, Coordinator, settings, Fickle, backend=backend)
    assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0)
    assert check(folder / "crashed" / "server").problems == []
