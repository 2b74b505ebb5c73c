"""Completions, man pages and the reference of the commands are those of the commands, and a real bash completes by them."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.conftest import DEPLOY, REPOSITORY, built
from tests.patience import PATIENCE


def test_what_describes_the_commands_is_up_to_date() -> None:
    done = subprocess.run(
        [built("docs/bin/python"), "-m", "deploy.commands"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=PATIENCE * 60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["zowarmup", "zowarmup-server", "zowarmup-client"])
def test_a_man_page_has_every_command_and_option(name: str) -> None:
    """As docs/commands.md has them."""
    page = (REPOSITORY / "docs/commands.md").read_text(encoding="utf-8")
    part = re.split(r"^## ", page.partition(f"\n## {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    manual = (DEPLOY / f"commands/man/{name}.1").read_text(encoding="utf-8").replace("\\-", "-").replace("\\&", "")
    wanted = re.findall(r"^\| `(--[a-z-]+)|^### (.+)$", part, re.MULTILINE)
    assert len(wanted) > 7
    assert [word for pair in wanted for word in pair if word not in manual] == []


class Bash:
    """A real one, as somebody sits before it."""

    def __init__(self, folder: Path) -> None:
        process, self.terminal = pty.fork()
        if process == 0:
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--norc", "--noprofile"], {**os.environ, "PS1": "", "TERM": "dumb"})
        self.process = process
        self.typed(
            f"bind 'set enable-bracketed-paste off'; stty -echo cols 200; cd {folder}; echo re''ady\n", "ready\r\n"
        )

    def typed(self, keys: str, until: str) -> str:
        """What the terminal shows once `until` is among it."""
        os.write(self.terminal, keys.encode())
        shown, end = "", time.monotonic() + PATIENCE * 10
        while until not in shown:
            assert time.monotonic() < end, shown
            if select.select([self.terminal], [], [], 0.1)[0]:
                shown += os.read(self.terminal, 4096).decode()
        return shown

    def completed(self, line: str) -> str:
        """The line as it stands after a tab, in angle brackets."""
        shown = self.typed(f"{line}\t\x01printf '<%s>\\n' '\x05'\n", ">\r\n")
        found: list[str] = re.findall(r"<([^<>]*)>\r\n", shown)
        return found[-1].rstrip()


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Bash]:
    (tmp_path / "fleet.toml").touch()
    (tmp_path / "certificates").mkdir()
    shell = Bash(tmp_path)
    yield shell
    os.close(shell.terminal)
    os.waitpid(shell.process, 0)


def test_a_real_bash_completes_commands_options_words_and_files(bash: Bash) -> None:
    for name in ("zowarmup", "zowarmup-server", "zowarmup-client"):
        bash.typed(f"source {DEPLOY}/commands/bash/{name}; echo so''urced\n", "sourced\r\n")
    for typed, completed in (
        ("zowarmup-client --connect", "zowarmup-client --connect-timeout"),
        ("zowarmup-client --tier h", "zowarmup-client --tier high"),
        ("zowarmup-client --state-dir cert", "zowarmup-client --state-dir certificates/"),
        ("zowarmup-server fle", "zowarmup-server fleet.toml"),
        ("zowarmup-server --exit", "zowarmup-server --exit-when-finished"),
        ("zowarmup invitat", "zowarmup invitations"),
        ("zowarmup certs ini", "zowarmup certs init"),
        ("zowarmup invite --tier lo", "zowarmup invite --tier low"),
        ("zowarmup doctor --allow", "zowarmup doctor --allow-model"),
    ):
        assert bash.completed(typed) == completed
