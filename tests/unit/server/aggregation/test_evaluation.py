"""What an evaluation says of a model, by the forward pass that the fleet runs."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tasks import classification
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.settings.run import Model
from zowarmup.data import load
from zowarmup.server.aggregation.evaluation import Evaluator

Weights = NDArray[np.float32]


def dead(weights: Weights, head: Weights) -> None:
    """No unit is ever active: what remains is the bias of the last layer."""
    weights[:] = -1
    head[-10:] = np.arange(10)


def tiny(weights: Weights, head: Weights) -> None:
    head *= np.float32(1e-3)


def untouched(weights: Weights, head: Weights) -> None:
    pass


def beyond(weights: Weights, head: Weights) -> None:
    weights[:] = np.float32(1e30)


@pytest.mark.parametrize(("change", "constant"), [(untouched, False), (dead, True), (tiny, True), (beyond, False)])
def test_outputs_that_are_the_same_for_every_example_are_noticed(
    change: Callable[[Weights, Weights], None], constant: bool
) -> None:
    data = load("digits:test")
    module = build(Model(name="mlp"), data.shape, data.classes, 0)
    layout = describe(module, data.shape)
    weights = flatten(module, layout)
    block = layout.block("head")
    change(weights, weights[block.start : block.stop])
    found = Evaluator(export_program(module, layout, data.shape), layout, classification(), data).evaluate(weights)
    assert (found.constant, found.examples) == (constant, len(data))
    assert change is not dead or 2.3 < found.loss < 8
