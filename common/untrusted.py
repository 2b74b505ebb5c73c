"""Input from elsewhere, checked before it is used: sizes before memory is taken, the fields of JSON and of messages.

A file says of itself how much it holds: the size of an array, the pixels of an image, how many bytes follow. Whoever made it
may have lied, and what was compressed may unpack to anything; a message of the length that is allowed could take gigabytes
once it is parsed. So what is announced is compared with what is there, by one rule for all kinds of files, and fields are
counted first. JSON becomes a frozen value whose fields have the very types that its class declares.
"""

import functools
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import IO, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from zowarmup.common.text import amount

MOST_RATIO = 100
"""What is compressed may unpack to this many times its size. Deflate reaches 1,030, of bytes that are all alike; data, tables
and photographs seldom reach 20."""
FREE_BYTES = 64 << 20
"""Up to this size anything may unpack: no device runs out of memory for it."""


class TooLarge(ValueError):
    """More is announced than may be, said in a sentence with both sizes and the remedy."""


def require_ratio(what: str, announced: int, held: int, remedy: str, free: int = FREE_BYTES) -> None:
    """Refuse what would unpack to far more than there is of it.

    Args:
        what: the file, or the part of it, as the sentence begins.
        announced: bytes that it says it unpacks to.
        held: bytes that there are of it.
        remedy: what to do, as the sentence ends.
        free: bytes that anything may unpack to.

    Raises:
        TooLarge: it is more than `free` and more than MOST_RATIO times `held`.
    """
    if announced > max(free, MOST_RATIO * held):
        raise TooLarge(
            f"{what}: it has {amount(held)} and unpacks to {amount(announced)}, more than {MOST_RATIO} times as much: {remedy}"
        )


def require_size(what: str, size: int, most: int, remedy: str) -> None:
    """Refuse what is larger than its kind can be. Raises TooLarge."""
    if size > most:
        raise TooLarge(f"{what}: it has {amount(size)} and may have {amount(most)}: {remedy}")


class Bounded:
    """A file of which at most `most_bytes` are read, in all: whoever believes a size that the file says makes no room for it.

    `what` and `remedy` are the beginning and the end of the sentence. Raise `most_bytes` to allow more later.
    """

    def __init__(self, file: IO[bytes], most_bytes: int, what: str, remedy: str) -> None:
        self.most_bytes = most_bytes
        self._file, self._what, self._remedy, self._read = file, what, remedy, 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes. Raises TooLarge where that would be more than may be read in all."""
        require_size(f"{self._what}: a part of it", size, self.most_bytes - self._read, self._remedy)
        return self._counted(self._file.read(size))

    def readline(self) -> bytes:
        """A line, as far as there may be more."""
        return self._counted(self._file.readline(self.most_bytes - self._read))

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def _counted(self, found: bytes) -> bytes:
        self._read += len(found)
        return found


_T = TypeVar("_T")
_PLAIN = {int: "a whole number", str: "a text", bool: "true or false"}
LONGEST_SHOWN = 60


def strictly(cls: type[_T], raw: object, what: str, made: Mapping[str, object] | None = None) -> _T:
    """An object of a dataclass from what its JSON says.

    Args:
        cls: its fields are int, float, str, bool, Literal, tuples of one type, dataclasses, a number or Literal, or one of these or None.
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
    if words := [part for part in inner if get_origin(part) is Literal]:
        return _value(words[0] if type(raw) is str else next(p for p in inner if p not in words), raw, name, what)
    raise TypeError(f"{name}: {kind} cannot be read strictly")


def _shown(raw: object) -> str:
    text = ascii(raw)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


_PACKED = 4
"""Of numbers in one piece, 2^4 bytes count as a field: some take a byte there and eight where they are parsed."""


def require_few_fields(data: bytes, kind: Any, most: int, what: str) -> None:
    """Refuse a message of too many fields. What is no message is left to the parser.

    Args:
        data: a serialized message.
        kind: its descriptor.
        most: how many fields it may have.
        what: what to call it in a sentence.

    Raises:
        TooLarge: it has more.
    """
    around: list[tuple[int, Any]] = []
    at, end, count = 0, len(data), 0
    while True:
        while at >= end:
            if not around:
                return
            end, kind = around.pop()
        tag, at = _varint(data, at)
        count += 1
        form = tag & 7
        if form == 2:
            size, at = _varint(data, at)
            if at + size > end:
                return
            field = kind.fields_by_number.get(tag >> 3)
            if field is not None and field.message_type is not None:
                around.append((end, kind))
                end, kind = at + size, field.message_type
            else:
                if field is not None and field.cpp_type not in (field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE):
                    count += size >> _PACKED
                at += size
        elif form == 0:
            _, at = _varint(data, at)
        else:
            at += {1: 8, 5: 4}.get(form, 0)
        if count > most:
            raise TooLarge(f"{what}: {len(data)} bytes with more than {most:,} fields, which is as many as it may have")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; beyond the end of the data where it has none."""
    found, shift = 0, 0
    while at < len(data) and shift < 70:
        byte = data[at]
        found |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return found, at
    return 0, len(data) + 1
