"""Members of an archive: what is known of one before it is read. What an archive may hold is in test_files."""

from pathlib import Path

import numpy as np
import pytest

from zowarmup.data import DataError
from zowarmup.data.npz import read

LABELS = np.array([0, 1, 1])


@pytest.mark.parametrize("compressed", [False, True])
def test_compressed_or_not_it_holds_the_same(tmp_path: Path, compressed: bool) -> None:
    x = np.arange(3 * 4, dtype=np.float32).reshape(3, 4)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "x.npz", x=x, y=LABELS)
    data = read(tmp_path / "x.npz")
    np.testing.assert_array_equal(data.inputs, x)
    np.testing.assert_array_equal(data.targets, LABELS)


def test_a_member_that_is_not_there_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 4), np.float32))
    with pytest.raises(DataError, match=r"x\.npz.*\by\b"):
        read(tmp_path / "x.npz")
