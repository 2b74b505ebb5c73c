"""The dashboards that are committed: rendered from the Python beside them, complete, and provisioned.

What they ask of Prometheus is put to a real one in test_live.py.
"""

from pathlib import Path

import pytest
import yaml

from deploy.grafana.asking import DASHBOARDS, Dashboard, read_all
from deploy.grafana.panels import COLUMNS, Panel, Query, Row
from deploy.grafana.render import BOARDS, SOURCE, render

PROVISIONING = DASHBOARDS.parent / "provisioning"


def test_the_committed_dashboards_are_what_is_rendered() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in DASHBOARDS.glob("*")}
    assert files == {f"{board.uid.removeprefix('zowarmup-')}.json": render(board) for board in BOARDS}, (
        "python -m deploy.grafana.render writes them anew"
    )


@pytest.mark.parametrize("dashboard", read_all(), ids=lambda dashboard: dashboard.uid)
def test_every_panel_says_what_it_shows(dashboard: Dashboard) -> None:
    panels = [panel for panel in dashboard.panels if panel.kind != "row"]
    assert len(panels) > 10
    for panel in panels:
        assert panel.title and panel.unit and panel.targets, panel
        assert panel.says.endswith(".") and ". " not in panel.says, f"{panel.title} wants one sentence: {panel.says!r}"
        assert panel.raw["datasource"] == {"type": "prometheus", "uid": SOURCE.uid}
    assert len({panel.title for panel in panels}) == len(panels)
    assert [panel.id for panel in dashboard.panels] == list(range(1, len(dashboard.panels) + 1))


@pytest.mark.parametrize("dashboard", read_all(), ids=lambda dashboard: dashboard.uid)
def test_panels_fill_the_width_and_do_not_overlap(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.panels:
        cells = {
            (x, y)
            for x in range(panel.left, panel.left + panel.width)
            for y in range(panel.top, panel.top + panel.height)
        }
        assert not taken & cells, panel.title
        taken |= cells
    assert len(taken) == COLUMNS * (1 + max(y for _, y in taken))


@pytest.mark.parametrize("dashboard", read_all(), ids=lambda dashboard: dashboard.uid)
def test_every_question_is_about_the_job_and_run_that_are_chosen(dashboard: Dashboard) -> None:
    for panel in dashboard.panels:
        for target in panel.targets:
            selectors = target.expr.count("zowarmup_") + target.expr.count("ALERTS{") - target.expr.count("Zowarmup.+")
            assert target.expr.count('job="$job"') >= 1
            assert target.expr.count('run="$run"') >= min(1, selectors), target.expr
            assert "client" not in target.legend
    assert set(dashboard.variables) == {"job", "run"}
    assert "Pivot" in dashboard.marks


def test_a_panel_must_say_something() -> None:
    with pytest.raises(ValueError, match="lacks"):
        Panel(title="x", says="", unit="s", queries=(Query("up", "up"),))
    half = Panel(title="x", says="X.", unit="s", queries=(Query("up", "up"),), width=COLUMNS // 2)
    with pytest.raises(ValueError, match="not full"):
        Row("x", (half, half, half))


def test_provisioning_names_the_source_and_the_folder() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())
    (source,) = sources["datasources"]
    scraped = yaml.safe_load((DASHBOARDS.parents[1] / "prometheus" / "prometheus.yml").read_text())
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    providers = yaml.safe_load((PROVISIONING / "dashboards" / "zowarmup.yaml").read_text())
    (provider,) = providers["providers"]
    assert Path(provider["options"]["path"]).is_absolute()
