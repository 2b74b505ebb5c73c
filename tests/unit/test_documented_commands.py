"""Every block of the documents is read by what it is meant for, and every command in them by the parser of the command.

What is run besides: tutorials (tests/e2e/test_tutorials.py), and what a marker names (tests/documents.py). A block of commands that
is not run says why; REASONS lists all there are.
"""

import ast
import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.documents import DOCUMENTS, REPOSITORY, blocks
from zowarmup.cli.commands import app
from zowarmup.client.main import arguments_parser as client_parser
from zowarmup.lab.experiments.table import table_of
from zowarmup.lab.simulation.profiles import parse as profiles
from zowarmup.server.main import arguments_parser as server_parser
from zowarmup.server.setup.run_file import run_file_of

LANGUAGES = {
    "sh": "commands",
    "toml": "a run file or some lines of one, an experiment's table, profiles",
    "python": "a program",
    "json": "what the protocol has: tests/unit/test_documents.py reads it",
    "text": "what is shown, and drawings",
    "ini": "units of systemd",
    "nft": "rules of a packet filter",
    "sql": "what an operator says to a database: tests/unit/server/store/postgres/test_migrations.py says it",
}
REASONS = {
    "it is these tests",
    "needs a Jetson",
    "needs a Raspberry Pi",
    "needs a database",
    "needs a passphrase",
    "needs a pretrained model",
    "needs Grafana",
    "needs Kubernetes",
    "needs Prometheus",
    "needs root",
    "needs several machines",
    "takes minutes",
}
RUN = {"docs/first-fleet.md": "", "README.md": "The same by hand"}
"""The documents, or sections, that tests/e2e/test_tutorials.py does as a reader would."""

EVERY = [block for document in DOCUMENTS for block in blocks(document)]
SHELL = [block for block in EVERY if block.language == "sh"]
DONE = {(block.document, block.line) for name, section in RUN.items() for block in blocks(REPOSITORY / name, section)}
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")


def test_every_block_says_what_it_is() -> None:
    assert {str(block): block.language for block in EVERY if block.language not in LANGUAGES} == {}
    assert len(SHELL) > 40
    fences = sum(len(re.findall(r"^ *```", path.read_text(encoding="utf-8"), re.MULTILINE)) for path in DOCUMENTS)
    assert fences == 2 * len(EVERY), "a fence that is not closed, or has more behind its language than a title"


def test_what_is_not_run_says_why() -> None:
    silent, reasons = [], set()
    for block in SHELL:
        done = (block.document, block.line) in DONE
        _, _, said = block.marker.partition(":" if block.marker.startswith("not") else "run by ")
        if block.marker.startswith("not"):
            reasons.add(said.strip())
        elif block.marker:
            assert (REPOSITORY / said).exists(), block
        if done == bool(block.marker):
            silent.append(str(block))
    assert silent == [], "a line before the block, such as <!-- not run: needs root -->, or <!-- run by tests/... -->"
    assert reasons == REASONS


# Run files and others.
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_is_written_in_toml_is_read_by_the_program_that_it_is_for(document: Path) -> None:
    """Some lines of a run file belong to the whole one before them, or to a run of the digits."""
    whole = tomllib.loads((REPOSITORY / "examples/digits.toml").read_text(encoding="utf-8"))
    for block in blocks(document):
        if block.language != "toml":
            continue
        raw = tomllib.loads(block.text)
        if "method" in raw:
            table_of(raw, str(block))
        elif "profile" in raw:
            profiles(raw)
        elif "name" in raw:
            whole = raw
            run_file_of(raw, str(block))
        else:
            sections = {name: {**whole.get(name, {}), **section} for name, section in raw.items()}
            if "algorithm" in raw.get("zeroth_order", {}):  # the settings are those of another
                whole_section = whole["zeroth_order"]
                kept = {name: whole_section[name] for name in ("rounds", "clients_per_round") if name in whole_section}
                sections["zeroth_order"] = kept | raw["zeroth_order"]
            run_file_of({**whole, **sections}, str(block))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_programs_in_documents_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another, as in a notebook."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for block in blocks(document):
        if block.language == "python":
            ast.parse(block.text)
            if not block.marker and (block.document, block.line) not in DONE:
                (tmp_path / "block.py").write_text(block.text, encoding="utf-8")
                space |= runpy.run_path("block.py", space, "document")


# Commands.
def simple_commands(script: str) -> Iterator[list[str]]:
    """The words of every simple command of a script, those of substitutions too."""
    script = script.replace("\\\n", " ")
    inner = re.compile(r"\$\(([^()]*)\)")
    while found := inner.search(script):
        yield from simple_commands(found[1])
        script = script[: found.start()] + "SUBSTITUTED" + script[found.end() :]
    for line in script.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        words: list[str] = []
        redirected = False
        for word in [*lexer, ";"]:
            if set(word) <= set("<>"):
                redirected = True
            elif set(word) <= set("();|&"):
                if words and word != "()" and words[-1] != "$@":  # else it names a function, or is one
                    yield words
                words = []
            elif redirected:
                redirected = False
            elif word not in ("{", "}"):
                words.append(word)


def invoked(words: Sequence[str]) -> tuple[str, list[str]]:
    """The program of a simple command, without what comes before it, and its arguments; no program where it only sets
    variables."""
    left = list(words)
    while left:
        if re.match(r"\w+=", left[0]):
            left.pop(0)
        elif left[0] == "sudo":
            left = left[3:] if left[1] == "-u" else left[1:]
        elif left[0] == "ssh":
            left = left[3:] if left[1] == "-t" else left[2:]
        else:
            break
    if not left:
        return "", []
    program = left[0].rpartition("/")[2] if left[0].endswith(OURS) or "/bin/" in left[0] else left[0]
    return {"zw": "zowarmup", "$server": "zowarmup"}.get(program, program), left[1:]


OURS = ("zowarmup", "zowarmup-server", "zowarmup-client")
ELSEWHERE = {
    *(
        ".",
        "cd",
        "cp",
        "cut",
        "date",
        "echo",
        "export",
        "hostname",
        "install",
        "journalctl",
        "kubectl",
        "man",
        "mkdir",
        "mv",
        "prometheus",
    ),
    *("rm", "scp", "sha256sum", "source", "ssh-keygen", "systemctl", "useradd", "apt", "ansible-playbook", "pip"),
}
"""Programs that are not ours."""


def parse(program: str, arguments: list[str]) -> None:
    """Raises AssertionError with what the parser says. Where a command is only hinted at (`...`), what it must have is added."""
    hinted = "..." in arguments
    given = [word for word in arguments if word != "..."]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            if program == "zowarmup-server":
                server_parser().parse_args(given)
            elif program == "zowarmup-client" or given[:1] == ["doctor"]:
                rest = given[1:] if given[:1] == ["doctor"] else given
                client_parser().parse_args(["--server", "127.0.0.1:7070", *rest] if hinted else rest)
            else:
                operator(given)
    except (SystemExit, typer.Exit) as left:
        code = getattr(left, "exit_code", None) or getattr(left, "code", 0)
        assert not code, f"{program} {shlex.join(arguments)}: {said.getvalue()}"
    except Exception as error:  # typer's, of many classes
        raise AssertionError(f"{program} {shlex.join(arguments)}: {error}") from error


def operator(arguments: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    context = group.make_context("zowarmup", list(arguments))
    while hasattr(group, "commands"):
        left = [*getattr(context, "_protected_args", []), *context.args]
        name, group, rest = group.resolve_command(context, left)
        context = group.make_context(name, rest, parent=context)


def check_make(arguments: Sequence[str]) -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    for word in arguments:
        variable = re.match(r"([A-Z]+)=", word)
        assert re.search(rf"\b{variable[1]}\b", MAKEFILE) if variable else word in targets, f"make {word}"


def check_module(arguments: Sequence[str]) -> None:
    """`python -m MODULE`, or a program's file: it is there, and knows the options by name."""
    if arguments[0] != "-m":
        return  # a file that the tutorial has told to save
    if arguments[1] in ("venv", "pip", "http.server"):
        return
    place = REPOSITORY / arguments[1].replace(".", "/")
    (source,) = [path for path in (place.with_suffix(".py"), place / "__main__.py") if path.exists()]
    text = source.read_text(encoding="utf-8")
    for option in (word for word in arguments if word.startswith("--")):
        assert f'"{option}"' in text, f"python -m {arguments[1]} {option}"


@pytest.mark.parametrize("document", sorted({block.document for block in SHELL}), ids=lambda path: path.name)
def test_commands_are_ones_that_their_programs_understand(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ZOWARMUP_")]:
        monkeypatch.delenv(name)
    functions = "zw() { :; }\n"
    if "zw()" in document.read_text(encoding="utf-8"):
        monkeypatch.setenv("ZOWARMUP_DATA_DIR", "/var/lib/zowarmup-server")  # as the function says it
    for block in blocks(document):
        if block.language != "sh":
            continue
        done = subprocess.run(["bash", "-n", "-c", functions + block.text], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), block
        for words in simple_commands(block.text):
            program, arguments = invoked(words)
            try:
                check(program, arguments)
            except AssertionError as error:
                raise AssertionError(f"{block}: {error}") from error


def check(program: str, arguments: list[str]) -> None:
    if program in OURS:
        parse(program, arguments)
    elif program == "make":
        check_make(arguments)
    elif program in ("python", "python3"):
        check_module(arguments)
    elif program in ("pytest", "ruff", "mypy"):
        for path in (word for word in arguments if word.startswith("tests/")):
            assert (REPOSITORY / path).exists(), path
    elif program.startswith("deploy/"):
        text = (REPOSITORY / program).read_text(encoding="utf-8")
        text += (REPOSITORY / "deploy/device/client.sh").read_text(encoding="utf-8")
        assert all(option in text for option in arguments if option.startswith("--")), (program, arguments)
    else:
        assert program in ELSEWHERE or not program, f"{program}: which program is that? See ELSEWHERE"


INLINE = re.compile(
    r"`((?:\.venv/bin/|/opt/zowarmup/bin/)?(?:zowarmup|zowarmup-server|zowarmup-client|zw|make|python -m) [^`\n]+)`"
)


def known_options(program: str, arguments: list[str]) -> set[str]:
    """The options of a program, or of its command that the arguments name."""
    if program == "zowarmup-server":
        return {*server_parser()._option_string_actions}
    if program == "zowarmup-client" or arguments[:1] == ["doctor"]:
        return {*client_parser()._option_string_actions}
    group: Any = typer.main.get_command(app)
    for word in arguments:
        if not hasattr(group, "commands") or word.startswith("-"):
            break
        assert word in group.commands, f"{program} {word}"
        group = group.commands[word]
    return {"--help", *(option for parameter in group.params for option in parameter.opts)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_sentences_exist_with_their_options(document: Path) -> None:
    """They need not be whole."""
    for text in INLINE.findall(document.read_text(encoding="utf-8")):
        program, arguments = invoked(text.split())
        if program == "make":
            check_make(arguments)
        elif program == "python":
            check_module(arguments)
        elif arguments != ["COMMAND", "--help"] and not arguments[0].startswith("ssh-"):
            options = known_options(program, arguments)
            given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
            assert given <= options, f"{document.name}: {text}"
