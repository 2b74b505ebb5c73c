"""Python pickles of arrays, read without running anything that they ask for.

CIFAR and ImageNet32 are published as pickles, and a pickle may name any function to be called. Here only what NumPy's
arrays consist of may be named, and stands for types of this module that check what they are given: numbers of plain
types and their bytes, nothing else.

Python's own unpickler reads them, and not the faster one in C, which makes room for whatever number a damaged file names
(16 GB for one byte that is wrong). Arrays are a few operations and much content, so both take as long.
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

_PLAIN = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"}


def load(file: IO[bytes]) -> dict[str, Any]:
    """A pickled dict of arrays, lists, bytes, texts and numbers, its keys as text. Raises ValueError where it is
    something else."""
    try:
        found = _Reader(file, encoding="latin1").load()  # so the bytes of Python 2's strings come as they are
    except (MemoryError, OverflowError, RecursionError):
        raise ValueError("it asks for more memory than there can be") from None
    except Exception as error:  # noqa: BLE001  (what damaged operations raise is anything)
        raise ValueError(str(error) or type(error).__name__) from None
    if type(found) is not dict:
        raise ValueError(f"it holds a {type(found).__name__}, not a dict")
    texts = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in found.items()}
    if not all(isinstance(key, str) for key in texts):
        raise ValueError("its keys are not all texts")
    return {key: value.made() if isinstance(value, _Array) else value for key, value in texts.items()}


class _Reader(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    read: Callable[[int], bytes]
    append: Callable[[object], None]

    def load_bytearray(self) -> None:
        """As many bytes as there are, before room is made for as many as the file says."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray

    def find_class(self, module: str, name: str) -> Any:
        wanted = (module.replace("numpy._core", "numpy.core"), name)
        if wanted not in _KNOWN:
            raise ValueError(f"it names {module}.{name}, which no pickle of arrays needs")
        return _KNOWN[wanted]


class _Type:
    """numpy.dtype(code, align, copy), and the state that says the byte order."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in _PLAIN:
            raise ValueError(f"an array of type {code!r}")
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: Any) -> None:
        order, *structured = state[1:4]
        if order not in ("<", ">", "|", "=") or any(structured):
            raise ValueError("an array of a type that is not plain")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """numpy.ndarray, whose state is (version, shape, type, whether in Fortran's order, bytes)."""

    def __init__(self, *_: object) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self._state = tuple(state)

    def made(self) -> NDArray[Any]:
        _, shape, kind, fortran, raw = self._state
        if isinstance(raw, str):
            raw = raw.encode("latin1")
        if type(kind) is not _Type or type(raw) not in (bytes, bytearray):
            raise ValueError("an array without plain bytes")
        return np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(raw: object, kind: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", raw))
    return array


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """How protocol 2 says bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("text in an encoding that arrays do not use")
    return text.encode("latin1")


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}
