"""What the dashboards have in common: Grafana's own builders, with the defaults of every panel here.

The data source, the job and the run are variables, so the same dashboards serve any Prometheus and any number of runs.
`python -m deploy.grafana` writes deploy/grafana/dashboards/*.json, which are committed, so that an operator needs no Python.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model

SELECTED = 'job="$job", run="$run"'
"""The run that the dashboard's variables name, as label matchers."""
SOURCE = model.DataSourceRef("prometheus", "${datasource}")
LOGARITHMIC = common.ScaleDistributionConfig().type(options.ScaleDistribution.LOG).log(10)
HIGH, LOW = "#b4552d", "#2b6f94"
COLOURS = {
    "high tier": HIGH,
    "high tier, warm-up": HIGH,
    "high tier, zeroth-order": "#e3a27f",
    "high tier, finished": "#c9b8ae",
    "high tier, connected": HIGH,
    "high tier, away": "#e3c4b4",
    "low tier": LOW,
    "low tier, warm-up": "#8db9d1",
    "low tier, zeroth-order": LOW,
    "low tier, finished": "#b3bfc6",
    "low tier, connected": LOW,
    "low tier, away": "#b9d4e2",
    "as it was": LOW,
    "FedAvg at equal rounds": HIGH,
}
"""Of series that mean the same on several panels, by name."""

Query = tuple[str, str]
"""An expression, and the name of its series (`{{label}}` for the value of a label)."""
Panel = bargauge.Panel | stat.Panel | statetimeline.Panel | timeseries.Panel
_Made = TypeVar("_Made", bargauge.Panel, stat.Panel, statetimeline.Panel, timeseries.Panel)


def _described(panel: _Made, title: str, text: str, unit: str, queries: Sequence[Query], instant: bool) -> _Made:
    panel = panel.title(title).description(text).datasource(SOURCE).unit(unit).no_value("-").span(12).height(8)
    for letter, (expr, legend) in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(expr).legend_format(legend)
        panel = panel.with_target(target.instant() if instant else target.range())
    for name, colour in COLOURS.items():
        if any(re.fullmatch(re.sub(r"\{\{\w+\}\}", "[a-z-]+", legend), name) for _, legend in queries):
            fixed = model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})
            panel = panel.override_by_name(name, [fixed])
    return panel


def lines(title: str, text: str, unit: str, *queries: Query) -> timeseries.Panel:
    """Series over time. `text`: one sentence that explains the panel; `unit`: Grafana's word for it, or "suffix:x"."""
    legend = common.VizLegendOptions().display_mode(options.LegendDisplayMode.LIST).show_legend(True)
    tooltip = common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
    panel = timeseries.Panel().line_width(1).span_nulls(True).tooltip(tooltip)
    panel = panel.legend(legend.placement(options.LegendPlacement.BOTTOM))
    return _described(panel, title, text, unit, queries, instant=False)


def areas(title: str, text: str, unit: str, *queries: Query) -> timeseries.Panel:
    """Series over time, stacked."""
    stacked = common.StackingConfig().mode(options.StackingMode.NORMAL)
    return lines(title, text, unit, *queries).span_nulls(False).fill_opacity(30).stacking(stacked)


def steps(title: str, text: str, unit: str, *queries: Query) -> timeseries.Panel:
    """Series that jump."""
    jumping = options.LineInterpolation.STEP_AFTER
    return lines(title, text, unit, *queries).span_nulls(False).line_interpolation(jumping)


def number(title: str, text: str, unit: str, query: Query) -> stat.Panel:
    """The present value."""
    panel = stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel = panel.text_mode(options.BigValueTextMode.VALUE).color_mode(options.BigValueColorMode.NONE)
    panel = panel.graph_mode(options.BigValueGraphMode.NONE)
    return _described(panel, title, text, unit, [query], instant=True).span(4).height(4)


def bars(title: str, text: str, unit: str, query: Query) -> bargauge.Panel:
    """The present value of several series."""
    panel = bargauge.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel = panel.orientation(options.VizOrientation.HORIZONTAL).display_mode(options.BarGaugeDisplayMode.BASIC)
    panel = panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    return _described(panel, title, text, unit, [query], instant=True)


def states(title: str, text: str, query: Query) -> statetimeline.Panel:
    """For each series, when it was 1."""
    here = {"0": model.ValueMappingResult(text="", color="transparent", index=0)}
    here["1"] = model.ValueMappingResult(text="here", color="blue", index=1)
    panel = statetimeline.Panel().fill_opacity(80).line_width(0).mappings([model.ValueMap(here)])
    panel = panel.legend(common.VizLegendOptions().show_legend(False))
    return _described(panel, title, text, "none", [query], instant=False)


def limits(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Colours, each from a value on."""
    found = [model.Threshold(value, colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def mark(name: str, expr: str, colour: str) -> dashboard.AnnotationQuery:
    """Moments that are drawn across all panels: where `expr` has a value that is not 0."""
    return dashboard.AnnotationQuery().name(name).datasource(SOURCE).expr(expr).enable(True).icon_color(colour)


PIVOT = mark("Pivot", f'changes(zowarmup_phase{{{SELECTED}, phase="warm-up"}}[1m]) > 0', "purple")


def board(
    uid: str, title: str, text: str, rows: Mapping[str, Sequence[Panel]], *marks: dashboard.AnnotationQuery
) -> dashboard.Dashboard:
    """A dashboard of rows of panels, with the variables that their expressions use."""
    link = dashboard.DashboardLink("zowarmup").type(model.DashboardLinkType.DASHBOARDS).tags(["zowarmup"])
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["zowarmup"])
        .timezone("browser")
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(link.include_vars(True).keep_time(True))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_labels("job", "Job", "label_values(zowarmup_build_info, job)"))
        .with_variable(_labels("run", "Run", 'label_values(zowarmup_model_version{job="$job"}, run)'))
    )
    for one in marks:
        made = made.annotation(one)
    for heading, panels in rows.items():
        made = made.with_row(dashboard.Row(heading))
        for panel in panels:
            made = made.with_panel(panel)
    return made


def _labels(name: str, label: str, query: str) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(name).label(label).query({"query": query, "refId": name}).datasource(SOURCE)
    return made.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)


def encoded(made: dashboard.Dashboard) -> str:
    """A dashboard's JSON, the same for the same dashboard, byte for byte."""
    tree: dict[str, Any] = json.loads(JSONEncoder().encode(made.build()))
    for number, panel in enumerate(tree["panels"], 1):
        panel["id"] = number
    for one in tree["annotations"]["list"]:
        # What Grafana's Prometheus source reads, and the builder has no word for.
        one |= {"step": "1m", "titleFormat": one["name"], "textFormat": "{{alertname}}"}
    return json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
