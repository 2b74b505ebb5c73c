"""The run file: TOML in, a RunFile or one sentence for each error out."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from zowarmup.common.algorithms import SECTIONS, settings_class
from zowarmup.common.algorithms.settings import WarmUp, ZerothOrder
from zowarmup.common.settings import run
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.text import Text
from zowarmup.common.settings.tracking import Tracking
from zowarmup.common.system.files import TomlError, read_toml
from zowarmup.common.tasks import task_class
from zowarmup.server.setup.continuation import ContinuationError, carried_on
from zowarmup.server.store import schemas  # noqa: F401  (how algorithms' settings are read)

_SECTIONS = (run.Model, run.Evaluation, Text, run.Guard, run.Server, Tracking, Privacy, run.RunFile)
for _section in _SECTIONS:
    with_config(ConfigDict(extra="forbid"))(_section)
_ADAPTER = TypeAdapter(run.RunFile)
Settings = TypeVar("Settings")

# What an operator may change between two starts of one run: none of it enters the model.
_CHANGEABLE = {"server", "tracking"}


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
    found = checked(_ADAPTER, run.RunFile, _with_private_defaults(raw), source)
    try:
        task_class(found.model.task)
    except ValueError as error:
        raise RunFileError(f"{source}: model.{error}") from error
    return found


def _with_private_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """The same, with what the settings of [zeroth_order] are under [privacy] where nothing is said of them."""
    privacy, section = raw.get("privacy"), raw.get("zeroth_order", {})
    if not isinstance(privacy, dict) or privacy.get("mode", "off") == "off" or not isinstance(section, dict):
        return raw
    try:
        cls = settings_class("zeroth_order", section.get("algorithm"))
    except ValueError:
        return raw  # said when it is checked
    assert issubclass(cls, ZerothOrder)
    return {**raw, "zeroth_order": {**cls.private_defaults, **section}}


def checked(adapter: TypeAdapter[Settings], kind: type[Settings], raw: Mapping[str, Any], source: str) -> Settings:
    """What `raw` says, as TOML is read, as a value of a dataclass that checks itself. Raises RunFileError."""
    try:
        # Through JSON, where strict means: no string for a number, but tables for dataclasses.
        return adapter.validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        sentences = (_sentence(dict(one), raw, kind) for one in error.errors())
        raise RunFileError("\n".join(f"{source}: {sentence}" for sentence in sentences)) from error


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


def _sentence(error: dict[str, Any], raw: Mapping[str, Any], kind: type[Any]) -> str:
    location = error["loc"]
    field = ".".join(str(part + 1) if isinstance(part, int) else part for part in location)
    match error["type"]:
        case "unexpected_keyword_argument":
            allowed = ", ".join(one.name for one in fields(_type_at(location[:-1], raw, kind)))
            return f"{field} is not a setting{_algorithm(location[:-1], raw)}; allowed here: {allowed}"
        case "missing" | "missing_argument":
            choices = ", ".join(map(repr, get_args(_type_at(location, raw, kind))))
            return f"{field} is missing{_REMEDIES.get(field) or (f': one of {choices}' if choices else '')}"
        case "value_error":
            prefix = f"{field}." if field else ""
            return f"{prefix}{error['ctx']['error']}".replace(f"{field}.{field}.", f"{field}.")
        case "literal_error":
            return f"{field} = {error['input']!r}: must be {error['ctx']['expected']}"
        case _:
            given: Any = raw
            for part in location:
                try:
                    given = given[part]
                except (KeyError, IndexError, TypeError):
                    given = {}
            return f"{field} = {given!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _algorithm(location: tuple[str | int, ...], raw: Mapping[str, Any]) -> str:
    """' of algorithm "fedavg"' in a section whose settings depend on that."""
    if location not in (("warmup",), ("zeroth_order",)):
        return ""
    section = str(location[0])
    return f' of algorithm "{raw[section].get("algorithm") or next(iter(SECTIONS[section]))}"'


def _type_at(location: tuple[str | int, ...], raw: Mapping[str, Any], kind: Any) -> Any:
    """The type of what is there; of an algorithm's settings, the class that their `algorithm` names."""
    for part in location:
        kind = get_args(kind)[0] if isinstance(part, int) else get_type_hints(kind).get(part)
        if isinstance(kind, UnionType):
            kind, _ = get_args(kind)  # X | None
        if kind in (WarmUp, ZerothOrder):
            given = raw.get(str(part))  # a section that is missing, or no table, is among what is wrong
            kind = settings_class(str(part), given.get("algorithm") if isinstance(given, dict) else None)
    return kind
