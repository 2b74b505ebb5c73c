"""The files of an experiment's results: means over seeds, and what is written before and after the first cell is over."""

from pathlib import Path

import pytest

from tests.unit.lab.experiments.test_grid import table
from zowarmup.common.system.command import CommandError
from zowarmup.lab.experiments.conduct import ExperimentResults
from zowarmup.lab.experiments.figure import mean_curve, write_results
from zowarmup.lab.experiments.outcome import Point


def point(round: int, value: float, uplink_bytes: int = 0) -> Point:
    return Point(round=round, value=value, loss=1.0, uplink_bytes=uplink_bytes, client_forwards=0)


def test_a_curve_is_the_mean_where_all_seeds_were_evaluated() -> None:
    curves = [[point(1, 0.2, 10), point(2, 0.5, 20)], [point(1, 0.4, 30), point(3, 0.9, 60)]]
    ((x, mean, deviation),) = mean_curve(curves, "uplink_bytes")
    assert (x, mean) == pytest.approx((20, 0.3))
    assert deviation == pytest.approx(0.2 / 2**0.5)
    assert mean_curve([], "round") == []


def test_before_the_first_cell_is_over_there_are_tables_and_no_figure(tmp_path: Path) -> None:
    files = write_results(table(), ExperimentResults(), "table.toml", tmp_path / "out", "digits")
    assert [file.name for file in files] == ["digits.csv", "digits_curves.csv", "digits.md"]
    assert files[0].read_text().startswith("method,high_percent,seed,accuracy")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(CommandError, match=r"the results cannot be written: .*; free space, or name another folder"):
        write_results(table(), ExperimentResults(), "table.toml", tmp_path / "out", "digits")
