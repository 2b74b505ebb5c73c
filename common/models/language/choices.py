"""A decoder that scores choices: of each example the mean log-likelihood of each of its choices, given the prompt.

A choice with its prompt before it is a row of its own, and the rows of all examples go through the decoder together.
"""

import torch

from zowarmup.common.models.language.causal import CausalModel
from zowarmup.common.settings.language import Language
from zowarmup.common.tasks.multiple_choice import NO_CHOICE


class ChoiceModel(CausalModel):
    """The scores of choices.

    Args:
        language: A decoder in one piece, its adapters, and how many choices an example has at most.

    Raises:
        ValueError: As of `CausalModel`.
    """

    def __init__(self, language: Language) -> None:
        super().__init__(language)
        self._choices = language.choices

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """For tokens, int64 (n, choices, t), those of a choice with PREDICTED added: float32 (n, choices), their mean of log p given what is before
        them; NO_CHOICE where nothing is to be predicted."""
        found = super().forward(tokens.reshape(-1, tokens.shape[2])).reshape(-1, self._choices, 2)
        summed, counted = found[..., 0], found[..., 1]
        return torch.where(counted > 0, -summed / counted.clamp(min=1), NO_CHOICE)
