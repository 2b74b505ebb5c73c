"""A decoder that predicts tokens: of each example the loss of those that are marked, and their number.

The output layer's logits, one for each token of the vocabulary at each place, would be hundreds of megabytes of a small batch. So its
log-sum-exp is taken over a part of the vocabulary after the other, and the logit of the token that comes is a product of one row.
"""

import torch
from torch import nn

from zowarmup.common.models.language.adapters import add_adapters
from zowarmup.common.models.language.body import body_of, embedding_of
from zowarmup.common.models.language.boundary import boundary_in
from zowarmup.common.models.language.prefixes import add_prefixes
from zowarmup.common.settings.data_card import PADDING, PREDICTED
from zowarmup.common.settings.language import Language

ROWS = 4096
"""Of the output layer, whose logits are in memory together."""


class CausalModel(nn.Module):
    """The losses of completions.

    Args:
        language: A decoder, which may be cut in two, and its adapters or prefixes.

    Raises:
        ValueError: The model has no layer of one of the modules that are to have adapters.
    """

    predicts = True
    """Whether inputs have tokens that are marked as to be predicted."""

    def __init__(self, language: Language) -> None:
        super().__init__()
        made = language.architecture
        self.vocabulary, self.body = made.vocabulary, body_of(made)
        if language.lora is not None:
            add_adapters(self.body, language.lora, max(1, language.choices))
        if language.prefix:
            add_prefixes(self.body, made, language.prefix, max(1, language.choices))
        self.boundary = boundary_in(language)
        self.lm_head = None if made.tied else nn.Linear(made.hidden, made.vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """For tokens, int64 (n, t), those to be predicted with PREDICTED added: float32 (n, 2), the sum of -log p of these given what is before
        them, and how many they are."""
        marked = tokens >= PREDICTED
        plain = torch.where(marked, tokens - PREDICTED, tokens)
        every = self.body(plain)
        if self.boundary is not None:
            self.boundary(every[self.boundary.below])
        states = every[-1][:, :-1]
        rows = (embedding_of(self.body) if self.lm_head is None else self.lm_head).weight
        flat = states.reshape(-1, states.shape[-1])
        parts = [
            torch.logsumexp(nn.functional.linear(flat, rows[first : first + ROWS]), dim=1, keepdim=True)
            for first in range(0, rows.shape[0], ROWS)
        ]
        total = torch.logsumexp(torch.cat(parts, dim=1), dim=1)
        coming = nn.functional.embedding(plain[:, 1:].clamp(min=0), rows)
        chosen = (states * coming).sum(-1)
        counted = (marked & (tokens != PADDING))[:, 1:].to(torch.float32)
        losses = (total.reshape(chosen.shape) - chosen) * counted
        return torch.stack((losses.sum(1), counted.sum(1)), dim=1)
