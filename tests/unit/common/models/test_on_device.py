"""Probing by torch, the weights moved where torch has them: the same scalars as ONNX Runtime's, but for rounding.

On this machine's processor always, on CUDA where there is one.
"""

import json
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.client.conftest import Run, prepared
from tests.language import DECODER, ENCODER, OPT
from tests.tasks import classification
from zowarmup.client.errors import Final
from zowarmup.client.work.probing import ForwardPass, Prober, load_on, resident
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Phase, Scalars, Work
from zowarmup.common.models.construction import build
from zowarmup.common.models.program import Program
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import PADDING
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model
from zowarmup.common.tasks.protocol import Examples
from zowarmup.data import Dataset, load

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
on_every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_CUDA)])


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def run(request: pytest.FixtureRequest) -> Run:
    return prepared(Model(name=request.param))


DATA = load("digits:1/10")


def probed(run: Run, replica: Replica, program: ForwardPass, data: Examples = DATA) -> Scalars:
    prober = Prober(run.spec.zeroth_order, replica, program, classification(), data, threading.Event())
    return prober.contribute(replica, Work(1, Phase.ZEROTH_ORDER, replica.version, 7, 60.0))


@on_every_device
def test_the_same_scalars(run: Run, device: str) -> None:
    replica = Replica(run.layout, run.grid, run.weights.copy(), 1)
    wanted = probed(run, replica, Program(run.program, run.layout, replica.weights))
    program = load_on(device, run.spec, run.layout)
    for _ in range(2):  # the second from where the first has left the vector
        found = probed(run, replica, program, resident(device, DATA))
        np.testing.assert_allclose(found.probes, wanted.probes, rtol=1e-2, atol=1e-2)
        np.testing.assert_allclose(found.projections, wanted.projections, rtol=1e-3, atol=1e-4)
    assert replica.weights.tobytes() == run.weights.tobytes()


@on_every_device
def test_the_vector_is_the_model_and_every_probe_restores_it(run: Run, device: str) -> None:
    replica = Replica(run.layout, run.grid, run.weights.copy(), 1)
    program = load_on(device, run.spec, run.layout)
    inputs = load("digits:test").batch(np.arange(50)).inputs
    vector = program.load(replica.weights)
    logits, features = program.forward(inputs)
    here, there = Program(run.program, run.layout, replica.weights).forward(inputs)
    np.testing.assert_allclose(logits, here, rtol=1e-4, atol=1e-4)
    assert features is not None
    assert there is not None
    np.testing.assert_allclose(features, there, rtol=1e-4, atol=1e-4)
    probed(run, replica, program)
    assert vector.tensor.cpu().numpy().tobytes() == run.weights.tobytes()
    vector.tensor.mul_(2)
    assert not np.allclose(program.forward(inputs)[0], logits)


def test_a_device_that_is_not_there_is_named(run: Run) -> None:
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(Final, match=f"--device {device}: torch cannot use it here"):
            load_on(device, run.spec, run.layout)


@pytest.mark.parametrize(("shape", "axes"), [((3, 4, 4), ()), ((2, 9), ("channels", "length")), ((5,), ())])
@on_every_device
def test_inputs_on_a_device_are_normalised_as_here(device: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> None:
    each = shape[0]
    chance = np.random.default_rng(0)
    data = Dataset(
        chance.integers(0, 256, (7, *shape), dtype=np.uint8),
        np.arange(7) % 2,
        2,
        255.0,
        tuple(np.linspace(0.2, 0.6, each).tolist()),
        tuple(np.linspace(0.5, 2.0, each).tolist()),
        axes=axes,
    )
    indices = np.array([3, 0, 6])
    np.testing.assert_allclose(
        resident(device, data).batch(indices).inputs.cpu(), data.batch(indices).inputs, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(5, 9), (5, 3, 9)], ids=["texts", "choices"])
@on_every_device
def test_tokens_on_a_device_are_those_here(device: str, shape: tuple[int, ...]) -> None:
    """Whole numbers, and no longer than the longest of the batch."""
    tokens = np.full(shape, PADDING, np.int32)
    for place, length in enumerate((9, 2, 4, 3, 1)):
        tokens[place, ..., :length] = 7 + place
    data = Dataset(tokens, np.arange(5) % 2, 2)
    there = resident(device, data)
    for indices in ([1, 3], [0, 1], [4]):
        found, wanted = there.batch(np.array(indices)), data.batch(np.array(indices))
        assert found.inputs.dtype == torch.int64
        np.testing.assert_array_equal(found.inputs.cpu(), wanted.inputs)
        np.testing.assert_array_equal(found.targets, wanted.targets)
    assert there.lengths is not None
    np.testing.assert_array_equal(there.lengths, data.lengths)


class OnlyThere(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Nothing may be computed on another device."""

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        found = function(*arguments, **(keywords or {}))
        made = [part for part in tree_leaves(found) if isinstance(part, torch.Tensor)]
        assert all(part.device.type == self._device for part in made), f"{function} is computed elsewhere"
        return found


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("config", [ENCODER, DECODER, OPT], ids=lambda config: str(config["model_type"]))
def test_a_language_model_computes_nothing_beside_its_device(config: dict[str, Any], prefix: int) -> None:
    """On "meta", which holds no numbers and is on every machine: what is made on the processor meanwhile, such as positions, no accelerator reads."""
    architecture = Architecture.from_config(json.dumps(config))
    language = Language(architecture=architecture, prefix=prefix)
    module = build(Model(name="hf:model"), (9,), 2, 0, language=language).to("meta")
    with torch.inference_mode(), OnlyThere("meta"):
        logits = module(torch.ones((2, 9), dtype=torch.int64, device="meta"))
    assert logits.shape == (2, 2)
