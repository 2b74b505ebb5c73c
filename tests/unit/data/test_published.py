"""CIFAR and ImageNet32 in small, in the formats that are published, and pickles that are none of them."""

import io
import os
import pickle
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zowarmup.common.system import memory
from zowarmup.common.untrusted import Bounded
from zowarmup.data import DataError, divide, load, pickles
from zowarmup.data.dataset import BORDER, augment
from zowarmup.data.published import is_at

EACH = 12


def images(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (EACH, 3072), dtype=np.uint8)


def labels(seed: int, classes: int, first: int = 0) -> list[int]:
    return [int(label) + first for label in np.random.default_rng(100 + seed).integers(0, classes, EACH)]


def cifar10(folder: Path, protocol: int = 2) -> Path:
    """As python 2 pickled them: protocol 2, keys and pixels as strings of bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        batch = {
            b"batch_label": name.encode(),
            b"labels": labels(seed, 10),
            b"data": images(seed),
            b"filenames": [b"leptodactylus_s_000004.png"] * EACH,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return folder


# A batch of two images that Python 2.7 and NumPy 1.7 would have written: str for text and pixels, numpy.core named.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
    b"U\x01b\x87Rq\x05(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff"
    b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x18\x00\x00" + bytes(range(256)) * 24 + b"tbU\x06labelsq\x08]q\t(K\x03"
    b"K\x09eu."
)


def unpickled(content: bytes) -> object:
    return pickles.load(Bounded(io.BytesIO(content), len(content), "it", "replace it"), ["data"])


def refused(spec: str, act: Callable[..., object] = load, *arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        act(spec, *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "claim",
    [
        b"r" + (1 << 30).to_bytes(4, "little"),  # LONG_BINPUT: a place in the memo
        b"\x96" + (1 << 34).to_bytes(8, "little"),  # BYTEARRAY8: 16 GB
        b"\x8e" + (1 << 34).to_bytes(8, "little"),  # BINBYTES8
        b"\x95" + (1 << 34).to_bytes(8, "little"),  # FRAME
    ],
)
def test_no_room_is_made_for_what_a_damaged_pickle_only_claims(claim: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"\w"):
            unpickled(b"\x80\x05}" + claim)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_set_that_does_not_fit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable: 100000 kB\n")
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    said = refused(f"cifar10:{tmp_path}:1/10")
    assert said.startswith(
        "cifar10 (train): its examples take 307 MB of memory and this device has 102 MB (available mem"
    )
    assert said.endswith("store this device's part of it as npz")
    assert "there is no cifar-10-python.tar.gz" in refused(f"cifar10:{tmp_path}:test"), "which fits, were it there"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar10_from_its_folder(tmp_path: Path, protocol: int) -> None:
    folder = cifar10(tmp_path / "cifar-10-batches-py", protocol)
    for place in (folder, tmp_path):
        data = load(f"cifar10:{place}:train")
        assert (len(data), data.shape, data.classes) == (5 * EACH, (3, 32, 32), 10)
        assert data.targets.tolist() == [label for seed in range(5) for label in labels(seed, 10)]
    np.testing.assert_array_equal(data.inputs[EACH], images(1)[0].reshape(3, 32, 32))
    test = load(f"cifar10:{folder}:test")
    red = (images(5)[2, 7].astype(np.float32) / np.float32(255) - np.float32(0.4914)) / np.float32(0.2470)
    assert test.batch(np.array([2])).inputs[0, 0, 0, 7] == red


def test_a_batch_as_python_2_wrote_it(tmp_path: Path) -> None:
    cifar10(tmp_path)
    (tmp_path / "test_batch").write_bytes(PYTHON_2)
    data = load(f"cifar10:{tmp_path}:test")
    assert data.targets.tolist() == [3, 9]
    assert data.inputs.reshape(-1)[:300].tolist() == [n % 256 for n in range(300)]


def test_cifar10_from_its_archive(tmp_path: Path) -> None:
    cifar10(tmp_path / "made" / "cifar-10-batches-py")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    for place in (tmp_path, tmp_path / "cifar-10-python.tar.gz"):
        assert len(load(f"cifar10:{place}:train")) == 5 * EACH
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not an archive")
    assert "this archive is damaged" in refused(f"cifar10:{tmp_path}:train")


def test_cifar100_has_its_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for seed, name in enumerate(["train", "test"]):
        batch = {"data": images(seed), "fine_labels": labels(seed, 100), "coarse_labels": labels(seed, 20)}
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    data = load(f"cifar100:{tmp_path}:test")
    assert data.targets.tolist() == labels(1, 100)
    assert data.classes == 100


@pytest.mark.parametrize("form", ["pickle", "npz"])
def test_imagenet32_counts_its_classes_from_one(tmp_path: Path, form: str) -> None:
    for seed, name in enumerate([*(f"train_data_batch_{n}" for n in range(1, 11)), "val_data"]):
        batch: dict[str, Any] = {"data": images(seed), "labels": labels(seed, 1000, 1)}
        if form == "npz":
            np.savez(tmp_path / name, **batch)
        else:
            (tmp_path / name).write_bytes(pickle.dumps({**batch, "mean": np.zeros(3072)}, 3))
    assert load(f"imagenet32:{tmp_path}:test").targets.tolist() == labels(10, 1000)
    assert len(load(f"imagenet32:{tmp_path}:train")) == 10 * EACH


def test_a_shard_is_the_same_whether_one_loads_it_or_a_fleet_divides_the_set(tmp_path: Path) -> None:
    cifar10(tmp_path)
    shared = divide(f"cifar10:{tmp_path},alpha=0.5,seed=2", 6, range(6))
    for index, shard in enumerate(shared, 1):
        own = load(f"cifar10:{tmp_path}:{index}/6,alpha=0.5,seed=2")
        np.testing.assert_array_equal(own.inputs, shard.inputs)
        np.testing.assert_array_equal(own.targets, shard.targets)
    assert sum(len(shard) for shard in shared) == 5 * EACH
    assert shared[0].inputs.base is shared[5].inputs.base, "views of one array"
    for index, shard in enumerate(divide("digits,alpha=0.3", 7, range(7)), 1):
        np.testing.assert_array_equal(load(f"digits:{index}/7,alpha=0.3").inputs, shard.inputs)
    (middle,) = divide("digits", 7, [3])
    np.testing.assert_array_equal(load("digits:4/7").targets, middle.targets)


def test_a_tenth_of_the_training_images_validates(tmp_path: Path) -> None:
    cifar10(tmp_path)
    validation, whole = load(f"cifar10:{tmp_path}:validation"), load(f"cifar10:{tmp_path}:train")
    rest = divide(f"cifar10:{tmp_path},without=validation,augment=crop-flip", 1, [0])[0]
    assert (len(validation), len(rest), rest.augmented) == (5 * EACH // 10, 5 * EACH - 5 * EACH // 10, True)
    together = sorted(image.tobytes() for image in (*validation.inputs, *rest.inputs))
    assert together == sorted(image.tobytes() for image in whole.inputs)
    own = load(f"cifar10:{tmp_path}:1/3,without=validation")
    np.testing.assert_array_equal(own.targets, divide(f"cifar10:{tmp_path},without=validation", 3, [0])[0].targets)


def test_wrong_specs_and_missing_files_are_one_sentence(tmp_path: Path) -> None:
    source = "https://www.cs.toronto.edu/~kriz/cifar.html"
    assert source in refused(f"cifar10:{tmp_path}:train")
    assert "train_data_batch_1 or train_data_batch_1.npz: get ImageNet32" in refused(f"imagenet32:{tmp_path}:train")
    cifar10(tmp_path)
    assert "say which of it" in refused(f"cifar10:{tmp_path}")
    assert "the shard must be 1 to 6" in refused(f"cifar10:{tmp_path}:7/6")
    assert "augment = 'all': must be crop-flip" in refused(f"cifar10:{tmp_path}:1/6,augment=all")
    assert "shared by 1 to 60 clients" in refused(f"cifar10:{tmp_path}", divide, 61, [0])
    assert "cannot be shared out" in refused("digits:1/3", divide, 3, [0])
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": images(0)}))
    assert "lacks 'labels'" in refused(f"cifar10:{tmp_path}:test")
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": images(0)[:, :9], "labels": labels(0, 10)}))
    assert "must be uint8 (n, 3072)" in refused(f"cifar10:{tmp_path}:test")


class Hostile:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.asked = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.asked


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_names_a_function_runs_nothing(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    content = pickle.dumps({"data": Hostile(os.mkdir, str(mark))}, protocol)
    with pytest.raises(ValueError, match="no pickle of arrays needs"):
        unpickled(content)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02K\x01.",
        pickle.dumps([1, 2]),
        pickle.dumps({1: 2}),
        pickle.dumps({("data",): 2}),
        pickle.dumps({"data": np.array([{}, []], dtype=object)}),
        pickle.dumps({"data": np.zeros(3, dtype=[("a", "u1"), ("b", "f4")])}),
        pickle.dumps({"data": np.zeros(3, dtype="U5")}),
        PYTHON_2[:-100],
        PYTHON_2.replace(b"K\x02M\x00\x0c", b"K\x03M\x00\x0c"),
        b"\x80\x02cbuiltins\neval\nU\x011\x85R.",
        b"\x80\x02c_codecs\nencode\nU\x01aU\x03zip\x86R.",
    ],
)
def test_what_is_no_dict_of_plain_arrays_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpickled(content)


def test_augmentation_crops_and_mirrors_and_follows_its_seed() -> None:
    given = np.random.default_rng(0).normal(size=(400, 2, 6, 5)).astype(np.float32)
    varied = augment(given, 3, 9)
    np.testing.assert_array_equal(varied, augment(given, 3, 9))
    assert not np.array_equal(varied, augment(given, 3, 10))
    framed = np.pad(given, ((0, 0), (0, 0), (BORDER, BORDER), (BORDER, BORDER)))
    seen = set()
    for before, after in zip(framed, varied, strict=True):
        places = [
            (down, right, mirrored)
            for down in range(2 * BORDER + 1)
            for right in range(2 * BORDER + 1)
            for mirrored in (False, True)
            if np.array_equal(before[:, down : down + 6, right : right + 5][:, :, :: -1 if mirrored else 1], after)
        ]
        assert places, "a crop of the image in its frame, mirrored or not"
        seen.update(places)
    assert len({down for down, _, _ in seen}) == len({right for _, right, _ in seen}) == 2 * BORDER + 1
    assert {mirrored for _, _, mirrored in seen} == {True, False}


def test_training_varies_an_augmented_dataset_and_no_other(tmp_path: Path) -> None:
    from zowarmup.client.work.training import VARIATIONS, _ForTraining

    cifar10(tmp_path)
    some = np.arange(5)
    for spec, varies in ((f"cifar10:{tmp_path}:1/3,augment=crop-flip", True), (f"cifar10:{tmp_path}:1/3", False)):
        data = load(spec)
        batches = _ForTraining(data, threading.Event(), 11)
        first, second = batches.batch(some).inputs, batches.batch(some).inputs
        plain = data.batch(some).inputs
        expected = [augment(plain, 11, VARIATIONS + n) if varies else plain for n in (1, 2)]
        np.testing.assert_array_equal([first, second], expected)
        assert np.array_equal(first, second) is not varies


def test_a_published_set_is_known_by_its_folder_its_archive_or_its_first_file(tmp_path: Path) -> None:
    assert not is_at("cifar10", tmp_path)
    folder = cifar10(tmp_path / "cifar-10-batches-py")
    (tmp_path / "other").mkdir()
    archive = tmp_path / "other" / "cifar-10-python.tar.gz"
    archive.touch()
    assert all(is_at("cifar10", path) for path in (tmp_path, folder, archive.parent, archive))
    assert not any(is_at("cifar10", path) for path in (tmp_path / "nothing", folder / "test_batch"))
