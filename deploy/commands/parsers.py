"""The parsers of the three commands, all as argparse has them, so that one generator serves all.

`zowarmup-server` and `zowarmup-client` have such parsers. That of `zowarmup`, an operator's, is typer's: its commands, options
and arguments are carried over, to be described and completed, not to parse with.
"""

import argparse
import os
from collections.abc import Iterator
from enum import Enum
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer

from zowarmup.cli.commands import app
from zowarmup.client.main import DOCTOR
from zowarmup.client.main import arguments_parser as client_parser
from zowarmup.server.main import arguments_parser as server_parser


def parsers() -> list[argparse.ArgumentParser]:
    """Of `zowarmup`, `zowarmup-server` and `zowarmup-client`, whatever this environment says of them."""
    said = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("ZOWARMUP_")}
    try:
        return [operator_parser(), server_parser(), client_parser()]
    finally:
        os.environ.update(said)


def operator_parser() -> argparse.ArgumentParser:
    """That of `zowarmup`."""
    group: Any = typer.main.get_command(app)
    parser = argparse.ArgumentParser(prog="zowarmup", description=group.help)
    _add_commands(parser, group)
    return parser


def commands_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser itself and, in alphabetical order, those of its commands, of their commands, and so on."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for _, command in sorted(action.choices.items()):
                yield from commands_of(command)


def options_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its arguments, and then its options, but for --help."""
    left_out = (argparse._HelpAction, argparse._SubParsersAction)
    own = [
        action for action in parser._actions if not isinstance(action, left_out) and action.help != argparse.SUPPRESS
    ]
    return sorted(own, key=lambda action: bool(action.option_strings))


def _add_commands(parser: argparse.ArgumentParser, group: Any) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in group.commands.items():
        text = cleandoc(command.help or "")
        summary = text.replace("%", "%%").partition(". ")[0].rstrip(".")
        added = commands.add_parser(name, prog=f"{parser.prog} {name}", description=text, help=summary)
        if hasattr(command, "commands"):
            _add_commands(added, command)
        elif name == "doctor":  # has the client's
            doctor = client_parser(DOCTOR)
            added.description = doctor.description
            for action in options_of(doctor):
                added._add_action(action)
        else:
            for parameter in command.params:
                _add_parameter(added, parameter)


def _add_parameter(parser: argparse.ArgumentParser, parameter: Any) -> None:
    named: dict[str, Any] = {"help": _described(parameter)}
    kind = parameter.type_descriptor.annotation
    if parameter.param_type_name == "argument":
        parser.add_argument(parameter.name, metavar=parameter.metavar, type=kind, **named)
        return
    if parameter.is_flag:
        named |= {"action": "store_true"}
    elif isinstance(kind, type) and issubclass(kind, Enum):
        named |= {"choices": [choice.value for choice in kind]}
    else:
        named |= {"metavar": parameter.metavar, "type": Path if kind is Path else str}
    parser.add_argument(*parameter.opts, dest=parameter.name, required=parameter.required, **named)


def _described(parameter: Any) -> str:
    text = parameter.help or ""
    if parameter.envvar:
        text += f" In the environment: {parameter.envvar}."
    shown = parameter.default is not None and parameter.show_default and not parameter.is_flag
    if parameter.param_type_name == "option" and shown and parameter.default not in ("", []):
        default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
        text += f" If not given: {default}."
    return text.replace("%", "%%")
