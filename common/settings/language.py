"""What a run builds of a pretrained language model, the same on the coordinator and on every device that builds it; and what of a run file
does not go together for one."""

from collections.abc import Sequence
from dataclasses import dataclass

from zowarmup.common.algorithms.settings import require
from zowarmup.common.exact.layout import AUTO, HEAD
from zowarmup.common.lora import LORA, Lora
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.tasks.completion import COMPLETION
from zowarmup.common.tasks.multiple_choice import MULTIPLE_CHOICE

PREDICTING = (COMPLETION, MULTIPLE_CHOICE)
"""The tasks of models that predict tokens, and have no classifier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """A language model and what stands on it.

    Args:
        architecture: The model's.
        lora: Its adapters; None: it has none.
        prefix: How many keys and values stand in front of a text's in each layer.
        last_token: Whether the classifier reads the last token's state alone, as verbalizers ask for.
        completes: Whether it predicts tokens, and there is no classifier.
        choices: How many completions of an example it scores; 0: there is one completion, whose loss it gives.
        cut: The layer, from 0, in front of which the model is cut in two; None: it is in one piece.
    """

    architecture: Architecture
    lora: Lora | None = None
    prefix: int = 0
    last_token: bool = False
    completes: bool = False
    choices: int = 0
    cut: int | None = None


def check_language(task: str, pretrained: bool, moved: str, cut: int | None, verbalizers: Sequence[str]) -> None:
    """Refuse settings that do not go together.

    Args:
        task: As `task` under [model] says it.
        pretrained: Whether the model is a language model.
        moved: What zeroth-order rounds train.
        cut: As `Language` has it.
        verbalizers: The run's.

    Raises:
        ValueError: The sentence names the setting.
    """
    words = list(verbalizers)
    require(pretrained or not words, "text.verbalizers", words, 'empty where model.name is no "hf:DIR"')
    whole = "left out with another model than a language model (hf:DIR): no other can be cut"
    require(cut is None or pretrained, "zeroth_order.cut", cut, whole)
    if task not in PREDICTING:
        return
    require(pretrained, "model.task", task, "another, or model.name a decoder, hf:DIR")
    require(not words, "text.verbalizers", words, f'empty with model.task = "{task}", which has no classes of texts')
    some = f'"{LORA}r=8,modules=q,v" or another: a model that predicts tokens has no head'
    require(moved not in (AUTO, HEAD), "zeroth_order.train", moved, some)
    require(cut is None or task == COMPLETION, "zeroth_order.cut", cut, f'left out with model.task = "{task}"')
