"""Makes the data of this project: `python make_data.py`.

    data/held-out.npz      what the coordinator tries the model on
    data/client-1.npz ...  what each device has

The images are drawn here, so that the project works at once: circles, squares, triangles and crosses. With images of your own,
load them in the place of `drawn`, and keep `main`. In a real fleet no such script cuts data up: each device has its own file.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLIENTS = 5
EACH, HELD_OUT = 200, 400  # images
MIX = 0.3  # small: each device has mostly one or two of the classes; large: all have the same mix
CLASSES = 4  # circle, square, triangle, cross
SIDE = 16  # pixels


def drawn(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.uint8]:
    """An image for each label, uint8 (n, SIDE, SIDE); (n, SIDE, SIDE, 3) would be in colour."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images = np.empty((len(labels), SIDE, SIDE), np.uint8)
    for place, label in enumerate(labels):
        x, y = random.uniform(6, 9, 2)
        across, down = np.abs(columns - x), np.abs(rows - y)
        size = random.uniform(3.5, 5.5)
        shape = (
            across**2 + down**2 < size**2,
            np.maximum(across, down) < 0.9 * size,
            (rows - y < size / 2) & (2 * across - (rows - y) < size),
            (np.minimum(across, down) < 1.2) & (np.maximum(across, down) < size),
        )[label]
        light, dark = random.uniform(120, 255), random.uniform(0, 60)
        noisy = np.where(shape, light, dark) + random.normal(0, 25, (SIDE, SIDE))
        images[place] = noisy.clip(0, 255)
    return images


def main() -> None:
    random = np.random.default_rng(0)
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    parts = {"held-out": random.integers(0, CLASSES, HELD_OUT)}
    for number in range(1, CLIENTS + 1):
        share = random.dirichlet(np.full(CLASSES, MIX))
        parts[f"client-{number}"] = random.choice(CLASSES, EACH, p=share)
    for name, labels in parts.items():
        np.savez(folder / f"{name}.npz", x=drawn(labels, random), y=labels)
        print(f"{folder / name}.npz: {len(labels)} images, {np.bincount(labels, minlength=CLASSES)} of each class")


if __name__ == "__main__":
    main()
