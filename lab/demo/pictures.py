"""The demo's own pictures: what a folder holds, and every client's part of it as a folder.

A folder has the published CIFAR-10, whose test pictures are held out, or a folder of images for each class, of each of which
a fifth is held out. Which pictures are taken and which are held out is the same at every seed; a seed decides who gets which.
Each becomes SIDE x SIDE in colour and is written as PNG by class, so that a client reads an ordinary `folder:` and
everybody can see what it has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.directions import permutation
from zowarmup.common.text import counted, listed
from zowarmup.data import DataError, image_file, images, published
from zowarmup.data.shards import shards

SIDE = 32
MOST_EACH, FEWEST_EACH, MOST_HELD_OUT = 2000, 10, 2000
"""Pictures: a client's, and those that every evaluation goes over."""
HELD_OUT = "held-out"
_OF = 5  # of so many pictures of a class one is held out
_SIZES_SEEN = 500
_CIFAR10 = published.SETS["cifar10"]
_SPLIT_SEED, _TRAINING, _TEST = 0, 2, 3  # and streams of it
_REMEDY = f"name one with a folder of images for each class, or with {_CIFAR10.name} for Python, which is at {_CIFAR10.source}"


@dataclass(frozen=True, eq=False, slots=True)
class Pool:
    """Pictures that are read one at a time. `labels`: int64 (n,). `pixels(index)`: uint8 (3, SIDE, SIDE)."""

    labels: NDArray[np.int64]
    pixels: Callable[[int], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: NDArray[np.int64]) -> "Pool":
        return Pool(self.labels[indices], lambda index: self.pixels(int(indices[index])))


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Pictures:
    """What was found. `name` for a sentence; `sizes`: in pixels, as the files have them; `class_names` by label."""

    name: str
    sizes: str
    class_names: tuple[str, ...]
    training: Pool
    held_out: Pool


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Shares:
    """What is used of it: a pool for each client, in the order of their shards, and the held-out one."""

    found: Pictures
    clients: tuple[Pool, ...]
    held_out: Pool

    @property
    def sentence(self) -> str:
        found = self.found
        total, each = len(found.training) + len(found.held_out), len(self.clients[0])
        return (
            f"found {found.name}: {total:,} pictures of {found.sizes}, {len(found.class_names)} classes "
            f"({listed(found.class_names)})\n"
            f"used as {SIDE} x {SIDE} in colour: {counted(len(self.clients), 'client')} with {each:,} each, of "
            f"{len(found.training):,}, and {len(self.held_out):,} held out, of {len(found.held_out):,}"
        )

    @property
    def data(self) -> str:
        return f"{sum(map(len, self.clients)):,} pictures of {self.found.name}"


def find(path: Path) -> Pictures:
    """What is in `path`. Raises DataError with a sentence that names the remedy."""
    if published.is_at("cifar10", path):
        training, test = (published.read("cifar10", path, which) for which in ("train", "test"))
        pools = [Pool(part.targets, part.inputs.__getitem__) for part in (training, test)]
        return Pictures(
            name=_CIFAR10.name,
            sizes=f"{SIDE} x {SIDE}",
            class_names=_CIFAR10.class_names,
            training=pools[0],
            held_out=pools[1],
        )
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder: {_REMEDY}")
    try:
        names, files, labels = images.listed(path)
    except DataError as error:
        raise DataError(f"{error}; or {_REMEDY}") from None
    counts = np.bincount(labels, minlength=len(names))
    if len(names) == 1:
        raise DataError(
            f"{path}: holds one class folder, {names[0]}: put the images of each class into a folder of its own"
        )
    if counts.min() < 2:
        few = path / names[int(counts.argmin())]
        raise DataError(f"{few}: holds {counted(int(counts.min()), 'image')}, and one must be held out: put in more")
    whole = Pool(labels, lambda index: _pixels(files[index]))
    order = permutation(_SPLIT_SEED, _TRAINING, len(files))
    by_class = [order[labels[order] == label] for label in range(len(names))]
    held = [max(1, len(members) // _OF) for members in by_class]
    return Pictures(
        name=path.resolve().name,
        sizes=_sizes(files),
        class_names=names,
        training=whole.select(np.concatenate([m[n:] for m, n in zip(by_class, held, strict=True)])),
        held_out=whole.select(np.concatenate([m[:n] for m, n in zip(by_class, held, strict=True)])),
    )


def share(found: Pictures, clients: int, alpha: float, seed: int) -> Shares:
    """Share pictures out, with Dirichlet(alpha) label mixes (`data.shards`).

    Args:
        found: All there are.
        clients: How many get a part, equal in size.
        alpha: Above 0.
        seed: Decides who gets which, 0 to 2^63 - 1.

    Raises:
        DataError: There are too few for so many clients.
    """
    each = min(MOST_EACH, len(found.training) // clients)
    if each < FEWEST_EACH:
        raise DataError(
            f"{found.name} has {len(found.training):,} pictures beside those held out, and {counted(clients, 'client')} need "
            f"{FEWEST_EACH} each: give more pictures, or fewer clients with --high and --low"
        )
    taken = found.training.select(permutation(_SPLIT_SEED, _TRAINING, len(found.training))[: clients * each])
    cut = shards(taken.labels, clients, Fraction(repr(alpha)), seed)
    seen = permutation(_SPLIT_SEED, _TEST, len(found.held_out))[:MOST_HELD_OUT]
    return Shares(found=found, clients=tuple(map(taken.select, cut)), held_out=found.held_out.select(seen))


def write(parts: Mapping[str, Pool], class_names: tuple[str, ...], folder: Path, check: Callable[[], None]) -> None:
    """Write each part into `folder` / its name / the picture's class. `check` is called before each picture, and may raise.
    Raises DataError where a picture cannot be read, and OSError."""
    from PIL import Image

    for name, pool in parts.items():
        for each in class_names:
            (folder / name / each).mkdir(parents=True)
        for index, label in enumerate(pool.labels):
            check()
            picture = Image.fromarray(pool.pixels(index).transpose(1, 2, 0))
            picture.save(folder / name / class_names[label] / f"{index:05}.png")


def _pixels(file: Path) -> NDArray[np.uint8]:
    pixels = image_file.read(file, image_file.Form(size=SIDE))
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * image_file.BYTE).astype(np.uint8)


def _sizes(files: list[Path]) -> str:
    """Of some of the files, evenly spread."""
    seen = [image_file.header(file) for file in files[:: -(-len(files) // _SIZES_SEEN)]]
    least, most = (pick(seen, key=lambda one: one.width * one.height) for pick in (min, max))
    said = [f"{one.width} x {one.height}" for one in (least, most)]
    return said[0] if said[0] == said[1] else " to ".join(said)
