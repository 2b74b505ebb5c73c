"""What a run makes of torchvision's classifiers, one or more of each family that is supported: `python families.py`, in an
environment that has torchvision, prints it as JSON for tests/e2e/test_torchvision.py.

Each is built, laid out with each kind of `zeroth_order.train`, and exported; the graph then runs beside the module.
"""

import json
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from zowarmup.common.exact.layout import ALL, HEAD, NORM
from zowarmup.common.models.construction import build, sample
from zowarmup.common.models.description import describe, flatten, load_into
from zowarmup.common.models.export import export_program
from zowarmup.common.models.program import Program
from zowarmup.common.models.torchvision_classifiers import PREFIX, refused
from zowarmup.common.settings.run import Model

CLASSES = 7
SMALL, MEDIUM = (3, 32, 32), (3, 64, 64)
FAMILIES = {
    "alexnet": MEDIUM,
    "convnext_tiny": SMALL,
    "densenet121": SMALL,
    "efficientnet_b0": SMALL,
    "googlenet": SMALL,
    "inception_v3": (3, 75, 75),
    "mnasnet0_5": SMALL,
    "mobilenet_v2": SMALL,
    "mobilenet_v3_small": SMALL,
    "regnet_x_400mf": SMALL,
    "resnet18": SMALL,
    "shufflenet_v2_x0_5": (1, 8, 8),
    "squeezenet1_1": SMALL,
    "vgg11": SMALL,
    "vit_b_32": SMALL,
}


def settle(module: nn.Module, shape: tuple[int, ...]) -> None:
    """As after a warm-up: with statistics of what the layers get. At the initial ones, deep networks give nearly nothing."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    torch.manual_seed(0)  # of what is dropped
    with torch.no_grad():
        module.train()(sample(module, shape, 8))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    module.eval()


def found_of(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    module = build(Model(name=PREFIX + name), shape, CLASSES, seed=0)
    settle(module, shape)
    layout = describe(module, shape)
    weights = flatten(module, layout)
    if layout.head:  # some begin at zero
        views = layout.views(weights)
        views[layout.head.weight_name] += np.random.default_rng(0).normal(0, 0.1, views[layout.head.weight_name].shape)
        load_into(module, layout, weights)
    program = Program(export_program(module, layout, shape), layout, weights)
    inputs = sample(module, shape, 2)
    logits, features = program.forward(inputs.numpy())
    with torch.no_grad():
        wanted = module(inputs).numpy()
    trains = (ALL, NORM, HEAD) if layout.head else (ALL, NORM)
    return {
        "head": layout.head.weight_name if layout.head else "",
        "features": features.shape[1] if features is not None else 0,
        "largest": float(np.abs(wanted).max()),
        "difference": float(np.abs(logits - wanted).max()),
        "moving": [kind.trainable - kind.frozen for kind in (describe(module, shape, True, train) for train in trains)],
    }


def main() -> None:
    models: Any = torchvision.models
    names = models.list_models(module=models)
    others = {other: models.get_model_builder(other).__module__ for other in models.list_models() if other not in names}
    print(
        json.dumps(
            {
                "families": {name: found_of(name, shape) for name, shape in FAMILIES.items()},
                "refused": {name: refused(name, names, others) for name in (*names, *others)},
                "classifiers": names,
            }
        )
    )


if __name__ == "__main__":
    main()
