"""What a demo shows: its scenes, its last table, report.json and report.png, made from one small run."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli.session.test_view import CLIENTS, STATUS, VERSIONS, flat, text
from zowarmup.cli.session.status import ClientStatus, EvaluationStatus, Status
from zowarmup.common.messages.values import Tier
from zowarmup.common.tasks.protocol import Metric
from zowarmup.lab.demo.demo import Scene, result_view, scene_line, scene_view
from zowarmup.lab.demo.report import Result, subtitle, title, write_report

RESULT = Result(
    data="handwritten digits",
    held_out="held-out digits",
    model="mlp",
    seed=0,
    clients={Tier.HIGH: 1, Tier.LOW: 2},
    parameters=10_000,
    status=STATUS,
    versions=VERSIONS,
    seconds=31.24,
)


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
    assert (report["data"], report["held_out"]) == ("handwritten digits", "held-out digits")
    assert report["peak_rss_mb"] == {"high": 250.0, "low": 67.5}
    assert (report["replicas_equal"], report["rounds"], report["seconds"]) == (True, 4, 31.2)
    assert report["fedavg_uplink_payload_bytes"] == 4 * 10_000 * (2 * 1 + 2 * 3)


def test_a_tier_without_clients_is_not_in_the_report() -> None:
    status = replace(STATUS, clients=CLIENTS[:1])
    report = replace(RESULT, clients={Tier.HIGH: 1}, status=status).to_json()
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


def scene(status: Status | None, waiting: str) -> Scene:
    return Scene(
        title="zowarmup demo: mlp, 1 high + 2 low, alpha 0.1, seed 0",
        elapsed_s=12.0,
        status=status,
        versions=VERSIONS if status else (),
        waiting=waiting,
    )


def test_a_scene_says_what_is_waited_for_even_before_the_coordinator_answers() -> None:
    waiting = "waiting: the coordinator is getting the model ready"
    assert flat(scene_view(scene(None, waiting))).endswith(f"seed 0 12 s {waiting}")
    assert scene_line(scene(None, waiting)) == f"12 s: {waiting}"


def test_a_scene_is_the_status_in_80_columns() -> None:
    shown = flat(scene_view(scene(STATUS, "waiting: the clients' last reports")))
    for part in ("4 of 4 (pivot at 2)", "10.0 % to 95.0 %", "(at the pivot: 30.0 %)", "waiting: the clients' last"):
        assert part in shown
    assert max(len(line) for line in text(scene_view(scene(STATUS, "x"))).splitlines()) <= 80
    assert scene_line(scene(STATUS, "x")).startswith("12 s: finished, version 4 of 4, accuracy 95.0 %")


def test_the_last_table_says_the_result() -> None:
    shown = flat(result_view(RESULT))
    for part in (
        "95.0 %, from 30.0 % at the pivot",
        "all 3 clients' are equal",
        "low 2 - 264 B",
        "67.5 MB",
        "320 kB",
        "31 s for 4 rounds",
    ):
        assert part in shown
    unequal = replace(RESULT, status=replace(STATUS, clients=CLIENTS[:2]))
    assert "NOT shown to be equal: 2 of 3" in flat(result_view(unequal))


def test_the_figure_says_the_result_and_is_a_slide(tmp_path: Path) -> None:
    assert title(RESULT) == "From 30 % to 95 % accuracy with 264 B a round from each low-tier client"
    assert "Handwritten digits, MLP of 10,000 parameters; 1 high-tier and 2 low-tier clients" in subtitle(RESULT)
    numbers, page, figure = write_report(replace(RESULT, page=b"<!doctype html>"), tmp_path)
    assert (page.name, page.read_bytes()) == ("report.html", b"<!doctype html>")
    assert json.loads(numbers.read_text())["model"] == "mlp"
    head = figure.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert struct.unpack(">II", head[16:24]) == (1920, 1080)


def test_the_figure_names_the_metric_of_the_run() -> None:
    error = (Metric("mean_absolute_error", best=0.0, higher_is_better=False),)
    last, pivot = (EvaluationStatus(4, {"mean_absolute_error": value}, 0.5, 360) for value in (1.0, 4.0))
    status = replace(STATUS, metrics=error, evaluation=last, pivot_evaluation=pivot)
    assert title(replace(RESULT, status=status)) == (
        "From 4 to 1 mean absolute error with 264 B a round from each low-tier client"
    )


def test_a_run_that_shows_little_still_has_a_figure(tmp_path: Path) -> None:
    status = replace(STATUS, clients=CLIENTS[:1], evaluation=None, pivot_evaluation=None, version=0, traffic=())
    versions = (replace(VERSIONS[0], evaluation=None, traffic=()),)
    write_report(replace(RESULT, clients={Tier.HIGH: 1}, status=status, versions=versions), tmp_path)
    assert (tmp_path / "report.png").stat().st_size > 10_000
