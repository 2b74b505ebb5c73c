"""A safetensors file that somebody names: what is in it, and what is refused before it is read."""

import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from zowarmup.server.setup.safetensors_file import Unreadable, opened


def test_tensors_are_read_by_name(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(save({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}))
    with opened(file) as tensors:
        assert list(tensors.keys()) == ["a"]
        assert tensors.get_tensor("a").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "."),
        (struct.pack("<Q", 1 << 40) + b"{", "the list of its tensors"),
        (struct.pack("<Q", 2) + b"[]", "."),
    ],
)
def test_what_cannot_be_used_is_one_kind_of_error(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "weights.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Unreadable, match=said), opened(file):
        pass


def test_a_tensor_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(save({"a": np.ones(1000, np.float32)})[:-100])
    with pytest.raises(Unreadable, match=r"."), opened(file):
        pass
