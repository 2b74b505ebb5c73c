"""Checks that all readers of data share, each with its sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zowarmup.data import DataError
from zowarmup.data.reading import class_numbers, opened, require_memory


def test_a_file_is_opened_and_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"here")
    with opened(tmp_path / "x") as file:
        assert file.read() == b"here"
    with pytest.raises(DataError, match="there is no such file"):
        opened(tmp_path / "y")
    with pytest.raises(DataError, match=r"cannot be read .*: check its path"):
        opened(tmp_path)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint64])
def test_labels_become_int64(kind: Any) -> None:
    labels = class_numbers(np.array([2, 0, 1], kind), 3, "y")
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        ([0, 1], "it must be one label for each of the 3 examples in x$"),
        ([[0], [1], [2]], "store y.ravel"),
        ([[1, 0], [0, 1], [0, 1]], "store y.argmax"),
        (["a", "b", "c"], "number the classes"),
        ([0.0, 1.0, np.nan], "holds a value that is not finite"),
        ([0.0, 1.0, 2.0], "store y.astype"),
        ([0, -1, 2], "leave examples without a class out"),
        ([0, 1, 1 << 40], "labels must be 0 to "),
    ],
)
def test_what_is_no_label_is_refused_with_what_to_store(y: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        class_numbers(np.array(y), 3, "y")


def test_more_than_the_memory_is_refused_with_both_sizes() -> None:
    require_memory("x.npz", 1, "give fewer")
    with pytest.raises(DataError, match=r"x\.npz: its examples take .* this device has .*: give fewer$"):
        require_memory("x.npz", 1 << 60, "give fewer")
