"""Writes docs/commands.md, the man pages and the completions anew, or says which of them are out of date.

    .build/docs/bin/python -m deploy.commands --write

Completions are shtab's: bash, zsh and fish read the options from them without starting Python. The files are in the
repository, so that a package is built without the tools that make them, and the same from its source.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab
from docutils.core import publish_string

from deploy.commands.described import page, restructured
from deploy.commands.parsers import commands_of, options_of, parsers

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy/commands"
NAMES = {"bash": "bash/{}", "zsh": "zsh/_{}", "fish": "fish/{}.fish"}
"""As each shell looks for the completions of a command."""


def files() -> Iterator[tuple[Path, str]]:
    """Everything that there is to write."""
    programs = parsers()
    yield REPOSITORY / "docs/commands.md", page(programs)
    for program in programs:
        settings = {"report_level": 4, "halt_level": 4, "datestamp": None}
        manual = publish_string(restructured(program), writer="manpage", settings_overrides=settings)
        yield FOLDER / f"man/{program.prog}.1", manual.decode("utf-8")
        for parser in commands_of(program):
            for action in options_of(parser):
                if action.type is Path:
                    action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
        for shell, name in NAMES.items():
            yield FOLDER / name.format(program.prog), shtab.complete(program, shell).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.commands", description="What describes the commands.")
    parser.add_argument("--write", action="store_true", help="write the files anew")
    write = parser.parse_args().write
    old = [(path, text) for path, text in files() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path, text in old if write else ():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path, _ in old:
        print(f"{path.relative_to(REPOSITORY)} {'written' if write else 'is out of date: make commands'}")
    return 1 if old and not write else 0


if __name__ == "__main__":
    sys.exit(main())
