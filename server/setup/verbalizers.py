"""Verbalizers: the words that stand for the classes of a run, and the classifier that a language model's output layer has for them.

What a decoder says of the token behind a text is its output layer on the last token's state. The rows of that layer that belong to the
classes' words are a classifier that nobody has trained (Schick, Schuetze, arXiv 2001.07676): the head of the run begins with them, and
with a bias of 0 for each class, since such a classifier prefers some words whatever the text.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from zowarmup.common.models.base import Constant
from zowarmup.common.models.hugging_face import CONFIG, TOKENIZER
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.text import Text
from zowarmup.common.text import listed
from zowarmup.data.tokens import verbalizer_tokens
from zowarmup.server.setup.language_directory import output_layer, read_directory
from zowarmup.server.setup.prepare import PreparationError

if TYPE_CHECKING:
    from torch import nn

_EMBEDDING = "embed_tokens.weight"


def load_verbalizers(module: "nn.Module", path: Path, text: Text, card: DataCard) -> None:
    """Let a classifier of texts begin as the output layer of its language model at the classes' words.

    Args:
        module: A `TextClassifier` that reads the last token, with the weights of the directory; its head is changed in place.
        path: The directory.
        text: The run's verbalizers.
        card: Of the run.

    Raises:
        PreparationError: There is not one for each class, or the directory has no output layer.
        DataError: One is not a token (`verbalizer_tokens`).
    """
    import torch

    require_one_each(text, card)
    directory = read_directory(path)
    tokens = list(verbalizer_tokens(text, directory.tokenizer))
    if max(tokens) >= directory.architecture.vocabulary:
        raise PreparationError(
            f"model.name: {path}: {TOKENIZER} has the token {max(tokens)}, and {CONFIG} says vocab_size = "
            f"{directory.architecture.vocabulary}: are they of one model?"
        )
    head, body = module.get_submodule("classifier"), module.get_submodule("body")
    with torch.no_grad():
        if directory.architecture.tied:
            (embedding,) = (tensor for name, tensor in body.named_parameters() if name.endswith(_EMBEDDING))
            rows = embedding[tokens]
        else:
            made = directory.architecture
            found = output_layer(path, (made.vocabulary, made.hidden))
            rows = torch.from_numpy(Constant(found.kind, found.values[tokens]).widened())
        head.get_parameter("weight").copy_(rows)
        head.get_parameter("bias").zero_()


def require_one_each(text: Text, card: DataCard) -> None:
    """Refuse verbalizers that are not as many as the classes. Raises PreparationError."""
    if len(text.verbalizers) != card.classes:
        named = f", in this order: {listed(map(repr, card.class_names))}" if card.class_names else ""
        raise PreparationError(
            f"text.verbalizers has {len(text.verbalizers)} words, and the run {card.classes} classes{named}: give one for each"
        )
