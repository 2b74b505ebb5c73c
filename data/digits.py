"""The 1,797 handwritten 8x8 digits that come with the package (see ATTRIBUTION), split once and for all.

1,437 examples train and 360 test, by a seeded permutation that is the same on every machine.
"""

import functools
from fractions import Fraction
from pathlib import Path

import numpy as np

from zowarmup.common.exact.directions import permutation
from zowarmup.common.settings.data_card import numbers
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.shards import shards, validation_split

CLASSES = 10
TRAIN = 1437
_SPLIT_SEED, _SPLIT_STREAM = 0, 0
_WHITE = 16.0  # the highest pixel value


@functools.cache
def everything() -> Dataset:
    """All 1,797 digits in the published order: inputs uint8 (1797, 1, 8, 8)."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as archive:
        images, labels = archive["x"], archive["y"]
    return Dataset(images[:, np.newaxis], labels.astype(np.int64), CLASSES, _WHITE, class_names=numbers(CLASSES))


def part(name: str) -> Dataset:
    """`name` is "train" (1,437 examples) or "test" (360); or, of those that train, "validation" (143) or "rest"."""
    data = everything()
    order = permutation(_SPLIT_SEED, _SPLIT_STREAM, len(data))
    train, test = np.sort(order[:TRAIN]), np.sort(order[TRAIN:])
    if name in ("train", "test"):
        return data.select(train if name == "train" else test)
    rest, validation = validation_split(TRAIN)
    return data.select(train[validation if name == "validation" else rest])


def shard(index: int, clients: int, alpha: Fraction, seed: int, which: str = "train") -> Dataset:
    """The shard of one client, of those that a part of the digits is cut into.

    Args:
        index: The client's, 1 to `clients`.
        clients: How many shards there are, at most one for each example.
        alpha: Of the Dirichlet distribution of each shard's label mix, above 0.
        seed: Of the split, 0 to 2^64 - 1.
        which: The part, as `part` names it.

    Returns:
        Of the part's examples, their number // clients.

    Raises:
        DataError: `index` or `clients` is out of its range.
    """
    whole = part(which)
    if not 1 <= clients <= len(whole):
        raise DataError(f"digits:{index}/{clients}: the number of shards must be 1 to {len(whole)}")
    if not 1 <= index <= clients:
        raise DataError(f"digits:{index}/{clients}: the shard must be 1 to {clients}")
    return whole.select(shards(whole.targets, clients, alpha, seed)[index - 1])
