"""`zowarmup new` and then `zowarmup demo`, of each template, as a person runs them: what comes out of the box works.

What is copied is zowarmup.lab.projects.images, .rows and .text, each with its make_data.py (zowarmup.lab.projects.images.make_data,
zowarmup.lab.projects.rows.make_data, zowarmup.lab.projects.text.make_data) and its model.py (zowarmup.lab.projects.images.model,
zowarmup.lab.projects.rows.model, zowarmup.lab.projects.text.model).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ZOWARMUP = [sys.executable, "-m", "zowarmup.cli.main"]
CHANCE = {"images": 1 / 4, "rows": 1 / 4, "text": 1 / 3}


def zowarmup(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [*ZOWARMUP, *arguments], capture_output=True, text=True, cwd=folder, timeout=PATIENCE * 60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", CHANCE)
def test_a_new_project_trains_well_above_chance(kind: str, tmp_path: Path) -> None:
    said = zowarmup("new", "mine", "--kind", kind, folder=tmp_path)
    assert "zowarmup demo mine" in said and "mine/README.md" in said
    said = zowarmup("demo", "mine", folder=tmp_path)
    assert said.startswith("making the data: python make_data.py") and "all 5 clients' are equal" in said
    out = tmp_path / "mine" / "demo"
    report = json.loads((out / "report.json").read_text())
    assert report["replicas_equal"] is True and report["data"] == "project mine"
    assert report["metrics"]["accuracy"]["final"] > 0.5 + CHANCE[kind]
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "run.toml").read_text() == (tmp_path / "mine" / "run.toml").read_text()
