"""Rows as a table: on the terminal, and in docs/performance.md between two markers."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rows import Row

BEGIN, END = "<!-- make bench writes from here -->", "<!-- to here -->"
HELD = {None: "", True: "holds", False: "fails"}


def show(rows: Sequence[Row]) -> None:
    table = Table("what", "value", "beside", "ratio", "spread", "goal", "", "floor")
    for row in rows:
        value, reference, ratio, spread, floor = _cells(row)
        held = HELD[row.holds] if row.holds is not False else "[red]FAILS"
        table.add_row(row.name, value, reference, ratio, spread, row.goal, held, floor)
    # Wide enough for a table that goes to a file.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", highlight=False, markup=False, soft_wrap=True)


def document(file: Path, rows: Sequence[Row], machine: Mapping[str, Any]) -> None:
    """Put the table, and what it was measured on, where `file` has its markers."""
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text(f"{before}{BEGIN}\n{markdown(rows, machine)}\n{END}{after}", encoding="utf-8")


def markdown(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    lines = ["| what | value | beside | ratio | goal | | floor |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        value, reference, ratio, spread, floor = _cells(row)
        both = f"{ratio} {spread}".strip() if ratio else ""
        lines.append(f"| {row.name} | {value} | {reference} | {both} | {row.goal} | {HELD[row.holds]} | {floor} |")
    load = ", ".join(f"{load:.1f}" for load in machine["load_average"])
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "numpy", "onnxruntime", "torch", "grpcio"))
    memory = machine["memory_bytes"] / 1e9
    where = f"{machine['cpu']}, {machine['cores']} cores, {memory:.0f} GB, {machine['system']}; {versions}"
    lines += ["", f"{where}; load average when it began {load}; {machine['measured_at'][:10]}."]
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    return (
        "-" if row.value is None else f"{row.value:.4g} {row.unit}",
        "" if row.reference is None else f"{row.reference:.4g} {row.beside}",
        "" if row.ratio is None else f"{row.ratio:.3g}" if row.ratio < 0.1 else f"{row.ratio:.3f}",
        "" if row.spread is None else f"±{100 * row.spread:.1f} %",
        "" if row.floor_ratio is None or row.floor is None else f"{row.floor_ratio:.2f} x {row.floor:.3g} {row.limit}",
    )
