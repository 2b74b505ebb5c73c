"""What holds of every task, whoever wrote it: beside torch in float64, finite differences and what the rest relies on."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.common.tasks.next_token import MASKED, NextToken
from zowarmup.common.exact.layout import Head
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.tasks import TASKS, task_class
from zowarmup.common.tasks.completion import Completion
from zowarmup.common.tasks.protocol import Batch, Task

PLUGINS = Path(__file__).parents[4] / "examples/plugins"
PLUGIN = "regression:Regression"
COMPLETION = "completion"
NAMES = (*TASKS, PLUGIN, "next_token")
SIZE = 4
FEATURES = 3
LENGTH = 5


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    sys.path.insert(0, str(PLUGINS))
    yield
    sys.path.remove(str(PLUGINS))


@dataclass(frozen=True)
class Case:
    """A task, and data for it."""

    task: Task
    batch: Batch
    outputs: NDArray[np.float32]


def made_task(name: str, card: DataCard) -> Task:
    return NextToken(card) if name == "next_token" else task_class(name)(card)


def case(name: str, examples: int = 9, seed: int = 0, scale: float = 2.0) -> Case:
    random = np.random.default_rng(seed)
    numbers = {PLUGIN: SIZE, COMPLETION: 1}.get(name, 0)
    task = made_task(name, DataCard(shape=(1,), classes=0 if numbers else SIZE, target_size=numbers))
    shape: tuple[int, ...] = (examples, task.outputs)
    targets: NDArray[Any] = random.integers(0, SIZE, examples)
    if numbers:
        targets = random.standard_normal((examples, numbers)).astype(np.float32)
    elif name == "next_token":
        shape = (examples, LENGTH, task.outputs)
        targets = random.integers(0, SIZE, (examples, LENGTH)).astype(np.int32)
        targets[random.random(targets.shape) < 0.3] = MASKED
        targets[:, 0] = np.maximum(targets[:, 0], 0)
    outputs = (random.standard_normal(shape) * scale).astype(np.float32)
    if name == COMPLETION:  # a sum of losses, and of how many tokens
        outputs = np.stack((np.abs(outputs[:, 0]), random.integers(1, 9, examples)), axis=1).astype(np.float32)
    return Case(task, Batch(np.zeros((examples, 1), np.float32), targets), outputs)


def torch_losses(made: Case, outputs: torch.Tensor) -> list[float]:
    targets = torch.from_numpy(made.batch.targets)
    wide, outputs = targets.double() if targets.is_floating_point() else targets, outputs.double()
    each = range(len(wide))
    return [float(made.task.torch_loss(outputs[i : i + 1], wide[i : i + 1], "sum")) for i in each]


every_task = pytest.mark.parametrize("name", NAMES)


@every_task
@given(examples=st.integers(1, 20), seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 50.0]))
def test_losses_are_torchs_in_float64_and_not_negative(name: str, examples: int, seed: int, scale: float) -> None:
    made = case(name, examples, seed, scale)
    losses = made.task.losses(made.outputs, made.batch)
    assert losses.dtype == np.float64 and losses.shape == (examples,) and losses.min() >= 0
    np.testing.assert_allclose(losses, torch_losses(made, torch.from_numpy(made.outputs)), rtol=1e-12, atol=1e-12)
    assert made.task.loss(made.outputs, made.batch) == pytest.approx(losses.sum(), rel=1e-12)


@every_task
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_what_training_descends_is_that_loss(name: str, reduction: Any) -> None:
    made = case(name)
    losses = made.task.losses(made.outputs, made.batch)
    found = made.task.torch_loss(torch.from_numpy(made.outputs), torch.from_numpy(made.batch.targets), reduction)
    assert float(found) == pytest.approx(losses.mean() if reduction == "mean" else losses.sum(), rel=1e-5)


@every_task
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_outputs_that_are_not_finite_make_such_a_loss(name: str, bad: float) -> None:
    made = case(name)
    made.outputs[1] = bad
    assert not np.isfinite(made.task.loss(made.outputs, made.batch))
    assert np.isfinite(np.delete(made.task.losses(made.outputs, made.batch), 1)).all()


@every_task
def test_the_gradient_in_the_outputs_is_that_of_finite_differences(name: str) -> None:
    made = case(name)
    if not made.task.exact_head:
        pytest.skip("the task has none")
    loss, gradient = made.task.loss_and_output_gradient(made.outputs, made.batch)
    assert loss == made.task.loss(made.outputs, made.batch)
    assert gradient.dtype == np.float64 and gradient.shape == made.outputs.shape
    for place in np.ndindex(made.outputs.shape):
        moved = [made.outputs.copy(), made.outputs.copy()]
        moved[0][place] += np.float32(2.0**-7)
        moved[1][place] -= np.float32(2.0**-7)
        above, below = (made.task.loss(outputs, made.batch) for outputs in moved)
        length = float(moved[0][place]) - float(moved[1][place])
        assert gradient[place] == pytest.approx((above - below) / length, rel=1e-3, abs=1e-4)


@every_task
@pytest.mark.parametrize("bias", ["b", None])
def test_the_gradient_of_the_head_is_that_of_finite_differences(name: str, bias: str | None) -> None:
    made = case(name)
    if not made.task.exact_head:
        pytest.skip("the task has none")
    random = np.random.default_rng(1)
    features = random.standard_normal((*made.outputs.shape[:-1], FEATURES)).astype(np.float32)
    size = made.task.outputs * FEATURES
    head = np.concatenate([random.standard_normal(size), random.standard_normal(made.task.outputs) if bias else []])

    def outputs(parameters: NDArray[np.float64]) -> NDArray[np.float32]:
        weight = parameters[:size].reshape(made.task.outputs, FEATURES)
        found = features @ weight.T + (parameters[size:] if bias else 0)
        return found.astype(np.float32)

    shape = Head("w", bias, FEATURES, made.task.outputs)
    loss, gradient = made.task.loss_and_head_gradient(outputs(head), features, made.batch, shape)
    assert loss == made.task.loss(outputs(head), made.batch)
    assert gradient.dtype == np.float64 and gradient.shape == head.shape
    for place in range(len(head)):
        step = np.zeros_like(head)
        step[place] = 2.0**-6
        above, below = (
            made.task.loss(outputs(head + step), made.batch),
            made.task.loss(outputs(head - step), made.batch),
        )
        assert gradient[place] == pytest.approx((above - below) / 2.0**-5, rel=2e-3, abs=2e-3)


@every_task
def test_an_evaluation_in_batches_is_that_of_all(name: str) -> None:
    made = case(name, 24)
    whole = made.task.evaluate(made.task.measure(made.outputs, made.batch), 24)
    assert list(whole) == [metric.name for metric in made.task.metrics], "in that order, the primary one first"
    sums: dict[str, float] = {}
    for start in range(0, 24, 7):
        part = slice(start, start + 7)
        batch = Batch(made.batch.inputs[part], made.batch.targets[part])
        for key, value in made.task.measure(made.outputs[part], batch).items():
            sums[key] = sums.get(key, 0) + value
    assert made.task.evaluate(sums, 24) == pytest.approx(whole, rel=1e-9)


def perfect(made: Case) -> NDArray[np.float32]:
    targets = made.batch.targets
    if isinstance(made.task, Completion):
        return np.stack((1e-9 * np.arange(1, len(targets) + 1), np.ones(len(targets))), axis=1).astype(np.float32)
    return np.asarray(targets if targets.dtype == np.float32 else 50 * np.eye(SIZE)[np.maximum(targets, 0)], np.float32)


@every_task
def test_metrics_and_losses_agree_on_what_is_good(name: str) -> None:
    """A perfect model has the best values there are, and is better than one that says the same of everything."""
    made = case(name, 60)
    task, best = made.task, perfect(made)
    found, guessed = task.evaluate(task.measure(best, made.batch), 60), task.baseline(made.batch.targets)
    for metric in task.metrics:
        assert not np.isfinite(metric.best) or found[metric.name] == pytest.approx(metric.best)
        if metric.share:
            assert 0 <= found[metric.name] <= 1
    primary = task.metrics[0]
    assert np.isfinite((guessed.loss, guessed.metric)).all() and primary.better(found[primary.name], guessed.metric)
    assert task.loss(best, made.batch) / 60 < 0.01 * guessed.loss
    assert task.predictions(best).std(axis=0).max() > 0.02
    assert task.predictions(np.repeat(best[:1], 60, axis=0)).std(axis=0).max() < 1e-6


@every_task
def test_data_that_is_not_the_tasks_is_refused(name: str) -> None:
    made = case(name)
    made.task.check(made.batch.targets)
    numbers = name in (PLUGIN, COMPLETION)
    with pytest.raises(ValueError, match="needs data"):
        made_task(name, DataCard(shape=(1,), classes=SIZE if numbers else 0, target_size=0 if numbers else SIZE))
    wrong: list[NDArray[Any]] = [made.batch.targets.astype(np.float16), made.batch.targets[..., np.newaxis]]
    if not numbers:
        wrong += [
            made.batch.targets + made.batch.targets.dtype.type(SIZE),
            made.batch.targets - made.batch.targets.dtype.type(SIZE),
        ]
    for targets in wrong:
        with pytest.raises(ValueError, match="must be"):
            made.task.check(targets)
