"""OPT (Zhang et al., arXiv 2205.01068): a decoder with learned positions, layer normalisation before each part, and biases."""

from typing import cast

import torch
from torch import nn

from zowarmup.common.models.language.activations import activation
from zowarmup.common.models.language.attention import Attention, in_heads, visible
from zowarmup.common.models.language.linear import Linear
from zowarmup.common.settings.architecture import Architecture


class _OptAttention(Attention):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self._heads = made.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(made.hidden, made.hidden) for _ in range(4))

    def forward(self, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        parts = (self.q_proj, self.k_proj, self.v_proj)
        queries, keys, values = (in_heads(part(hidden), self._heads) for part in parts)
        return cast(torch.Tensor, self.out_proj(self.attend(queries, keys, values, added)))


class _OptLayer(nn.Module):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.self_attn = _OptAttention(made)
        self.fc1, self.fc2 = Linear(made.hidden, made.inner), Linear(made.inner, made.hidden)
        self.self_attn_layer_norm, self.final_layer_norm = (
            nn.LayerNorm(made.hidden, eps=made.epsilon) for _ in range(2)
        )
        self._activation = activation(made.activation)

    def forward(self, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), added)
        return hidden + cast(torch.Tensor, self.fc2(self._activation(self.fc1(self.final_layer_norm(hidden)))))


class _OptParts(nn.Module):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(made.vocabulary, made.hidden)
        self.embed_positions = nn.Embedding(made.positions + made.first_position, made.hidden)
        self.layers = nn.ModuleList(_OptLayer(made) for _ in range(made.layers))
        self.final_layer_norm = nn.LayerNorm(made.hidden, eps=made.epsilon)


class Opt(nn.Module):
    """The hidden states of an OPT.

    Args:
        made: Its architecture, of the family OPT.
    """

    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self._first = made.first_position
        self.decoder = _OptParts(made)

    def forward(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """The embeddings of tokens, int64 (n, t), and what each layer makes of them, the last one normalised: float32 (n, t, hidden)
        each."""
        parts, added = self.decoder, visible(tokens, causal=True)
        places = torch.arange(tokens.shape[1], device=tokens.device) + self._first
        states = [parts.embed_tokens(tokens.clamp(min=0)) + parts.embed_positions(places)]
        for layer in parts.layers:
            states.append(layer(states[-1], added))
        states[-1] = parts.final_layer_norm(states[-1])
        return states
