"""`zowarmup experiment` as a researcher runs it: interrupted, killed, gone on with, and run again for nothing."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.prepared import prepared
from zowarmup.lab.experiments.grid import cells
from zowarmup.lab.experiments.table import read_table

ZOWARMUP = [sys.executable, "-m", "zowarmup.cli.main", "experiment"]
TABLE = """
title = "Two methods"
data = "digits,alpha=0.5"
clients = 3
high_percent = [33]
seeds = [0, 1]
rounds = 142
plots = ["rounds", "uplink", "compute", "high_percent"]
[model]
name = "mlp"
[warmup]
rounds = 2
[zeroth_order]
probes = 8
rate = 0.1
[evaluation]
data = "digits:test"
every = 10
[[method]]
name = "sliced"
zeroth_order.train = "norm"
[[method]]
name = "whole"
zeroth_order.slices = "whole"
zeroth_order.head_projections = 0
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + PATIENCE * seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


def belonging_to(out: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(str(out).encode() in word for word in words):
            found.append(int(path.parent.name))
    return found


def finished(out: Path) -> dict[str, int]:
    """Jobs that are over, and when that was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("cells/*/outcome.json")}


def some_rounds(out: Path, name: str) -> bool:
    """Whether a cell is in the middle of its rounds: clients have been given work, and it is not over."""
    log = out / "cells" / name / "server.log"
    return log.exists() and "version 10: accuracy" in log.read_text() and name not in finished(out)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_is_stopped_killed_gone_on_with_and_then_over(tmp_path: Path) -> None:
    file, out, straight = tmp_path / "table.toml", tmp_path / "stopped", tmp_path / "straight"
    file.write_text(TABLE)
    command = [*ZOWARMUP, str(file), "--jobs", "1", "--out"]
    environment = {**os.environ, "COLUMNS": "200"}
    # The models of the first seed are built by the coordinators themselves; those of the second are in the cache.
    table = read_table(file)
    jobs = [cell.job for method in table.method for cell in cells(table, method, {}) if cell.seed == 1]
    for job in (*jobs, *(job.after for job in jobs if job.after)):
        prepared(job.run, out / "model-cache")

    for number, name in ((signal.SIGINT, "sliced-33-0"), (signal.SIGKILL, "whole-33-0")):
        with subprocess.Popen([*command, str(out)], env=environment) as process:
            try:
                until(lambda: some_rounds(out, name), 240, f"rounds of {name}")  # noqa: B023
                process.send_signal(number)
                assert process.wait(20) == (130 if number is signal.SIGINT else -9)
            finally:
                process.kill()
        until(lambda: not belonging_to(out), 10, "its processes to end")
    before = finished(out)
    assert {"sliced-33-0"} <= set(before) and "whole-33-0" not in before

    over = subprocess.run(
        [*command, str(out)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert over.returncode == 0, over.stdout + over.stderr
    assert "4 of 4 cells" in over.stdout
    assert before.items() <= finished(out).items(), "what was over is not run again"
    log = (out / "cells" / "whole-33-0" / "server.log").read_text()
    assert re.search(r"goes on at version \d+", log), "the cell that was killed went on"

    found = rows(out)
    assert [(row["method"], row["seed"]) for row in found] == [
        ("sliced", "0"),
        ("sliced", "1"),
        ("whole", "0"),
        ("whole", "1"),
    ]
    for seed in "01":
        sliced, whole = (row for row in found if row["seed"] == seed)
        assert sliced["checkpoint"] == whole["checkpoint"] != ""
        assert sliced["accuracy_at_pivot"] == whole["accuracy_at_pivot"]
        assert sliced["digest"] != whole["digest"]
        for row in (sliced, whole):
            outcome = json.loads((out / "cells" / f"{row['method']}-33-{seed}" / "outcome.json").read_text())["outcome"]
            # They began with the bits that the warm-up ended with; of what is frozen the order is another, and so the digest.
            assert (outcome["began"] == row["checkpoint"]) == (row["method"] == "whole")
            assert (outcome["rounds"], row["rounds"], row["pivot"]) == (140, "142", "2")
    assert len({row["checkpoint"] for row in found}) == 2
    assert {path.name for path in out.iterdir()} >= {"table.csv", "table_curves.csv", "table.md", "table.png"}
    assert not list(out.glob("cells/*/server")), "what is over keeps its results only"

    times = {path: path.stat().st_mtime_ns for path in out.glob("cells/**/*")}
    again = subprocess.run(
        [*command, str(out)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (again.returncode, {path: path.stat().st_mtime_ns for path in out.glob("cells/**/*")}) == (0, times)
    assert rows(out) == found

    # Interrupted or not, one job at a time or two: the same bits.
    shutil.copytree(out / "model-cache", straight / "model-cache")
    two = [*ZOWARMUP, str(file), "--jobs", "2", "--only", "*-33-0", "--out", str(straight)]
    subprocess.run(two, env=environment, capture_output=True, timeout=600, check=True)
    assert [(row["digest"], row["accuracy"]) for row in rows(straight)] == [
        (row["digest"], row["accuracy"]) for row in found if row["seed"] == "0"
    ]


def test_a_cell_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    file, out = tmp_path / "table.toml", tmp_path / "out"
    file.write_text(TABLE.replace('name = "mlp"', 'name = "no_such_module:model"'))
    failed = subprocess.run(
        [*ZOWARMUP, str(file), "--out", str(out), "--only", "sliced-33-0"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert failed.returncode == 1
    assert "sliced-33-0: its warm-up failed: warm-up-1of3-0-" in failed.stderr
    assert "server.log" in failed.stderr and "no_such_module" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_cells_are_listed_and_chosen_by_name(tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text(TABLE)
    listed = subprocess.run(
        [*ZOWARMUP, str(file), "--list", "--only", "whole-*"], capture_output=True, text=True, timeout=60, check=True
    )
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert names == ["whole-33-0", "whole-33-1"]
    assert not (tmp_path / "experiments").exists()
