"""Constants of a model in fewer bits: half or a quarter of the bytes to send, to keep and to map.

They are the large matrices, which are nearly all there is. As bfloat16 a value has the upper half of a float32's bits, rounded to the nearest
and to even: models that are published so lose nothing. In 8 bits a matrix W becomes Q, int8 of the same shape, and a scale for each
of its rows: W is taken to be Q times scale. Rows are what a linear layer's outputs and an embedding's tokens have apart, and one
outlier is then felt by its row alone. Either way the matrix is these numbers, exactly, wherever it is used, so every device and every
training step computes with the same. Weights alone are rounded: with rounded activations a loss would jump where a probe moves it by a
thousandth.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.models.base import Constant

SCALE_OF = ".scale"
"""What the name of an 8-bit matrix's scales has behind that of the matrix."""
LEAST = 256
"""Values of a matrix that is worth it."""
_MOST = 127


def narrowed(
    tensors: Mapping[str, NDArray[np.float32]], kind: Literal["float32", "bfloat16", "int8"]
) -> dict[str, Constant]:
    """A base with its large matrices in fewer bits.

    Args:
        tensors: By name, float32, finite.
        kind: In what matrices of at least LEAST values are kept.

    Returns:
        Each tensor under its name, and beside a matrix of int8 (rows, columns) its scales, float32 (rows,).
    """
    found: dict[str, Constant] = {}
    for name, tensor in tensors.items():
        if kind == "float32" or tensor.ndim != 2 or tensor.size < LEAST:
            found[name] = Constant("F32", tensor)
        elif kind == "bfloat16":
            bits = np.ascontiguousarray(tensor).view(np.uint32)
            found[name] = Constant("BF16", (bits + (0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16))
        else:
            scale = np.abs(tensor).max(axis=1).astype(np.float32) / np.float32(_MOST)
            scale[scale == 0] = 1
            found[name] = Constant("I8", np.clip(np.rint(tensor / scale[:, np.newaxis]), -_MOST, _MOST).astype(np.int8))
            found[name + SCALE_OF] = Constant("F32", scale)
    return found


def narrow_kinds(base: Mapping[str, Constant]) -> dict[str, str]:
    """The matrices of a base that are in fewer bits: by name, BF16 or I8."""
    return {
        name: constant.kind
        for name, constant in base.items()
        if constant.values.ndim == 2
        and (constant.kind == "BF16" or (constant.kind == "I8" and name + SCALE_OF in base))
    }


def widened(base: Mapping[str, Constant]) -> dict[str, NDArray[np.float32]]:
    """The tensors of a base as float32, exactly what a graph computes with.

    Args:
        base: By name; some matrices in fewer bits, those of 8 with their scales.

    Raises:
        BaseError: A tensor is of whole numbers without scales.
    """
    scaled = [name for name, kind in narrow_kinds(base).items() if kind == "I8"]
    found = {name: base[name].values * base[name + SCALE_OF].values[:, np.newaxis] for name in scaled}
    scales = {name + SCALE_OF for name in scaled}
    return found | {
        name: constant.widened() for name, constant in base.items() if name not in found and name not in scales
    }
