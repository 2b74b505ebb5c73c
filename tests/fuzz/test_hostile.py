"""Hostile calls: a short form of what `make fuzz` ends with."""

import asyncio

import pytest

from tests.fuzz.hostile import assault

CALLS = 1500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_calls_change_nothing_and_leave_nothing_behind(seed: int) -> None:
    found = asyncio.run(assault(CALLS, seed))
    assert found.unchanged and found.serving
    assert sum(found.answers.values()) == CALLS
    assert not set(found.answers) & {"UNKNOWN", "DEADLINE_EXCEEDED"}, found.answers
    assert found.grown_mb < 64
    assert {"unauthenticated", "invalid", "malformed", "too_long", "late", "offset"} <= set(found.reasons), (
        found.reasons
    )
