"""Decoders as Llama (arXiv 2302.13971) has them, and Qwen 2 and 3 with biases or normalised queries and keys beside: RMSNorm before
each part, rotary positions (RoFormer, arXiv 2104.09864), grouped queries (arXiv 2305.13245), a gated activation."""

from typing import cast

import torch
from torch import nn

from zowarmup.common.models.language.activations import activation
from zowarmup.common.models.language.attention import Attention, in_heads, visible
from zowarmup.common.models.language.linear import Linear
from zowarmup.common.settings.architecture import QWEN2, QWEN3, Architecture


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + epsilon), scaled.

    Args:
        size: Extent of the last axis.
        epsilon: Added to the mean square.
    """

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self._epsilon = epsilon

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Float32 (..., size), and gives the same."""
        return inputs * torch.rsqrt((inputs * inputs).mean(-1, keepdim=True) + self._epsilon) * self.weight


def turned(inputs: torch.Tensor, theta: float, places: torch.Tensor | None = None) -> torch.Tensor:
    """Rotary positions: of (n, heads, t, d) each pair (i, i + d/2) turned by p theta^(-2i/d), where p is 0, 1 and so on, or as `places`, float32
    (t,), say."""
    length, size = inputs.shape[2], inputs.shape[3]
    waves = theta ** (-torch.arange(0, size, 2, dtype=torch.float32, device=inputs.device) / size)
    places = torch.arange(length, dtype=torch.float32, device=inputs.device) if places is None else places
    angles = places[:, None] * waves
    first, second = inputs[..., : size // 2], inputs[..., size // 2 :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class _DecoderAttention(Attention):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self._made, biased = made, made.family == QWEN2
        self.q_proj = Linear(made.hidden, made.heads * made.head_size, bias=biased)
        self.k_proj = Linear(made.hidden, made.key_heads * made.head_size, bias=biased)
        self.v_proj = Linear(made.hidden, made.key_heads * made.head_size, bias=biased)
        self.o_proj = Linear(made.heads * made.head_size, made.hidden, bias=False)
        if made.family == QWEN3:
            self.q_norm, self.k_norm = (RMSNorm(made.head_size, made.epsilon) for _ in range(2))

    def forward(self, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        made = self._made
        queries, keys = in_heads(self.q_proj(hidden), made.heads), in_heads(self.k_proj(hidden), made.key_heads)
        values = in_heads(self.v_proj(hidden), made.key_heads)
        if made.family == QWEN3:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        queries, keys = turned(queries, made.theta), turned(keys, made.theta)
        keys, values = (_shared(part, made.heads // made.key_heads) for part in (keys, values))
        return cast(torch.Tensor, self.o_proj(self.attend(queries, keys, values, added)))


def _shared(inputs: torch.Tensor, times: int) -> torch.Tensor:
    """(n, key heads, t, d) with each head as many times as queries share it."""
    if times == 1:
        return inputs
    count, heads, length, size = inputs.shape
    return inputs[:, :, None].expand(count, heads, times, length, size).reshape(count, heads * times, length, size)


class _DecoderMlp(nn.Module):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (Linear(made.hidden, made.inner, bias=False) for _ in range(2))
        self.down_proj = Linear(made.inner, made.hidden, bias=False)
        self._activation = activation(made.activation)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.down_proj(self._activation(self.gate_proj(hidden)) * self.up_proj(hidden)))


class _DecoderLayer(nn.Module):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.self_attn, self.mlp = _DecoderAttention(made), _DecoderMlp(made)
        self.input_layernorm, self.post_attention_layernorm = (RMSNorm(made.hidden, made.epsilon) for _ in range(2))

    def forward(self, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), added)
        return hidden + cast(torch.Tensor, self.mlp(self.post_attention_layernorm(hidden)))


class Decoder(nn.Module):
    """The hidden states of a decoder.

    Args:
        made: Its architecture, of one of DECODERS but OPT.
    """

    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(made.vocabulary, made.hidden)
        self.layers = nn.ModuleList(_DecoderLayer(made) for _ in range(made.layers))
        self.norm = RMSNorm(made.hidden, made.epsilon)

    def forward(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """The embeddings of tokens, int64 (n, t), and what each layer makes of them, the last one normalised: float32 (n, t, hidden)
        each."""
        added, states = visible(tokens, causal=True), [self.embed_tokens(tokens.clamp(min=0))]
        for layer in self.layers:
            states.append(layer(states[-1], added))
        states[-1] = self.norm(states[-1])
        return states
