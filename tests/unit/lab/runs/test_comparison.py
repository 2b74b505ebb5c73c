"""The figure of several runs: who is in it, under which name, and why there is none."""

from pathlib import Path

import pytest

from zowarmup.common.messages.values import Phase
from zowarmup.common.system.command import CommandError
from zowarmup.common.tasks.protocol import Metric
from zowarmup.lab.runs.comparison import draw_comparison, labels
from zowarmup.lab.runs.stored_runs import CurvePoint, StoredRun

ACCURACY = Metric("accuracy", best=1.0, higher_is_better=True, share=True)
ERROR = Metric("error", best=0.0, higher_is_better=False)


def run(name: str, folder: str, *values: float, metric: Metric = ACCURACY) -> StoredRun:
    return StoredRun(
        folder=Path(folder),
        name=name,
        run_id=folder,
        state="stopped",
        address="",
        phase=Phase.WARM_UP,
        version=3,
        digest="0" * 32,
        metric=metric,
        loss=None,
        uplink_bytes=1000,
        downlink_bytes=0,
        began_at=0.0,
        committed_at=0.0,
        curve=tuple(CurvePoint(version, 100 * version, value) for version, value in enumerate(values)),
    )


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [run("a", "x", 0.1, 0.2), run("b", "y", 0.3), run("a", "z", float("nan"), 0.5)]
    assert labels(runs) == ["a (x)", "b", "a (z)"]
    draw_comparison([*runs, run("never evaluated", "w")], tmp_path / "runs.svg")
    drawn = (tmp_path / "runs.svg").read_text()
    for name in ("a (x)", "b", "a (z)"):
        assert f"<!-- {name} -->" in drawn
    assert "never evaluated" not in drawn


@pytest.mark.parametrize(
    ("runs", "file", "said"),
    [
        ([run("a", "x")], "runs.png", "no run has been evaluated yet"),
        ([run("a", "x", 0.1), run("b", "y", 2.0, metric=ERROR)], "runs.png", "have different metrics (accuracy, error)"),
        ([run("a", "x", 0.1)], "runs.doc", "cannot be written"),
        ([run("a", "x", 0.1)], "nowhere/runs.png", "cannot be written: No such file"),
    ],
)  # fmt: skip
def test_where_there_can_be_no_figure_a_sentence_says_why(
    runs: list[StoredRun], file: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match="--plot") as caught:
        draw_comparison(runs, tmp_path / file)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []
