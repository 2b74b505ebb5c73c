"""Causal language modelling as a task."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from zowarmup.common.tasks import task_class
from zowarmup.common.tasks.completion import Completion
from zowarmup.common.tasks.protocol import Batch

OUTPUTS = np.array([[6.0, 3.0], [4.0, 1.0], [0.0, 0.0]], np.float32)
BATCH = Batch(np.zeros((3, 4), np.int64), np.zeros((3, 1), np.float32))


def task() -> Completion:
    found = task_class("completion")(SimpleNamespace(classes=0, target_size=1))
    assert isinstance(found, Completion)
    return found


def test_each_example_counts_alike_in_the_loss_and_each_token_in_perplexity() -> None:
    assert task().losses(OUTPUTS, BATCH).tolist() == [2.0, 4.0, 0.0]
    assert task().evaluate(task().measure(OUTPUTS, BATCH), 3) == {"perplexity": pytest.approx(math.exp(10 / 4))}
    assert task().evaluate({"summed": 1e9, "tokens": 1.0}, 1)["perplexity"] < math.inf


def test_training_descends_the_same_loss() -> None:
    torch = pytest.importorskip("torch")
    outputs = torch.from_numpy(OUTPUTS)
    assert task().torch_loss(outputs, torch.zeros(3, 1), "mean").item() == pytest.approx(2)
    assert task().torch_loss(outputs, torch.zeros(3, 1), "sum").item() == pytest.approx(6)


def test_data_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="needs data with prompts and completions"):
        task_class("completion")(SimpleNamespace(classes=3, target_size=0))
    task().check(np.zeros((4, 1), np.float32))
    with pytest.raises(ValueError, match="the targets are int64"):
        task().check(np.zeros(4, np.int64))


def test_a_model_that_guesses_is_as_good_as_the_baseline() -> None:
    found = task().baseline(np.zeros((4, 1), np.float32))
    assert found.metric == pytest.approx(math.exp(found.loss))
    assert np.exp(task().predictions(OUTPUTS)).ravel().tolist() == pytest.approx([2.0, 4.0, 0.0], abs=1e-9)
