"""What the commands' parsers say, as a page of the documents and as man pages."""

import argparse
import re
from collections.abc import Iterable

from deploy.commands.parsers import commands_of, options_of
from zowarmup.common.settings.run import VERSION

HEAD = """\
# Commands

Every command, its arguments and its options, as `--help` says them too. `make commands` writes this page, the man pages and
what shells complete with (`deploy/commands/`) from the commands themselves.

Exit codes are the same for all: [Running a fleet](operators-guide.md#what-a-service-may-do) lists them. `zowarmup --help` and
`zowarmup COMMAND --help` need no coordinator.

## Completion and man pages

The package brings both, in `share/` of the environment that it is installed to. Where pip installs for a user
(`pip install --user`) or for the system, shells find them by themselves, and `man zowarmup` the pages; pipx shows man pages, too.
Elsewhere, as in a virtual environment, name them, here in the one of a clone:

<!-- run by tests/deployment/test_commands.py -->
```sh
source .venv/share/bash-completion/completions/zowarmup        # bash, also zowarmup-server, zowarmup-client
man .venv/share/man/man1/zowarmup-client.1
```

In zsh, `fpath+=(.venv/share/zsh/site-functions)` before `compinit`; in fish, `source` what is in
`.venv/share/fish/vendor_completions.d`. They know options, commands, words to choose from, files and folders, and start nothing.
"""


def invocation(action: argparse.Action) -> str:
    """How it is written on a command line: `--tier {auto,high,low}`."""
    name = ", ".join(action.option_strings)
    value = "" if action.nargs == 0 else _value(action)
    return " ".join(part for part in (name, value) if part)


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar.replace("|", " or ")
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()


def explained(action: argparse.Action) -> str:
    """Its help, and whether it may be left out."""
    text = (action.help or "").replace("%%", "%").rstrip(".")
    required = action.required and bool(action.option_strings)
    return f"{text[:1].upper()}{text[1:]}{'. Must be given' if required else ''}."


def usage(parser: argparse.ArgumentParser) -> str:
    """A line: the command, its arguments, and whether it has commands and options."""
    subcommands = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
    parts = [_value(action) for action in options_of(parser) if not action.option_strings]
    parts += [f"{invocation(action)}" for action in options_of(parser) if action.option_strings and action.required]
    options = any(action.option_strings and not action.required for action in options_of(parser))
    return " ".join([parser.prog, *parts, *["COMMAND ..."] * subcommands, *["[OPTIONS]"] * options])


def page(programs: Iterable[argparse.ArgumentParser]) -> str:
    """docs/commands.md."""
    parts = [HEAD]
    for program in programs:
        for parser in commands_of(program):
            level = "##" if parser is program else "###"
            parts.append(f"\n{level} {parser.prog}\n\n{_escaped(parser.description or '')}\n\n    {usage(parser)}\n")
            if found := options_of(parser):
                rows = [f"| `{invocation(one)}` | {_escaped(explained(one))} |" for one in found]
                parts.append("\n" + "\n".join(["| option | |", "|---|---|", *rows]) + "\n")
            if parser.epilog:
                parts.append(f"\n```text\n{parser.epilog}\n```\n")
    return "".join(parts)


def _escaped(text: str) -> str:
    return re.sub(r"([|*<>\[\]])", r"\\\1", " ".join(text.split()))


def restructured(program: argparse.ArgumentParser) -> str:
    """A man page, as docutils' writer of man pages takes it."""
    about = _literal(program.description or "")
    lines = [program.prog, "=" * len(program.prog), "", f"{about}", "-" * len(about), ""]
    lines += [":Manual section: 1", f":Version: zowarmup {VERSION}", ""]
    for parser in commands_of(program):
        title = "Use" if parser is program else parser.prog
        lines += [title, "~" * len(title), "", f"``{usage(parser)}``", ""]
        lines += [] if parser is program else [_literal(parser.description or ""), ""]
        for action in options_of(parser):
            lines += [f"``{invocation(action)}``", f"    {_literal(explained(action))}", ""]
        if parser.epilog:
            lines += ["::", "", *(f"    {line}" for line in parser.epilog.splitlines()), ""]
    return "\n".join(lines)


def _literal(text: str) -> str:
    return re.sub(r"([\\*`|_<>])", r"\\\1", " ".join(text.split()))
