"""The dashboards that are committed: written from the Python beside them, complete, and provisioned.

Their expressions are put to a real Prometheus in test_live.py.
"""

from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Panel, RowPanel

from deploy.grafana.__main__ import FILES, FOLDER
from deploy.grafana.panels import SOURCE, encoded
from tests.monitoring.live import panels_of, queries_of, told_by_several

COLUMNS = 24
PROVISIONING = FOLDER.parent / "provisioning"
EVERY = pytest.mark.parametrize("name", FILES)


def placed(name: str) -> list[Panel | RowPanel]:
    return FILES[name].build().panels or []


def test_the_committed_dashboards_are_what_is_written() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*")}
    assert files == {name: encoded(board) for name, board in FILES.items()}, "python -m deploy.grafana writes them anew"


@EVERY
def test_every_panel_says_what_it_shows(name: str) -> None:
    panels = panels_of(FILES[name])
    assert len(panels) > 10
    for panel in panels:
        assert panel.title and queries_of(panel) and panel.field_config and panel.field_config.defaults.unit, (
            panel.title
        )
        text = panel.description or ""
        assert text.endswith(".") and ". " not in text, f"{panel.title} wants one sentence: {text!r}"
        assert panel.datasource == SOURCE
    assert len({panel.title for panel in panels}) == len(panels)


@EVERY
def test_panels_fill_the_width_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in placed(name):
        at = panel.grid_pos
        assert at is not None
        cells = {(x, y) for x in range(at.x, at.x + at.w) for y in range(at.y, at.y + at.h)}
        assert not taken & cells, panel.title
        taken |= cells
    assert len(taken) == COLUMNS * (1 + max(y for _, y in taken))


@EVERY
def test_every_query_is_about_the_job_and_run_that_are_chosen(name: str) -> None:
    for panel in panels_of(FILES[name]):
        for target in queries_of(panel):
            assert 'job="$job"' in target.expr
            assert 'run="$run"' in target.expr or "zowarmup_" not in target.expr, target.expr
            assert "client" not in (target.legend_format or "")


def test_all_that_several_coordinators_tell_of_themselves_is_shown() -> None:
    """And nothing is asked for that they do not tell: where one serves a run by itself, these panels are empty."""
    health = FILES["fleet-health.json"]
    asked = [target.expr for panel in panels_of(health) for target in queries_of(panel)]
    assert {name for name in told_by_several() if any(name in expr for expr in asked)} == told_by_several()
    (row,) = (
        panel for panel in placed("fleet-health.json") if isinstance(panel, RowPanel) and "Several" in str(panel.title)
    )
    assert row.grid_pos is not None
    below = [p for p in panels_of(health) if p.grid_pos is not None and p.grid_pos.y > row.grid_pos.y]
    assert len(below) == 6 and all(
        any(name in target.expr for name in told_by_several()) for panel in below for target in queries_of(panel)
    )


def test_provisioning_names_the_source_and_the_folder() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())
    (source,) = sources["datasources"]
    scraped = yaml.safe_load((FOLDER.parents[1] / "prometheus" / "prometheus.yml").read_text())
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    providers = yaml.safe_load((PROVISIONING / "dashboards" / "zowarmup.yaml").read_text())
    (provider,) = providers["providers"]
    assert Path(provider["options"]["path"]).is_absolute()
