"""What a ledger says of a run, what is made of many, and what of it is kept at the next start."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.algorithms import changed, warmup_settings, zeroth_order_settings
from tests.faults.small import LAYOUT
from tests.tasks import METRIC, accuracy_of, scored
from tests.unit.lab.experiments.test_grid import TUNE, table
from zowarmup.common.algorithms import algorithm_of
from zowarmup.common.messages.values import Contribution, Delta, Phase, Scalars, Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.common.tasks.protocol import Metric
from zowarmup.lab.experiments.conduct import Moment, default_jobs, left_s, score
from zowarmup.lab.experiments.grid import Cell, cells
from zowarmup.lab.experiments.outcome import Point, RunOutcome, outcome_of
from zowarmup.lab.experiments.running import BEGUN, CHECKPOINT, OUTCOME, Place
from zowarmup.lab.experiments.summary import curve_of, markdown, row_of, rows_csv, spread
from zowarmup.server.core import events as ev

RUN = RunFile(
    name="r",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=1, epochs=3),
    zeroth_order=zeroth_order_settings(rounds=1, probes=8, slices="whole"),
    evaluation=Evaluation(data="digits:test"),
)
DELTA = Delta(round=1, digest="0" * 32, examples=100, loss=1.0)
SCALARS = Scalars(round=2, probes=(0.5,) * 8, projections=())


@pytest.mark.parametrize(
    ("phase", "tier", "contribution", "passes"),
    [
        ({}, Tier.HIGH, DELTA, 3 * 3),
        ({}, Tier.LOW, SCALARS, 2 * 8),
        ({"slices": "own"}, Tier.LOW, SCALARS, 2),
        ({"slices": "own", "local_steps": 4}, Tier.HIGH, SCALARS, 8),
        ({"gradient_projections": 64}, Tier.HIGH, SCALARS, 3),
        ({"gradient_projections": 64}, Tier.LOW, SCALARS, 16),
    ],
)
def test_passes_are_counted_by_what_the_settings_ask(
    phase: dict[str, Any], tier: Tier, contribution: Contribution, passes: int
) -> None:
    run = replace(RUN, zeroth_order=changed(RUN.zeroth_order, **phase))
    of = Phase.WARM_UP if isinstance(contribution, Delta) else Phase.ZEROTH_ORDER
    assert algorithm_of(run, of, LAYOUT).forwards(tier, 100) == 100 * passes


def ledger(*last: ev.Event, run: RunFile = RUN) -> list[tuple[float, ev.Event]]:
    program = ev.ProgramRecord("", 0, LAYOUT.to_json(), DataCard(shape=(1, 8, 8), classes=10), 0, 0, *scored(10))
    up = ev.TrafficCount("up", "high", "warm-up", "delta", 400, 1)
    events: list[ev.Event] = [
        ev.RunCreated("id", run, program, ev.Snapshot(0, "", 20, "d0")),
        ev.ClientEnrolled("a", Tier.HIGH, 100, ""),
        ev.ClientEnrolled("b", Tier.LOW, 50, ""),
        ev.Evaluated(0, accuracy_of(0.1), 2.3, 360),
        ev.RoundOpened(1, Phase.WARM_UP, 0, ("a",), (1,), (100,), 9.0),
        ev.Contributed("a", DELTA),
        ev.Committed(1, 1, "d1", (), ev.Snapshot(1, "", 20, "d1"), (up,)),
        ev.RoundOpened(2, Phase.ZEROTH_ORDER, 1, ("a", "b"), (1, 2), (100, 50), 9.0),
        ev.Contributed("a", SCALARS),
        ev.Contributed("b", SCALARS),
        ev.Committed(2, 2, "d2", (), None, (replace(up, kind="contribution", payload_bytes=64),)),
        ev.Evaluated(2, accuracy_of(0.8), 0.5, 360),
        *last,
    ]
    return [(float(at), event) for at, event in enumerate(events)]


def test_a_private_run_counts_what_releases_take() -> None:
    """With a head beside what is probed, a pass over all examples more."""
    run = replace(
        RUN,
        warmup=replace(RUN.warmup, rounds=0),
        zeroth_order=changed(RUN.zeroth_order, whitening=0, head_projections=8),
        privacy=Privacy(mode="local", epsilon=8.0),
    )
    plain, private = (outcome_of(ledger(run=one)).client_forwards for one in (replace(run, privacy=Privacy()), run))
    assert private - plain == 100 + 50


def test_a_ledger_is_folded_to_what_a_run_came_to() -> None:
    found = outcome_of(ledger(ev.RunFinished(2, "done")))
    assert (found.rounds, found.began, found.digest, found.gave_up) == (2, "d0", "d2", "")
    assert (found.uplink_bytes, found.client_forwards, found.seconds) == (464, 900 + 16 * 150, 2 + 3)
    start, end = found.curve
    assert (start.round, start.uplink_bytes, start.client_forwards) == (0, 0, 0)
    assert (end.round, end.value, end.uplink_bytes, end.client_forwards) == (2, 0.8, 464, 3300)
    assert found.last == end


def test_a_run_that_gave_up_has_no_result() -> None:
    assert outcome_of(ledger(ev.RunPaused("no quorum"))).last is None
    assert outcome_of(ledger(ev.RunPaused("x"), ev.RunResumed())).last is not None


def test_what_is_over_is_kept_and_what_was_begun_goes_on(tmp_path: Path) -> None:
    place, found = Place(tmp_path / "cell"), outcome_of(ledger())
    assert place.find("f", False) is None
    place.begin("f")
    (place.path / "server").mkdir()
    assert place.find("f", False) is None
    place.begin("f")
    assert (place.path / "server").exists(), "the same work goes on"
    place.settle("f", found, keep=False)
    assert sorted(path.name for path in place.path.iterdir()) == [BEGUN, OUTCOME]
    assert place.find("f", False) == found
    assert place.find("g", False) is None
    assert place.find("f", True) is None, "a warm-up is worth nothing without its weights"
    (place.path / CHECKPOINT).touch()
    assert place.find("f", True) == found
    (place.path / OUTCOME).write_text("{")
    assert place.find("f", False) is None
    place.begin("g")
    assert [path.name for path in place.path.iterdir()] == [BEGUN]


def test_means_and_deviations_are_over_seeds() -> None:
    assert spread([]) is None
    one, three = spread([0.5]), spread([0.1, 0.2, 0.3])
    assert one is not None and (one.mean, one.deviation, one.count) == (0.5, 0.0, 1)
    assert three is not None and (round(three.mean, 9), round(three.deviation, 9), three.count) == (0.2, 0.1, 3)


def outcome(accuracy: float, rounds: int = 30, uplink: int = 100) -> RunOutcome:
    points = [
        Point(round=at, value=value, loss=1.0, uplink_bytes=uplink * at, client_forwards=at)
        for at, value in ((0, 0.1), (rounds, accuracy))
    ]
    return RunOutcome(
        metric=METRIC,
        rounds=rounds,
        began="b",
        digest="d",
        uplink_bytes=uplink * rounds,
        downlink_bytes=1,
        client_forwards=rounds,
        seconds=2.0,
        curve=tuple(points),
    )


def cell(method: int, seed: int = 0) -> Cell:
    made = cells(table(), table().method[method], {})
    return next(one for one in made if (one.high_percent, one.seed) == (50, seed))


def test_a_row_counts_the_warm_up_that_was_run_apart() -> None:
    row = row_of(cell(1), outcome(0.9), replace(outcome(0.3, rounds=10, uplink=4000), digest="w"))
    assert (row.method, row.high_percent, row.seed, row.value, row.value_at_pivot) == ("Ours", 50, 0, 0.9, 0.1)
    assert (row.rounds, row.pivot, row.uplink_bytes, row.client_forwards, row.seconds) == (40, 10, 43000, 40, 4.0)
    assert (row.checkpoint, row.probes) == ("w", 8)
    alone = row_of(cell(0), outcome(0.9, rounds=40), None)
    assert (alone.pivot, alone.checkpoint, alone.probes, alone.value_at_pivot) == (40, "", 0, None)
    (read,) = csv.DictReader(io.StringIO(rows_csv([row], METRIC)))
    assert list(read)[:4] == ["method", "high_percent", "seed", "accuracy"]
    assert float(read["accuracy"]) == 0.9


def test_a_curve_goes_on_where_the_warm_up_ended() -> None:
    points = curve_of(cell(1), outcome(0.9), outcome(0.3, rounds=10, uplink=4000))
    assert [(point.round, point.uplink_bytes) for point in points] == [(0, 0), (10, 40000), (40, 43000)]


def test_the_table_has_means_and_says_what_is_missing() -> None:
    rows = [row_of(cell(1, seed), outcome(0.8 + seed / 10), outcome(0.3, rounds=10)) for seed in (0, 1)]
    rows += [row_of(cell(0, seed), outcome(0.5, rounds=40), None) for seed in (0, 1, 2)]
    text = markdown(table(), rows, "t.toml", METRIC)
    assert "| Ours | - | **85.0 (7.1)** [2] |" in text
    assert "| high only | - | 50.0 (0.0) |" in text
    assert "[n]: of so many seeds only" in text
    assert "digits:test" in text and "zowarmup experiment t.toml" in text


def test_where_lower_is_better_the_lowest_mean_is_bold() -> None:
    error = Metric("mean_absolute_error", best=0.0, higher_is_better=False)
    rows = [
        row_of(cell(method, seed), outcome(value), None) for seed in (0, 1, 2) for method, value in ((0, 2.5), (1, 1.5))
    ]
    text = markdown(table(), rows, "t.toml", error)
    assert "| Ours | - | **1.5 (0)** |" in text and "| high only | - | 2.5 (0) |" in text
    assert "Mean absolute error on digits:test, mean" in text and "lowest mean" in text
    assert next(iter(csv.DictReader(io.StringIO(rows_csv(rows, error)))))["mean_absolute_error"] == "2.5"
    assert (score(replace(outcome(2.5), metric=error)), score(outcome(0.9)), score(None)) == (-2.5, 0.9, None)


def test_the_table_says_what_was_chosen_and_where_that_is_an_edge() -> None:
    method = {"name": "x", "tune": {"zeroth_order": {"rate": [0.1, 0.2, 0.4]}}}
    tuned = table(method=[method], tune=TUNE)
    for rate, edge in ((0.2, ""), (0.4, " (at the edge of the values that were tried)")):
        one = next(c for c in cells(tuned, tuned.method[0], {"zeroth_order": {"rate": rate}}) if c.high_percent == 50)
        text = markdown(tuned, [row_of(one, outcome(0.9), outcome(0.3, rounds=10))], "t.toml", METRIC)
        assert "Chosen on digits:validation" in text
        assert f"- x: zeroth_order.rate={rate}{edge}\n" in text


def test_the_table_says_where_each_choice_holds_if_splits_chose_by_themselves() -> None:
    method = {"name": "x", "tune": {"zeroth_order": {"rate": [0.1, 0.2, 0.4]}}}
    tuned = table(method=[method], tune={name: value for name, value in TUNE.items() if name != "high_percent"})
    rows = [
        row_of(cells(tuned, tuned.method[0], {"zeroth_order": {"rate": rate}}, [split])[0], outcome(0.9), None)
        for split, rate in ((10, 0.4), (50, 0.2))
    ]
    text = markdown(tuned, rows, "t.toml", METRIC)
    assert "- x at 10 %: zeroth_order.rate=0.4 (at the edge of the values that were tried)\n" in text
    assert "- x at 50 %: zeroth_order.rate=0.2\n" in text


def test_what_is_left_is_reckoned_by_kind() -> None:
    assert left_s({}, ["a"], 2) is None
    assert left_s({"a": [10.0, 20.0], "b": [5.0]}, ["a", "b", "new"], 1) == pytest.approx(15 + 5 + 35 / 3)
    assert left_s({"a": [10.0]}, ["a"] * 4, 2) == 20.0
    moment = Moment(total=8, done=3, failed=1, running=("a-10-0", "b-10-0"), left_s=90.0)
    assert moment.line() == "3 of 8 cells | 1 failed | a-10-0, b-10-0 | about 1 min 30 s left"


def test_jobs_need_a_core_and_memory_each() -> None:
    assert [default_jobs(8, 16 << 30, 1 << 30), default_jobs(8, 3 << 30, 1 << 30), default_jobs(1, 1, 2)] == [8, 3, 1]
