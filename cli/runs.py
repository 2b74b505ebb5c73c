"""`zowarmup runs`: the runs on this machine, a line each, or compared in a figure."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zowarmup.cli.listings import in_one_unit
from zowarmup.common.text import amount, printable

if TYPE_CHECKING:
    from zowarmup.lab.runs.stored_runs import StoredRun


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]", help="Data directories, or what they are in; else here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Compare their curves in a figure.")] = None,
) -> None:
    """The runs on this machine: state, version, result, bytes, age. Those whose data directories are under a folder."""
    from zowarmup.lab.runs.stored_runs import stored_runs  # loads what reads a ledger

    places = folders or [Path()]
    found, unreadable = stored_runs(places)
    if as_json:
        broken = [{"folder": str(one.folder), "problem": one.reason} for one in unreadable]
        print(json.dumps([*(run.to_json() for run in found), *broken], indent=2))
    else:
        print(
            runs_text(found, time.time())
            or f"no run is under {', '.join(map(str, places))}: name the folder of its --data-dir"
        )
        for one in unreadable:
            print(f"{one.folder} cannot be read: {printable(one.reason)}")
    if plot is not None:
        from zowarmup.lab.runs.comparison import draw_comparison  # loads matplotlib

        draw_comparison(found, plot)
        if not as_json:
            print(f"\n{plot}")


def runs_text(found: "Sequence[StoredRun]", now: float) -> str:
    """A table, with a line of what each column is; empty where there is no run. `now`: seconds since 1970."""
    if not found:
        return ""
    rows = [("name", "state", "phase", "version", "result", "uplink", "age", "data directory")]
    for run in found:
        value = run.value
        rows.append(
            (
                printable(run.name),
                f"{run.state} at {run.address}" if run.address else run.state,
                run.phase.value,
                str(run.version),
                "-" if value is None else f"{run.metric.title} {run.metric.shown(value)}",
                amount(run.uplink_bytes),
                in_one_unit(max(0.0, now - run.began_at)),
                str(run.folder),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    to_the_right = (3, 5, 6)
    lines = (
        "  ".join(
            cell.rjust(width) if column in to_the_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)
