"""A linear layer on the last axis of any input, computed on two axes, and its low-rank adapter.

On three axes the exporter writes a transposition of the weight and a MatMul, and since weights are inputs of the graph the
transposition is carried out in every pass: 11 to 19 % of a small encoder's time. On two it writes one Gemm.
"""

import math

import torch
from torch import nn
from torch.nn.functional import linear

from zowarmup.common.lora import DOWN, UP


class Linear(nn.Linear):
    """As torch's, with an adapter where it has been given one (`common.lora`)."""

    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._rows = 1
        self.register_parameter(DOWN, None)
        self.register_parameter(UP, None)

    def adapt(self, rank: int, rows: int = 1) -> None:
        """Give it an adapter: A, drawn from torch's global generator with the variance 1 / in_features, which requires no gradient, and B
        of zeros, (r, out_features), which moves.

        Args:
            rank: r, at least 1.
            rows: How many rows of a batch are one example's, as its choices are.
        """
        self._rows = rows
        drawn = torch.randn(rank, self.in_features) / math.sqrt(self.in_features)
        self.lora_a = nn.Parameter(drawn, requires_grad=False)
        self.lora_b = nn.Parameter(torch.zeros(rank, self.out_features))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Float32 (..., in_features) becomes (..., out_features). B may have an axis before its two, (n, r, out_features): each
        example has one of its own."""
        flat = inputs.reshape(-1, self.in_features)
        found = linear(flat, self.weight, self.bias).reshape(*inputs.shape[:-1], self.out_features)
        if self.lora_a is None or self.lora_b is None:
            return found
        narrow = linear(flat, self.lora_a)
        if self.lora_b.ndim == 2:
            return found + (narrow @ self.lora_b).reshape(found.shape)
        narrow = narrow.reshape(inputs.shape[0] // self._rows, -1, narrow.shape[-1])
        return found + (narrow @ self.lora_b).reshape(found.shape)
