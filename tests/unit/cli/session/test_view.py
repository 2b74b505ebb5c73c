"""What the operator is shown of a run: its status, its curve and the time it will take."""

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from tests.tasks import METRIC, accuracy_of
from zowarmup.cli.session.status import ClientStatus, EvaluationStatus, Status, TrafficStatus, VersionStatus
from zowarmup.cli.session.view import KEPT, Pace, sparkline, status_line, status_view
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.tasks.protocol import Metric

DIGEST = "ab" * 16
WARM, ZERO = Phase.WARM_UP, Phase.ZEROTH_ORDER
CLIENTS = (
    ClientStatus("high-1", Tier.HIGH, True, 143, 4, DIGEST, 250_000_000, 0.0),
    ClientStatus("low-1", Tier.LOW, True, 144, 4, DIGEST, 66_000_000, 0.0),
    ClientStatus("low-2", Tier.LOW, True, 144, 4, DIGEST, 67_500_000, 0.0),
)


def traffic(version: int) -> tuple[TrafficStatus, ...]:
    """Two rounds of warm-up with a delta of 40 kB in two chunks, then 264 B a contribution; 100 B each to join."""
    warm, zero = min(version, 2), max(0, version - 2)
    rows = [
        TrafficStatus("up", None, WARM, "control", 30, 3),
        TrafficStatus("up", Tier.HIGH, WARM, "control", 100, 2),
        TrafficStatus("up", Tier.HIGH, WARM, "delta", 40_000 * warm, 2 * warm),
        TrafficStatus("up", Tier.HIGH, WARM, "contribution", 50 * warm, warm),
        TrafficStatus("down", Tier.HIGH, WARM, "snapshot", 40_000 * warm, warm),
        TrafficStatus("up", Tier.LOW, WARM, "control", 200, 4),
    ]
    for tier, count in ((Tier.HIGH, 1), (Tier.LOW, 2)):
        rows.append(TrafficStatus("up", tier, ZERO, "contribution", 264 * zero * count, zero * count))
        rows.append(TrafficStatus("down", tier, ZERO, "commit", 900 * zero * count, zero * count))
    return tuple(rows)


ACCURACY = (0.1, 0.2, 0.3, 0.8, 0.95)
VERSIONS = tuple(
    VersionStatus(
        version=number,
        round=number,
        phase=WARM if number <= 2 else ZERO,
        contributions=0 if number == 0 else 1 if number <= 2 else 3,
        committed_at_s=1000.0 + number,
        evaluation=EvaluationStatus(number, accuracy_of(accuracy), 0.5, 360),
        traffic=traffic(number),
    )
    for number, accuracy in enumerate(ACCURACY)
)
STATUS = Status(
    name="demo-mlp-0",
    run_id="3f2a9c11",
    metrics=(METRIC,),
    phase=Phase.FINISHED,
    round=4,
    version=4,
    digest=DIGEST,
    activity="finished: all rounds are done",
    pivot_version=2,
    final_version=4,
    clients=CLIENTS,
    traffic=traffic(4),
    evaluation=VERSIONS[4].evaluation,
    pivot_evaluation=VERSIONS[2].evaluation,
    paused="",
    participants=0,
    contributed=0,
    uptime_s=31.0,
)
RUNNING = Status(
    name="digits",
    run_id="r",
    metrics=(METRIC,),
    phase=Phase.ZEROTH_ORDER,
    round=12,
    version=12,
    digest="",
    activity="",
    pivot_version=10,
    final_version=110,
    clients=(),
    traffic=(),
    evaluation=None,
    pivot_evaluation=None,
    paused="",
    participants=0,
    contributed=0,
    uptime_s=1.0,
)


def version(number: int, at: float, phase: Phase = Phase.ZEROTH_ORDER, loss: float | None = None) -> VersionStatus:
    evaluation = None if loss is None else EvaluationStatus(number, accuracy_of(0.5), loss, 100)
    return VersionStatus(number, number, phase, 3, at, evaluation, ())


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([0.0, 1.0], "▁█"),
        ([1.0, 1.0, 1.0], "▁▁▁"),
        ([0.0, 3.5, 7.0], "▁▅█"),
        ([0.0, math.nan, 1.0, math.inf], "▁███"),
        ([math.inf, math.nan], "██"),
        (list(range(1000)), "▁▁▁▂▂▂▂▃▃▃▃▄▄▄▄▅▅▅▅▆▆▆▆▇▇▇▇███"),
    ],
)
def test_a_curve_is_drawn_in_at_most_thirty_characters(values: list[float], drawn: str) -> None:
    assert sparkline(values) == drawn


def test_the_time_left_is_of_the_present_phase_at_the_pace_of_its_last_rounds() -> None:
    warm_up = tuple(version(number, 100.0 * number, Phase.WARM_UP) for number in range(11))
    pace = Pace(warm_up).following([version(11, 1000.0), version(12, 1002.5)])
    assert pace.left(RUNNING) == "about 4 min 05 s: 98 rounds, of which the last took 2.5 s each"
    assert pace.left(replace(RUNNING, paused="lunch")) == ""
    assert pace.left(replace(RUNNING, phase=Phase.FINISHED)) == ""
    early = replace(RUNNING, phase=Phase.WARM_UP, version=4, pivot_version=10)
    assert (
        Pace(warm_up[:5]).left(early)
        == "about 10 min 00 s to the pivot: 6 rounds, of which the last took 1 min 40 s each"
    )


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert Pace().rows(RUNNING) == []
    assert Pace((version(11, 5.0),)).rows(RUNNING) == []
    assert Pace((version(11, 5.0), version(12, 5.0))).left(RUNNING) == "", "or of a clock that was set back"


def test_only_what_is_new_is_asked_for_and_evaluations_that_came_later_once_more() -> None:
    pace = Pace()
    assert pace.since(5000) == 5001 - KEPT
    pace = pace.following([version(1, 1.0, loss=1.0), version(2, 2.0), version(3, 3.0)])
    assert pace.since(5) == 2, "2 and 3 may have been evaluated meanwhile"
    pace = pace.following([version(2, 2.0, loss=0.5), version(3, 3.0), version(4, 4.0, loss=0.25)])
    assert [one.version for one in pace.versions] == [1, 2, 3, 4]
    assert pace.since(5) == 4
    name, text = pace.rows(RUNNING, ascii_only=True)[1]
    assert (name, text) == ("", "#-_  1.00 to 0.25 nats, versions 1 to 4")


def test_no_more_is_kept_than_is_drawn() -> None:
    pace = Pace().following([version(number, 1.0) for number in range(2 * KEPT)])
    assert len(pace.versions) == KEPT


def text(shown: RenderableType) -> str:
    """As on a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def flat(shown: RenderableType) -> str:
    return " ".join(text(shown).split())


def test_status_says_all_of_it_in_80_columns() -> None:
    gone = replace(CLIENTS[2], connected=False, gone_s=42.0)
    status = replace(
        STATUS,
        phase=ZERO,
        round=4,
        version=3,
        clients=(*CLIENTS[:2], gone),
        activity="waiting: 1 of 2 low-tier clients (low-2 gone for 42 s)",
        evaluation=VERSIONS[3].evaluation,
    )
    shown = flat(status_view(status))
    for part in (
        "zeroth-order, round 4",
        "3 of 4 (pivot at 2)",
        "waiting: 1 of 2 low-tier clients (low-2 gone for 42 s)",
        "80.0 % of 360 examples at version 3 (at the pivot: 30.0 %), loss 0.50 nats",
        "high tier 1 of 1 client connected",
        "low tier 1 of 2 clients connected (low-2 gone for 42 s)",
        "high tier warm-up 80.2 kB 80 kB 40 kB",
        "low tier zeroth-order 1.06 kB 3.6 kB 264 B",
        "not yet enrolled warm-up 30 B 0 B",
    ):
        assert part in shown
    assert max(len(line) for line in text(status_view(status)).splitlines()) <= 80


def test_status_marks_what_needs_an_eye() -> None:
    assert "paused: 5 rounds in a row were abandoned" in flat(
        status_view(replace(STATUS, paused="5 rounds in a row were abandoned"))
    )
    wrong = replace(STATUS, clients=(CLIENTS[0], replace(CLIENTS[1], digest="cd" * 16)))
    assert "low-1 of 2 differ at version 4" in flat(status_view(wrong))
    empty = replace(STATUS, clients=(), evaluation=None, traffic=())
    assert "none has enrolled yet" in flat(status_view(empty))
    assert "not evaluated yet" in flat(status_view(empty))


def test_a_status_in_one_line() -> None:
    assert status_line(STATUS) == "finished, version 4 of 4, accuracy 95.0 %; finished: all rounds are done"


def test_status_json_is_plain_and_complete() -> None:
    plain = json.loads(json.dumps(STATUS.to_json()))
    assert plain["phase"] == "finished"
    assert plain["clients"][1]["tier"] == "low"
    assert plain["traffic"][0]["tier"] is None
    assert plain["replicas"] == {"agree": 3, "differ": 0, "silent": 0}
    assert plain["evaluation"] == {"version": 4, "metrics": {"accuracy": 0.95}, "loss": 0.5, "examples": 360}


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_model_that_diverged_has_a_status_in_json(loss: float) -> None:
    diverged = EvaluationStatus(version=4, metrics=accuracy_of(0.1), loss=loss, examples=360)
    status = replace(STATUS, evaluation=diverged, pivot_evaluation=diverged)
    plain = json.loads(json.dumps(status.to_json(), allow_nan=False))
    assert plain["evaluation"] == {"version": 4, "metrics": {"accuracy": 0.1}, "loss": None, "examples": 360}
    assert plain["pivot_evaluation"]["loss"] is None


def test_a_metric_that_is_no_share_is_shown_as_it_is() -> None:
    error = replace(STATUS, metrics=(Metric("mean_absolute_error", best=0.0, higher_is_better=False),))
    versions = tuple(
        replace(VERSIONS[number], evaluation=EvaluationStatus(number, {"mean_absolute_error": value}, 0.5, 360))
        for number, value in enumerate((4.0, 2.0, math.nan, 1.0))
    )
    assert Pace(versions).rows(error)[0] == ("curve", "█▃█▁  4 to 1")
    last = replace(error, evaluation=versions[-1].evaluation, pivot_evaluation=versions[0].evaluation)
    assert status_line(last).startswith("finished, version 4 of 4, mean absolute error 1;")
    assert "mean absolute error 1 of 360 examples at version 3" in flat(status_view(last))
