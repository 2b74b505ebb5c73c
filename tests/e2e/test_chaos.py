"""Two schedules of `make chaos`."""

from pathlib import Path

import pytest

from tests.faults import chaos


@pytest.mark.timeout(600)
def test_two_random_schedules_of_kills_and_cuts_lose_nothing(tmp_path: Path, prepared_models: Path) -> None:
    outcomes = chaos.run(2, 7, tmp_path, prepared_models)
    assert [outcome.why for outcome in outcomes] == ["", ""]
    assert all(outcome.finished and outcome.equal and not outcome.lost for outcome in outcomes)
    assert all(outcome.faults and outcome.acknowledged >= 25 for outcome in outcomes)
    assert chaos.summary(outcomes) == '{"schedules": 2, "finished": 2, "lost": 0, "equal": 2}'
