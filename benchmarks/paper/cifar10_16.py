"""CIFAR-10 at 16x16, for tables that two cores can carry.

    python -m benchmarks.paper.cifar10_16 ~/data/cifar10 ~/data/cifar10_16

reads the published files and writes train.npz, validation.npz and test.npz: each image averaged over squares of 2x2 pixels,
the channels normalised as `zowarmup.data` does. `validation` is the last tenth of the training images, which `train` lacks.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zowarmup.data import Dataset, load

IMAGES = {"train": 5_000, "validation": 2_000, "test": 4_000}
"""How many are kept of each, the first ones."""


def pooled(data: Dataset, first: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images first .. first + count - 1 at half their side, float32 (count, 3, 16, 16), and their labels."""
    batch = data.batch(np.arange(first, first + count))
    images, side = batch.inputs, batch.inputs.shape[-1] // 2
    return images.reshape(count, 3, side, 2, side, 2).mean((3, 5), dtype=np.float32), batch.targets


def main() -> None:
    parser = argparse.ArgumentParser(description="CIFAR-10 at 16x16.")
    parser.add_argument("published", type=Path, help="the folder with the published files")
    parser.add_argument("out", type=Path, help="the folder to write to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    training, test = (load(f"cifar10:{arguments.published}:{part}") for part in ("train", "test"))
    for name, count in IMAGES.items():
        data, first = (
            (test, 0) if name == "test" else (training, len(training) // 10 * 9 if name == "validation" else 0)
        )
        images, labels = pooled(data, first, count)
        np.savez(arguments.out / f"{name}.npz", x=images, y=labels)
        print(f"{name}: {count} images of {images.shape[1:]}")


if __name__ == "__main__":
    main()
