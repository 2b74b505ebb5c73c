"""folder:PATH: one folder of images for each class.

Classes must be numbered alike on every device, also on one that lacks some of them. So: if PATH holds a classes.txt
(one folder name a line), its order numbers the classes and folders may be missing; else if all the folders' names are
numbers, those are the labels; else the folders are numbered in the order of their names.
"""

from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from zowarmup.data.dataset import DataError, Dataset

_BYTE = 255.0
_CLASS_LIMIT = 1 << 16


def read(root: Path, size: int | None, channels: int) -> Dataset:
    """Inputs uint8 (n, channels, H, W): grey for 1 channel, RGB for 3. With `size` every image is resized to
    size x size; without, all must have one size."""
    pillow = _pillow()
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    folders, classes = _folders(root)
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, folder in folders:
        files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
        if not files:
            raise DataError(f"{folder}: this class folder holds no images: fill it or remove it")
        for file in files:
            image = _image(pillow, file, size, channels)
            if images and image.shape != images[0].shape:
                (_, h, w), (_, h0, w0) = image.shape, images[0].shape
                raise DataError(f"{file}: is {w} x {h} but earlier images are {w0} x {h0}: add ,size=N to resize all")
            images.append(image)
            labels.append(label)
    return Dataset(np.stack(images), np.array(labels, dtype=np.int64), classes, _BYTE)


def _folders(root: Path) -> tuple[list[tuple[int, Path]], int]:
    """(label, folder) in order of labels, and the number of classes."""
    found = {f.name: f for f in sorted(root.iterdir()) if f.is_dir() and not f.name.startswith(".")}
    if not found:
        raise DataError(f"{root}: holds no class folders: put the images of each class into a folder of its own")
    listing = root / "classes.txt"
    if listing.is_file():
        names = [line.strip() for line in listing.read_text("utf-8").splitlines() if line.strip()]
        if len(set(names)) < len(names):
            raise DataError(f"{listing}: names a class twice")
        if unknown := set(found) - set(names):
            raise DataError(f"{root}: folder {min(unknown)!r} is not in classes.txt: add it there or remove it")
        labels = {name: names.index(name) for name in found}
        classes = len(names)
    elif all(name.isascii() and name.isdigit() for name in found):
        labels = {name: int(name) for name in found}
        classes = max(labels.values()) + 1
        if classes > _CLASS_LIMIT:
            raise DataError(f"{root}: folder {classes - 1} is too high a label: labels must be 0 to {_CLASS_LIMIT - 1}")
    else:
        labels = {name: label for label, name in enumerate(found)}
        classes = len(found)
    return sorted((labels[name], folder) for name, folder in found.items()), classes


def _image(pillow: ModuleType, file: Path, size: int | None, channels: int) -> NDArray[np.uint8]:
    try:
        with pillow.open(file) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
            if size is not None:
                image = image.resize((size, size), pillow.Resampling.BILINEAR)
            pixels = np.asarray(image, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise DataError(f"{file}: this image cannot be read: replace it or move it out of the class folder") from error
    return pixels[np.newaxis] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("reading folders of images needs Pillow: pip install 'zowarmup[images]'") from error
    return Image
