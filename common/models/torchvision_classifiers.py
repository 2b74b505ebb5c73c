"""Torchvision's classifiers of images, by their names in `torchvision.models`: `torchvision:resnet18` in a run file.

Each is made by torchvision's own constructor, at random initial weights and with as many outputs as the run needs, so its
head is new. torchvision is an extra, imported where such a model is built, on the coordinator and on the high tier. Nothing is
downloaded.

Images go in as the run's data says, at their own size and without ImageNet's mean and deviation. Grey images are repeated
as the three channels that these networks read.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from zowarmup.common.text import in_words, listed

PREFIX = "torchvision:"

_COLOURS = 3
_WITHOUT_AUXILIARY = ("googlenet", "inception_v3")
_BEYOND_DEVICES = "swin"
_ROOM = "torchvision.models."


class Unsuitable(ValueError):
    """The model cannot be had: the sentence says why, and what to do, and does not name the model."""


def classifier(name: str, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """One of torchvision's classifiers, with weights drawn from torch's global generator.

    Args:
        name: In `torchvision.models`, as "resnet18".
        input_shape: Of one example, (1 or 3, H, W).
        outputs: How many numbers it gives for an example.

    Raises:
        Unsuitable: torchvision is not there or does not fit torch, has no such classifier, or has none for such inputs.
    """
    models = _models()
    names = models.list_models(module=models)
    others = {other: models.get_model_builder(other).__module__ for other in models.list_models() if other not in names}
    if refusal := refused(name, names, others):
        raise Unsuitable(refusal)
    if len(input_shape) != 3 or input_shape[0] not in (1, _COLOURS):
        raise Unsuitable(
            f"it reads images of 1 or 3 channels, and an example of evaluation.data has the shape {input_shape}: "
            "use another model or other data"
        )
    options: dict[str, object] = {}
    if name in _WITHOUT_AUXILIARY:
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": input_shape[1]}
    elif name.startswith("maxvit_"):
        options = {"input_size": input_shape[1:]}
    try:
        made: nn.Module = models.get_model(name, weights=None, num_classes=outputs, **options)
    except Exception as error:
        raise Unsuitable(f"it cannot be made for examples of shape {input_shape}: {in_words(error)}") from error
    if input_shape[0] == 1:
        made.register_forward_pre_hook(_in_colour)
    return made


def refused(name: str, classifiers: Sequence[str], others: Mapping[str, str]) -> str:
    """Why a run cannot train a model of torchvision's, as a sentence; empty where it can.

    Args:
        name: The model's.
        classifiers: The names of torchvision's classifiers of images.
        others: Its other models, each with the module that it comes from.
    """
    if name in classifiers:
        if name.startswith(_BEYOND_DEVICES):
            return "its shifted windows need an operator, ScatterND, that no device runs: use vit_b_32 or convnext_tiny"
        return ""
    if name in others:
        kind = others[name].removeprefix(_ROOM).partition(".")[0]
        return f"it is one of {_ROOM}{kind}, which are no classifiers of images: use one that is, such as resnet18"
    close = get_close_matches(name.lower(), classifiers, 4, 0.5) or list(classifiers)
    return f"torchvision has no classifier of that name: the closest are {listed(close)}"


def _models() -> Any:
    """`torchvision.models`. Raises Unsuitable where it cannot be imported."""
    try:
        from torchvision import models
    except ModuleNotFoundError as error:
        raise Unsuitable(f"{error.name} is not installed here: pip install 'zowarmup[torchvision]'") from error
    except Exception as error:
        raise Unsuitable(
            f"torchvision {version('torchvision')} does not fit torch {torch.__version__} ({in_words(error)}): install "
            "two of one release and one build (for the CPU, or for the same CUDA), from one index: "
            "pip install --force-reinstall torch torchvision"
        ) from error
    return models


def _in_colour(module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    return inputs[0].expand(-1, _COLOURS, -1, -1)
