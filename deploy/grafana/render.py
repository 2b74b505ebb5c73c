"""Dashboards as Grafana reads them: `python -m deploy.grafana.render` writes deploy/grafana/dashboards/*.json.

The JSON is committed, so that an operator needs no Python for it; tests/monitoring render it again and compare. The data
source, the job and the run are variables, so the same dashboards serve any Prometheus and any number of runs.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.fleet_cost import FLEET_COST
from deploy.grafana.fleet_health import FLEET_HEALTH
from deploy.grafana.panels import COLOURS, Board, Mark, Panel

BOARDS = (FLEET_COST, FLEET_HEALTH)
OUT = Path(__file__).parent / "dashboards"
SOURCE = model.DataSourceRef("prometheus", "${datasource}")
WINDOWS = ("1m", "5m", "15m", "1h", "6h")
USUAL_WINDOW = "15m"

Visual = bargauge.Panel | stat.Panel | statetimeline.Panel | timeseries.Panel


def render(board: Board) -> str:
    """A dashboard's JSON, the same for the same board, byte for byte."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.says)
        .tags(["zowarmup"])
        .timezone("browser")
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("zowarmup")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["zowarmup"])
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in _variables("$window" in str(board)):
        made = made.with_variable(variable)
    for mark in board.marks:
        made = made.annotation(_mark(mark))
    for row in board.rows:
        made = made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made = made.with_panel(_panel(panel))
    tree: dict[str, Any] = json.loads(JSONEncoder().encode(made.build()))
    for number, placed in enumerate(tree["panels"], 1):
        placed["id"] = number
    for mark, written in zip(board.marks, tree["annotations"]["list"], strict=True):
        # What Grafana's Prometheus source reads, and the builder has no word for.
        written |= {"step": "1m", "titleFormat": mark.name, "textFormat": mark.text}
    return json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _variables(windowed: bool) -> Iterator[Any]:
    yield dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    yield _labels("job", "Job", "label_values(zowarmup_build_info, job)")
    yield _labels("run", "Run", 'label_values(zowarmup_model_version{job="$job"}, run)')
    if windowed:
        usual = model.VariableOption(text=USUAL_WINDOW, value=USUAL_WINDOW, selected=True)
        yield (
            dashboard.CustomVariable("window")
            .label("Averages over")
            .description("Rounds, dropouts and latencies are averaged over so long: several rounds, at least")
            .values(",".join(WINDOWS))
            .current(usual)
            .options([usual if w == USUAL_WINDOW else model.VariableOption(text=w, value=w) for w in WINDOWS])
        )


def _labels(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query({"query": query, "refId": name})
        .datasource(SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )


def _mark(mark: Mark) -> dashboard.AnnotationQuery:
    made = dashboard.AnnotationQuery().name(mark.name).datasource(SOURCE)
    return made.expr(mark.expr).enable(True).icon_color(mark.colour)


def _panel(panel: Panel) -> Visual:
    made = _visual(panel).title(panel.title).description(panel.says).datasource(SOURCE)
    made = made.unit(panel.unit).span(panel.width).height(panel.height).no_value(panel.absent)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        asked = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(query.expr).legend_format(query.legend)
        made = made.with_target(asked.instant() if panel.kind in ("number", "bars") else asked.range())
    if panel.decimals is not None:
        made = made.decimals(panel.decimals)
    if panel.lowest is not None and not panel.logarithmic:
        made = made.min(panel.lowest)
    if panel.highest is not None:
        made = made.max(panel.highest)
    if panel.words:
        words = {
            str(value): model.ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(panel.words.items())
        }
        made = made.mappings([model.ValueMap(words)])
    for name, colour in COLOURS.items():
        if any(re.fullmatch(re.sub(r"\{\{\w+\}\}", "[a-z-]+", query.legend), name) for query in panel.queries):
            fixed = model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})
            made = made.override_by_name(name, [fixed])
    if panel.limits:
        (_, first), *more = panel.limits
        steps = [model.Threshold(None, first), *(model.Threshold(value, colour) for value, colour in more)]
        made = made.thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
    return made


def _visual(panel: Panel) -> Visual:
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    if panel.kind == "number":
        text = options.BigValueTextMode.NAME if panel.named else options.BigValueTextMode.VALUE
        shown = options.BigValueColorMode.VALUE if panel.limits else options.BigValueColorMode.NONE
        number = stat.Panel().reduce_options(last).text_mode(text).color_mode(shown)
        return number.graph_mode(options.BigValueGraphMode.NONE)
    if panel.kind == "bars":
        bars = bargauge.Panel().reduce_options(last).orientation(options.VizOrientation.HORIZONTAL)
        bars = bars.display_mode(options.BarGaugeDisplayMode.BASIC)
        return bars.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    if panel.kind == "words":
        return statetimeline.Panel().fill_opacity(80).line_width(0).legend(common.VizLegendOptions().show_legend(False))
    lines = (
        timeseries.Panel()
        .line_width(1)
        .span_nulls(panel.kind == "lines")
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
    )
    if panel.kind == "areas":
        lines = lines.fill_opacity(30).stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    if panel.kind == "steps":
        lines = lines.line_interpolation(options.LineInterpolation.STEP_AFTER)
    if panel.logarithmic:
        scale = common.ScaleDistributionConfig().type(options.ScaleDistribution.LOG).log(10)
        lines = lines.scale_distribution(scale)
    return lines


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for board in BOARDS:
        path = OUT / f"{board.uid.removeprefix('zowarmup-')}.json"
        path.write_text(render(board), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
