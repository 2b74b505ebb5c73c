"""Digits and their shards: the same on every machine, equal in size, disjoint, and as uneven as alpha says."""

import hashlib
import json
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zowarmup.common.exact.directions import permutation, words
from zowarmup.data import DataError, Dataset, divide, load
from zowarmup.data import shards as shards_module
from zowarmup.data.digits import everything, part
from zowarmup.data.shards import shards

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "data.json").read_text())


def sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype="<i8").tobytes()).hexdigest()


def test_words_and_permutations_are_the_published_ones() -> None:
    assert words(7, 0, 3).tolist() == GOLDEN["words"]["seed 7, stream 0"]
    assert permutation(7, 3, 12).tolist() == GOLDEN["permutation"]["seed 7, stream 3, of 12"]
    assert sorted(permutation((1 << 64) - 1, (1 << 63) - 1, 1000)) == list(range(1000))


@pytest.mark.parametrize(("seed", "stream"), [(-1, 0), (1 << 64, 0), (0, -1), (0, 1 << 63)])
def test_keys_outside_their_range_are_refused(seed: int, stream: int) -> None:
    with pytest.raises(ValueError, match=r"seed|stream"):
        words(seed, stream, 1)


def test_the_digits_are_those_of_the_data_set() -> None:
    data = everything()
    assert data.inputs.dtype == np.uint8
    assert (data.inputs.shape, data.inputs.max(), data.classes) == ((1797, 1, 8, 8), 16, 10)
    assert np.bincount(data.targets).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert hashlib.sha256(data.inputs.tobytes()).hexdigest() == GOLDEN["digits"]["pixels"]


def test_train_and_test_share_nothing_and_are_fixed() -> None:
    train, test = load("digits:train"), load("digits:test")
    assert (len(train), len(test)) == (1437, 360)
    assert hashlib.sha256(train.inputs.tobytes()).hexdigest() == GOLDEN["digits"]["train"]
    assert hashlib.sha256(test.inputs.tobytes()).hexdigest() == GOLDEN["digits"]["test"]


def test_batches_are_float32_between_0_and_1() -> None:
    data = load("digits:test")
    batch = data.batch(np.array([5, 3])).inputs
    assert batch.dtype == np.float32
    assert (batch.shape, batch.flags.c_contiguous) == ((2, 1, 8, 8), True)
    np.testing.assert_array_equal(batch[1] * 16, data.inputs[3])


@pytest.mark.parametrize("spec", sorted(GOLDEN["shards"]))
def test_shards_are_the_published_ones(spec: str) -> None:
    clients, alpha, seed = spec.split(" ")
    parts = shards(part("train").targets, int(clients), Fraction(alpha), int(seed))
    assert sha256(np.concatenate(parts)) == GOLDEN["shards"][spec]


@pytest.mark.parametrize(("clients", "alpha"), [(1, "0.1"), (10, "0.1"), (10, "100"), (50, "0.001"), (1437, "1")])
def test_shards_are_equal_and_disjoint(clients: int, alpha: str) -> None:
    labels = part("train").targets
    parts = shards(labels, clients, Fraction(alpha), seed=3)
    assert [len(p) for p in parts] == [len(labels) // clients] * clients
    together = np.concatenate(parts)
    assert len(set(together.tolist())) == len(together)
    assert all((np.diff(p) > 0).all() for p in parts)


def test_a_small_alpha_gives_a_client_few_classes_and_a_large_one_all() -> None:
    labels = part("train").targets

    def effective(alpha: str) -> list[float]:
        """The inverse of the sum of squared shares: how many classes there seem to be."""
        shares = [np.bincount(labels[p], minlength=10) / len(p) for p in shards(labels, 10, Fraction(alpha), 0)]
        return [float(1 / (s**2).sum()) for s in shares]

    assert np.mean(effective("0.1")) < 5
    assert min(effective("1000")) > 8


def test_the_urn_draws_from_the_dirichlet_multinomial() -> None:
    """One client, two classes, alpha 1: every count from 0 to n is then equally likely (Polya's own case)."""
    labels = np.repeat(np.arange(2), 400)
    clients, each = 200, 4
    seen = np.zeros(each + 1)
    for seed in range(10):
        parts = shards(labels[: clients * each], clients, Fraction(1), seed)
        for p in parts[: clients // 2]:
            seen[int(labels[p].sum())] += 1
    # 1000 draws, 200 expected of each count. A class runs out in the last turns only, which is well within the margin.
    assert ((seen > 150) & (seen < 250)).all(), seen


def test_a_pick_is_exactly_in_proportion() -> None:
    """Every remainder below the total, once each: each index is picked as often as its weight says."""
    urn = [3, 0, 1, 6]
    picks = [shards_module._pick(urn, iter([word])) for word in range(10)]
    assert [picks.count(i) for i in range(4)] == urn
    top = (1 << 64) - 1  # in the incomplete last stretch of 2^64 / 10: drawn again
    assert shards_module._pick(urn, iter([top, 0])) == 0


def test_words_go_on_when_the_first_are_used_up() -> None:
    several = 2 * shards_module._WORDS + 1
    assert len(set(islice(shards_module._words(0), several))) == several


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("digits:0/10", "the shard must be 1 to 10"),
        ("digits:11/10", "the shard must be 1 to 10"),
        ("digits:1/0", "the number of shards must be 1 to 1437"),
        ("digits:1/1438", "the number of shards must be 1 to 1437"),
        ("digits:1/10,alpha=0", "alpha = '0': must be a decimal above 0"),
        ("digits:1/10,alpha=-1", "alpha = '-1': must be a decimal above 0"),
        ("digits:1/10,alpha=1e3", "alpha = '1e3': must be a decimal above 0"),
        ("digits:1/10,seed=x", "seed = 'x': must be a whole number from 0"),
        ("digits:1/10,size=8", "option size is not known: use alpha or seed or without"),
        ("digits:1/10,without=test", "without = 'test': must be validation, or left out"),
        ("digits:1/1300,without=validation", "the number of shards must be 1 to 1294"),
        ("digits:1/10,seed=1,seed=2", "option seed is given twice"),
        ("digits:1", "is not known: use digits:I/N"),
        ("digits:", "is not known: use digits:I/N"),
        ("digits:all", "is not known: use digits:I/N"),
        ("mnist:1/10", "folder:PATH"),
        ("", "npz:PATH"),
    ],
)
def test_a_wrong_spec_is_refused_in_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        load(spec)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_change_the_shard() -> None:
    plain = load("digits:2/10")
    assert np.array_equal(plain.targets, load("digits:2/10,alpha=0.10,seed=0").targets)
    assert not np.array_equal(plain.targets, load("digits:2/10,seed=1").targets)
    assert not np.array_equal(plain.targets, load("digits:2/10,alpha=10").targets)


def test_the_validation_set_is_a_tenth_of_what_trains_and_of_no_shard_without_it() -> None:
    def rows(data: Dataset) -> list[bytes]:
        return sorted(image.tobytes() + bytes([label]) for image, label in zip(data.inputs, data.targets, strict=True))

    validation = load("digits:validation")
    assert len(validation) == 143
    shards = [load(f"digits:{index}/2,without=validation") for index in (1, 2)]
    assert [len(shard) for shard in shards] == [647, 647]
    assert sorted([*rows(validation), *rows(shards[0]), *rows(shards[1])]) == rows(load("digits:train"))
    for own, divided in zip(shards, divide("digits,without=validation", 2, [0, 1]), strict=True):
        np.testing.assert_array_equal(own.inputs, divided.inputs)
