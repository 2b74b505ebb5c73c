"""CIFAR-10, CIFAR-100 and ImageNet32, from the files that their makers publish; nothing is downloaded.

PATH is the archive as it was downloaded, the folder that was unpacked from it, or a folder that holds either. Images
are bytes, normalised by each channel's mean and deviation over the training images.
"""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.data import pickles
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.labels import class_numbers
from zowarmup.data.memory import require_memory
from zowarmup.data.opening import opened

SIDE = 32
_BYTE = 255.0


@dataclass(frozen=True, slots=True)
class Published:
    """`train` and `test`: the names of its files, of which an npz may take the place of a pickle; `labels` is the key in
    them, and `first` the label of the first class. `examples`: how many each of the two has. `archive` and `folder`: what is
    downloaded and what is in it. `class_names`: by label, where its page lists them."""

    name: str
    classes: int
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    first: int
    examples: tuple[int, int]
    folder: str
    archive: str
    source: str
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    class_names: tuple[str, ...] = ()


_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
SETS = {
    "cifar10": Published(
        name="CIFAR-10",
        classes=10,
        train=tuple(f"data_batch_{n}" for n in range(1, 6)),
        test=("test_batch",),
        labels="labels",
        first=0,
        examples=(50_000, 10_000),
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        source=_CIFAR,
        mean=(0.4914, 0.4822, 0.4465),
        deviation=(0.2470, 0.2435, 0.2616),
        class_names=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
    ),
    "cifar100": Published(
        name="CIFAR-100",
        classes=100,
        train=("train",),
        test=("test",),
        labels="fine_labels",
        first=0,
        examples=(50_000, 10_000),
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        source=_CIFAR,
        mean=(0.5071, 0.4865, 0.4409),
        deviation=(0.2673, 0.2564, 0.2762),
    ),
    "imagenet32": Published(
        name="ImageNet32",
        classes=1000,
        train=tuple(f"train_data_batch_{n}" for n in range(1, 11)),
        test=("val_data",),
        labels="labels",
        first=1,
        examples=(1_281_167, 50_000),
        folder="imagenet32",
        archive="",
        source="https://image-net.org/download-images (ImageNet32x32, for members)",
        mean=(0.4811, 0.4575, 0.4079),
        deviation=(0.2604, 0.2532, 0.2682),
    ),
}


def read(kind: str, path: Path, which: str) -> Dataset:
    """All of `which`, "train" or "test": inputs uint8 (n, 3, 32, 32)."""
    published = SETS[kind]
    batches, examples = len(getattr(published, which)), published.examples[which == "test"]
    held = 2 if batches > 1 else 1  # while the batches are joined they are there twice
    require_memory(f"{kind} ({which})", held * 3 * SIDE**2 * examples, "store this device's part of it as npz")
    found = [_batch(published, path, name) for name in getattr(published, which)]
    images = np.concatenate([images for images, _ in found]) if len(found) > 1 else found[0][0]
    labels = np.concatenate([labels for _, labels in found])
    return Dataset(
        images,
        labels,
        published.classes,
        _BYTE,
        published.mean,
        published.deviation,
        class_names=published.class_names,
    )


def _batch(published: Published, path: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with _opened(published, path, name) as (file, said):
        try:
            found = _from_npz(file) if said.endswith(".npz") else pickles.load(file)
            images, labels = np.asarray(found["data"]), np.asarray(found[published.labels])
        except KeyError as error:
            raise DataError(f"{said}: this is no batch of {published.name}: it lacks {error}") from None
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  (what unpacking a damaged file raises is anything)
            raise DataError(f"{said}: this file is damaged or no batch of {published.name} ({error})") from None
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3 * SIDE * SIDE or not len(images):
        raise DataError(f"{said}: its images are {images.dtype} {images.shape}: they must be uint8 (n, 3072)")
    return images.reshape(-1, 3, SIDE, SIDE), class_numbers(
        labels, len(images), f"{said}: its labels"
    ) - published.first


def _from_npz(file: IO[bytes]) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@contextmanager
def _opened(published: Published, path: Path, name: str) -> Iterator[tuple[IO[bytes], str]]:
    """A batch's file, and what to call it in a sentence."""
    for folder in (path, path / published.folder):
        for file in (folder / name, folder / f"{name}.npz"):
            if file.is_file():
                with opened(file) as stream:
                    yield stream, str(file)
                return
    archive = path if path.is_file() else path / published.archive
    if not published.archive or not archive.is_file():
        what = f"{published.archive} or {published.folder}" if published.archive else f"{name} or {name}.npz"
        raise DataError(
            f"{path}: there is no {what}: get {published.name} for Python from {published.source} and put it there"
        )
    try:
        with opened(archive) as packed, tarfile.open(fileobj=packed) as tar:
            member = tar.extractfile(f"{published.folder}/{name}")
            if member is None:
                raise KeyError(name)
            yield member, f"{archive}, {name}"
    except KeyError:
        raise DataError(f"{archive}: it does not hold {published.folder}/{name}: download it again") from None
    except (DataError, MemoryError):
        raise
    except Exception:  # noqa: BLE001  (what unpacking a damaged archive raises is anything)
        raise DataError(f"{archive}: this archive is damaged: download it again") from None
