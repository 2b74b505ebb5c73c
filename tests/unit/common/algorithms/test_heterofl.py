"""HeteroFL: the mean among those who hold a parameter, against a float64 reference, and local training of the half."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests import aggregating
from tests.algorithms import warm_up_algorithm, warmup_settings, zeroth_order_settings
from tests.unit.common.exact.test_submodel import laid_out
from zowarmup.client.work.training import Trainer
from zowarmup.common.algorithms import fedavg
from zowarmup.common.algorithms.fedavg import FedAvg
from zowarmup.common.algorithms.heterofl import HeteroFL
from zowarmup.common.exact.directions import permutation
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.submodel import half_width
from zowarmup.common.messages.values import Phase, Tier, Work
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import ClientSpec, Evaluation, Model, RunFile
from zowarmup.data import load

TINY = laid_out([(3,)], inputs=2, classes=2)  # 17 weights, of which a part has 12
PART = half_width(TINY)
Vector = NDArray[np.float32]


def algorithm(layout: Layout = TINY, **settings: Any) -> HeteroFL:
    made = warm_up_algorithm(
        warmup_settings(rounds=5, **{"algorithm": "heterofl", "most_times_median": 0, **settings}), layout
    )
    assert isinstance(made, HeteroFL)
    return made


def whole(value: float) -> Vector:
    return np.full(TINY.size, value, np.float32)


def part(value: float) -> Vector:
    return np.full(PART.layout.size, value, np.float32)


def test_each_parameter_moves_by_the_mean_of_those_who_hold_it() -> None:
    """Three examples say 4 of everything and one says 8 of what it holds: there the mean is 5, elsewhere 4."""
    weights = np.zeros(TINY.size, np.float32)
    moved = aggregating.moved(algorithm(clip=0), weights, [(3, whole(4)), (1, part(8))])
    expected = [5, 5, 5, 5, 4, 4, 5, 5, 4, 5, 5, 4, 5, 5, 4, 5, 5]
    assert moved.tolist() == expected
    assert aggregating.moved(algorithm(clip=0, server_rate=0.5), weights, [(3, whole(4)), (1, part(8))]).tolist() == [
        value / 2 for value in expected
    ]
    assert aggregating.moved(algorithm(clip=0), weights, [(1, part(8)), (3, whole(4))]).tolist() == expected


def test_what_nobody_holds_stays() -> None:
    weights = np.arange(TINY.size, dtype=np.float32)
    moved = aggregating.moved(algorithm(clip=0), weights, [(3, part(2)), (1, part(6))])
    assert (moved - weights).tolist() == [3, 3, 3, 3, 0, 0, 3, 3, 0, 3, 3, 0, 3, 3, 0, 3, 3]


def reference(weights: Vector, deltas: list[tuple[int, Vector]], scales: list[float]) -> list[float]:
    """Parameter by parameter, in Python's own float64."""
    held, found, place = PART.held(0, TINY.size), [], 0
    everyone = sum(examples for examples, _ in deltas)
    others = sum(examples for examples, delta in deltas if delta.size == TINY.size)
    for index, mine in enumerate(held):
        mean = 0.0
        for (examples, delta), scale in zip(deltas, scales, strict=True):
            if delta.size == TINY.size:
                mean += float(delta[index]) * (scale * (examples / (everyone if mine else others)))
            elif mine:
                mean += float(delta[place]) * (scale * (examples / everyone))
        place += int(mine)
        mean *= 0.25
        found.append(float(np.float32(mean + float(weights[index]))))
    return found


@pytest.mark.parametrize("piece", [1, 3, 5, 1000])
def test_rounds_are_those_of_the_float64_reference(piece: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fedavg, "PIECE", piece)
    chance = np.random.default_rng(1)
    sizes, scales = [TINY.size, PART.layout.size, PART.layout.size, TINY.size], [1.0, 0.5, 1.0, 0.125]
    deltas: list[tuple[int, Vector]] = []
    for examples, size in zip((5, 1, 2, 7), sizes, strict=True):
        file = tmp_path / str(examples)
        chance.normal(size=size).astype(np.float32).tofile(file)
        deltas.append((examples, np.memmap(file, dtype=np.float32, mode="r")))
    weights = chance.normal(size=TINY.size).astype(np.float32)
    kept = weights.copy()
    monkeypatch.setattr(HeteroFL, "_scales_of", lambda *given: tuple(scales))
    with ThreadPoolExecutor(3) as pool:
        moved = aggregating.moved(algorithm(server_rate=0.25), weights, deltas, pool.map)
    assert moved.tolist() == reference(weights, deltas, scales)
    assert np.array_equal(weights, kept)


def test_a_round_of_whole_deltas_is_fedavgs_to_the_bit() -> None:
    chance = np.random.default_rng(2)
    deltas = [(n, chance.normal(size=TINY.size).astype(np.float32)) for n in (3, 11, 5)]
    weights = chance.normal(size=TINY.size).astype(np.float32)
    expected = aggregating.moved(
        FedAvg(warmup_settings(rounds=5, server_rate=0.3, most_times_median=0), TINY), weights, deltas
    )
    assert aggregating.moved(algorithm(server_rate=0.3), weights, deltas).tobytes() == expected.tobytes()


def test_like_is_compared_with_like() -> None:
    """Root mean squares 1, 1, 2 and 1000, of vectors of two sizes: five times what they have without the longest, sqrt 2, is the bound."""
    sizes = [TINY.size, PART.layout.size, PART.layout.size, TINY.size]
    norms = [rms * size**0.5 for rms, size in zip((1, 1, 2, 1000), sizes, strict=True)]
    assert algorithm().scales(norms, sizes, 100 * TINY.size**0.5) == pytest.approx((1, 1, 1, 0.005 * 2**0.5))
    beside = algorithm().scales(norms, sizes, 0.5 * TINY.size**0.5)
    assert beside == pytest.approx((0.5, 0.5, 0.25, 0.0005)), "the model's root mean square is 0.5"
    assert algorithm(clip=0).scales(norms, sizes, 1.0) == (1, 1, 1, 1)


def test_other_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heterofl: a vector is float32 \(16,\), not float32 \(12,\) or \(17,\)"):
        aggregating.moved(algorithm(), whole(0), [(1, whole(1)[1:])])
    with pytest.raises(ValueError, match=r"\(12,\), not float32 \(17,\)"):
        aggregating.moved(algorithm(), part(0), [(1, part(1))])


def test_who_trains_what() -> None:
    assert algorithm().submodel(Tier.HIGH) is None
    assert algorithm().submodel(Tier.LOW) == PART
    assert algorithm().optimizer_values == 0
    other = warmup_settings(rounds=1)
    assert (other.tiers, other.trains(Tier.HIGH), other.trains(Tier.LOW)) == ((Tier.HIGH,), True, False)
    assert all(algorithm().spec.trains(tier) for tier in Tier)
    assert not warmup_settings(rounds=0, algorithm="heterofl").trains(Tier.LOW)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            Model(name="vit"),
            r"model\.name = 'vit': must be \"mlp\", \"cnn\", \"cnn1d\", \"resnet8\" or \"resnet18\" with warmup\.algorithm",
        ),
        (Model(name="my_models:tiny"), r"model\.name = 'my_models:tiny': .* of no other is a half-width part known"),
        (Model(name="resnet18", norm="batch"), r"model\.norm = 'batch': must be \"group\" with warmup\.algorithm"),
    ],
)
def test_models_without_a_known_half_are_refused_by_name(model: Model, sentence: str) -> None:
    def begin(model: Model) -> RunFile:
        return RunFile(
            name="x",
            model=model,
            warmup=warmup_settings(rounds=1, algorithm="heterofl"),
            zeroth_order=zeroth_order_settings(rounds=0),
            evaluation=Evaluation(data="digits:test"),
        )

    with pytest.raises(ValueError, match=sentence):
        begin(model)
    assert begin(Model(name="resnet18")).warmup.algorithm == "heterofl"


def test_settings_that_do_not_fit_are_refused_by_name() -> None:
    warmup = warmup_settings(rounds=1, algorithm="heterofl")
    with pytest.raises(
        ValueError, match=r'warmup\.algorithm = \'heterofl\': must be "fedavg" with zeroth_order\.algorithm'
    ):
        RunFile(
            name="x",
            model=Model(name="mlp"),
            warmup=warmup,
            zeroth_order=zeroth_order_settings("mixed", rounds=1),
            evaluation=Evaluation(data="digits:test"),
        )


def test_a_low_clients_delta_is_that_of_a_scaled_half_trained_in_float64() -> None:
    """The mlp's, written out: its 64 first units, whose activations count twice."""
    shape, data = (1, 8, 8), load("digits:1/10")
    warmup = warmup_settings(rounds=1, algorithm="heterofl", epochs=2, batch=32, rate=0.05)
    spec = ClientSpec(
        model=Model(name="mlp"),
        card=DataCard(shape=shape, classes=10),
        warmup=warmup,
        zeroth_order=zeroth_order_settings(rounds=0),
    )
    module = build(spec.model, shape, 10, 4)
    layout = describe(module, shape, train=spec.zeroth_order.moved, whitening=spec.whitening)
    assert layout.whitening is None
    weights = flatten(module, layout)
    replica = Replica(layout, Grid.choose(weights), weights.copy(), 0)
    trainer = Trainer(spec, layout, data, 1, threading.Event(), Tier.LOW)
    said, content = trainer.contribute(replica, Work(1, Phase.WARM_UP, 0, 77, 9.0))
    delta = np.frombuffer(content, np.float32)
    assert delta.size == half_width(layout).layout.size == 4_810
    assert np.array_equal(replica.weights, weights)

    views = layout.views(weights)
    cut = [views["1.weight"][:64], views["1.bias"][:64], views["3.weight"][:, :64], views["3.bias"]]
    first, bias, second, out = tensors = [torch.tensor(view, dtype=torch.float64, requires_grad=True) for view in cut]
    inputs = torch.from_numpy(data.batch(np.arange(len(data))).inputs).double().flatten(1)
    labels, last = torch.from_numpy(data.targets), 0.0
    for epoch in range(2):
        order, last = permutation(77, epoch, len(data)), 0.0
        for start in range(0, len(data), 32):
            indices = torch.from_numpy(order[start : start + 32])
            logits = 2 * torch.relu(inputs[indices] @ first.T + bias) @ second.T + out
            loss = torch.nn.functional.cross_entropy(logits, labels[indices])
            last += float(loss.detach()) * len(indices) / len(data)
            for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors), strict=True):
                tensor.data -= 0.05 * gradient
    moved = np.concatenate([(t.detach().numpy() - view).ravel() for t, view in zip(tensors, cut, strict=True)])
    assert said.loss == pytest.approx(last, rel=1e-5)
    assert delta == pytest.approx(moved, abs=1e-6)
    other, content = trainer.over(data, Tier.HIGH).contribute(replica, Work(1, Phase.WARM_UP, 0, 77, 9.0))
    assert len(content) == 4 * layout.size and other.examples == said.examples
