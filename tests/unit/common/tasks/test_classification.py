"""The loss, the head's closed-form gradient and local training, against torch in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy as torch_cross_entropy

from tests.tasks import classification
from zowarmup.common.exact.directions import permutation
from zowarmup.common.exact.layout import Head
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten, trainable
from zowarmup.common.settings.run import Model
from zowarmup.common.tasks.protocol import Batch
from zowarmup.common.tasks.training import Diverging, mean_gradient, train_locally
from zowarmup.data import Dataset, load

TASK = classification()


def loss(logits: Any, labels: Any) -> float:
    return TASK.loss(logits, Batch(None, labels))


def right(logits: Any, labels: Any) -> float:
    return TASK.measure(logits, Batch(None, labels))["accuracy"]


def made_up(examples: int, classes: int, scale: float, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    logits = (random.standard_normal((examples, classes)) * scale).astype(np.float32)
    return logits, random.integers(0, classes, examples)


@given(st.integers(1, 20), st.integers(2, 12), st.sampled_from([1e-3, 1.0, 50.0, 1e30]), st.integers(0, 1000))
def test_cross_entropy_is_torchs_in_float64(examples: int, classes: int, scale: float, seed: int) -> None:
    logits, labels = made_up(examples, classes, scale, seed)
    wanted = torch_cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels), reduction="sum")
    assert loss(logits, labels) == pytest.approx(float(wanted), rel=1e-12, abs=1e-12)


def test_sums_over_parts_are_the_sum_over_all() -> None:
    logits, labels = made_up(100, 10, 3.0)
    parts = sum(loss(logits[i : i + 7], labels[i : i + 7]) for i in range(0, 100, 7))
    assert parts == pytest.approx(loss(logits, labels), rel=1e-13)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_logits_that_are_not_finite_make_such_a_loss(bad: float) -> None:
    logits, labels = made_up(4, 3, 1.0)
    logits[1, 2] = bad
    assert not np.isfinite(loss(logits, labels))


def test_correct_counts_the_first_of_equals() -> None:
    logits = np.array([[0, 1, 1], [2, 0, 0], [0, 0, 0]], np.float32)
    assert right(logits, np.array([1, 0, 2])) == 2
    assert right(logits, np.array([2, 0, 0])) == 2


@pytest.mark.parametrize("bias", [True, False])
def test_head_gradient_is_autograds(bias: bool) -> None:
    random = np.random.default_rng(1)
    features = random.standard_normal((17, 6)).astype(np.float32)
    labels = random.integers(0, 4, 17)
    layer = nn.Linear(6, 4, bias=bias).double()
    logits = layer(torch.from_numpy(features).double())
    # float32 logits, as a program gives them; the reference starts from the same ones
    rounded = logits + (logits.detach().float().double() - logits.detach())
    torch_cross_entropy(rounded, torch.from_numpy(labels), reduction="sum").backward()  # type: ignore[no-untyped-call]
    head = Head("w", "b" if bias else None, 6, 4)
    given = rounded.detach().float().numpy()
    total, found = TASK.loss_and_head_gradient(given, features, Batch(None, labels), head)
    assert total == loss(given, labels)
    wanted = torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]).numpy()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_training_is_plain_sgd_in_the_published_order() -> None:
    data = load("digits:1/10")
    mine, reference = (build(Model(name="mlp"), data.shape, 10, 0) for _ in range(2))
    found = train_locally(TASK, mine, data, epochs=2, batch=64, rate=0.1, seed=9)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    labels = torch.from_numpy(data.targets)
    for epoch in range(2):
        total = 0.0
        order = permutation(9, epoch, len(data))
        for indices in (order[:64], order[64:128], order[128:]):
            optimizer.zero_grad()
            value = torch_cross_entropy(reference(torch.from_numpy(data.batch(indices).inputs)), labels[indices])
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += value.item() * len(indices)
    assert found == pytest.approx(total / len(data), rel=1e-6)
    layout = describe(mine, data.shape)
    np.testing.assert_allclose(flatten(mine, layout), flatten(reference, layout), rtol=1e-5, atol=1e-6)


def trained(module: nn.Module, data: Dataset, seed: int) -> bytes:
    train_locally(TASK, module, data, epochs=1, batch=16, rate=0.1, seed=seed)
    assert not module.training
    return flatten(module, describe(module, data.shape)).tobytes()


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Dropout(), nn.Linear(20, 10))


def test_the_seed_decides_everything_and_torchs_generator_is_left_alone() -> None:
    data = load("digits:1/20")
    modules = [with_dropout() for _ in range(3)]
    first = trained(modules[0], data, 1)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert trained(modules[1], data, 1) == first
    assert trained(modules[2], data, (1 << 64) - 1) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_running_statistics_move_and_a_last_batch_of_one_is_no_trouble() -> None:
    data = load("digits:1/10").select(np.arange(33))
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)).eval()
    before = module.state_dict()["2.running_mean"].clone()
    train_locally(TASK, module, data, epochs=1, batch=16, rate=0.1, seed=0)
    assert not torch.equal(before, module.state_dict()["2.running_mean"])


def test_what_is_frozen_or_unused_stays() -> None:
    data = load("digits:1/20")
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8).requires_grad_(False), nn.Linear(8, 10))
    module.register_parameter("spare", nn.Parameter(torch.ones(3)))
    kept = module.state_dict()["1.weight"].clone()
    train_locally(TASK, module, data, epochs=1, batch=16, rate=0.1, seed=0)
    assert torch.equal(kept, module.state_dict()["1.weight"])
    assert torch.equal(module.state_dict()["spare"], torch.ones(3))


def test_training_that_diverges_says_so_and_names_the_rate() -> None:
    module = build(Model(name="mlp"), (1, 8, 8), 10, 0)
    with pytest.raises(Diverging, match=r"in local epoch \d+$"):
        train_locally(TASK, module, load("digits:1/20"), epochs=3, batch=16, rate=1e20, seed=0)
    assert not module.training


@pytest.mark.parametrize("micro_batch", [7, 1000])
def test_mean_gradient_is_autograds_in_float64_and_touches_no_buffer(micro_batch: int) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    norm.get_buffer("running_mean").add_(0.3)
    module = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), norm, nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 36, 10))
    layout = describe(module, (1, 8, 8))
    data = load("digits:1/10")
    before = flatten(module, layout).tobytes()
    found = mean_gradient(TASK, module.train(), trainable(module, layout), data, micro_batch)
    assert flatten(module, layout).tobytes() == before
    wide = module.double().eval()
    inputs = torch.from_numpy(data.batch(np.arange(len(data))).inputs).double()
    mean = torch_cross_entropy(wide(inputs), torch.from_numpy(data.targets))
    assert found.shape == (layout.trainable,) and found.dtype == np.float64
    names, parameters = zip(*wide.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(mean, parameters), strict=True))
    for tensor in layout.tensors[: len(names)]:
        wanted = gradients[tensor.name].numpy().ravel()
        assert np.allclose(found[tensor.start : tensor.stop], wanted, rtol=1e-3, atol=1e-6), tensor.name
