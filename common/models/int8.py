"""Constants of a model as 8-bit whole numbers: a quarter of the bytes to send, to keep and to map.

A matrix W becomes Q, int8 of the same shape, and a scale for each of its rows: W is taken to be Q times scale, exactly, wherever it is used,
so every device and every training step computes with the same numbers. Rows are what a linear layer's outputs and an embedding's tokens
have apart, and one outlier is then felt by its row alone. Only weights are rounded: with rounded activations a loss would jump
where a probe moves it by a thousandth.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.models.base import Constant

SCALE_OF = ".scale"
"""What the name of the scales has behind that of the matrix."""
LEAST = 256
"""Values of a matrix that is worth it."""
_MOST = 127


def quantised(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, Constant]:
    """A base with its large matrices in 8 bits.

    Args:
        tensors: By name, float32, finite.

    Returns:
        Each tensor under its name; of a matrix of at least LEAST values int8 (rows, columns), and beside it its scales, float32 (rows,).
    """
    found: dict[str, Constant] = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or tensor.size < LEAST:
            found[name] = Constant("F32", tensor)
            continue
        scale = np.abs(tensor).max(axis=1).astype(np.float32) / np.float32(_MOST)
        scale[scale == 0] = 1
        found[name] = Constant("I8", np.clip(np.rint(tensor / scale[:, np.newaxis]), -_MOST, _MOST).astype(np.int8))
        found[name + SCALE_OF] = Constant("F32", scale)
    return found


def int8_names(base: Mapping[str, Constant]) -> list[str]:
    """The matrices of a base that are in 8 bits."""
    return [name for name, constant in base.items() if constant.kind == "I8" and name + SCALE_OF in base]


def widened(base: Mapping[str, Constant]) -> dict[str, NDArray[np.float32]]:
    """The tensors of a base as float32, exactly what a graph computes with.

    Args:
        base: By name; some matrices in 8 bits with their scales.

    Raises:
        BaseError: A tensor is of whole numbers without scales.
    """
    narrow = int8_names(base)
    found = {name: base[name].values * base[name + SCALE_OF].values[:, np.newaxis] for name in narrow}
    scales = {name + SCALE_OF for name in narrow}
    return found | {
        name: constant.widened() for name, constant in base.items() if name not in found and name not in scales
    }
