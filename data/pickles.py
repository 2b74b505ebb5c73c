"""Python pickles of arrays, read without running anything that they ask for.

CIFAR and ImageNet32 are published as pickles, and a pickle may name any function to be called. Here only what NumPy's
arrays consist of may be named, and stands for types of this module that check what they are given: numbers of plain
types and their bytes, nothing else.

A pickle is a program, and a short one can make much: lists of lists of lists, one text again and again. So there is a
limit of operations, nothing is copied, compared or printed while it runs, and of what it leaves only the arrays that
are asked for are made. Python's unpickler in C would make room for whatever number a damaged file names.
"""

import pickletools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.untrusted import Bounded, TooLarge

MOST_OPERATIONS = 1 << 20
"""The largest set has 250,000, two for each name of a file and one for each label, and 600,000 as Python 3 writes it again."""
_PLAIN = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"}
_MOST_AXES = 8
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def load(file: Bounded, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Read arrays out of a pickled dict.

    Args:
        file: The pickle.
        names: The keys that are asked for.

    Returns:
        By name, those that are found: arrays, and lists of whole numbers as int64 (n,).

    Raises:
        ValueError: It is something else.
        TooLarge: It announces more than the file has.
    """
    try:
        found = _Machine().run(file)
    except TooLarge:
        raise
    except (MemoryError, OverflowError, RecursionError):
        raise ValueError("it asks for more memory than there can be") from None
    except Exception as error:  # noqa: BLE001  (what damaged operations raise is anything)
        raise ValueError(str(error) or type(error).__name__) from None
    if type(found) is not dict:
        raise ValueError(f"it holds a {type(found).__name__}, not a dict")
    return {name: _made(name, found[name]) for name in names if name in found}


class _Machine:
    """What the operations of a pickle do, those of arrays alone."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[Any, Any] = {}

    def run(self, file: Bounded) -> object:
        stack = self.stack
        for count, (operation, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
            if count >= MOST_OPERATIONS:
                raise ValueError(f"it has more than {MOST_OPERATIONS:,} operations")
            if (name := operation.name) in _VALUES:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _MAKERS:
                stack.append(_MAKERS[name]())
            elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
                self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(self.memo[argument])
            elif name == "MARK":
                self.marks.append(len(stack))
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                if name not in _OPERATIONS:
                    raise ValueError(f"it has the operation {name}, which no pickle of arrays needs")
                _OPERATIONS[name](self, argument)
        raise ValueError("it ends early")

    def taken(self) -> list[Any]:
        """What lies above the last mark, off the stack."""
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def last(self, count: int) -> list[Any]:
        self.marks.append(len(self.stack) - count)
        return self.taken()


def _tuple(count: int | None) -> Callable[[_Machine, Any], None]:
    def act(machine: _Machine, _: Any) -> None:
        machine.stack.append(tuple(machine.taken() if count is None else machine.last(count)))

    return act


def _extend(machine: _Machine, found: list[Any]) -> None:
    if type(held := machine.stack[-1]) is not list:
        raise ValueError("it appends to what is no list")
    held.extend(found)


def _set(machine: _Machine, found: list[Any]) -> None:
    if type(held := machine.stack[-1]) is not dict:
        raise ValueError("it sets items of what is no dict")
    for key, value in zip(found[::2], found[1::2], strict=True):
        held[_text(key)] = value


def _text(key: object) -> str:
    """A key as Python 2 or 3 wrote it. Nothing else is looked up: the hash of a tuple of tuples may take for ever."""
    found = key.text if isinstance(key, _Bytes) else key.decode("latin1") if isinstance(key, bytes) else key
    return _required(found, "its keys are not all texts")


def _required(found: object, otherwise: str) -> str:
    if isinstance(found, str):
        return found
    raise ValueError(otherwise)


def _list(machine: _Machine, _: Any) -> None:
    machine.stack.append(machine.taken())


def _dict(machine: _Machine, _: Any) -> None:
    found = machine.taken()
    machine.stack.append({})
    _set(machine, found)


def _global(machine: _Machine, argument: Any) -> None:
    named = machine.last(2) if argument is None else argument.split(" ", 1)
    module, name = (_required(word, "it names what is no text") for word in named)
    wanted = (module.replace("numpy._core", "numpy.core"), name)
    if wanted not in _KNOWN:
        raise ValueError(f"it names {module[:60]}.{name[:60]}, which no pickle of arrays needs")
    machine.stack.append(_KNOWN[wanted])


def _reduce(machine: _Machine, _: Any) -> None:
    called, arguments = machine.last(2)
    if type(arguments) is not tuple or not any(called is known for known in _KNOWN.values()):
        raise ValueError("it calls what no pickle of arrays needs")
    machine.stack.append(called(*arguments))


def _build(machine: _Machine, _: Any) -> None:
    held, state = machine.last(2)
    if not isinstance(held, _Type | _Array) or type(state) is not tuple:
        raise ValueError("it builds what is no array")
    held.build(state)
    machine.stack.append(held)


class _Type:
    """numpy.dtype(code, align, copy), and the state that says the byte order."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in _PLAIN:
            raise ValueError("an array of a type that is not plain")
        self.dtype = np.dtype(code)

    def build(self, state: tuple[Any, ...]) -> None:
        order, *structured = state[1:4]
        if not isinstance(order, str) or order not in ("<", ">", "|", "=") or any(structured):
            raise ValueError("an array of a type that is not plain")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class _Bytes:
    """How protocol 2 says bytes: a text, which is turned into them where they are asked for."""

    def __init__(self, text: object, encoding: object = "latin1") -> None:
        if not isinstance(text, str) or not isinstance(encoding, str) or encoding not in ("latin1", "latin-1"):
            raise ValueError("text in an encoding that arrays do not use")
        self.text = text


class _Array:
    """numpy.ndarray, whose state is (version, shape, type, whether in Fortran's order, bytes)."""

    def __init__(self, *_: object) -> None:
        self._state: tuple[Any, ...] = ()

    def build(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def made(self) -> NDArray[Any]:
        _, shape, kind, fortran, raw = self._state
        if isinstance(raw, _Bytes):
            raw = raw.text
        if isinstance(raw, str):
            raw = raw.encode("latin1")
        if type(kind) is not _Type or type(raw) not in (bytes, bytearray):
            raise ValueError("an array without plain bytes")
        if type(shape) is not tuple or len(shape) > _MOST_AXES or any(type(extent) is not int for extent in shape):
            raise ValueError("an array of a shape that is none")
        return np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if fortran is True else "C")


def _made(name: str, value: object) -> NDArray[Any]:
    if isinstance(value, _Array):
        return value.made()
    if type(value) is list and all(type(number) is int for number in value):
        return np.array(value, np.int64)
    raise ValueError(f"its {name} are neither an array nor a list of whole numbers")


def _from_buffer(raw: object, kind: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.build((1, shape, kind, order == "F", raw))
    return array


_CONSTANTS: Mapping[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MAKERS: Mapping[str, Callable[[], object]] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict}
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "TUPLE": _tuple(None),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "LIST": _list,
    "DICT": _dict,
    "APPEND": lambda machine, _: _extend(machine, machine.last(1)),
    "APPENDS": lambda machine, _: _extend(machine, machine.taken()),
    "SETITEM": lambda machine, _: _set(machine, machine.last(2)),
    "SETITEMS": lambda machine, _: _set(machine, machine.taken()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _global,
    "REDUCE": _reduce,
    "BUILD": _build,
}
_KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Bytes,
}
