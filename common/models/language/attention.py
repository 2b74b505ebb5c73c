"""Attention over the tokens of an example, by plain operations, and the prefix in front of them."""

import math

import torch
from torch import nn

from zowarmup.common.settings.data_card import PADDING

BARRED = -1e4
"""Added to the scores of what a token does not see. Finite, so that no row of a softmax is without a number."""


def visible(tokens: torch.Tensor, causal: bool) -> torch.Tensor:
    """What each token may look at.

    Args:
        tokens: Int64 (n, t), PADDING behind those of an example.
        causal: Whether a token sees only those before it, and itself.

    Returns:
        What to add to scores: 0 or BARRED, float32 (n, 1, 1, t), or (n, 1, t, t) where causal.
    """
    barred = (tokens == PADDING)[:, None, None, :]
    if causal:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        barred = barred | (places[None, :] > places[:, None])[None, None]
    return barred.to(torch.float32) * BARRED


def weighted(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d) + added) V in each head.

    Args:
        queries: Float32 (n, heads, t, d).
        keys: The same.
        values: The same.
        added: As `visible` gives it.

    Returns:
        Float32 (n, heads, t, d).
    """
    scores = queries @ keys.transpose(-1, -2) * (1 / math.sqrt(queries.shape[-1])) + added
    return torch.softmax(scores, dim=-1) @ values


class Prefix(nn.Module):
    """Keys and values that every token sees beside those of its text. Zeros at first.

    Args:
        length: How many.
        key_heads: Of keys and values.
        heads: Of queries, a multiple of `key_heads`.
        head_size: Extent of a query, key or value.
        rows: How many rows of a batch are one example's, as its choices are.
    """

    def __init__(self, length: int, key_heads: int, heads: int, head_size: int, rows: int = 1) -> None:
        super().__init__()
        self.keys, self.values = (nn.Parameter(torch.zeros(key_heads, length, head_size)) for _ in range(2))
        self.times, self._heads, self._rows = heads // key_heads, heads, rows

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, added: torch.Tensor
    ) -> torch.Tensor:
        """As `weighted`. The prefix may have an axis before its three, (n, key heads, length, d): each example has one of its own."""
        mine, theirs = self._shared(self.keys), self._shared(self.values)
        scale, length = 1 / math.sqrt(queries.shape[-1]), mine.shape[-2]
        before = self._product(queries, mine.transpose(-1, -2)) * scale
        scores = torch.cat((before, queries @ keys.transpose(-1, -2) * scale + added), dim=-1)
        weights = torch.softmax(scores, dim=-1)
        return self._product(weights[..., :length], theirs) + weights[..., length:] @ values

    def _shared(self, own: torch.Tensor) -> torch.Tensor:
        """Each head as many times as queries share it."""
        if self.times == 1:
            return own
        heads = torch.arange(self._heads, device=own.device)
        return own.index_select(own.ndim - 3, heads // self.times)

    def _product(self, inputs: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """(n, heads, t, k) by the prefix's (heads, k, m), or each example's."""
        if own.ndim == 3 or self._rows == 1:
            return inputs @ own
        of_examples = inputs.reshape(-1, self._rows, *inputs.shape[1:])
        return (of_examples @ own[:, None]).reshape(*inputs.shape[:-1], own.shape[-1])


class Attention(nn.Module):
    """A layer's attention, with a prefix where it has been given one."""

    prefix: Prefix | None

    def __init__(self) -> None:
        super().__init__()
        self.prefix = None

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, added: torch.Tensor
    ) -> torch.Tensor:
        """As `weighted`, and gives float32 (n, t, heads * d)."""
        found = (self.prefix or weighted)(queries, keys, values, added)
        return found.transpose(1, 2).reshape(queries.shape[0], queries.shape[2], -1)


def in_heads(hidden: torch.Tensor, heads: int) -> torch.Tensor:
    """(n, t, heads * d) as (n, heads, t, d)."""
    return hidden.reshape(hidden.shape[0], hidden.shape[1], heads, -1).transpose(1, 2)
