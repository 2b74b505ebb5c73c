"""npz archives and folders of images: what they may hold, and one clear sentence where they hold something else."""

import builtins
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zowarmup.common.system import memory
from zowarmup.data import DataError, Dataset, divide, load

PIXELS = np.arange(4 * 6 * 5 * 3, dtype=np.uint16).reshape(4, 6, 5, 3).astype(np.uint8)
LABELS = np.array([0, 2, 1, 2])


def refused(spec: str) -> str:
    with pytest.raises(DataError) as caught:
        load(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(folder: Path, **arrays: Any) -> str:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_bytes_with_channels_last_are_turned_and_scaled(tmp_path: Path) -> None:
    data = load(saved(tmp_path, x=PIXELS, y=LABELS.astype(np.uint8)))
    assert (data.shape, data.classes, len(data)) == ((3, 6, 5), 3, 4)
    assert data.inputs.dtype == np.uint8
    batch = data.batch(np.array([3, 0])).inputs
    assert batch.flags.c_contiguous
    np.testing.assert_array_equal(batch[0], PIXELS[3].transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_rows_are_features(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    data = load(saved(tmp_path, x=x, y=LABELS))
    assert (data.shape, data.classes) == ((3,), 3)
    np.testing.assert_array_equal(data.batch(np.array([2, 0])).inputs, x[[2, 0]])


def test_sequences_are_meant_by_the_spec_and_become_channels_first(tmp_path: Path) -> None:
    x = np.arange(4 * 7 * 3, dtype=np.float32).reshape(4, 7, 3)
    spec = saved(tmp_path, x=x, y=LABELS)
    assert load(spec).shape == (1, 7, 3), "without it, these are grey images"
    data = load(f"{spec},kind=sequence")
    assert data.shape == (3, 7)
    np.testing.assert_array_equal(data.batch(np.array([1])).inputs, x[[1]].transpose(0, 2, 1))
    assert load(f"{saved(tmp_path, x=x[:, :, 0], y=LABELS)},kind=sequence").shape == (1, 7)


def test_wrong_sequences_are_refused(tmp_path: Path) -> None:
    spec = saved(tmp_path, x=PIXELS, y=LABELS)
    assert "it must be (n, length, channels) with kind=sequence" in refused(f"{spec},kind=sequence")
    assert "kind = 'rows': must be sequence, or left out for rows and images" in refused(f"{spec},kind=rows")
    assert "option size is not known: use kind" in refused(f"{spec},size=3")


def small_device(folder: Path, monkeypatch: pytest.MonkeyPatch, kilobytes: int) -> None:
    (folder / "proc").mkdir()
    (folder / "proc" / "meminfo").write_text(f"MemAvailable: {kilobytes} kB\n")
    monkeypatch.setattr(memory, "ROOT", folder)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_archive_larger_than_memory_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    x = np.asarray(np.random.default_rng(0).random((4, 9, 5, 3), np.float32), order=order)  # type: ignore[call-overload]
    spec = saved(tmp_path, x=x, y=LABELS)
    read = load(spec)
    assert not isinstance(read.inputs.base, np.memmap)
    small_device(tmp_path, monkeypatch, 1)
    mapped = load(spec)
    base: Any = mapped.inputs
    while not isinstance(base, np.memmap):
        assert base is not None, "no array on the way is a mapping"
        base = base.base
    np.testing.assert_array_equal(mapped.inputs, read.inputs)
    assert mapped.batch(np.array([3, 1])).inputs.tobytes() == read.batch(np.array([3, 1])).inputs.tobytes()


def test_a_compressed_archive_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "data.npz", x=np.zeros((4, 500, 500), np.float32), y=LABELS)
    small_device(tmp_path, monkeypatch, 2000)
    said = refused(f"npz:{tmp_path}/data.npz")
    assert (
        "its examples take 4 MB of memory and this device has 2.05 MB (available memory): save it with np.sav" in said
    )


def test_what_claims_to_be_larger_than_any_memory_is_refused(tmp_path: Path) -> None:
    """A header may say anything."""
    path = Path(saved(tmp_path, x=PIXELS, y=LABELS).partition(":")[2])
    header = np.lib.format.header_data_from_array_1_0(PIXELS) | {"shape": (1 << 60, 6, 5, 3)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(path, "a") as archive, archive.open("y.npy", "w") as member:
        np.lib.format.write_array(member, LABELS)
    assert "this file is damaged" in refused(f"npz:{path}")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "this file is damaged" in refused(f"npz:{path}")


@pytest.mark.parametrize(
    ("shape", "example"),
    [((4, 6, 5), (1, 6, 5)), ((4, 3, 6, 5), (3, 6, 5)), ((4, 1, 6, 3), (1, 6, 3)), ((4, 6, 5, 1), (1, 6, 5))],
)
def test_axes(tmp_path: Path, shape: tuple[int, ...], example: tuple[int, ...]) -> None:
    assert load(saved(tmp_path, x=np.zeros(shape, np.float32), y=LABELS)).shape == example


@pytest.mark.parametrize("y", [LABELS + 0.25, np.arange(8).reshape(4, 2) / 3])
def test_targets_may_be_numbers(tmp_path: Path, y: Any) -> None:
    data = load(saved(tmp_path, x=PIXELS, y=y))
    assert (data.classes, data.target_size) == (0, y.size // 4)
    np.testing.assert_array_equal(data.targets, y.reshape(4, -1).astype(np.float32))
    np.testing.assert_array_equal(data.batch(np.array([2, 0])).targets, data.targets[[2, 0]])
    np.testing.assert_array_equal(data.select(np.array([3])).targets, data.targets[[3]])
    parts = divide(saved(tmp_path, x=PIXELS, y=y), 2, [0, 1])
    assert sorted(float(part.targets[at, 0]) for part in parts for at in range(2)) == sorted(
        data.targets[:, 0].tolist()
    )


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    x = np.linspace(-3, 3, 4 * 4, dtype=np.float32).reshape(4, 1, 2, 2)
    np.testing.assert_array_equal(load(saved(tmp_path, x=x, y=LABELS)).batch(np.arange(4)).inputs, x)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": PIXELS.astype(np.float64), "y": LABELS}, "x is float64: store it as uint8"),
        ({"x": PIXELS[:, 0, 0, 0], "y": LABELS}, "x has shape (4,): it must be (n, features), (n, H, W), (n, C, H, W)"),
        ({"x": PIXELS[None], "y": LABELS}, "(n, H, W, C); sequences need ,kind=sequence"),
        ({"x": PIXELS[:, 0, 0, :0], "y": LABELS}, "x has shape (4, 0)"),
        ({"x": PIXELS[:0], "y": LABELS[:0]}, "x has shape (0, 6, 5, 3)"),
        ({"x": PIXELS, "y": LABELS[:3]}, "one label for each of the 4 examples"),
        ({"x": PIXELS, "y": LABELS.astype(np.float32)}, "labels must be integers from 0"),
        ({"x": PIXELS, "y": LABELS - 1}, "y goes from -1 to 1: labels must be 0 to"),
        ({"x": PIXELS, "y": LABELS * 100_000}, "y goes from 0 to 200000"),
        ({"x": PIXELS, "y": LABELS[:, np.newaxis]}, "store y.ravel()"),
        ({"x": PIXELS, "y": np.eye(4)}, "store y.argmax(axis=1)"),
        ({"x": PIXELS, "y": LABELS.astype(float)}, "y is float64: labels must be integers from 0; store y.astype(int)"),
        ({"x": PIXELS, "y": np.array([0, 1, np.nan, 2])}, "y holds a value that is not finite in 32 bits"),
        ({"x": PIXELS, "y": np.array([0, 1, np.inf, 2])}, "a value that is not finite: labels must be integers from 0"),
        ({"x": PIXELS, "y": np.array([0, 1, 0.5, 1e300])}, "y holds a value that is not finite in 32 bits"),
        ({"x": PIXELS, "y": LABELS > 0}, "y is bool: labels must be integers from 0; store y.astype(int)"),
        ({"x": PIXELS, "y": np.array(["cat", "dog", "cat", "dog"])}, "holds 'cat': labels must be integers from 0"),
        ({"x": PIXELS, "y": LABELS - 1}, "leave examples without a class out"),
        ({"x": PIXELS, "y": LABELS.astype(np.uint64) + 2**63}, "labels must be 0 to 65535"),
        ({"x": PIXELS, "y": np.float64(1)}, "y has shape ()"),
        ({"x": np.full((4, 2, 2), np.inf, np.float32), "y": LABELS}, "a value that is not finite"),
        ({"x": PIXELS}, "there is no array 'y' (found: x)"),
        ({"images": PIXELS, "y": LABELS}, "there is no array 'x' (found: images, y)"),
        ({"x": np.full((4, 2, 2), np.nan, np.float32), "y": LABELS}, "a value that is not finite"),
        ({"x": np.array([{}] * 4), "y": LABELS}, "is no plain array"),
    ],
)
def test_a_wrong_archive_is_refused(tmp_path: Path, arrays: Mapping[str, Any], sentence: str) -> None:
    assert sentence in refused(saved(tmp_path, **arrays))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    assert "there is no such file" in refused(f"npz:{tmp_path}/gone.npz")
    assert "cannot be read (Is a directory)" in refused(f"npz:{tmp_path}")
    np.save(tmp_path / "one.npy", PIXELS)
    assert "a single array" in refused(f"npz:{tmp_path}/one.npy")
    (tmp_path / "text.npz").write_text("hello")
    assert "not an npz file" in refused(f"npz:{tmp_path}/text.npz")
    whole = Path(saved(tmp_path, x=PIXELS, y=LABELS).partition(":")[2])
    whole.write_bytes(whole.read_bytes()[:200])
    assert "is damaged" in refused(f"npz:{whole}")


def draw(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (5, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    draw(tmp_path / "dog" / "b.png", (0, 0, 255))
    draw(tmp_path / "cat" / "a.png", (255, 0, 0))
    draw(tmp_path / "cat" / "c.jpg", (9, 9, 9))
    (tmp_path / "cat" / ".hidden").write_text("not an image")
    (tmp_path / "readme.txt").write_text("not a class")
    return tmp_path


def test_class_folders_are_numbered_by_name(animals: Path) -> None:
    data = load(f"folder:{animals}")
    assert (data.shape, data.classes, data.targets.tolist()) == ((3, 4, 5), 2, [0, 0, 1])
    assert data.batch(np.array([2])).inputs[0, :, 0, 0].tolist() == [0, 0, 1]


def test_a_class_without_images_keeps_its_number(animals: Path) -> None:
    (animals / "bird").mkdir()
    data = load(f"folder:{animals}")
    assert (data.classes, data.targets.tolist()) == (3, [1, 1, 2])


def test_images_are_resized_and_made_grey_when_asked(animals: Path) -> None:
    draw(animals / "dog" / "large.png", (1, 2, 3), (40, 40))
    assert "dog/large.png: is 40 x 40 but the first image is 5 x 4: add ,size=N" in refused(f"folder:{animals}")
    assert load(f"folder:{animals},size=8").shape == (3, 8, 8)
    assert load(f"folder:{animals},size=8,channels=1").shape == (1, 8, 8)


def test_a_path_may_hold_a_comma(animals: Path) -> None:
    draw(animals / "a,b" / "c,size=9" / "one" / "i.png", (1, 1, 1))
    assert load(f"folder:{animals}/a,b/c,size=9/,size=3").shape == (3, 3, 3)


def test_wrong_folders_are_refused(animals: Path) -> None:
    assert "there is no such folder" in refused(f"folder:{animals}/gone")
    assert "holds no class folders" in refused(f"folder:{animals}/cat")
    assert "size = '0': must be a whole number from 1" in refused(f"folder:{animals},size=0")
    assert "channels must be 1 (grey) or 3 (RGB)" in refused(f"folder:{animals},channels=2")
    assert "option alpha is not known: use size or channels" in refused(f"folder:{animals},alpha=1")
    (animals / "dog" / "b.png").write_bytes(b"\x89PNG broken")
    assert "dog/b.png: this image cannot be read" in refused(f"folder:{animals}")


def test_folders_in_a_class_folder_are_no_images(animals: Path) -> None:
    draw(animals / "owl" / "young" / "a.png", (1, 1, 1))
    assert "owl: holds folders and no images" in refused(f"folder:{animals}")


def test_what_a_class_folder_holds_beside_images_is_refused(animals: Path) -> None:
    os.mkfifo(animals / "dog" / "pipe")
    assert "dog/pipe: this is no file: move it out of the class folder" in refused(f"folder:{animals}")
    (animals / "dog" / "pipe").unlink()
    draw(animals / "dog" / "young" / "a.png", (1, 1, 1))
    assert "dog/young: this is a folder in a class folder, and its images would be left out" in refused(
        f"folder:{animals}"
    )


@pytest.mark.parametrize("kind", ["npz", "csv", "folder", "cifar10"])
def test_paths_that_no_reader_can_use_are_refused(tmp_path: Path, kind: str) -> None:
    after = {"csv": ",label=y", "cifar10": ":test"}.get(kind, "")
    assert "there is no such home folder here" in refused(f"{kind}:~nobody-of-this-name/x{after}")
    assert "cannot be read (File name too long): check its path" in refused(f"{kind}:{tmp_path}/{'x' * 300}{after}")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert refused(f"{kind}:{loop}/x{after}")
    assert refused(f"{kind}:{tmp_path}/\0{after}")


def test_only_empty_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    assert "no class folder holds an image" in refused(f"folder:{tmp_path}")


def test_without_pillow_the_extra_is_named(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'zowarmup[images]'" in refused(f"folder:{animals}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((PIXELS.astype(np.int16), LABELS, 3), "must be uint8, float32, tokens"),
        ((PIXELS, LABELS[:2], 3), "one int64 for each of the 4 inputs"),
        ((PIXELS[:0], LABELS[:0], 3), "there are no examples"),
        ((PIXELS, LABELS, 2), "labels go from 0 to 2: must be 0 to 1"),
        ((PIXELS, LABELS, 3, 0.0), "scale is 0.0: must be above 0"),
    ],
)
def test_a_dataset_checks_itself(arguments: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Dataset(*arguments)
