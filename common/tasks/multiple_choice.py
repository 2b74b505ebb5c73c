"""Multiple choice: which of some ways to go on is the right one.

The model's outputs are the scores of an example's choices, which its graph makes of the logits of tokens: the mean log-likelihood of a
choice's tokens given the prompt. (The sum would be against long choices, whatever they say.) A target is the place of the right choice, and
the scores are to softmax what logits of classes are, so loss and accuracy are those of classification. There is no linear head
whose gradient a pass would give.
"""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.tasks.classification import Classification
from zowarmup.common.tasks.protocol import TargetKind

MULTIPLE_CHOICE = "multiple_choice"
"""The name of the task, as `task` under [model] says it."""
NO_CHOICE = -1e4
"""The score of a choice that an example does not have, where others have more: nats a token, which no choice comes near."""


class MultipleChoice(Classification):
    """Targets are places among an example's choices, int64 (n,), from 0."""

    exact_head: ClassVar[bool] = False
    logits: ClassVar[bool] = False

    def __init__(self, data: TargetKind) -> None:
        if not data.classes:
            raise ValueError(
                f"task {MULTIPLE_CHOICE} needs data with prompts and choices, and this data has no choices"
            )
        super().__init__(data)

    def predictions(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """The scores less the mean of an example's; 0 for a choice that it does not have."""
        there, scores = outputs > NO_CHOICE / 2, outputs.astype(np.float64)
        mean: Any = scores.sum(axis=1, where=there, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1)
        return np.where(there, scores - mean, 0.0)
