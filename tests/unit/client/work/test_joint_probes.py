"""Several probes in one pass: what one at a time find, within a bound of memory."""

import json
import threading

import numpy as np
import pytest

from tests.algorithms import zeroth_order_settings
from tests.language import DECODER, ENCODER
from zowarmup.client.work import probing
from zowarmup.client.work.probing import Prober
from zowarmup.client.work.watched_program import Watch, WatchedProgram
from zowarmup.common.algorithms.directional_derivatives import Measured, measure
from zowarmup.common.algorithms.probe_plan import ProbePlan
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.replica import Replica
from zowarmup.common.lora import Lora
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import constants_of, describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.models.program import Program
from zowarmup.common.prefix import prefix_length
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import PADDING, PREDICTED
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model
from zowarmup.common.tasks import task_class
from zowarmup.data import Dataset

ADAPTERS, PREFIXES, EXAMPLES = "lora:r=2,modules=q,v", "prefix:3", 13


CHOICES = 3


def examples(task: str) -> Dataset:
    """Of 1 to 9 tokens; the latter half of each, or of each of its choices, is to be predicted where these are not classified."""
    random, each = np.random.default_rng(0), CHOICES if task == "multiple_choice" else 1
    tokens = random.integers(4, 32, (EXAMPLES * each, 9)).astype(np.int32)
    for row, length in zip(tokens, random.integers(2, 10, len(tokens)), strict=True):
        row[length // 2 : length] += 0 if task == "classification" else PREDICTED
        row[length:] = PADDING
    if task == "completion":
        return Dataset(tokens, np.zeros((EXAMPLES, 1), np.float32), 0, axes=("tokens",))
    labels = random.integers(0, 2, EXAMPLES)
    if task == "classification":
        return Dataset(tokens, labels, 2, axes=("tokens",))
    choices = tokens.reshape(EXAMPLES, CHOICES, 9)
    choices[::3, 2] = PADDING
    return Dataset(choices, labels, CHOICES, axes=("choices", "tokens"))


@pytest.mark.parametrize(
    ("name", "train"),
    [
        *((name, ADAPTERS) for name in ("classification", "completion", "multiple_choice")),
        *((name, PREFIXES) for name in ("classification", "multiple_choice")),
    ],
)
def test_joint_probes_find_what_one_at_a_time_do(name: str, train: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Architecture.from_config(json.dumps(ENCODER if name == "classification" else DECODER))
    data, choices = examples(name), CHOICES if name == "multiple_choice" else 0
    language = Language(
        architecture=made,
        lora=Lora.of(train),
        prefix=prefix_length(train),
        completes=made.decoder,
        choices=choices,
    )
    task, shape = task_class(name)(data), data.shape
    module = build(Model(name="hf:model"), shape, task.outputs, 0, task.logits, language=language)
    layout = describe(module, shape, task.exact_head, train, pretrained=True)
    weights = flatten(module, layout)
    grid = Grid.choose(weights[: layout.trainable], edges=layout.edges)
    weights[: layout.trainable] = grid.quantise(weights[: layout.trainable])
    weights[: layout.block("trunk" if layout.head else "all").stop] += 256 * grid.tick
    constants = {name: Constant("F32", tensor.detach().numpy()) for name, tensor in constants_of(module).items()}
    graph = export_program(module, layout, shape)
    program = WatchedProgram(lambda halt: Program(graph, layout, weights, 1, halt, constants), Watch(600.0), 0)
    spec = zeroth_order_settings(rounds=1, clients_per_round=1, train=train, probes=5)
    prober = Prober(spec, Replica(layout, grid, weights, 0), program, task, data, threading.Event())
    prober._keeps = True
    plan, before = ProbePlan(spec, layout), weights.copy()
    (probes,) = plan.by_step(7, EXAMPLES)
    block = probes[0].direction.block

    def found(most_bytes: int) -> tuple[int, Measured]:
        monkeypatch.setattr(probing, "VECTOR_BYTES", most_bytes)
        return prober.at_once(block), measure(weights, grid, prober, probes, 0.05, plan.projections > 0)

    vector = 4 * layout.size
    alone, one = found(2 * vector - 1)
    assert alone == 0, "a single vector beside the weights is no use"
    for most_bytes, at_once in ((2 * vector, 2), (5 * vector, 5), (1 << 24, (1 << 24) // vector)):
        several, joint = found(most_bytes)
        assert several == at_once
        assert np.allclose(joint.derivatives, one.derivatives, rtol=1e-3, atol=2e-5)
        if one.head_gradient is not None:
            assert joint.head_gradient is not None
            assert np.allclose(joint.head_gradient, one.head_gradient, atol=1e-6)
    assert np.std(one.derivatives) > 1e-4
    assert weights.tobytes() == before.tobytes()
    others = layout.block("all")
    assert bool(prober.at_once(others)) == (layout.head is None), "a head is everybody's"
    alone_each = np.concatenate([part.losses for part in prober.by_example(False)])
    together = [prober.evaluate(np.array([0, other]), False).loss_sum for other in range(EXAMPLES)]
    assert np.allclose(alone_each + alone_each[0], together, rtol=1e-5), "padded to its own length, or to another's"
