"""The language model that a run asks for, and the refusal of one that cannot be had."""

from torch import nn

from zowarmup.common.models.language.causal import CausalModel
from zowarmup.common.models.language.choices import ChoiceModel
from zowarmup.common.models.language.classifier import TextClassifier
from zowarmup.common.settings.architecture import DECODERS
from zowarmup.common.settings.language import Language


def language_model(name: str, language: Language | None, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A language model with what stands on it, at random weights.

    Args:
        name: What to call it in a sentence.
        language: What is built; None: the run does not say.
        input_shape: Of an example: (tokens,), or (choices, tokens).
        outputs: How many numbers a classifier gives for an example.

    Raises:
        ValueError: It cannot be had; the sentence says why.
    """
    if language is None:
        raise ValueError(f"model {name}: the run has no architecture of it: its coordinator is not one of zowarmup's")
    made = language.architecture
    axes, data = (2, "jsonl:PATH with prompt, choices and label") if language.choices else (1, "tsv:PATH or jsonl:PATH")
    if len(input_shape) != axes or input_shape[-1] > made.positions:
        raise ValueError(
            f"model {name} reads texts of at most {made.positions} tokens, and an example has the shape {input_shape}: "
            f"use data of {data}, and a text.most_tokens that is no more"
        )
    if (language.last_token or language.completes) and not made.decoder:
        asked, remedy = (
            ("tasks that predict tokens are", "use another")
            if language.completes
            else ("verbalizers are", "leave text.verbalizers out")
        )
        raise ValueError(
            f"model {name} is an encoder ({made.family}), and its layer for masked words is not read: {asked} for "
            f"decoders ({', '.join(DECODERS)}); {remedy}"
        )
    if language.cut is not None and not 0 <= language.cut < made.layers:
        raise ValueError(
            f"zeroth_order.cut = {language.cut}: model {name} has {made.layers} layers, and the first one above the cut must be 0 "
            f"to {made.layers - 1}"
        )
    try:
        if language.choices:
            return ChoiceModel(language)
        return CausalModel(language) if language.completes else TextClassifier(language, outputs)
    except ValueError as error:
        raise ValueError(f"zeroth_order.train: {error}") from None
