"""Options that commands share: how the coordinator and the operator's credential are found, and --verbose."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import typer

from zowarmup.cli.options import CREDENTIAL_FILE, CREDENTIAL_VARIABLE, Reach, add_verbose, reaching
from zowarmup.common.system.command import Usage


def reached(**options: Any) -> Reach:
    """What a command is given under these options."""
    found = []

    def command(reach: Reach) -> None:
        found.append(reach)

    everything = {
        name: None if parameter.default is parameter.empty else parameter.default
        for name, parameter in inspect.signature(reaching(command)).parameters.items()
    }
    reaching(command)(**everything | {"server": "127.0.0.1:1"} | options)
    (reach,) = found
    return reach


def test_the_credential_is_read_from_the_data_directory_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CREDENTIAL_VARIABLE, "of the environment")
    assert reached().session.address == "127.0.0.1:1"
    assert not reached().mutual
    (tmp_path / CREDENTIAL_FILE).write_text("of the file\n")
    assert reached(data_dir=tmp_path).session.address == "127.0.0.1:1"
    (tmp_path / CREDENTIAL_FILE).unlink()
    with pytest.raises(Usage, match=CREDENTIAL_FILE):
        reached(data_dir=tmp_path)


@pytest.mark.parametrize("credential", ["a\nb", "é", "\x1b[2J"])
def test_a_credential_that_none_has_is_refused(monkeypatch: pytest.MonkeyPatch, credential: str) -> None:
    monkeypatch.setenv(CREDENTIAL_VARIABLE, credential)
    with pytest.raises(Usage, match="copy the whole file, and nothing else"):
        reached()


def test_verbose_is_added_where_a_command_has_none_of_its_own() -> None:
    app, group = typer.Typer(), typer.Typer()

    @app.command()
    def plain(name: str) -> None:
        assert name == "pi"

    @group.command()
    def own(verbose: bool = False) -> None:
        assert verbose

    app.add_typer(group, name="group")
    add_verbose(app)
    (first,), (second,) = app.registered_commands, group.registered_commands
    assert first.callback is not None
    assert [*inspect.signature(first.callback).parameters] == ["name", "verbose"]
    first.callback(name="pi", verbose=True)
    assert second.callback is own
