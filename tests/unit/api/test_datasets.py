"""Whatever has examples becomes a data set, or a sentence says what is missing."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, Subset, TensorDataset

from zowarmup.api.datasets import dataset, divide
from zowarmup.data import DataError, load

X, Y = np.arange(24, dtype=np.float32).reshape(6, 4), np.array([0, 1, 2, 0, 1, 2])


class Batched:
    """The least that a data set of one's own has."""

    labels = Y
    class_names = ("a", "b", "c", "d")

    def __len__(self) -> int:
        return len(X)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(X[indices], np.float64)


class Feature:
    def __init__(self, names: list[str] | None = None) -> None:
        if names:
            self.names = names


class Columns:
    """What a Dataset of Hugging Face's has, of which a reader here knows no more."""

    def __init__(self, names: list[str] | None = None, **columns: list[Any]) -> None:
        self._columns = columns
        self.column_names = list(columns)
        self.features = {name: Feature(names if name == "label" else None) for name in columns}

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, name: str) -> list[Any]:
        return self._columns[name]


SAME = {
    "arrays": (X, Y),
    "lists": (X.tolist(), Y.tolist()),
    "x and y": {"x": X, "y": Y},
    "tensors": (torch.from_numpy(X), torch.from_numpy(Y)),
    "torch": TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    "a part of torch's": Subset(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), range(6)),
    "examples": [(x, int(y)) for x, y in zip(X, Y, strict=True)],
    "labels and batch": Batched(),
    "columns": Columns(label=Y.tolist(), pixels=X.tolist()),
}


@pytest.mark.parametrize("kind", SAME)
def test_each_kind_of_data_gives_the_same_examples(kind: str) -> None:
    made = dataset(SAME[kind])
    np.testing.assert_array_equal(made.inputs, X)
    assert made.inputs.dtype == np.float32
    np.testing.assert_array_equal(made.targets, Y)
    assert made.class_names == (Batched.class_names if kind == "labels and batch" else ())
    assert dataset(made) is made


def test_names_of_classes_come_with_the_data_or_are_given() -> None:
    made = dataset((np.zeros((3, 8, 8, 3), np.uint8), ["cat", "dog", "cat"]))
    assert (made.class_names, made.targets.tolist(), made.shape, made.scale) == (
        ("cat", "dog"),
        [0, 1, 0],
        (3, 8, 8),
        255,
    )
    columns = Columns(["no", "yes", "perhaps"], label=[1, 0], image=[np.zeros((4, 4), np.uint8)] * 2)
    assert dataset(columns).class_names == ("no", "yes", "perhaps")
    named = dataset((X, Y), class_names=["a", "b", "c", "d"])
    assert (named.classes, named.class_names[3]) == (4, "d")
    with pytest.raises(DataError, match="class_names has 2 names, and there are 3 classes"):
        dataset((X, Y), class_names=["a", "b"])


TEXTS = {
    "texts": (["good", "bad", "fine"], ["yes", "no", "yes"]),
    "examples": [("good", "yes"), ("bad", "no"), ("fine", "yes")],
    "columns": Columns(["no", "yes"], text=["good", "bad", "fine"], label=[1, 0, 1]),
    "GLUE's columns": Columns(["no", "yes"], sentence=["good", "bad", "fine"], label=[1, 0, 1], idx=[0, 1, 2]),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_are_examples_too(kind: str) -> None:
    made = dataset(TEXTS[kind])
    assert made.is_text and made.class_names == ("no", "yes") and made.targets.tolist() == [1, 0, 1]
    assert made.inputs[0] == ("good",)


def test_pairs_of_texts_and_completions() -> None:
    pairs = dataset(Columns(text_a=["a", "b"], text_b=["c", "d"], label=[0, 1]))
    assert pairs.inputs[1] == ("b", "d") and pairs.classes == 2
    assert dataset(([("a", "c"), ("b", "d")], [0, 1])).inputs[1] == ("b", "d")
    completions = dataset(Columns(prompt=["a", "b"], completion=["c", "d"]))
    assert completions.classes == 0 and completions.inputs[0] == ("a", "c")


def test_targets_may_be_numbers() -> None:
    made = dataset((X, X[:, :2] + 0.5))
    assert (made.classes, made.target_size) == (0, 2)


class Lazy(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return iter([])


class Labelled:
    labels = Y

    def __len__(self) -> int:
        return len(Y)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (Lazy(), "the data: a Lazy has no `__len__`: give a spec"),
        (Labelled(), "the data: a Labelled has no `batch`: give"),
        (7, "the data: a int has no `__len__`"),
        ([], "the data: there are no examples"),
        ((X, Y[:3]), "there are 6 inputs and 3 labels"),
        ([X[0], X[1]], "example 1 is a ndarray: must be .input, label."),
        ([(np.zeros(2), 0), (np.zeros(3), 1)], r"inputs have the shapes \(2,\) and \(3,\)"),
        (Columns(label=[0, 1], a=[[1.0]] * 2, b=[[1.0]] * 2), "there are the columns a, b beside label: leave one"),
        (Columns(a=[1, 2]), "no column is called label or labels or y or target .there are a.: rename one"),
        ((X, Y - 1), "y goes from -1 to 1: labels must be 0 to"),
        ("digits:nothing", "data 'digits:nothing' is not known"),
        ((["", "b"], [0, 1]), "example 1 has no text"),
    ],
)
def test_a_sentence_says_what_is_missing(data: object, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        dataset(data)


def test_shards_are_those_that_clients_load_by_name() -> None:
    for index, shard in enumerate(divide("digits", 7, alpha=0.5, seed=3), 1):
        other = load(f"digits:{index}/7,alpha=0.5,seed=3")
        np.testing.assert_array_equal(shard.inputs, other.inputs)
        np.testing.assert_array_equal(shard.targets, other.targets)
    same = divide(load("digits:train"), 7, alpha=0.5, seed=3)
    np.testing.assert_array_equal(same[6].inputs, other.inputs)
    assert [len(shard) for shard in divide("digits,alpha=100", 3)] == [479] * 3


@pytest.mark.parametrize(
    ("data", "clients", "alpha", "sentence"),
    [
        ("digits", 0, 0.1, "it can be shared by 1 to 1437 clients"),
        ((X, Y), 7, 0.1, "the data has 6 examples: it can be shared by 1 to 6 clients"),
        ((X, Y), 2, 0.0, "alpha = 0.0: must be above 0"),
        ("digits", 2, 1e-9, "alpha = 1e-09: must be a decimal with at most 6 places"),
        ("digits:test", 2, 0.1, "data 'digits:test,alpha=0.1,seed=0' cannot be shared out"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(data: object, clients: int, alpha: float, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        divide(data, clients, alpha=alpha)
