"""The base: written, mapped, refused; and read by the format's own library."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from zowarmup.common.models.base import BaseError, read_base, write_base

TENSORS: dict[str, Any] = {
    "scales": np.arange(3, dtype=np.float16),
    "embedding": np.arange(12, dtype=np.float32).reshape(3, 4),
    "packed": np.arange(5, dtype=np.uint8),
    "signed": np.arange(-2, 3, dtype=np.int8),
    "halved": np.array([0x3F80, 0xC020, 0x7F61], np.uint16),
}


def test_what_is_written_is_read_here_and_by_the_formats_own_library(tmp_path: Path) -> None:
    write_base(tmp_path / "base", TENSORS)
    ours, theirs = read_base(tmp_path / "base"), load_file(tmp_path / "base")
    assert set(ours) == set(theirs) == set(TENSORS)
    for name, values in TENSORS.items():
        assert ours[name].values.dtype == values.dtype
        assert np.array_equal(ours[name].values, values)
        assert (
            theirs[name].shape == values.shape and theirs[name].view(torch.uint8).numpy().tobytes() == values.tobytes()
        )
        assert not ours[name].values.flags.writeable
        assert ours[name].values.flags.aligned


def test_equal_tensors_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_base(tmp_path / name, TENSORS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_of_the_formats_own_library_is_read(tmp_path: Path) -> None:
    plain = {name: values for name, values in TENSORS.items() if name != "halved"}  # it knows no bfloat16 of NumPy's
    save_file(plain, tmp_path / "theirs", {"format": "pt"})
    assert all(np.array_equal(found.values, plain[name]) for name, found in read_base(tmp_path / "theirs").items())


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.0e38, 1e-40], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    header = json.dumps({"w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())
    found = read_base(tmp_path / "file")["w"]
    assert found.kind == "BF16"
    assert np.array_equal(found.widened().view(np.uint32), bits.astype(np.uint32) << 16)


def test_only_floating_point_numbers_are_widened(tmp_path: Path) -> None:
    write_base(tmp_path / "base", TENSORS)
    found = read_base(tmp_path / "base")
    assert found["scales"].widened().dtype == np.float32
    with pytest.raises(BaseError, match="no floating-point"):
        found["packed"].widened()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dtype": "F64"}, "elements of type"),
        ({"dtype": 4}, "elements of type"),
        ({"shape": [3, -1]}, "no shape"),
        ({"shape": [0]}, "an empty one"),
        ({"shape": [1] * 9}, "no shape"),
        ({"shape": 3}, "no shape"),
        ({"data_offsets": [0, 1 << 40]}, "beyond the end"),
        ({"data_offsets": [8, 0]}, "beyond the end"),
        ({"data_offsets": [0, 12, 13]}, "beyond the end"),
        ({"data_offsets": [0, 8]}, "its shape takes 12"),
    ],
)
def test_an_unsound_tensor_is_refused_by_its_name(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} | change
    header = json.dumps({"weird": entry}).encode()
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(header)) + header + bytes(12))
    with pytest.raises(BaseError, match=f"weird .*{why}"):
        read_base(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "does not begin"),
        (b"PK\3\4" + bytes(60), "does not begin"),
        (struct.pack("<Q", 1 << 50) + bytes(60), "does not begin"),
        (struct.pack("<Q", 4) + b"{]}}" + bytes(8), "not JSON"),
        (struct.pack("<Q", 40_000) + b"[" * 40_000, "not JSON"),
        (struct.pack("<Q", 2) + b"[]" + bytes(8), "not an object"),
        (struct.pack("<Q", 7) + b'{"a":1}' + bytes(8), "no description"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BaseError, match=why):
        read_base(tmp_path / "file")


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base", TENSORS)
    with pytest.raises(BaseError, match="more than 10"):
        read_base(tmp_path / "base", 10)


def test_what_a_base_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tensor w is float64"):
        write_base(tmp_path / "base", {"w": np.zeros(3)})
    assert not list(tmp_path.iterdir())
