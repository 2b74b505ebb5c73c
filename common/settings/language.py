"""What a run builds of a pretrained language model: the same on the coordinator and on every device that builds it."""

from dataclasses import dataclass

from zowarmup.common.lora import Lora
from zowarmup.common.settings.architecture import Architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """A language model and what stands on it.

    Args:
        architecture: The model's.
        lora: Its adapters; None: it has none.
        last_token: Whether the classifier reads the last token's state alone, as verbalizers ask for.
        completes: Whether it predicts tokens, and there is no classifier.
        cut: The layer, from 0, in front of which the model is cut in two; None: it is in one piece.
    """

    architecture: Architecture
    lora: Lora | None = None
    last_token: bool = False
    completes: bool = False
    cut: int | None = None
