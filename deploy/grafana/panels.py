"""What a dashboard says, as values: rows of panels, each with the questions it puts to Prometheus.

`fleet_cost.py` and `fleet_health.py` are such values; `render.py` turns them into what Grafana reads.
"""

from dataclasses import dataclass, field
from typing import Literal

COLUMNS = 24  # of Grafana's grid
SELECTED = 'job="$job", run="$run"'
"""The run that the dashboard's variables name, as label matchers."""

COLOURS = {
    "high tier, warm-up": "#b4552d",
    "high tier, zeroth-order": "#e3a27f",
    "high tier, finished": "#c9b8ae",
    "high tier": "#b4552d",
    "high tier, connected": "#b4552d",
    "high tier, away": "#e3c4b4",
    "low tier, warm-up": "#8db9d1",
    "low tier, zeroth-order": "#2b6f94",
    "low tier, finished": "#b3bfc6",
    "low tier": "#2b6f94",
    "low tier, connected": "#2b6f94",
    "low tier, away": "#b9d4e2",
    "as it was": "#2b6f94",
    "FedAvg at equal rounds": "#b4552d",
}
"""Of series that mean the same on several panels, by what they are called."""

Kind = Literal["number", "lines", "areas", "steps", "bars", "words"]


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and what its series are called (`{{label}}` for the value of a label)."""

    expr: str
    legend: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One panel. `says` is the sentence behind its (i). `unit` is Grafana's word for one, or "suffix:x". `kind`: one
    number, lines, stacked areas, lines that jump, horizontal bars, or the word that holds at each time. `limits` are
    (from this value on, this colour); `words` names values of a `words` panel, (text, colour) each. `width` of 24
    columns, `height` in Grafana's rows. Raises ValueError where there is nothing to show or to say."""

    title: str
    says: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    width: int = 12
    height: int = 8
    logarithmic: bool = False
    lowest: float | None = None
    highest: float | None = None
    decimals: int | None = None
    limits: tuple[tuple[float, str], ...] = ()
    words: dict[int, tuple[str, str]] = field(default_factory=dict)
    named: bool = False
    absent: str = "-"

    def __post_init__(self) -> None:
        if not (self.title and self.unit and self.queries and self.says.endswith(".")):
            raise ValueError(f"panel {self.title!r} lacks its title, unit, queries or sentence")


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading; they fill whole lines of the grid. Raises ValueError where a line is not full."""

    title: str
    panels: tuple[Panel, ...]

    def __post_init__(self) -> None:
        filled = 0
        for panel in self.panels:
            filled += panel.width
            if filled > COLUMNS:
                raise ValueError(f"row {self.title!r}: {panel.title!r} does not fit into its line")
            filled %= COLUMNS
        if filled:
            raise ValueError(f"row {self.title!r} ends in a line that is not full")


@dataclass(frozen=True, slots=True)
class Mark:
    """Moments that are drawn across all panels: where `expr` has a value that is not 0."""

    name: str
    expr: str
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    says: str
    rows: tuple[Row, ...]
    marks: tuple[Mark, ...]


PIVOT = Mark(
    "Pivot",
    f'changes(zowarmup_phase{{{SELECTED}, phase="warm-up"}}[1m]) > 0',
    "From here on everyone takes part, with scalars",
    "purple",
)
