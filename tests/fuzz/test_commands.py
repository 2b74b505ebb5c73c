"""Odd command lines in odd surroundings: a short, repeatable form of a part of `make fuzz`, and real processes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.fuzz.attempts import CLIENT, COMMAND, COORDINATOR, DEVICE, FOLDER, NOBODY, PIPE, RUN, SERVER, VERBS, Attempt
from tests.fuzz.commands import assail, carry_out, carry_out_apart, judge
from zowarmup.cli.commands import app

EXAMPLES = 300
RUN_FILE = b"""name = "x"
[model]
name = "mlp"
[warmup]
rounds = 1
[zeroth_order]
rounds = 1
[evaluation]
data = "digits:test"
"""
WAITING = ("--server", NOBODY, "--data", "digits:1/2", "--connect-timeout", "0.01")


@pytest.mark.timeout(900)
def test_whatever_is_mistyped_or_damaged_ends_in_a_sentence_and_leaves_nothing() -> None:
    kinds, codes = assail(EXAMPLES, None)
    assert sum(codes.values()) >= EXAMPLES
    assert len(kinds) > 10
    assert {1, 2} <= set(codes)


def test_every_command_and_option_there_is_can_be_drawn() -> None:
    """But for those that every line has, and --help."""
    found = dict(_commands(typer.main.get_command(app)))
    assert set(found) == {*VERBS, "doctor"}
    for verb, options in found.items():
        drawn = {"--limit", "--list", "--state", "--connect-timeout", "--verbose", *VERBS.get(verb, ([], {}))[1]}
        assert set(options) <= drawn, verb
    for drawable, program in ((DEVICE, "client.main"), (COORDINATOR, "server.command")):
        line = [sys.executable, "-c", f"import sys; from zowarmup.{program} import main; sys.exit(main())", "--help"]
        told = set(re.findall(r"--[a-z-]+", subprocess.run(line, capture_output=True, text=True, check=True).stdout))
        every = {"--data-dir", "--state-dir", "--connect-timeout", "--doctor", "--json", "--help", "--version"}
        assert told <= {*drawable, *every, "--verbose"}, program


def _commands(command: Any, name: str = "") -> Iterator[tuple[str, list[str]]]:
    """Of a command or group of typer's, each command with its options."""
    if inner := getattr(command, "commands", None):
        for word, one in inner.items():
            yield from _commands(one, f"{name} {word}".strip())
    else:
        yield name, [option for one in command.params for option in one.opts if option.startswith("-")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("attempt", "code", "said"),
    [
        (Attempt(COMMAND, ("--help",), output="full"), 1, "standard output cannot be written: No space left on device"),
        (
            Attempt(COMMAND, ("version",), output="full"),
            1,
            "standard output cannot be written: No space left on device",
        ),
        (Attempt(COMMAND, ("--help",), output="closed"), 141, ""),
        (Attempt(COMMAND, ("version",), output="closed"), 141, ""),
        (Attempt(CLIENT, ("--help",), output="full"), 1, "standard output cannot be written: No space left on device"),
        (Attempt(CLIENT, ("--help",), output="closed"), 141, ""),
        (Attempt(SERVER, ("--help",), output="full"), 1, "standard output cannot be written: No space left on device"),
        (Attempt(SERVER, ("--help",), output="closed"), 141, ""),
        (
            Attempt(COMMAND, ("certs", "init", "--out", "\xfcber", "--host", "a"), encoding="ascii"),
            0,
            "\\xfcber/ca.key",
        ),
        (Attempt(COMMAND, ("version",), environment={"LC_ALL": "invalid", "TERM": "", "COLUMNS": "1"}), 0, "numpy"),
        (Attempt(CLIENT, WAITING, environment={"HOME": ""}), 1, "--state-dir or HOME"),
        (Attempt(CLIENT, WAITING, environment={"HOME": "/dev/null"}), 1, "with --state-dir"),
        (Attempt(CLIENT, WAITING, environment={"XDG_STATE_HOME": "relative"}), 1, "no coordinator answered"),
        (Attempt(CLIENT, (*WAITING, "--state-dir", "data"), {"data": RUN}), 1, "holds no client's state"),
        (Attempt(CLIENT, (*WAITING, "--state-dir", "a", "--verbos")), 2, "--verbos"),
        (Attempt(SERVER, ("run.toml", "--data-dir", "data"), {"run.toml": b"a = " + b"[" * 9999}), 2, "nested more"),
        (Attempt(SERVER, ("run.toml", "--data-dir", "data"), {"run.toml": b"a." * 9999 + b"b = 1"}), 2, "nested more"),
        (Attempt(SERVER, ("run.toml", "--data-dir", "data"), {"run.toml": FOLDER}), 2, "Is a directory"),
        (Attempt(SERVER, ("run.toml", "--data-dir", "run.toml"), {"run.toml": RUN_FILE}), 1, "Not a directory"),
        (Attempt(COMMAND, ("plan", "/dev/zero")), 2, "it is a device, and must be a regular file"),
        (Attempt(COMMAND, ("plan", "run.toml"), {"run.toml": PIPE}), 2, "it is a pipe, and must be a regular file"),
        (Attempt(COMMAND, ("plan", "run.toml"), {"run.toml": b"#" * (1 << 21)}), 2, "may have 131 kB"),
        (Attempt(CLIENT, (*WAITING, "--ca", "x"), {"x": PIPE}), 1, "--ca x cannot be read: it is a pipe"),
        (Attempt(CLIENT, (*WAITING, "--join-file", "x"), {"x": PIPE}), 1, "--join-file x cannot be read (it is a pipe"),
        (
            Attempt(COMMAND, ("status", "--credential-file", "x"), {"x": PIPE}),
            2,
            "--credential-file x cannot be read: it",
        ),
        (Attempt(COMMAND, ("fsck", "data"), {"data": RUN, "data/lock": PIPE}), 1, "it is a pipe"),
        (Attempt(COMMAND, ("fsck", "data"), {"data": RUN, "data/ledger.sqlite": b"nonsense" * 999}), 1, "ledger"),
        (Attempt(COMMAND, ("backup", "data", "data/copy"), {"data": RUN}), 1, "lies in data itself"),
        (Attempt(COMMAND, ("export", "--data-dir", "data", "--out", "/proc/x"), {"data": RUN}), 1, "zowarmup: "),
        (Attempt(COMMAND, ("fleet", "--clients", "2", "--data", "digits", "--name", "a b")), 2, "--name 'a b'"),
    ],
    ids=lambda value: " ".join((value.program, *value.arguments[:2]))[:40] if isinstance(value, Attempt) else "",
)
def test_a_process_ends_with_its_exit_code_and_a_sentence(attempt: Attempt, code: int, said: str) -> None:
    outcome = carry_out_apart(attempt)
    judge(attempt, outcome)
    assert outcome.code == code, outcome.said
    assert said in outcome.said
    if code == 141:
        assert outcome.said == ""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "attempt",
    [
        Attempt(COMMAND, ("certs", "init", "--out", "certs", "--host", "a")),
        Attempt(COMMAND, ("demo", "--out", "out")),
        Attempt(COMMAND, ("fleet", "--clients", "2", "--data", "digits", "--server", NOBODY, "--state", "state")),
        Attempt(COMMAND, ("plan", "run.toml"), {"run.toml": RUN_FILE}),
        Attempt(SERVER, ("run.toml", "--data-dir", "data", "--address", "127.0.0.1:0"), {"run.toml": RUN_FILE}),
    ],
    ids=lambda attempt: " ".join((attempt.program, attempt.arguments[0])),
)
def test_a_full_disk_is_one_sentence(attempt: Attempt) -> None:
    outcome = carry_out_apart(attempt, full_disk=True)
    judge(attempt, outcome)
    assert outcome.code == 1, outcome.said
    assert "too large" in outcome.said or "temporary" in outcome.said


def test_what_a_command_cannot_do_is_a_traceback_only_where_it_is_asked_for(tmp_path: Path) -> None:
    for program in ("cli.main", "client.main", "server.command"):
        line = [sys.executable, "-c", f"import sys; from zowarmup.{program} import main; sys.exit(main())"]
        arguments = {
            "cli.main": ["fsck", "nowhere"],
            "client.main": ["--server", NOBODY, "--data", "npz:nowhere"],
            "server.command": ["nowhere.toml", "--data-dir", "data"],
        }[program]
        for more, shown in (([], False), (["--verbose"], True)):
            done = subprocess.run(
                [*line, *arguments, *more], capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path
            )
            assert done.returncode in (1, 2)
            assert ("Traceback" in done.stderr) is shown
            assert "nowhere" in done.stderr.splitlines()[-1]


def test_a_process_that_was_there_before_is_nobodys_remains() -> None:
    """Tests that ran before in this process may have started one that lives on, as multiprocessing's resource tracker does."""
    code = "print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()  # it is under way
        assert carry_out(Attempt(COMMAND, ("version",))).left == ()
        assert other.poll() is None
        other.stdin.write(b"\n")


def test_a_command_leaves_this_process_as_it_was() -> None:
    """A coordinator and a device close their files to others from the beginning, whatever comes of it."""
    before = os.umask(0o022)
    try:
        for program in (CLIENT, SERVER, COMMAND):
            carry_out(Attempt(program, ("--no-such-option",)))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
