"""`zowarmup experiment`: its options, its progress, and its results."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from zowarmup.cli.failure import CommandError, Usage
from zowarmup.cli.interrupts import interrupts
from zowarmup.common.system.whole_file import replacing

if TYPE_CHECKING:
    from zowarmup.lab.experiments.conduct import ExperimentResults
    from zowarmup.lab.experiments.grid import Cell
    from zowarmup.lab.experiments.progress import Moment
    from zowarmup.lab.experiments.table import ExperimentTable

JOB_BYTES = 1536 << 20
"""What a coordinator and a fleet with torch may take, for a small model."""
LINE_EVERY_S = 10.0


def experiment(
    table_file: Annotated[Path, typer.Argument(metavar="TABLE.toml", help="What is compared (docs/experiments.md).")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for all runs and what they came to (experiments/TABLE).")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where TABLE.csv, .md and .png go, if not there, too.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1024, help="Runs at a time; by cores and memory if not given.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Cells whose name fits, such as 'zowarmup-*'; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=0, help="Run at most N more cells this time.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Name the cells, and run none.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep each run's ledger and weights, not only its results.")
    ] = False,
) -> None:
    """Run a table of a paper, or what is missing of it. Every cell is a real coordinator and fleet. Ctrl-C stops; the next
    start goes on."""
    from zowarmup.data.memory import memory_here
    from zowarmup.lab.experiments.conduct import ExperimentRunner, JobRequest
    from zowarmup.lab.experiments.folders import held
    from zowarmup.lab.experiments.grid import cells, trials
    from zowarmup.lab.experiments.progress import default_jobs
    from zowarmup.lab.experiments.table import read_table

    table = read_table(table_file)
    folder = out or Path("experiments") / table_file.stem
    console = Console(highlight=False, markup=False)

    def chosen(cell: "Cell") -> bool:
        return not only or any(fnmatchcase(cell.job.name, pattern) for pattern in only)

    if only and not any(chosen(cell) for method in table.method for cell in cells(table, method, {})):
        raise Usage(f"--only {' '.join(only)}: fits no cell; --list names them all")
    if list_only:
        every = [cell for method in table.method for cell in (*trials(table, method), *cells(table, method, {}))]
        for cell in every:
            if cell.trial or chosen(cell):
                after = f"  after {cell.job.after.name}" if cell.job.after else ""
                console.print(f"{cell.job.name}{after}", markup=False, soft_wrap=True)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wish = JobRequest(
        jobs=jobs or default_jobs(cores, memory_here().bytes, JOB_BYTES),
        limit=limit,
        chosen=chosen,
        keep=keep,
    )
    with held(folder), interrupts() as noted, _stage(console) as show:
        conductor = ExperimentRunner(table, folder, wish, noted, show)
        found = conductor.run()
        noted.check()
        written = _write(table, found, os.path.relpath(table_file), results or folder, table_file.stem)
    for path in (conductor.moment().line(), *written):
        console.print(str(path), markup=False, soft_wrap=True)
    if found.failed:
        told = "\n".join(found.failed.values())
        raise CommandError(f"{len(found.failed)} jobs failed, and are tried again at the next start:\n{told}")


def _write(table: "ExperimentTable", found: "ExperimentResults", source: str, folder: Path, name: str) -> list[Path]:
    """What the finished cells say, in files."""
    from zowarmup.common.tasks import DEFAULT, task_class
    from zowarmup.lab.experiments.figure import draw
    from zowarmup.lab.experiments.summary import curve_of, curves_csv, markdown, row_of, rows_csv

    done = [cell for cell in found.cells if not cell.trial and cell.job.name in found.outcomes]
    order = {method.name: place for place, method in enumerate(table.method)}
    done.sort(key=lambda cell: (order[cell.method], cell.high_percent, cell.seed))
    pairs = [
        (cell, found.outcomes[cell.job.name], found.outcomes.get(cell.job.after.name) if cell.job.after else None)
        for cell in done
    ]
    rows = [row_of(*pair) for pair in pairs]
    # Before the first cell is over nothing of a metric is shown but its name.
    metric = pairs[0][1].metric if pairs else task_class(table.model.get("task", DEFAULT)).metrics[0]
    curves = {
        (cell.method, cell.high_percent, cell.seed): curve_of(cell, outcome, first) for cell, outcome, first in pairs
    }
    texts = {
        f"{name}.csv": rows_csv(rows, metric),
        f"{name}_curves.csv": curves_csv(curves, metric),
        f"{name}.md": markdown(table, rows, source, metric),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            with replacing(folder / file) as partial:
                partial.write_text(text, encoding="utf-8")
        if table.plots and rows:
            draw(table, rows, curves, metric, folder / f"{name}.png")
            return [*(folder / file for file in texts), folder / f"{name}.png"]
    except OSError as error:
        raise CommandError(
            f"{folder}: the results cannot be written: {error.strerror or error}; free space, or name another folder"
        ) from error
    return [folder / file for file in texts]


@contextmanager
def _stage(console: Console) -> Iterator[Callable[["Moment"], None]]:
    """Shows moments: on a terminal one line redrawn in place, elsewhere a line every few seconds where one is new."""
    if console.is_terminal:
        with Live(Text("starting"), console=console, auto_refresh=False, transient=True) as live:
            yield lambda moment: live.update(Text(moment.line(), overflow="ellipsis", no_wrap=True), refresh=True)
        return
    told: tuple[str, float] = "", 0.0

    def tell(moment: "Moment") -> None:
        nonlocal told
        line, now = moment.line(), time.monotonic()
        if line != told[0] and now >= told[1] + LINE_EVERY_S:
            told = line, now
            console.print(line, soft_wrap=True, markup=False)

    yield tell


def register(app: typer.Typer) -> None:
    """Add it to the command."""
    app.command()(experiment)
