"""A classifier of texts: a linear layer on what a language model makes of a text in each of its layers.

The linear layer is the only new part. Its gradient is exact at a forward pass's price, so the more it is given to read, the less is
there to be probed; and in a pretrained model the layers below the last hold much that the last has given up. On SST-2 and
MiniLM a linear layer on the mean of the last layer's states has 81 % of the test set at most, on those of all layers 84
(docs/method.md). Evci, Dumoulin, Larochelle, Mozer, "Head2Toe", arXiv 2201.03529, found the same of images.

Of each layer the states of an example's tokens are averaged, and normalised without parameters, so that layers with large states and
small ones count alike.

Where classes have verbalizers, the linear layer reads what a decoder's output layer reads, the last token's state behind the last
normalisation: with the rows of that layer it then says of each class what the model says of its word.

The language model may be cut in front of one of its layers (`boundary`). What crosses is what that layer reads, and where the linear
layer reads them the means of all below it.
"""

import torch
from torch import nn
from torch.nn.functional import layer_norm

from zowarmup.common.models.language.adapters import add_adapters
from zowarmup.common.models.language.body import body_of
from zowarmup.common.models.language.boundary import boundary_in
from zowarmup.common.models.language.prefixes import add_prefixes
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import PADDING
from zowarmup.common.settings.language import Language

MOST_FEATURES = 4095
"""Beyond it none are whitened (docs/method.md), and some hundred examples are learnt by heart."""


class TextClassifier(nn.Module):
    """Logits for texts.

    Args:
        language: The language model, which may be cut in two; of a decoder the linear layer may read the last token's last state alone.
        outputs: How many.

    Raises:
        ValueError: The model has no layer of one of the modules that are to have adapters.
    """

    def __init__(self, language: Language, outputs: int) -> None:
        super().__init__()
        made, last_token = language.architecture, language.last_token
        self.vocabulary, self._last_token = made.vocabulary, last_token
        self.body = body_of(made)
        if language.lora is not None:
            add_adapters(self.body, language.lora)
        if language.prefix:
            add_prefixes(self.body, made, language.prefix)
        self._read = [made.layers] if last_token else layers_read(made)
        self.classifier = nn.Linear(len(self._read) * made.hidden, outputs)
        self.boundary = boundary_in(language)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (n, outputs) for tokens, int64 (n, t)."""
        logits: torch.Tensor = self.classifier(self._last(tokens) if self._last_token else self._means(tokens))
        return logits

    def _last(self, tokens: torch.Tensor) -> torch.Tensor:
        states = self.body(tokens)
        if self.boundary is not None:
            self.boundary(states[self.boundary.below])
        state = states[-1]
        place = (tokens != PADDING).sum(1) - 1
        found: torch.Tensor = state.gather(1, place[:, None, None].expand(-1, 1, state.shape[-1])).squeeze(1)
        return found

    def _means(self, tokens: torch.Tensor) -> torch.Tensor:
        present = (tokens != PADDING).to(torch.float32)[:, :, None]
        share = present / present.sum(1, keepdim=True)
        states = self.body(tokens)
        means = [layer_norm((states[layer] * share).sum(1), states[layer].shape[-1:]) for layer in self._read]
        if self.boundary is not None:
            cut = self.boundary.below
            count = sum(layer <= cut for layer in self._read)
            if count:
                _, below = self.boundary(states[cut], torch.cat(means[:count], dim=1))
                means = [below, *means[count:]]
            else:
                self.boundary(states[cut])
        return torch.cat(means, dim=1)


def layers_read(made: Architecture) -> list[int]:
    """The layers whose means the linear layer reads, 0 the embeddings: all of them, or as many as make MOST_FEATURES at most, the last one and,
    as evenly as may be, others below it.

    Args:
        made: The language model's architecture.
    """
    count = min(made.layers + 1, max(1, MOST_FEATURES // made.hidden))
    return [made.layers] if count == 1 else [round(place * made.layers / (count - 1)) for place in range(count)]
