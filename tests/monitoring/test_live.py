"""What a real Prometheus finds in a real run, as rules, alerts and dashboards ask for it.

The run (conftest.py) has lost its low tier for some seconds, and its coordinator to kill -9, and has gone on to its end.
"""

import math
import re
import subprocess
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from deploy.grafana.__main__ import FILES
from tests.monitoring.conftest import RUN, Recorded
from tests.monitoring.live import SHIPPED, panels_of, queries_of, substituted, told_by_several, tool

BOARDS = [board.build() for board in FILES.values()]
PANELS = [
    pytest.param(panel, id=f"{name}: {panel.title}") for name, board in FILES.items() for panel in panels_of(board)
]
# As Grafana would fill them in at a scrape interval of a second, four of which are what it averages over at least.
VARIABLES = {"job": "zowarmup", "run": RUN.name, "window": "10s", "__rate_interval": "4s", "__range": "600s"}
RULES = [
    rule
    for path in sorted((SHIPPED / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]


def finite(series: list[dict[str, Any]]) -> int:
    return sum(math.isfinite(float(value)) for one in series for _, value in one["values"])


def lowest(recorded: Recorded, expr: str) -> float:
    series = recorded.prometheus.between(expr, recorded.start, recorded.end)
    return min(float(value) for one in series for _, value in one["values"])


def test_prometheus_reads_every_line_without_complaint(recorded: Recorded) -> None:
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=recorded.fleet.scrape(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def of_several(expr: str) -> bool:
    """Whether only coordinators that share a run tell what is asked for, and this run has one."""
    return any(re.search(rf"\b{name}\b", expr) for name in (*told_by_several(), "run:zowarmup_coordinators:count"))


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_data(recorded: Recorded, panel: Panel) -> None:
    for target in queries_of(panel):
        expr = substituted(target.expr, VARIABLES)
        promql_parser.parse(expr)
        series = recorded.prometheus.between(expr, recorded.start, recorded.end)
        assert bool(finite(series)) is not of_several(expr), expr
        if target.instant:
            assert recorded.prometheus.now(expr, recorded.end), f"nothing after the run: {expr}"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.title)
def test_every_mark_has_data(recorded: Recorded, board: Dashboard) -> None:
    assert board.annotations is not None
    for mark in board.annotations.list_val or []:
        asked = substituted(mark.expr or "", VARIABLES)
        promql_parser.parse(asked)
        assert finite(recorded.prometheus.between(asked, recorded.start, recorded.end)), asked


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.title)
def test_the_variables_offer_this_run(recorded: Recorded, board: Dashboard) -> None:
    chosen: dict[str, str] = {}
    assert board.templating is not None
    for variable in board.templating.list_val or []:
        if isinstance(variable.query, dict):
            query = str(variable.query["query"])
            metric, label = query.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            match = substituted(metric, {**VARIABLES, **chosen})
            (chosen[variable.name],) = recorded.prometheus.get(f"label/{label}/values", **{"match[]": match})
    assert chosen == {"job": "zowarmup", "run": RUN.name}


@pytest.mark.parametrize("rule", [r for r in RULES if "record" in r], ids=lambda rule: rule["record"])
def test_every_recording_rule_records(recorded: Recorded, rule: dict[str, Any]) -> None:
    if rule["record"] == "run_reason:zowarmup_refusals:increase10m":
        assert recorded.prometheus.between(rule["record"], recorded.start, recorded.end)
    else:
        found = finite(recorded.prometheus.between(rule["record"], recorded.start, recorded.end))
        assert bool(found) is not of_several(rule["record"])


def test_every_rule_is_evaluated_without_error(recorded: Recorded) -> None:
    groups = recorded.prometheus.get("rules")["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(RULES)
    assert [rule["name"] for rule in found if rule["health"] != "ok" or rule.get("lastError")] == []


@pytest.mark.parametrize("alert", [rule["alert"] for rule in RULES if "alert" in rule])
def test_a_fault_fires_its_alert_and_no_other(recorded: Recorded, alert: str) -> None:
    fault = {"ZowarmupTierLost": "low tier killed", "ZowarmupCoordinatorDown": "coordinator killed"}.get(alert)
    firing = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    found = recorded.prometheus.between(firing, recorded.start, recorded.end)
    if fault is None:
        # The disk is this machine's own, and may be filling up.
        assert found == [] or (
            alert == "ZowarmupDiskFilling" and lowest(recorded, "instance_run:zowarmup_disk_free:ratio") < 0.15
        )
        return
    (one,) = found
    assert one["metric"]["run"] == RUN.name
    assert one["metric"].get("tier") == ("low" if alert == "ZowarmupTierLost" else None)
    assert float(one["values"][-1][0]) > recorded.moments[fault]
    assert recorded.prometheus.now(firing) == {}, "it is over"


def test_the_pivot_is_where_the_ledger_has_it(recorded: Recorded) -> None:
    (pivot,) = recorded.prometheus.now(f'zowarmup_pivot_version{{run="{RUN.name}"}}', recorded.end).values()
    assert pivot == RUN.warmup.rounds


@pytest.mark.parametrize(
    "counter", ["payload_bytes", "wire_bytes", "fedavg_bytes", "rounds", "contributions", "clipped"]
)
def test_counters_begin_at_zero_when_the_coordinator_is_back_and_prometheus_sees_it(
    recorded: Recorded, counter: str
) -> None:
    """So an increase over the whole run is that of both processes."""
    metric, seconds = f'zowarmup_{counter}_total{{run="{RUN.name}"}}', math.ceil(recorded.end - recorded.start) + 5
    resets = recorded.prometheus.now(f"resets({metric}[{seconds}s])", recorded.end)
    assert set(resets.values()) <= {0.0, 1.0}
    if counter in ("payload_bytes", "wire_bytes", "rounds", "contributions"):
        assert 1.0 in resets.values()
        killed = recorded.moments["coordinator killed"]
        (before,) = recorded.prometheus.now(f"sum(max_over_time({metric}[60s]))", killed).values()
        (whole,) = recorded.prometheus.now(f"sum(increase({metric}[{seconds}s]))", recorded.end).values()
        assert whole > before


def test_the_figures_go_on_when_the_coordinator_is_back(recorded: Recorded) -> None:
    (up,) = recorded.prometheus.between('up{job="zowarmup"}', recorded.start, recorded.end)
    killed = recorded.moments["coordinator killed"]
    assert {value for time, value in up["values"] if time > killed} == {"0", "1"}
    assert up["values"][-1][1] == "1"
