"""A project's data, and the fleet that its demo makes of it."""

import re
from pathlib import Path

import pytest

from zowarmup.common.messages.values import Tier
from zowarmup.common.system.command import CommandError, Usage
from zowarmup.lab.projects.project import open_project

RUN = """
name = "mine"
[model]
name = "mlp"
[warmup]
rounds = 2
clients_per_round = 2
[zeroth_order]
rounds = 3
clients_per_round = 3
[evaluation]
data = "{data}"
"""


def silent(line: str) -> None:
    raise AssertionError(line)


def project(folder: Path, data: str, *files: str) -> Path:
    (folder / "run.toml").write_text(RUN.format(data=data))
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def test_the_devices_data_is_beside_the_held_out_set_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    names = ["all", "client-1", "client-10", "client-2"]
    project(tmp_path, "csv:data/all.csv,label=kind", *(f"data/{name}.csv" for name in names), "data/client-3.npz")
    opened = open_project(tmp_path, silent)
    assert opened.parts == {
        name: f"csv:{tmp_path}/data/{name}.csv,label=kind" for name in ("client-1", "client-2", "client-10")
    }
    plan = opened.demo(tmp_path / "demo", None)
    assert [(member.name, member.tier) for member in plan.members] == [
        ("client-1", Tier.HIGH),
        ("client-2", Tier.HIGH),
        ("client-10", Tier.LOW),
    ]
    assert plan.title == "zowarmup demo of mine: mlp, 2 high + 1 low"
    assert plan.clients == {Tier.HIGH: 2, Tier.LOW: 1} and plan.folder == tmp_path
    assert opened.demo(tmp_path, 3).clients == {Tier.HIGH: 3}


def test_a_folder_of_images_a_device_is_its_data(tmp_path: Path) -> None:
    project(tmp_path, "folder:own/test,size=8", *(f"own/{name}/cat/1.png" for name in ("test", "client-a", "client-b")))
    (tmp_path / "own/client-notes").touch()
    found = open_project(tmp_path, silent).parts
    assert found == {name: f"folder:{tmp_path}/own/{name},size=8" for name in ("client-a", "client-b")}


@pytest.mark.parametrize(
    ("high", "files", "said"),
    [
        (4, 3, "--high 4: must be at most 3, the devices whose data is there"),
        (1, 3, "--high 1: a round of the warm-up needs 2"),
        (None, 2, "clients_per_round = 3, and there is data of 2 devices: lower it, or make more data"),
    ],
)
def test_a_fleet_that_could_never_open_a_round_is_refused(
    high: int | None, files: int, said: str, tmp_path: Path
) -> None:
    project(
        tmp_path,
        "npz:data/held-out.npz",
        *(f"data/{n}.npz" for n in ("held-out", *(f"client-{i}" for i in range(files)))),
    )
    with pytest.raises(Usage, match=re.escape(said)):
        open_project(tmp_path, silent).demo(tmp_path / "demo", high)


def test_data_that_is_not_there_is_made_and_a_script_that_fails_is_quoted(tmp_path: Path) -> None:
    project(tmp_path, "npz:held-out.npz")
    with pytest.raises(CommandError, match=r"there is no data beside that of evaluation.data = 'npz:held-out.npz'"):
        open_project(tmp_path, silent)
    script = tmp_path / "make_data.py"
    script.write_text("raise ValueError('no images here')")
    with pytest.raises(CommandError, match=r"(?s)make_data.py ended with code 1:.*ValueError: no images here"):
        open_project(tmp_path, lambda line: None)
    script.write_text("for name in ('held-out', 'client-1'): open(f'{name}.npz', 'w')")
    said: list[str] = []
    assert list(open_project(tmp_path, said.append).parts) == ["client-1"]
    assert said == ["making the data: python make_data.py"]


def test_what_is_no_project_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Usage, match=r"holds no run.toml: `zowarmup new DIR` makes a project"):
        open_project(tmp_path, silent)
    project(tmp_path, "digits:test")
    with pytest.raises(Usage, match=r"evaluation.data = 'digits:test': a project's is a file or a folder \(npz:PATH"):
        open_project(tmp_path, silent)
    (tmp_path / "run.toml").write_text("name = 3")
    with pytest.raises(Usage, match=rf"{tmp_path}/run.toml: name = 3"):
        open_project(tmp_path, silent)
