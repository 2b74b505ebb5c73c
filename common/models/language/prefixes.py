"""Prefixes of a language model: where they are."""

from torch import nn

from zowarmup.common.models.language.attention import Attention, Prefix
from zowarmup.common.settings.architecture import Architecture


def add_prefixes(body: nn.Module, made: Architecture, length: int, rows: int = 1) -> None:
    """Give every layer of a language model a prefix of zeros.

    Args:
        body: An encoder or a decoder, changed in place.
        made: Its architecture.
        length: How many keys and values each layer gets.
        rows: How many rows of a batch are one example's.
    """
    for layer in list(body.modules()):
        if isinstance(layer, Attention):
            layer.prefix = Prefix(length, made.key_heads, made.heads, made.head_size, rows)
