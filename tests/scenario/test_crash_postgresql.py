"""Crashes of a coordinator whose run is in PostgreSQL: at a write of each kind, and at many in one run. All of them, as for files:
`pytest --backend postgresql tests/scenario/test_crash_points.py`."""

import random
from pathlib import Path

import pytest

from tests.faults.backends import Backend
from tests.faults.crash import KEEP, PLACES
from tests.faults.small import PAIR, TRIO
from tests.scenario.test_crash_points import outcome, undisturbed
from zowarmup.server.coordinator import Coordinator

pytestmark = pytest.mark.backends("postgresql")
KINDS = sorted(PLACES - {KEEP})
SHARES = 3


@pytest.mark.parametrize("share", range(SHARES))
def test_a_crash_at_a_write_of_each_kind_leads_to_the_same_model(tmp_path: Path, backend: Backend, share: int) -> None:
    calm, draw = undisturbed("pair"), random.Random(share)
    for kind in KINDS[share::SHARES]:
        place = draw.choice([number for number, found in enumerate(calm.places[:-1], 1) if found == kind])
        crashed = outcome(tmp_path / str(place), PAIR, [place], backend=backend)
        told = f"a crash at place {place} of {len(calm.places)} ({kind})"
        assert (crashed.digest, crashed.version, crashed.lost, crashed.lives) == (calm.digest, 30, 0, 2), told


def test_many_crashes_in_one_run_lead_to_the_same_model(tmp_path: Path, backend: Backend) -> None:
    calm = undisturbed("trio")
    places = random.Random(5).sample(range(1, len(calm.places) * 2 // 3), 12)
    crashed = outcome(tmp_path / "many", TRIO, places, Coordinator, backend=backend)
    assert crashed.lives >= 6, "commands that share a write make fewer places"
    assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0)
