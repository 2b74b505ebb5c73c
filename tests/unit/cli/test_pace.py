"""What the versions so far say of a run's curve and of the time it will take."""

import math
from dataclasses import replace

import pytest

from tests.tasks import METRIC, accuracy_of
from zowarmup.cli.pace import KEPT, Pace, sparkline
from zowarmup.cli.run_status import EvaluationStatus, Status, VersionStatus
from zowarmup.common.messages.values import Phase

STATUS = Status(
    metrics=(METRIC,),
    name="digits",
    run_id="r",
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
    assert pace.left(STATUS) == "about 4 min 05 s: 98 rounds, of which the last took 2.5 s each"
    assert pace.left(replace(STATUS, paused="lunch")) == ""
    assert pace.left(replace(STATUS, phase=Phase.FINISHED)) == ""
    early = replace(STATUS, phase=Phase.WARM_UP, version=4, pivot_version=10)
    assert (
        Pace(warm_up[:5]).left(early)
        == "about 10 min 00 s to the pivot: 6 rounds, of which the last took 1 min 40 s each"
    )


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert Pace().rows(STATUS) == []
    assert Pace((version(11, 5.0),)).rows(STATUS) == []
    assert Pace((version(11, 5.0), version(12, 5.0))).left(STATUS) == "", "or of a clock that was set back"


def test_only_what_is_new_is_asked_for_and_evaluations_that_came_later_once_more() -> None:
    pace = Pace()
    assert pace.since(5000) == 5001 - KEPT
    pace = pace.following([version(1, 1.0, loss=1.0), version(2, 2.0), version(3, 3.0)])
    assert pace.since(5) == 2, "2 and 3 may have been evaluated meanwhile"
    pace = pace.following([version(2, 2.0, loss=0.5), version(3, 3.0), version(4, 4.0, loss=0.25)])
    assert [one.version for one in pace.versions] == [1, 2, 3, 4]
    assert pace.since(5) == 4
    name, text = pace.rows(STATUS, ascii_only=True)[1]
    assert (name, text) == ("", "#-_  1.00 to 0.25 nats, versions 1 to 4")


def test_no_more_is_kept_than_is_drawn() -> None:
    pace = Pace().following([version(number, 1.0) for number in range(2 * KEPT)])
    assert len(pace.versions) == KEPT
