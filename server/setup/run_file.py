"""The run file: TOML in, a RunFile or one sentence for each error out."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from zowarmup.common.algorithms import SECTIONS, settings_class
from zowarmup.common.settings import run
from zowarmup.common.system.toml_file import TomlError, read_toml
from zowarmup.common.tasks import task_class
from zowarmup.server.setup.continuation import ContinuationError, carried_on
from zowarmup.server.store import schemas  # noqa: F401  (how algorithms' settings are read)

_SECTIONS = (run.Model, run.Evaluation, run.Guard, run.Server, run.RunFile)
for _section in _SECTIONS:
    with_config(ConfigDict(extra="forbid"))(_section)
_ADAPTER = TypeAdapter(run.RunFile)

# What an operator may change between two starts of one run: none of it enters the model.
_CHANGEABLE = {"server"}


_HELD_OUT = ': name the held-out set, such as data = "npz:held-out.npz" under [evaluation]'
_REMEDIES = {"evaluation": _HELD_OUT, "evaluation.data": _HELD_OUT}


class RunFileError(Exception):
    """The run file cannot be used: the message has a line for each reason."""


def read_run_file(path: Path) -> run.RunFile:
    """Raises RunFileError naming the field, what it holds and what is allowed."""
    try:
        raw = read_toml(path)
    except TomlError as error:
        raise RunFileError(str(error)) from error
    try:
        return run_file_of(carried_on(raw), str(path))
    except ContinuationError as error:
        raise RunFileError(f"{path}: {error}") from error


def run_file_of(raw: dict[str, Any], source: str) -> run.RunFile:
    """The run that `raw` says, as TOML is read; `source` is what to call it. Raises RunFileError, a line for each
    reason."""
    try:
        # Through JSON, where strict means: no string for a number, but tables for dataclasses.
        run_file = _ADAPTER.validate_json(json.dumps(raw, default=str), strict=True)
        task_class(run_file.model.task)
    except ValidationError as error:
        raise RunFileError("\n".join(f"{source}: {_sentence(dict(e), raw)}" for e in error.errors())) from error
    except ValueError as error:
        raise RunFileError(f"{source}: model.{error}") from error
    return run_file


def differences(ledger: run.RunFile, file: run.RunFile) -> list[str]:
    """What of the run file no longer is what the run began with, a sentence each."""
    began, now = asdict(ledger), asdict(file)
    told = []
    for name, value in began.items():
        if name in _CHANGEABLE or value == now[name]:
            continue
        if isinstance(value, dict):
            told += [
                f"{name}.{key} is {now[name][key]!r}, the run began with {old!r}"
                for key, old in value.items()
                if key in now[name] and now[name][key] != old
            ]
        else:
            told.append(f"{name} is {now[name]!r}, the run began with {value!r}")
    return told


def _sentence(error: dict[str, Any], raw: dict[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    field = ".".join(location)
    match error["type"]:
        case "unexpected_keyword_argument":
            of = _method(location[:-1], raw)
            return f"{field} is not a setting{of}; allowed here: {', '.join(_allowed(location[:-1], raw))}"
        case "missing" | "missing_argument":
            return f"{field} is missing{_REMEDIES.get(field) or _choices(location, raw)}"
        case "value_error":
            prefix = f"{field}." if field else ""
            return f"{prefix}{error['ctx']['error']}".replace(f"{field}.{field}.", f"{field}.")
        case "literal_error":
            return f"{field} = {error['input']!r}: must be {error['ctx']['expected']}"
        case _:
            given = raw
            for part in location:
                given = given.get(part, {}) if isinstance(given, dict) else given
            return f"{field} = {given!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _method(location: list[str], raw: dict[str, Any]) -> str:
    """' of method "fedavg"' in a section whose settings depend on that."""
    if location not in (["warmup"], ["zeroth_order"]):
        return ""
    named = raw[location[0]].get("method") or next(iter(SECTIONS[location[0]]))
    return f' of method "{named}"'


def _allowed(location: list[str], raw: dict[str, Any]) -> list[str]:
    section: Any = run.RunFile
    for part in location:
        section = _class_of(section, part, raw)
    return [field.name for field in fields(section)]


def _class_of(section: Any, part: str, raw: dict[str, Any]) -> Any:
    """The type of a field of a section's; for an algorithm's settings, the class that their `method` names."""
    found = get_type_hints(section).get(part)
    if found in (run.WarmUp, run.ZerothOrder):
        given = raw.get(part)  # a section that is missing, or no table, is among what is wrong
        return settings_class(part, given.get("method") if isinstance(given, dict) else None)
    return found


def _choices(location: list[str], raw: dict[str, Any]) -> str:
    section: Any = run.RunFile
    for part in location:
        section = _class_of(section, part, raw)
    choices = get_args(section)
    return f": one of {', '.join(map(repr, choices))}" if choices else ""
