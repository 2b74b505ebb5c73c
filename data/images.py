"""folder:PATH: one folder of images for each class.

Classes are numbered in the order of the folders' names, so they are numbered alike on every device that has a folder
for each class. A device without examples of a class has an empty folder for it.
"""

from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from zowarmup.data.dataset import DataError, Dataset

_BYTE = 255.0


def read(root: Path, size: int | None, channels: int) -> Dataset:
    """Inputs uint8 (n, channels, H, W): grey for 1 channel, RGB for 3. With `size` every image is resized to
    size x size; without, all must have one size."""
    pillow = _pillow()
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    folders = [entry for entry in _entries(root) if entry.is_dir()]
    if not folders:
        raise DataError(f"{root}: holds no class folders: put the images of each class into a folder of its own")
    files = [(file, label) for label, folder in enumerate(folders) for file in _files(folder)]
    if not files:
        raise DataError(f"{root}: no class folder holds an image")
    first = _image(pillow, files[0][0], size, channels)
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    for place, (file, _) in enumerate(files):
        image = _image(pillow, file, size, channels)
        if image.shape != first.shape:
            (_, h, w), (_, h0, w0) = image.shape, first.shape
            raise DataError(f"{file}: is {w} x {h} but the first image is {w0} x {h0}: add ,size=N to resize all")
        images[place] = image
    return Dataset(images, np.array([label for _, label in files], dtype=np.int64), len(folders), _BYTE)


def _files(folder: Path) -> list[Path]:
    entries = _entries(folder)
    files = [entry for entry in entries if entry.is_file()]
    if entries and not files:
        raise DataError(f"{folder}: holds folders and no images: give the folder that holds the class folders")
    return files


def _entries(folder: Path) -> list[Path]:
    """What is visible in a folder, by name, in the order of code points, which is the same everywhere."""
    try:
        return sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"{folder}: this folder may not be read: change its permissions") from error


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
