"""The operator's commands: how long an invitation is good, and names of certificates."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from zowarmup.cli import operator
from zowarmup.common.system.command import Usage


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604_800), ("1w", 604_800)]
)
def test_a_time_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert operator._seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-1d", "7y", "1.5h", "1" * 10 + "s"])
def test_another_time_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="must be a number and s, m, h, d or w, such as 7d"):
        operator._seconds(text)


def made(folder: Path, *arguments: str) -> list[str]:
    app = typer.Typer()
    operator.register(app)
    done = CliRunner().invoke(app, ["certs", *arguments, "--out", str(folder)])
    if done.exception is not None:
        raise done.exception
    return [Path(line).name for line in done.stdout.splitlines()]


def test_certificates_are_made_under_one_authority(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    assert {"ca.crt", "server.crt", "server.key"} <= set(made(folder, "init", "--host", "pi.local"))
    assert made(folder, "client", "pi") == ["pi.key", "pi.crt"]
    assert made(folder, "server") == ["server.key", "server.crt"]
    assert made(folder, "server", "--name", "b", "--host", "b.local") == ["b.key", "b.crt"]
    with pytest.raises(Usage, match=r"'ca' must be .*, and not ca"):
        made(folder, "server", "--name", "ca")


@pytest.mark.parametrize("name", ["ca", "server", "a/b", ".x", "", "x" * 64])
def test_a_name_that_is_no_file_of_a_device_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Usage, match="must be 1 to 63 letters"):
        made(tmp_path, "client", name)
