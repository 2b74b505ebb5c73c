"""The functions between two linear layers, by the names that config.json has for them."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import gelu, relu, silu

_BY_NAME: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": gelu,
    "gelu_new": partial(gelu, approximate="tanh"),
    "relu": relu,
    "silu": silu,
}


def activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function of one of `architecture.ACTIVATIONS`."""
    return _BY_NAME[name]
