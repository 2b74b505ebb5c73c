"""JSON from elsewhere as frozen values: each field of the very type that its class declares, or a sentence that names it.

A number in quotes, a whole number with a fraction or a list in a name's place would otherwise travel on until something
far away stumbles over it, or is made to do what nobody meant.
"""

import functools
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

_T = TypeVar("_T")
_PLAIN = {int: "a whole number", str: "a text", bool: "true or false"}
LONGEST_SHOWN = 60


def strictly(cls: type[_T], raw: object, what: str, made: Mapping[str, object] | None = None) -> _T:
    """An object of a dataclass from what its JSON says.

    Args:
        cls: its fields are int, float, str, bool, Literal, tuples of one type, dataclasses, or one of these or None.
        raw: decoded JSON.
        what: how the sentence begins, such as "run spec".
        made: fields that are there already, and so not in `raw`.

    Raises:
        ValueError: a field is unknown, missing or of another type, or the object refuses itself.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"{what}: {_shown(raw)} is not an object")  # noqa: TRY004
    kinds, made = _kinds(cls), made or {}  # type: ignore[arg-type]
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    if unknown := set(raw) - set(known):
        raise ValueError(f"{what}: {cls.__name__} has no field {_shown(min(unknown, key=str))}")
    for field in known.values():
        if (
            field.name not in raw
            and field.name not in made
            and field.default is MISSING
            and field.default_factory is MISSING
        ):
            raise ValueError(f"{what}: {field.name!r} is missing")
    return cls(**{name: _value(kinds[name], value, name, what) for name, value in raw.items()}, **made)


@functools.cache
def _kinds(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _value(kind: Any, raw: object, name: str, what: str) -> Any:
    if kind in _PLAIN:
        if type(raw) is not kind:
            raise ValueError(f"{what}: {name} = {_shown(raw)}: must be {_PLAIN[kind]}")
        return raw
    if kind is float:
        if type(raw) not in (int, float):
            raise ValueError(f"{what}: {name} = {_shown(raw)}: must be a number")
        try:
            return float(raw)  # type: ignore[arg-type]
        except OverflowError:
            raise ValueError(f"{what}: {name} = {_shown(raw)}: is too large") from None
    if is_dataclass(kind):
        return strictly(kind, raw, f"{what}: {name}")  # type: ignore[arg-type]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        if type(raw) is not str or raw not in inner:
            raise ValueError(f"{what}: {name} = {_shown(raw)}: must be {' or '.join(map(repr, inner))}")
        return raw
    if origin is tuple:
        if not isinstance(raw, list | tuple):
            raise ValueError(f"{what}: {name} = {_shown(raw)}: must be a list")
        return tuple(_value(inner[0], value, name, what) for value in raw)
    if origin is UnionType and NoneType in inner:
        return None if raw is None else _value(next(part for part in inner if part is not NoneType), raw, name, what)
    raise TypeError(f"{name}: {kind} cannot be read strictly")


def _shown(raw: object) -> str:
    text = ascii(raw)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
