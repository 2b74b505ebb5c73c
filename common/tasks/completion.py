"""Causal language modelling: the model is to go on as the examples do.

The model's outputs are not logits of tens of thousands of tokens, but two numbers for each example, which its graph has made of
them: the loss of the completion's tokens, added up, and how many they are. The loss of an example is the mean over its completion's
tokens, so each example counts alike, however long it is; the prompt's tokens are read and not predicted. Perplexity is over all tokens
of a data set alike, as is usual.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.tasks.protocol import Baseline, Batch, Metric, TargetKind, Task

if TYPE_CHECKING:
    from torch import Tensor

COMPLETION = "completion"
"""The name of the task, as `task` under [model] says it."""
_GUESSING = math.log(1 << 16)
"""Nats a token, of a model that knows nothing of some 65,000 tokens."""
_SMALLEST = 1e-12
"""Nats, below which a loss is none."""
_LARGEST = 700.0
"""Nats, whose exponential a float still holds."""


class Completion(Task):
    """Targets say nothing, float32 (n, 1): what is to be predicted is marked in the inputs (`settings.data_card.PREDICTED`)."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("perplexity", best=1.0, higher_is_better=False),)
    exact_head: ClassVar[bool] = False

    def __init__(self, data: TargetKind) -> None:
        if data.classes:
            raise ValueError(
                f"task {COMPLETION} needs data with prompts and completions, and the targets of this data are classes"
            )

    @property
    def outputs(self) -> int:
        return 2

    def check(self, targets: NDArray[Any]) -> None:
        if targets.dtype != np.float32 or targets.shape[1:] != (1,):
            raise ValueError(
                f"the targets are {targets.dtype} {targets.shape}: must be float32 (n, 1), as of prompts and completions"
            )

    def losses(self, outputs: NDArray[np.float32], batch: Batch) -> NDArray[np.float64]:
        summed, tokens = outputs.astype(np.float64).T
        with np.errstate(invalid="ignore"):  # outputs that are not finite make a loss that is not, which callers refuse
            return summed / np.maximum(tokens, 1)  # type: ignore[no-any-return]

    def measure(self, outputs: NDArray[np.float32], batch: Batch) -> Mapping[str, float]:
        summed, tokens = outputs.astype(np.float64).T
        return {"summed": float(summed.sum()), "tokens": float(tokens.sum())}

    def evaluate(self, sums: Mapping[str, float], examples: int) -> dict[str, float]:
        """Perplexity is exp of the mean loss of a token."""
        return {"perplexity": math.exp(min(_LARGEST, sums["summed"] / max(1.0, sums["tokens"])))}

    def baseline(self, targets: NDArray[Any]) -> Baseline:
        """That of a model that takes all of some 65,000 tokens to be as likely."""
        return Baseline(_GUESSING, math.exp(_GUESSING))

    def predictions(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """The logarithm of the loss of an example's token: of a model that says the same of each token it is the same for all, of one that
        has learnt it varies, however small the losses are."""
        summed, tokens = outputs.astype(np.float64).T
        return np.log(np.maximum(summed / np.maximum(tokens, 1), _SMALLEST))[:, np.newaxis]  # type: ignore[no-any-return]

    def torch_loss(self, outputs: "Tensor", targets: "Tensor", reduction: Literal["mean", "sum"]) -> "Tensor":
        losses = outputs[:, 0] / outputs[:, 1].clamp(min=1)
        return losses.mean() if reduction == "mean" else losses.sum()
