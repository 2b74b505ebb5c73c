"""What of a module `zeroth_order.train` names."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch

from zowarmup.common.exact.layout import ALL, HEAD, LAYERS, NORM, Head
from zowarmup.common.lora import LORA, UP
from zowarmup.common.models.construction import ModelError
from zowarmup.common.prefix import PREFIX, PREFIX_ENDS
from zowarmup.common.text import listed

_OWN = {LORA: ("adapters", (f".{UP}",)), PREFIX: ("prefixes", PREFIX_ENDS)}
"""By how `train` begins, of what a language model is given for it: what it is, and how the names of what moves of it end."""


def trained(train: str, tensors: Mapping[str, torch.Tensor], head: Head | None) -> list[str]:
    """The tensors before the head that zeroth-order rounds move.

    Args:
        train: As the setting says it, but not "auto".
        tensors: Those before the head, by name.
        head: The module's.

    Returns:
        Their names, in the order of `tensors`.

    Raises:
        ModelError: There is nothing that it names.
    """
    if train == HEAD:
        if head is None:
            raise ModelError(
                f'zeroth_order.train = "{HEAD}": the model does not end in a linear layer whose gradient is known; '
                f'use "{ALL}" or "{NORM}"'
            )
        return []
    if train == ALL:
        return list(tensors)
    if train == NORM:
        if found := [name for name, tensor in tensors.items() if tensor.ndim <= 1]:
            return found
        raise ModelError(f'zeroth_order.train = "{NORM}": the model has no normalisation and no bias before its head')
    for begin, (what, ends) in _OWN.items():
        if train.startswith(begin):
            if found := [name for name in tensors if name.endswith(ends)]:
                return found
            raise ModelError(
                f"zeroth_order.train = {train!r}: this model has no {what}, as language models (hf:DIR) have"
            )
    patterns = train.removeprefix(LAYERS).split(",")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in tensors):
            raise ModelError(
                f"zeroth_order.train = {train!r}: no parameter before the head has a name like {pattern!r}; there are "
                f"{listed(list(tensors))}"
            )
    return [name for name in tensors if any(fnmatchcase(name, pattern) for pattern in patterns)]
