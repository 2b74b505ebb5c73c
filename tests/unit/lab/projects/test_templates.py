"""What `zowarmup new` writes, and where it writes nothing."""

import tomllib
from pathlib import Path

import pytest

from zowarmup.common.system.command import CommandError, Usage
from zowarmup.lab.projects.templates import TemplateKind, new_project
from zowarmup.server.setup.run_file import read_run_file


@pytest.mark.parametrize("kind", TemplateKind)
def test_a_project_is_named_as_its_folder_and_its_run_file_loads(kind: TemplateKind, tmp_path: Path) -> None:
    folder = tmp_path / 'lab "7"'
    written = new_project(folder, kind)
    assert sorted(path.name for path in written) == ["README.md", "make_data.py", "model.py", "run.toml"]
    assert sorted(folder.iterdir()) == sorted(written)
    run = read_run_file(folder / "run.toml")
    assert run.name == 'lab "7"'
    assert run.server.address == tomllib.loads((folder / "run.toml").read_text())["server"]["address"]
    for command in ("python make_data.py", "zowarmup demo .", "zowarmup-server run.toml"):
        assert command in (folder / "README.md").read_text()


def test_a_folder_whose_name_cannot_be_a_runs_has_one_all_the_same(tmp_path: Path) -> None:
    new_project(tmp_path / ("x" * 200), TemplateKind.ROWS)
    assert read_run_file(tmp_path / ("x" * 200) / "run.toml").name == "x" * 64


def test_an_empty_folder_will_do_and_one_that_is_not_is_left_alone(tmp_path: Path) -> None:
    new_project(tmp_path, TemplateKind.TEXT)
    (tmp_path / "model.py").write_text("mine")
    with pytest.raises(Usage, match="is not empty: name a folder that does not exist yet"):
        new_project(tmp_path, TemplateKind.IMAGES)
    assert (tmp_path / "model.py").read_text() == "mine"


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(CommandError, match=r"file.* cannot be written: (File exists|Not a directory)"):
            new_project(folder, TemplateKind.IMAGES)
