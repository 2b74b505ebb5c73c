"""folder:PATH: one folder of images for each class.

Classes are numbered in the order of the folders' names in Unicode's composed form, so they are numbered alike on every
device that has a folder for each class, whatever its file system makes of the names. A device without examples of a
class has an empty folder for it. Files that systems leave in folders are no data: only names that nobody would give a
class.
"""

import mimetypes
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.settings.data_card import normalised
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.image_file import BYTE, Form, header
from zowarmup.data.image_file import read as read_image
from zowarmup.data.reading import require_memory


def read(root: Path, form: Form) -> Dataset:
    """The images of a folder.

    Args:
        root: The folder of the class folders.
        form: What every image becomes; without a size all must have one size.

    Returns:
        Inputs (n, channels, H, W): uint8, or float32 from 0 to 1 where any image is deeper than 8 bits.

    Raises:
        DataError: With one sentence that names the folder or file and the remedy.
    """
    names, files, labels = listed(root)
    images = _images(root, files, form)
    deep = images.dtype == np.float32
    return Dataset(images, labels, len(names), 1.0 if deep else BYTE, class_names=names, stands_for_bytes=deep)


def listed(root: Path) -> tuple[tuple[str, ...], list[Path], NDArray[np.int64]]:
    """What a folder holds, before any image is read.

    Args:
        root: The folder of the class folders.

    Returns:
        The names of the classes, by label; the files, at least one, class by class; their labels, int64 (files,).

    Raises:
        DataError: With one sentence that names the folder or file and the remedy.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    folders = _class_folders(root)
    files = [(file, label) for label, folder in enumerate(folders.values()) for file in _files(folder)]
    if not files:
        raise DataError(f"{root}: no class folder holds an image")
    return tuple(folders), [file for file, _ in files], np.array([label for _, label in files], dtype=np.int64)


def _images(root: Path, files: list[Path], form: Form) -> NDArray[Any]:
    headers = [header(file) for file in files]
    deep = any(each.deep for each in headers)
    kind: type[np.uint8 | np.float32] = np.float32 if deep else np.uint8
    pixels = form.size**2 if form.size else headers[0].height * headers[0].width
    needed = len(files) * form.channels * pixels * np.dtype(kind).itemsize
    needed += max(each.decoding_bytes for each in headers)
    remedy = (
        "give this device fewer images" if form.size else "give it fewer images, or add ,size=N to make them smaller"
    )
    require_memory(str(root), needed, remedy)
    images: NDArray[Any] | None = None
    for place, (file, each) in enumerate(zip(files, headers, strict=True)):
        image = read_image(file, form)
        if images is None:
            images = np.empty((len(files), *image.shape), kind)
        if image.shape != images.shape[1:]:
            (_, h, w), (_, h0, w0) = image.shape, images.shape[1:]
            raise DataError(f"{file}: is {w} x {h} but the first image is {w0} x {h0}: add ,size=N to resize all")
        images[place] = image.astype(np.float32) / np.float32(BYTE) if deep and not each.deep else image
    assert images is not None
    return images


def _class_folders(root: Path) -> dict[str, Path]:
    """By class name, in the order of labels."""
    found: dict[str, Path] = {}
    beside: list[Path] = []
    for folder in _entries(root):
        if not folder.is_dir():
            beside.append(folder)
            continue
        name = normalised(folder.name)
        if not name.isprintable():
            raise DataError(f"{str(folder)!r}: this name cannot be a class name: rename the folder")
        if name in found:
            raise DataError(f"{root}: two folders are both named {name}, in two spellings of Unicode: merge them")
        found[name] = folder
    if not found:
        raise DataError(f"{root}: holds no class folders: put the images of each class into a folder of its own")
    for file in beside:
        if (mimetypes.guess_type(file.name)[0] or "").startswith("image/"):
            raise DataError(f"{file}: this image is in no class folder: move it into one, or out of {root}")
    return dict(sorted(found.items()))


def _files(folder: Path) -> list[Path]:
    entries = _entries(folder)
    files = [entry for entry in entries if entry.is_file()]
    if entries and not files:
        raise DataError(f"{folder}: holds folders and no images: give the folder that holds the class folders")
    if other := [entry for entry in entries if not entry.is_file()]:
        what = "a folder in a class folder, and its images would be left out" if other[0].is_dir() else "no file"
        raise DataError(f"{other[0]}: this is {what}: move it out of the class folder, or its images into that")
    return files


def _entries(folder: Path) -> list[Path]:
    """What people put into a folder, by name, in the order of code points, which is the same everywhere."""
    try:
        entries = sorted((e for e in folder.iterdir() if not is_leftover(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"{folder}: this folder may not be read: change its permissions") from error
    if broken := [entry for entry in entries if entry.is_symlink() and not entry.exists()]:
        raise DataError(f"{broken[0]}: this link leads to nothing: mend it or remove it")
    return entries


_BY_SYSTEM = {
    "macOS": "__macosx|network trash folder|temporary items|thevolumesettingsfolder|icon\r|desktop db|desktop df",
    "Windows": "$recycle.bin|system volume information|$extend|$windows.~bt|msocache|config.msi",
    "its files": "thumbs.db|ehthumbs.db|ehthumbs_vista.db|desktop.ini|picasa.ini",
    "Linux and Android": "lost+found|lost.dir|aquota.user|aquota.group",
    "Synology": "@eadir|@tmp|@sharebin|@sharesnap|#recycle|#snapshot",
    "QNAP and NetApp": "@recycle|@recently-snapshot|@__thumb|~snapshot",
    "Python": "__pycache__",
}
_LEFTOVERS = {name for names in _BY_SYSTEM.values() for name in names.split("|")}
# Windows' chkdsk; and what Windows and Synology's shares keep of a file beside it.
_LEFTOVER = re.compile(r"found\.\d{3}|.+(:zone\.identifier|:encryptable|@synoeastream|@synoresource)", re.DOTALL)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is a system's and not its user's: hidden ones are, and those known by name,
    in whatever case."""
    folded = name.casefold()
    return name.startswith(".") or folded in _LEFTOVERS or bool(_LEFTOVER.fullmatch(folded))
