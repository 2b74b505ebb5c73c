"""A dashboard's JSON read back: what each panel asks, with Grafana's variables put in.

The tests put every one of these questions to a real Prometheus, and the pictures in docs/ are drawn from the answers.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).parent / "dashboards"


@dataclass(frozen=True, slots=True)
class Target:
    """A question as Grafana would put it, but for the variables; `instant`: for one moment only."""

    expr: str
    legend: str
    instant: bool


@dataclass(frozen=True, slots=True)
class Drawn:
    """A panel, or with `kind` "row" the heading of the panels after it. `left`, `top`, `width`, `height`: in units of
    Grafana's grid of 24 columns. `raw`: all of the JSON."""

    id: int
    title: str
    says: str
    unit: str
    kind: str
    targets: tuple[Target, ...]
    left: int
    top: int
    width: int
    height: int
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`variables`: name to query, for those that Prometheus answers; `marks`: name to expression of an annotation."""

    uid: str
    title: str
    panels: tuple[Drawn, ...]
    variables: dict[str, str]
    marks: dict[str, str]


def read(path: Path) -> Dashboard:
    tree = json.loads(path.read_text(encoding="utf-8"))
    asked = {v["name"]: v["query"]["query"] for v in tree["templating"]["list"] if v["type"] == "query"}
    marks = {mark["name"]: mark["expr"] for mark in tree["annotations"]["list"]}
    return Dashboard(tree["uid"], tree["title"], tuple(_panels(tree["panels"])), asked, marks)


def read_all() -> tuple[Dashboard, ...]:
    return tuple(read(path) for path in sorted(DASHBOARDS.glob("*.json")))


def _panels(panels: list[dict[str, Any]]) -> Iterator[Drawn]:
    for panel in panels:
        place = panel["gridPos"]
        yield Drawn(
            panel["id"],
            panel["title"],
            panel.get("description", ""),
            panel.get("fieldConfig", {}).get("defaults", {}).get("unit", ""),
            panel["type"],
            tuple(Target(t["expr"], t["legendFormat"], bool(t.get("instant"))) for t in panel.get("targets", ())),
            place["x"],
            place["y"],
            place["w"],
            place["h"],
            panel,
        )


def substituted(expr: str, values: Mapping[str, str]) -> str:
    """The expression with `$name` and `${name}` replaced. Raises KeyError for a variable without a value."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values[found[1] or found[2]], expr)


def named(legend: str, labels: Mapping[str, str]) -> str:
    """What Grafana calls a series."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend)
