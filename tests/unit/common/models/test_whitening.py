"""The buffer of the last layer: until it is set, the model and its training are to the bit those without it."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.client.work.training import Trainer
from zowarmup.common.algorithms.whitening import (
    applied,
    head_on_whitened,
    moments_of,
    sign_vectors,
    value_count,
    whitened,
)
from zowarmup.common.algorithms.whitening import covariance as covariance_of
from zowarmup.common.algorithms.whitening import whitening as whitening_of
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import WHITENING, no_whitening
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Phase, Tier, Work
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten, load_into
from zowarmup.common.models.export import export_program
from zowarmup.common.models.program import Program
from zowarmup.common.models.whitening import MOST_VALUES, add_whitening, rank_of
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.data import load
from zowarmup.server.rpc.limits import SMALL_BYTES

SHAPE, CLASSES = (1, 8, 8), 10
DATA = load("digits:1/10")
INPUTS = DATA.batch(np.arange(30)).inputs
SPEC = ClientSpec(
    model=Model(name="mlp"),
    card=DataCard(shape=SHAPE, classes=CLASSES),
    warmup=warmup_settings(rounds=1, epochs=2, batch=16),
    zeroth_order=zeroth_order_settings(rounds=1),
)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_until_it_is_set_the_model_computes_the_same_bits(name: str) -> None:
    plain, module = (build(Model(name=name), SHAPE, CLASSES, 3) for _ in range(2))
    bare, layout = describe(plain, SHAPE), describe(module, SHAPE, whitening=8)
    buffer = layout.whitening
    assert buffer is not None and layout.head is not None and bare.whitening is None
    assert buffer.shape == (10, layout.head.features) and buffer.start >= layout.trainable == bare.trainable
    assert layout.tensors[-1] == buffer and layout.size == bare.size + buffer.shape[0] * buffer.shape[1]
    weights = flatten(module, layout)
    assert weights[: bare.size].tobytes() == flatten(plain, bare).tobytes()
    with torch.no_grad():
        assert torch.equal(module(torch.from_numpy(INPUTS)), plain(torch.from_numpy(INPUTS)))
    here = Program(export_program(module, layout, SHAPE), layout, weights).forward(INPUTS)
    there = Program(export_program(plain, bare, SHAPE), bare, flatten(plain, bare)).forward(INPUTS)
    for one, other in zip(here, there, strict=True):
        assert one is not None and other is not None
        assert one.tobytes() == other.tobytes()


def test_training_in_the_warm_up_is_bit_equal_with_and_without_it() -> None:
    contents = []
    for spec in (SPEC, replace(SPEC, zeroth_order=replace(SPEC.zeroth_order, whitening=0))):  # type: ignore[call-arg]
        module = build(spec.model, SHAPE, CLASSES, 3)
        layout = describe(module, SHAPE, train=spec.zeroth_order.moved, whitening=spec.whitening)
        replica = Replica(layout, Grid(20), flatten(module, layout), 1)
        trainer = Trainer(spec, layout, DATA, 1, threading.Event(), Tier.HIGH)
        _, content = trainer.contribute(replica, Work(1, Phase.WARM_UP, 1, 55, 60.0))
        contents.append(bytes(content))
    with_buffer, without = contents
    assert with_buffer == without, "the buffer is no part of a delta"


def test_once_it_is_set_torch_and_the_exported_program_read_what_numpy_does() -> None:
    module = build(SPEC.model, SHAPE, CLASSES, 3)
    layout = describe(module, SHAPE, whitening=8)
    weights = flatten(module, layout)
    graph = export_program(module, layout, SHAPE)
    logits, plain = Program(graph, layout, weights).forward(INPUTS)
    assert plain is not None
    signs = sign_vectors(5, layout.block("head").start, 128, 8)
    rows = whitening_of(*covariance_of([(1.0, moments_of([plain], signs), signs)]), 8)
    moved = whitened(weights, layout, rows)
    load_into(module, layout, moved)
    with torch.no_grad():
        in_torch = module(torch.from_numpy(INPUTS)).numpy()
    in_program, again = Program(graph, layout, moved).forward(INPUTS)
    assert again is not None
    np.testing.assert_allclose(in_torch, logits, atol=1e-4)
    np.testing.assert_allclose(in_program, logits, atol=1e-4)
    assert again.tobytes() == plain.tobytes(), "features are what they were before they are whitened"
    at_head = applied(plain, rows) @ layout.views(moved)["3.weight"].T + layout.views(moved)["3.bias"]
    np.testing.assert_allclose(at_head, logits, atol=1e-4)
    views = layout.views(moved)
    before = layout.views(weights)
    weight, bias = head_on_whitened(before["3.weight"], before["3.bias"], rows)
    np.testing.assert_array_equal(views["3.weight"], weight.astype(np.float32))
    np.testing.assert_array_equal(views["3.bias"], bias.astype(np.float32))


def test_described_twice_it_has_one_buffer() -> None:
    module = build(SPEC.model, SHAPE, CLASSES, 3)
    first = describe(module, SHAPE, train="auto", whitening=8)
    before = flatten(module, first)
    assert describe(module, SHAPE, train="auto", whitening=8) == first
    assert flatten(module, first).tobytes() == before.tobytes()
    with torch.no_grad():
        assert torch.equal(
            module(torch.from_numpy(INPUTS)), build(SPEC.model, SHAPE, CLASSES, 3)(torch.from_numpy(INPUTS))
        )


def test_no_more_directions_than_features_less_one() -> None:
    layer = nn.Linear(3, 2)
    add_whitening(layer, rank_of(8, 3))
    assert layer.get_buffer(WHITENING).numpy().tobytes() == no_whitening(2, 3).tobytes()
    inputs = torch.randn(5, 3)
    assert torch.equal(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10, bias=False)), "no bias"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Linear(1, 10)), "one feature"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no trunk"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU()), "no head"),
    ],
)
def test_where_there_is_nothing_to_whiten(module: nn.Module, why: str) -> None:
    assert describe(module, SHAPE, whitening=8).whitening is None, why


def test_runs_of_heterofl_and_runs_without_zeroth_order_rounds_have_none() -> None:
    assert SPEC.whitening == 8
    assert replace(SPEC, warmup=warmup_settings("heterofl", rounds=1)).whitening == 0
    assert replace(SPEC, warmup=warmup_settings("heterofl", rounds=0)).whitening == 8, "nobody trains a part"
    assert replace(SPEC, zeroth_order=zeroth_order_settings(rounds=0)).whitening == 0
    assert replace(SPEC, zeroth_order=zeroth_order_settings("mixed", rounds=1)).whitening == 0


@pytest.mark.parametrize(
    ("asked", "features", "rank"),
    [
        (8, 64, 8),
        (8, 512, 8),
        (8, 5, 4),
        (8, 1, 0),
        (0, 64, 0),
        (8, 1024, 6),
        (8, 2048, 2),
        (8, 4096, 0),
        (64, 128, 62),
    ],
)
def test_a_client_never_sends_more_than_a_message_may_have(asked: int, features: int, rank: int) -> None:
    assert rank_of(asked, features) == rank
    assert value_count(rank, features) <= MOST_VALUES
    assert rank in (asked, features - 1) or value_count(rank + 1, features) > MOST_VALUES
    assert 4 * MOST_VALUES <= SMALL_BYTES / 2
