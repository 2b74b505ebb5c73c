"""The paper's tables and figures, at full size and on the digits: each file is a table whose every cell can be run."""

from pathlib import Path
from typing import Any

import pytest

from zowarmup.lab.experiments.grid import cells, trials
from zowarmup.lab.experiments.table import ExperimentTable, read_table

FOLDER = Path(__file__).parents[4] / "benchmarks" / "paper"
FILES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> ExperimentTable:
    return read_table(FOLDER / f"{name}.toml")


def test_every_table_and_figure_has_a_file() -> None:
    full = {"figure3", "figure4", "figure6", "figure7", *(f"table{n}" for n in range(2, 8))}
    small = {f"digits_{n}" for n in ("table2", "table3", "table6", "table7", "figure4", "figure7")}
    assert full | small | {"digits_defaults", "digits_projections"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_cell_of_a_file_can_be_run(name: str) -> None:
    table = read(name)
    made = [cell for method in table.method for cell in cells(table, method, {})]
    tried = [cell for method in table.method for cell in trials(table, method)]
    assert len(made) == len(table.method) * len(table.high_percent) * len(table.seeds)
    names = {cell.job.name for cell in (*made, *tried)}
    assert len(names) == len(made) + len(tried), "no two share a folder"
    assert table.plots
    for cell in made:
        assert cell.job.run.evaluation.data.endswith((":test", "/test.npz", "/test.tsv", "/test-600.tsv"))
    for cell in tried:
        assert cell.job.run.evaluation.data.endswith((":validation", "/validation.npz"))
        assert "without=validation" in cell.job.data or cell.job.data.startswith("npz:"), "shards lack what is tuned on"


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(("digits_", "cifar10_", "sst2_"))])
def test_full_size_is_the_papers(name: str) -> None:
    table = read(name)
    assert (table.clients, table.participants, table.rounds, len(table.seeds)) == (50, 10, 500, 5)
    for method in table.method:
        job = cells(table, method, {})[0].job
        first: Any = job.after.run if job.after else job.run
        assert first.warmup.epochs == 3 and first.warmup.batch == 64
        together = first.warmup.rounds + job.run.zeroth_order.rounds
        assert together == 500
