"""Low-rank adapters in a language model's linear layers."""

from torch import nn

from zowarmup.common.lora import Lora
from zowarmup.common.models.language.linear import Linear

_NAMES = {
    "q": ("q_proj", "query"),
    "k": ("k_proj", "key"),
    "v": ("v_proj", "value"),
    "o": ("o_proj", "out_proj", "attention.output.dense"),
    "up": ("up_proj", "fc1", "intermediate.dense"),
    "gate": ("gate_proj",),
    "down": ("down_proj", "fc2", "output.dense"),
}
"""By module: how the families' names of that layer end. What more than one ends in is of the one with the longest."""


def add_adapters(body: nn.Module, lora: Lora, rows: int = 1) -> None:
    """Give linear layers adapters, drawn from torch's global generator.

    Args:
        body: An encoder or a decoder.
        lora: Which, and of what rank.
        rows: How many rows of a batch are one example's.

    Raises:
        ValueError: The model has no layer of one of the modules.
    """
    found: dict[str, list[Linear]] = {}
    for name, layer in body.named_modules():
        if isinstance(layer, Linear) and (module := _module(name)):
            found.setdefault(module, []).append(layer)
    for module in lora.modules:
        if module not in found:
            raise ValueError(f"this model has no module {module}: it has {','.join(sorted(found))}")
        for layer in found[module]:
            layer.adapt(lora.rank, rows)


def _module(name: str) -> str:
    """The module that a layer of that name is; empty where it is none."""
    ends = [(len(end), module) for module, names in _NAMES.items() for end in names if f".{name}".endswith(f".{end}")]
    return max(ends)[1] if ends else ""
