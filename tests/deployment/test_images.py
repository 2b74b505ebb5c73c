"""The images' recipe: its style, its context, and the way a replica finds a place of its own. No image is built here."""

import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deployment.conftest import DEPLOY, REPOSITORY

DOCKERFILE = DEPLOY / "docker/Dockerfile"
TAKE_A_PLACE = DEPLOY / "docker/take-a-place"


def test_the_recipe_is_in_good_style(tool: Callable[[str], str]) -> None:
    done = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_wheel_can_be_made_of_what_the_ignore_file_leaves(tmp_path: Path) -> None:
    """As Docker sees the repository: all is ignored but what is named."""
    lines = (DEPLOY / "docker/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    context = tmp_path / "context"
    for name in (line.removeprefix("!") for line in lines if line.startswith("!")):
        source, target = REPOSITORY / name, context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=context, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"zowarmup/v1/coordinator_pb2.py", "zowarmup/data/digits.npz"} <= held
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    rooms = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    assert {"zowarmup/__init__.py", *(f"zowarmup/{room}/__init__.py" for room in rooms)} <= held
    for line in DOCKERFILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY") and "--from" not in line:
            *_, source_name, _ = line.split()
            assert (context / source_name).exists(), line


def test_no_image_runs_as_root_and_the_low_tiers_has_no_torch() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    stages = {stage.split("\n")[0].split(" AS ")[1]: stage for stage in text.split("\nFROM ")[1:]}
    assert {"server", "client-low", "client-high"} <= set(stages)
    assert "USER 10001:10001" in stages["runtime"]
    assert "install -d -m 0555 /nothing" in stages["runtime"]
    assert stages["runtime"].rstrip().endswith("WORKDIR /nothing"), "a name without a folder would be found in /"
    for name in ("server", "client-low", "client-high"):
        assert stages[name].startswith("runtime AS ")
        assert "USER" not in stages[name]
    assert "COPY --from=low-packages" in stages["client-low"]
    assert "torch" not in stages["low-packages"]
    assert "torch" in stages["high-packages"]


def test_each_replica_takes_a_place_of_its_own(tmp_path: Path) -> None:
    command = [
        str(TAKE_A_PLACE),
        "3",
        "6",
        str(tmp_path),
        "sh",
        "-c",
        "echo $$ > $0/{}-{}; exec sleep 60",
        str(tmp_path),
    ]
    replicas = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(5)]
    try:

        def names() -> dict[str, int]:
            return {path.name: int(path.read_text() or 0) for path in tmp_path.iterdir() if "-" in path.name}

        end = time.monotonic() + 30
        while len(names()) < 4 or not all(names().values()) or all(one.poll() is None for one in replicas):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert set(names()) == {"3-3", "4-4", "5-5", "6-6"}
        (late,) = [one for one in replicas if one.poll() is not None]
        assert late.returncode == 1
        assert late.stderr is not None
        assert "all places from 3 to 6" in late.stderr.read()

        leaving = next(one for one in replicas if one.pid == names()["4-4"])
        leaving.kill()
        leaving.wait()
        replicas.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        while names()["4-4"] != replicas[-1].pid:
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        for one in replicas:
            one.kill()
            one.communicate()


@pytest.mark.parametrize("arguments", [(), ("1", "2", "/tmp")])
def test_a_place_for_nothing_is_refused(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([TAKE_A_PLACE, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("usage: take-a-place")) == (2, True)
