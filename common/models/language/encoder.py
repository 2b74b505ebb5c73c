"""BERT (Devlin, Chang, Lee, Toutanova, arXiv 1810.04805) and RoBERTa (arXiv 1907.11692): normalisation behind each part."""

from typing import cast

import torch
from torch import nn

from zowarmup.common.models.language.activations import activation
from zowarmup.common.models.language.attention import Attention, in_heads, visible
from zowarmup.common.models.language.linear import Linear
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import PADDING


class _EncoderEmbeddings(nn.Module):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self._first, self._separator = made.first_position, made.separator
        self.word_embeddings = nn.Embedding(made.vocabulary, made.hidden)
        self.position_embeddings = nn.Embedding(made.positions + made.first_position, made.hidden)
        self.token_type_embeddings = nn.Embedding(made.types, made.hidden) if made.types else None
        self.LayerNorm = nn.LayerNorm(made.hidden, eps=made.epsilon)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device) + self._first
        found = self.word_embeddings(tokens.clamp(min=0)) + self.position_embeddings(places)
        if self.token_type_embeddings is not None:
            found = found + self.token_type_embeddings(self._types(tokens))
        return cast(torch.Tensor, self.LayerNorm(found))

    def _types(self, tokens: torch.Tensor) -> torch.Tensor:
        """1 behind the first separator, for the second text."""
        if self._separator < 0:
            return torch.zeros_like(tokens)
        ends = (tokens == self._separator).to(torch.int64)
        return ((torch.cumsum(ends, dim=1) - ends) > 0).to(torch.int64) * (tokens != PADDING)


class _EncoderSelf(Attention):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self._heads = made.heads
        self.query, self.key, self.value = (Linear(made.hidden, made.hidden) for _ in range(3))

    def forward(self, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        queries, keys, values = (in_heads(part(hidden), self._heads) for part in (self.query, self.key, self.value))
        return self.attend(queries, keys, values, added)


class _EncoderOutput(nn.Module):
    """A linear layer, what went in before, and a normalisation."""

    def __init__(self, inputs: int, made: Architecture) -> None:
        super().__init__()
        self.dense = Linear(inputs, made.hidden)
        self.LayerNorm = nn.LayerNorm(made.hidden, eps=made.epsilon)

    def forward(self, inputs: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.LayerNorm(self.dense(inputs) + before))


class _EncoderAttention(nn.Module):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.self = _EncoderSelf(made)
        self.output = _EncoderOutput(made.hidden, made)

    def forward(self, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.output(self.self(hidden, added), hidden))


class _EncoderIntermediate(nn.Module):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.dense = Linear(made.hidden, made.inner)
        self._activation = activation(made.activation)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._activation(self.dense(hidden))


class _EncoderLayer(nn.Module):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.attention = _EncoderAttention(made)
        self.intermediate = _EncoderIntermediate(made)
        self.output = _EncoderOutput(made.inner, made)

    def forward(self, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        attended = self.attention(hidden, added)
        return cast(torch.Tensor, self.output(self.intermediate(attended), attended))


class _EncoderLayers(nn.Module):
    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_EncoderLayer(made) for _ in range(made.layers))


class Encoder(nn.Module):
    """The hidden states of an encoder.

    Args:
        made: Its architecture, of one of ENCODERS.
    """

    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.embeddings = _EncoderEmbeddings(made)
        self.encoder = _EncoderLayers(made)

    def forward(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """The embeddings of tokens, int64 (n, t), and what each layer makes of them: float32 (n, t, hidden) each."""
        added, states = visible(tokens, causal=False), [self.embeddings(tokens)]
        for layer in self.encoder.layer:
            states.append(layer(states[-1], added))
        return states
