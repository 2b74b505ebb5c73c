"""A check that a model's outputs are logits, as cross-entropy wants them, and not probabilities.

Those that have lie in [0, 1] whatever the weights are. Logits may by chance at the initial weights, but not at others: so
the weights are changed, by more each time, until an output leaves that range. For logits the first look is enough.
"""

import torch
from torch import nn

from zowarmup.common.models.errors import ModelError, foreign_code

_DRAWS = 24
_NOISE = (0.02, 0.1, 0.5)  # beside three times the weights with random signs; deep models overflow at the last
_SUM_TOLERANCE = 1e-3


def require_logits(name: str, module: nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
    """See whether the outputs of `module`, in eval mode, could be anything; its weights stay as they are.

    Args:
        name: what to call the model in a sentence.
        module: the model.
        inputs: float32 (n, *shape).
        outputs: float32 (n, classes), what it gives for these.

    Raises:
        ModelError: the outputs are never below 0 nor above 1.
    """
    if not _within(outputs):
        return
    seen = [outputs]
    trainable = {key: tensor.detach() for key, tensor in module.named_parameters() if tensor.requires_grad}
    chance = torch.Generator().manual_seed(0)
    for draw in range(_DRAWS):
        noise = _NOISE[draw % len(_NOISE)]
        changed = {key: _changed(tensor, noise, chance) for key, tensor in trainable.items()}
        try:
            with foreign_code(f"model {name}"):
                outputs = torch.func.functional_call(module, changed, (inputs,))
        except ModelError:
            continue  # it does not like these weights
        if not torch.isfinite(outputs).all():
            continue
        if not _within(outputs):
            return
        seen.append(outputs)
    if len(seen) == 1:
        return
    together = torch.cat(seen).sum(1)
    end = "a softmax" if (together - 1).abs().max() <= _SUM_TOLERANCE else "a sigmoid"
    raise ModelError(
        f"model {name} gives numbers from 0 to 1 whatever its weights are, as {end} at its end does: leave that out and "
        "return logits, which the loss applies softmax to"
    )


def _within(outputs: torch.Tensor) -> bool:
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def _changed(tensor: torch.Tensor, noise: float, chance: torch.Generator) -> torch.Tensor:
    signs = torch.randint(0, 2, tensor.shape, generator=chance) * 2 - 1
    return 3 * signs * tensor.cpu() + noise * torch.randn(tensor.shape, generator=chance)
