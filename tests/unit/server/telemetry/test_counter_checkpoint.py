"""Counters that were shown do not go back after a restart, whatever became of the file that says so."""

from pathlib import Path

import pytest

from zowarmup.server.core.events import TrafficCount
from zowarmup.server.telemetry.counter_checkpoint import CounterCheckpoint

SAVED = TrafficCount("up", "low", "zeroth-order", "contribution", 1000, 10, 1200)
SHOWN = TrafficCount("up", "low", "zeroth-order", "contribution", 1300, 13, 1500)
STRANGER = TrafficCount("up", "", "warm-up", "control", 5, 1, 96)


def test_a_restart_goes_on_from_what_was_shown(tmp_path: Path) -> None:
    CounterCheckpoint(tmp_path / "told.json").keep((SHOWN, STRANGER))
    assert set(CounterCheckpoint(tmp_path / "told.json").or_larger([SAVED])) == {SHOWN, STRANGER}


def test_what_was_saved_counts_where_it_is_more(tmp_path: Path) -> None:
    CounterCheckpoint(tmp_path / "told.json").keep((SAVED,))
    more = TrafficCount("up", "low", "zeroth-order", "contribution", 1300, 13, 1100)
    (found,) = CounterCheckpoint(tmp_path / "told.json").or_larger([more])
    assert found == TrafficCount("up", "low", "zeroth-order", "contribution", 1300, 13, 1200)


@pytest.mark.parametrize(
    "text",
    ["", "[", "{}", "7", "[[1]]", '[["up", "low", "x", "y", -1, 0, 0]]', '[["up", "low", "x", 4, 1, 0, 0]]',
     '[["up", "low", "x", "y", 1.5, 0, 0]]', '[["up", "low", "x", "y", 1, true, 0]]', "[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "told.json").write_text(text)
    assert CounterCheckpoint(tmp_path / "told.json").or_larger([SAVED]) == (SAVED,)


def test_a_disk_that_refuses_stops_no_scrape(tmp_path: Path) -> None:
    CounterCheckpoint(tmp_path / "gone" / "told.json").keep((SHOWN,))
    assert CounterCheckpoint(tmp_path / "gone" / "told.json").or_larger([SAVED]) == (SAVED,)
