"""Crashes in a run that diverges and goes back: the same model comes out, at the same versions."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.small import PAIR, TrueEvaluator, run_file
from tests.scenario.test_crash_points import folder, outcome
from zowarmup.common.run import Evaluation, Guard, RunFile
from zowarmup.server import events as ev
from zowarmup.server.archive import LEDGER
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.fsck import check
from zowarmup.server.ledger import Ledger

__all__ = ["folder"]
SHARES = 3


def diverging(rollbacks: int) -> RunFile:
    """Its warm-up moves by four times the way to the clients' optimum, its zeroth-order steps are 40 times too long."""
    plain = run_file(PAIR)
    return replace(
        plain,
        warmup=replace(plain.warmup, server_rate=80.0),
        zeroth_order=replace(plain.zeroth_order, step="raw", rate=0.4, clip=0.0),
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
def test_a_crash_at_any_write_of_a_run_that_gives_up_leads_to_the_same_good_model(folder: Path, share: int) -> None:
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
        crashed = outcome(data_dir, PAIR, [place], settings=settings, evaluator=TrueEvaluator)
        told = f"a crash at place {place} of {len(calm.places)} ({calm.places[place - 1]})"
        assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0), told
        assert returns(data_dir / "server") == made, told
        found = check(data_dir / "server")
        assert (found.problems, found.notes, found.digest) == ([], [], calm.digest), told
        shutil.rmtree(data_dir)


@pytest.mark.parametrize("seed", range(3))
def test_many_crashes_in_a_run_that_recovers_lead_to_the_same_model(folder: Path, seed: int) -> None:
    settings = diverging(rollbacks=8)
    calm = outcome(folder / "calm", PAIR, settings=settings, evaluator=TrueEvaluator)
    made = returns(folder / "calm" / "server")
    assert calm.version == 30 + len(made) and len(made) >= 4
    places = random.Random(seed).sample(range(1, len(calm.places) * 2 // 3), 25)
    crashed = outcome(folder / "many", PAIR, places, Coordinator, settings, TrueEvaluator)
    assert crashed.lives >= 12
    assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0)
    assert check(folder / "many" / "server").problems == []
