"""The base: what a model is made of that nothing trains, as one safetensors file that is mapped into memory.

A pretrained model of which a run trains a small part has two kinds of weights. Those that move are the flat vector, of which
versions, deltas, steps and digests speak. The others never change from the run's beginning to its end: they are in a file
that a device fetches once, by its sha256, and that the processes of a machine share, as the kernel reads pages of it when a
forward pass touches them and drops them when memory is short.

The format is safetensors: 8 bytes with the length of a JSON header, which has the type, shape and place of every tensor, then their
bytes. It is read here rather than by its library, which a low-tier device would need for this alone, and which reads no
bfloat16 into NumPy. A file that a stranger wrote is refused where its header is not sound; whatever bytes the tensors have
are numbers.
"""

import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import MOST_AXES
from zowarmup.common.system.files import open_given, replacing
from zowarmup.common.text import printable

MOST_HEADER_BYTES = 1 << 22
"""The list of its tensors: some 40,000 of them."""
_LONGEST_NAME = 60
_DTYPES: dict[str, Any] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1"}
"""By safetensors' names; NumPy has no bfloat16, whose bits are the upper half of a float32's."""
_ALIGNMENT = 64
"""Of where the tensors begin, in a file that is written here, bytes."""


class BaseError(ValueError):
    """The file is no base; the sentence says why, and names the tensor."""


@dataclass(frozen=True, eq=False, slots=True)
class Constant:
    """A tensor of a base.

    Args:
        kind: Its type of elements, as safetensors names it: F32, F16, BF16, I8 or U8.
        values: Its elements, a read-only view of the file; of a BF16 tensor their bits, uint16.
    """

    kind: str
    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def widened(self) -> NDArray[np.float32]:
        """A floating-point tensor as float32, exactly; one of that type is not copied.

        Raises:
            BaseError: It is of whole numbers.
        """
        if self.kind == "BF16":
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        if self.kind not in ("F32", "F16"):
            raise BaseError(f"its elements are {self.kind}, which are no floating-point numbers")
        return self.values.astype(np.float32, copy=False)


def read_base(path: Path, longest: int = 0, others: bool = False) -> dict[str, Constant]:
    """Map a safetensors file into memory.

    Args:
        path: The file.
        longest: Refuse a file of more bytes than this; 0: none is too long.
        others: Leave tensors of other types than a base may have out, in place of refusing the file.

    Returns:
        Its tensors by name. The file stays mapped as long as one of them is referred to.

    Raises:
        BaseError: The file is no sound safetensors file, or has tensors of other types than a base may have.
        OSError: It cannot be read.
    """
    with open_given(path) as file:
        size = os.fstat(file.fileno()).st_size
        if longest and size > longest:
            raise BaseError(f"it has {size} bytes, more than {longest}")
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if size < 10 or not 2 <= length <= min(MOST_HEADER_BYTES, size - 8):
            raise BaseError("it does not begin as safetensors do")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise BaseError("the list of its tensors is not JSON") from None
        if not isinstance(header, dict):
            raise BaseError("the list of its tensors is not an object")
        header.pop("__metadata__", None)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = memoryview(mapped)[8 + length :]
    if others:
        header = {
            name: entry for name, entry in header.items() if isinstance(entry, dict) and entry.get("dtype") in _DTYPES
        }
    return {name: _constant(name, entry, data) for name, entry in header.items()}


def _constant(name: str, entry: Any, data: memoryview) -> Constant:
    def refused(why: str) -> BaseError:
        return BaseError(f"tensor {printable(name, _LONGEST_NAME)} {why}")

    if not isinstance(entry, dict):
        raise refused("has no description")
    kind, shape, offsets = entry.get("dtype"), _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise refused(f"has elements of type {ascii(kind)[:20]}: must be {', '.join(_DTYPES)}")
    if shape is None or len(shape) > MOST_AXES or 0 in shape:
        raise refused("has no shape, or an empty one")
    if offsets is None or len(offsets) != 2 or not offsets[0] <= offsets[1] <= len(data):
        raise refused("lies beyond the end of the file")
    dtype = np.dtype(_DTYPES[kind])
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise refused(f"has {offsets[1] - offsets[0]} bytes, its shape takes {math.prod(shape) * dtype.itemsize}")
    values = np.frombuffer(data[offsets[0] : offsets[1]], dtype).reshape(shape)
    return Constant(kind, values if values.flags.aligned else values.copy())


def _counts(value: Any) -> list[int] | None:
    """A list of whole numbers from 0 on; None for anything else."""
    sound = isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 62 for one in value)
    return value if sound else None


def write_base(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a base. Equal tensors in the same order give equal bytes.

    Args:
        path: The file; others never see half of it.
        tensors: By name: float32, float16, int8, uint8, or the bits of bfloat16, uint16.

    Raises:
        OSError: It cannot be written.
        ValueError: A tensor is of another type.
    """
    kinds = {np.dtype(dtype): kind for kind, dtype in _DTYPES.items()}
    entries, place = dict[str, Mapping[str, Any]](), 0
    # The widest elements first, so that all of them are aligned.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    for name, values in ordered:
        if values.dtype not in kinds:
            raise ValueError(f"tensor {name} is {values.dtype}: a base has {', '.join(map(str, kinds))}")
        stop = place + values.nbytes
        entries[name] = {"dtype": kinds[values.dtype], "shape": list(values.shape), "data_offsets": [place, stop]}
        place = stop
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)
    with replacing(path) as partial, open(partial, "wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        for _, values in ordered:
            out.write(np.ascontiguousarray(values).data.cast("B"))
