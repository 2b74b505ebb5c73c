"""What the operator is shown: status, the demo's table, report.json and report.png, made from one small run."""

import io
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from tests.tasks import METRIC, accuracy_of
from zowarmup.cli.run_status import ClientStatus, EvaluationStatus, Status, TrafficStatus, VersionStatus
from zowarmup.cli.status_view import status_line, status_view
from zowarmup.cli.units import counted, duration, percent, size
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.tasks.protocol import Metric
from zowarmup.lab.demo.report import write_report
from zowarmup.lab.demo.report_figure import subtitle, title
from zowarmup.lab.demo.result import Result
from zowarmup.lab.demo.view import Scene, result_view, scene_line, scene_view, sparkline

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
RESULT = Result(
    model="mlp",
    seed=0,
    clients={Tier.HIGH: 1, Tier.LOW: 2},
    parameters=10_000,
    status=STATUS,
    versions=VERSIONS,
    peak_rss_bytes={Tier.HIGH: 250_000_000, Tier.LOW: 67_500_000},
    seconds=31.24,
)


def text(shown: RenderableType) -> str:
    """As on a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def flat(shown: RenderableType) -> str:
    return " ".join(text(shown).split())


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (264, "264 B"), (999.4, "999 B"), (999.6, "1.00 kB"), (36_480, "36.5 kB"), (99_960, "100 kB"),
     (999_600, "1.00 MB"), (73_147_920, "73.1 MB"), (4e12, "4000 GB")],
)  # fmt: skip
def test_sizes_have_about_three_figures_and_a_unit(count: float, expected: str) -> None:
    assert size(count) == expected


def test_other_numbers_have_their_unit() -> None:
    assert percent(0.9578) == "95.8 %"
    assert [duration(s) for s in (8.4, 59.6, 65, 7380)] == ["8 s", "1 min 00 s", "1 min 05 s", "2 h 03 min"]
    assert [counted(n, "client") for n in (0, 1, 9)] == ["0 clients", "1 client", "9 clients"]


def test_report_json_has_what_was_promised() -> None:
    report = json.loads(json.dumps(RESULT.to_json()))
    assert report["metrics"]["accuracy"] == {"pivot": 0.3, "final": 0.95}
    assert report["uplink_payload_bytes"] == {
        "high": {"warm-up": 80_200, "zeroth-order": 528, "finished": 0},
        "low": {"warm-up": 200, "zeroth-order": 1056, "finished": 0},
    }
    assert report["downlink_payload_bytes"]["low"] == {"warm-up": 0, "zeroth-order": 3600, "finished": 0}
    assert report["uplink_bytes_per_contribution"] == {
        "high": {"warm-up": 40_050, "zeroth-order": 264},
        "low": {"warm-up": None, "zeroth-order": 264},
    }
    assert report["peak_rss_mb"] == {"high": 250.0, "low": 67.5}
    assert (report["replicas_equal"], report["rounds"], report["seconds"]) == (True, 4, 31.2)
    assert report["fedavg_uplink_payload_bytes"] == 4 * 10_000 * (2 * 1 + 2 * 3)


def test_a_tier_without_clients_is_not_in_the_report() -> None:
    status = replace(STATUS, clients=CLIENTS[:1])
    report = replace(RESULT, clients={Tier.HIGH: 1}, status=status, peak_rss_bytes={Tier.HIGH: 1}).to_json()
    assert set(report["uplink_payload_bytes"]) == set(report["peak_rss_mb"]) == {"high"}
    assert report["replicas_equal"]


@pytest.mark.parametrize(
    "client",
    [
        replace(CLIENTS[1], digest="cd" * 16),
        replace(CLIENTS[1], version=3),
        replace(CLIENTS[1], version=0, digest=""),
        None,
    ],
    ids=["differs", "is behind", "has not reported", "never enrolled"],
)
def test_replicas_are_equal_only_where_every_client_said_so(client: ClientStatus | None) -> None:
    members = tuple(c for c in (CLIENTS[0], client, CLIENTS[2]) if c is not None)
    assert not replace(RESULT, status=replace(STATUS, clients=members)).replicas_equal


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
        "high tier warm-up 80.2 kB 80.0 kB 40.0 kB",
        "low tier zeroth-order 1.06 kB 3.60 kB 264 B",
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


def test_the_sparkline_spans_the_run_and_marks_the_pivot() -> None:
    line = sparkline(STATUS, VERSIONS, pivot=2, final=4, width=8)
    assert line.plain == "▁▁▂▂▃▃▇█"
    assert min(span.start for span in line.spans if span.style == "green") == 4
    assert sparkline(STATUS, (), 2, 4).plain == ""
    assert sparkline(STATUS, VERSIONS[:2], 2, 400, width=8).plain == "▂"


def test_a_metric_that_is_no_share_spans_what_has_been_seen() -> None:
    error = replace(STATUS, metrics=(Metric("mean_absolute_error", best=0.0, higher_is_better=False),))
    values = (4.0, 2.0, math.nan, 1.0)
    versions = tuple(
        replace(VERSIONS[n], evaluation=EvaluationStatus(n, {"mean_absolute_error": value}, 0.5, 360))
        for n, value in enumerate(values)
    )
    assert sparkline(error, versions, 0, 3, width=4).plain == "█▅█▃"
    last = replace(error, evaluation=versions[-1].evaluation, pivot_evaluation=versions[0].evaluation)
    assert status_line(last).startswith("finished, version 4 of 4, mean absolute error 1;")
    assert "mean absolute error 1 of 360 examples at version 3" in flat(status_view(last))
    assert (
        title(replace(RESULT, status=last))
        == "From 4 to 1 mean absolute error with 264 B a round from each low-tier client"
    )


def scene(status: Status | None, waiting: str) -> Scene:
    return Scene(
        title="zowarmup demo: mlp, 1 high + 2 low, alpha 0.1, seed 0",
        clients=RESULT.clients,
        elapsed_s=12.0,
        status=status,
        versions=VERSIONS if status else (),
        peak_rss_bytes=RESULT.peak_rss_bytes,
        waiting=waiting,
    )


def test_a_scene_says_what_is_waited_for_even_before_the_coordinator_answers() -> None:
    shown = flat(scene_view(scene(None, "waiting: the coordinator is getting the model ready")))
    assert "now waiting: the coordinator is getting the model ready" in shown
    assert "low 0 of 2 - - 0 B 0 B 67.5 MB" in shown
    assert scene_line(scene(None, "waiting")) == "12 s: waiting"


def test_a_scene_shows_progress_accuracy_and_bytes_in_80_columns() -> None:
    shown = flat(scene_view(scene(STATUS, "waiting: the clients' last reports")))
    for part in ("2 of 2 rounds", "95.0 %, was 30.0 %", "high 1 40.0 kB 264 B", "low 2 - 264 B"):
        assert part in shown
    assert max(len(line) for line in text(scene_view(scene(STATUS, "x"))).splitlines()) <= 80
    assert scene_line(scene(STATUS, "x")) == "12 s: finished, version 4 of 4, accuracy 95.0 %; x"


def test_the_last_table_says_the_result() -> None:
    shown = flat(result_view(RESULT))
    for part in ("95.0 %, from 30.0 % at the pivot", "all 3 clients' are equal", "320 kB", "31 s for 4 rounds"):
        assert part in shown
    unequal = replace(RESULT, status=replace(STATUS, clients=CLIENTS[:2]))
    assert "NOT shown to be equal: 2 of 3" in flat(result_view(unequal))


def test_the_figure_says_the_result_and_is_a_slide(tmp_path: Path) -> None:
    assert title(RESULT) == "From 30 % to 95 % accuracy with 264 B a round from each low-tier client"
    assert "MLP of 10,000 parameters; 1 high-tier and 2 low-tier clients" in subtitle(RESULT)
    numbers, figure = write_report(RESULT, tmp_path)
    assert json.loads(numbers.read_text())["model"] == "mlp"
    head = figure.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert struct.unpack(">II", head[16:24]) == (1920, 1080)


def test_a_run_that_shows_little_still_has_a_figure(tmp_path: Path) -> None:
    status = replace(STATUS, clients=CLIENTS[:1], evaluation=None, pivot_evaluation=None, version=0, traffic=())
    versions = (replace(VERSIONS[0], evaluation=None, traffic=()),)
    write_report(replace(RESULT, clients={Tier.HIGH: 1}, status=status, versions=versions), tmp_path)
    assert (tmp_path / "report.png").stat().st_size > 10_000
