"""Splits of a training set, the same on every machine: shards with Dirichlet(alpha) label mixes, and a validation set.

The usual recipe draws each client's label mix from a Dirichlet distribution through gamma variates, whose last bits
depend on libm. A Polya urn needs none: a client that has n_c examples of class c so far draws its next label with
probability proportional to alpha + n_c, and the labels it ends up with are distributed exactly as labels drawn from
a mix that is itself drawn from Dirichlet(alpha, ..., alpha) (Blackwell and MacQueen, 1973). With alpha = p/q the
weights are the integers p + q n_c, and the draw is a rejection from raw Philox words: exact throughout.

The examples are finite, so a class whose pool is used up drops out of the urn. The clients therefore draw in turn,
one example each, so that they all meet the shortage alike and the last is not left with the scraps.

A tenth of the training examples validates, by a seeded permutation, so what is tuned on it never sees the test set, and
shards that are cut `without=validation` share nothing with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.directions import permutation, words
from zowarmup.data.dataset import DataError, Dataset

_POOLS, _DRAWS = 0, 1  # streams of the seed
_WORDS = 4096  # raw words fetched at a time


def shards(labels: NDArray[np.int64], clients: int, alpha: Fraction, seed: int) -> list[NDArray[np.int64]]:
    """Split a training set among clients, with Dirichlet(alpha) label mixes.

    Args:
        labels: Int64 (n,), from 0.
        clients: How many shards, 1 to n.
        alpha: p/q above 0, with p + q n below 2^53.
        seed: 0 to 2^64 - 1.

    Returns:
        For each client the sorted indices of its n // clients examples, int64; no example is in two shards.

    Raises:
        ValueError: There are more clients than examples, or `alpha` is out of its range.
    """
    each = len(labels) // clients
    if each < 1:
        raise ValueError(f"{clients} clients cannot share {len(labels)} examples")
    p, q = alpha.as_integer_ratio()
    if p <= 0 or p + q * len(labels) >= 1 << 53:
        raise ValueError(f"alpha = {alpha}: must be above 0, with fewer digits")
    order = permutation(seed, _POOLS, len(labels))
    pools = [order[labels[order] == c].tolist() for c in range(int(labels.max()) + 1)]
    weights = [[p] * len(pools) for _ in range(clients)]
    taken: list[list[int]] = [[] for _ in range(clients)]
    draws = _words(seed)
    for _ in range(each):
        for client in range(clients):
            urn = [w if pool else 0 for w, pool in zip(weights[client], pools, strict=True)]
            label = _pick(urn, draws)
            taken[client].append(pools[label].pop())
            weights[client][label] += q
    return [np.array(sorted(indices), dtype=np.int64) for indices in taken]


def _pick(urn: list[int], draws: Iterator[int]) -> int:
    """An index with probability exactly in proportion to its integer weight."""
    total = sum(urn)
    fair = (1 << 64) // total * total  # words from here on would favour the small remainders
    word = next(w for w in draws if w < fair) % total
    for index, weight in enumerate(urn):
        if word < weight:
            return index
        word -= weight
    raise AssertionError("unreachable: the word is below the total")


def _words(seed: int) -> Iterator[int]:
    stream = _DRAWS
    while True:
        yield from words(seed, stream, _WORDS).tolist()
        stream += 1


def cut(whole: Dataset, clients: int, wanted: Sequence[int], alpha: Fraction, seed: int, source: str) -> list[Dataset]:
    """Cut a data set into the shards of many clients, equal in size.

    Args:
        whole: The data set.
        clients: How many shards it is cut into, 1 to its number of examples.
        wanted: Which of them to give, from 0.
        alpha: Of the Dirichlet distribution of each shard's label mix. Targets that are numbers are dealt out evenly.
        seed: Of the split.
        source: What to call the data set in a sentence.

    Returns:
        The wanted shards: views of one array that holds them one after the other.

    Raises:
        DataError: There are too few examples for so many clients.
    """
    if not 1 <= clients <= len(whole):
        raise DataError(f"{source} has {len(whole)} examples: it can be shared by 1 to {len(whole)} clients")
    mixed = whole.targets if whole.classes else np.zeros(len(whole), np.int64)
    every = shards(mixed, clients, alpha, seed)
    whole = whole.select(np.concatenate([every[index] for index in wanted]))
    length = len(every[0])
    return [
        replace(whole, inputs=whole.inputs[at : at + length], targets=whole.targets[at : at + length])
        for at in range(0, len(whole), length)
    ]


VALIDATION_SHARE = 10
_SPLIT_SEED, _SPLIT_STREAM = 0, 1


def validation_split(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of `count` training examples the indices that train and those that validate, each ascending."""
    order = permutation(_SPLIT_SEED, _SPLIT_STREAM, count)
    held = count // VALIDATION_SHARE
    return np.sort(order[held:]), np.sort(order[:held])
