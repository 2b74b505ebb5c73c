"""A model whose own code fails where it trains, in the way that the variable FAILS names."""

import asyncio
import os
import sys
from pathlib import Path

import torch
from torch import nn


class Failing(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(input_shape[1] * input_shape[2], 8)
        self.head = nn.Linear(8, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            fail(os.environ.get("FAILS", ""))
        return self.head(self.body(inputs.flatten(1)).relu())  # type: ignore[no-any-return]


def fail(how: str) -> None:
    match how:
        case "torch memory":
            torch.empty(1 << 55)
        case "key":
            logits: dict[str, int] = {}
            logits["aux_loss"] += 1
        case "key once":
            marker = Path(os.environ["FAILED"])
            if not marker.exists():
                marker.touch()
                raise KeyError("aux_loss")
        case "exit":
            sys.exit(3)
        case "cancel":
            raise asyncio.CancelledError
        case "stop":
            next(iter(()))
        case "odd":
            raise RuntimeError("\x1b[31mred\x00\n" + "second line " * 100)
