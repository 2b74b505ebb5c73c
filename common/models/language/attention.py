"""Attention over the tokens of an example, by plain operations."""

import math

import torch

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
        places = torch.arange(tokens.shape[1])
        barred = barred | (places[None, :] > places[:, None])[None, None]
    return barred.to(torch.float32) * BARRED


def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d) + added) V in each head.

    Args:
        queries: Float32 (n, heads, t, d).
        keys: The same.
        values: The same.
        added: As `visible` gives it.

    Returns:
        Float32 (n, t, heads * d).
    """
    scores = queries @ keys.transpose(-1, -2) * (1 / math.sqrt(queries.shape[-1])) + added
    found = torch.softmax(scores, dim=-1) @ values
    return found.transpose(1, 2).reshape(queries.shape[0], queries.shape[2], -1)


def in_heads(hidden: torch.Tensor, heads: int) -> torch.Tensor:
    """(n, t, heads * d) as (n, heads, t, d)."""
    return hidden.reshape(hidden.shape[0], hidden.shape[1], heads, -1).transpose(1, 2)
