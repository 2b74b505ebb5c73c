"""CIFAR-10, CIFAR-100 and ImageNet32, from the files that their makers publish; nothing is downloaded.

PATH is the archive as it was downloaded, the folder that was unpacked from it, or a folder that holds either. Images
are bytes, normalised by each channel's mean and deviation over the training images.
"""

import gzip
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.untrusted import Bounded, TooLarge, require_ratio, require_size
from zowarmup.data import pickles
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.npz import NpzArchive
from zowarmup.data.reading import class_numbers, opened, require_memory

SIDE = 32
_BYTE = 255.0
# An image's, with its label and the name of its file, as the longest pickle says them: bytes as text in UTF-8.
_MOST_BYTES_EACH = 2 * 3 * SIDE**2 + 1024
_MOST_MEMBERS = 1000
_MOST_HEADER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Published:
    """A published data set: its files and what they hold.

    Args:
        name: For sentences.
        classes: How many there are.
        train: Names of the files with the training examples; an npz may take the place of a pickle.
        test: Names of the files with the test examples.
        labels: The key of the labels in them.
        first: The label of the first class.
        examples: How many examples `train` and `test` have.
        folder: Where the files are in the archive.
        archive: What is downloaded; empty where there is no archive.
        source: The page to get it from.
        mean: The mean of each channel over the training images, after division by 255.
        deviation: The standard deviation, likewise.
        class_names: By label, where the page lists them.
    """

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


def is_at(kind: str, path: Path) -> bool:
    """Whether a path looks like a published data set with an archive; whether all of it is there is for `read` to find out.

    Args:
        kind: A key of SETS.
        path: Anything.
    """
    published = SETS[kind]
    names = (published.folder, published.archive, published.train[0], f"{published.train[0]}.npz")
    return (path.is_file() and path.suffix in (".gz", ".tgz", ".tar")) or any((path / name).exists() for name in names)


def read(kind: str, path: Path, which: str) -> Dataset:
    """Read one part of a published data set.

    Args:
        kind: A key of SETS.
        path: The archive, the folder unpacked from it, or a folder that holds either.
        which: "train" or "test".

    Returns:
        All of it: inputs uint8 (n, 3, 32, 32).

    Raises:
        DataError: The files are not there, damaged or something else, or do not fit into this device's memory.
    """
    published = SETS[kind]
    batches, examples = len(getattr(published, which)), published.examples[which == "test"]
    held = 2 if batches > 1 else 1  # while the batches are joined they are there twice
    require_memory(f"{kind} ({which})", held * 3 * SIDE**2 * examples, "store this device's part of it as npz")
    found = [_batch(published, path, name, examples) for name in getattr(published, which)]
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


def _batch(published: Published, path: Path, name: str, examples: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    wanted, most_bytes = ("data", published.labels), _MOST_BYTES_EACH * examples
    with _opened(published, path, name, most_bytes) as (file, said):
        try:
            found = pickles.load(file, wanted) if isinstance(file, Bounded) else _from_npz(Path(said), file, wanted)
            images, labels = found["data"], found[published.labels]
        except KeyError as error:
            raise DataError(f"{said}: this is no batch of {published.name}: it lacks {error}") from None
        except MemoryError:
            raise
        except TooLarge as error:
            raise DataError(str(error)) from None
        except Exception as error:  # noqa: BLE001  (what unpacking a damaged file raises is anything)
            raise DataError(f"{said}: this file is damaged or no batch of {published.name} ({error})") from None
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3 * SIDE * SIDE or not len(images):
        raise DataError(f"{said}: its images are {images.dtype} {images.shape}: they must be uint8 (n, 3072)")
    return images.reshape(-1, 3, SIDE, SIDE), class_numbers(
        labels, len(images), f"{said}: its labels"
    ) - published.first


def _from_npz(path: Path, file: IO[bytes], wanted: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    archive = NpzArchive(path, file)
    members = {name: archive.member(name) for name in wanted if name in archive.names}
    for member in members.values():
        require_memory(str(archive.path), member.nbytes, "store this device's part of it alone")
    return {name: member.read() for name, member in members.items()}


@contextmanager
def _opened(published: Published, path: Path, name: str, most_bytes: int) -> Iterator[tuple[Bounded | IO[bytes], str]]:
    """A batch's file, a pickle that is open or an npz, and what to call it in a sentence."""
    remedy = f"get {published.name} for Python from {published.source} again"
    for folder in (path, path / published.folder):
        if (file := folder / name).is_file():
            with opened(file) as stream:
                size = file.stat().st_size
                require_size(str(file), size, most_bytes, remedy)
                yield Bounded(stream, size, str(file), remedy), str(file)
            return
        if (file := folder / f"{name}.npz").is_file():
            with opened(file) as stream:
                yield stream, str(file)
            return
    archive = path if path.is_file() else path / published.archive
    if not published.archive or not archive.is_file():
        what = f"{published.archive} or {published.folder}" if published.archive else f"{name} or {name}.npz"
        raise DataError(
            f"{path}: there is no {what}: get {published.name} for Python from {published.source} and put it there"
        )
    with opened(archive) as packed:
        yield _member(packed, archive, f"{published.folder}/{name}", most_bytes), f"{archive}, {name}"


def _member(file: IO[bytes], archive: Path, name: str, most_bytes: int) -> Bounded:
    """A file of an archive, which is tar, compressed by gzip or not."""
    remedy, size = "download it again", archive.stat().st_size
    try:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        unpacked: Any = gzip.GzipFile(fileobj=file) if packed else file
        stream = Bounded(unpacked, _MOST_HEADER_BYTES, str(archive), remedy)
        tar = tarfile.open(fileobj=stream, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
        for place, member in enumerate(tar):
            if place >= _MOST_MEMBERS:
                raise DataError(f"{archive}: it has more than {_MOST_MEMBERS} files: {remedy}")
            if packed:
                require_ratio(str(archive), member.offset_data + member.size, size, "unpack it, and name the folder")
            if member.name == name and member.isreg():
                require_size(f"{archive}, {name}", member.size, most_bytes, remedy)
                stream.most_bytes += member.size
                return Bounded(tar.extractfile(member), member.size, f"{archive}, {name}", remedy)
    except TooLarge as error:
        raise DataError(str(error)) from None
    except (DataError, MemoryError):
        raise
    except Exception:  # noqa: BLE001  (what unpacking a damaged archive raises is anything)
        raise DataError(f"{archive}: this archive is damaged: download it again") from None
    raise DataError(f"{archive}: it does not hold {name}: download it again")
