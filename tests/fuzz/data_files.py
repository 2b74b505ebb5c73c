"""A device's data files as targets: whatever a file holds, its reader takes it or refuses it with one sentence."""

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from zowarmup.data import DataError, load

Image.MAX_IMAGE_PIXELS = 1 << 20  # more are refused by their number, whatever it is: the memory is for other inputs


def reader(folder: Path, name: str, spec: str) -> Callable[[bytes], None]:
    """Writes the bytes to the file `name` in a folder and loads the spec, in which FOLDER stands for that."""

    def take(data: bytes) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        try:
            found = load(spec.replace("FOLDER", str(folder)))
        except DataError:
            return
        assert np.isfinite(found.batch(np.arange(len(found))).inputs).all()

    return take


def archive(compressed: bool) -> bytes:
    file, y = io.BytesIO(), np.array([0, 1, 1])
    save = np.savez_compressed if compressed else np.savez
    save(file, x=np.linspace(0, 1, 3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2), y=y)
    return file.getvalue()


def image(mode: str, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    shape = (5, 7, 3) if mode == "RGB" else (5, 7)
    stored = {"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)
    Image.fromarray((np.arange(np.prod(shape)).reshape(shape) / 105).astype(stored)).save(file, kind, **settings)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


TABLE = b'a,"b",kind\n1,2.5,ant\n-3,4e1,"bee"\n5,6,ant\n'
BATCH = {"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), "labels": [3, 9]}


def batch_archive(mode: Literal["w", "w:gz"]) -> bytes:
    file, content = io.BytesIO(), pickle.dumps(BATCH, 2)
    with tarfile.open(fileobj=file, mode=mode) as made:
        member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        member.size = len(content)
        made.addfile(member, io.BytesIO(content))
    return file.getvalue()


def batch_npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, data=np.asarray(BATCH["data"]), labels=np.asarray(BATCH["labels"]))
    return file.getvalue()


VALID = {
    "npz": ("x.npz", "npz:FOLDER/x.npz", (archive(False), archive(True))),
    "sequence": ("x.npz", "npz:FOLDER/x.npz,kind=sequence", (archive(False), archive(True))),
    "csv": (
        "x.csv",
        "csv:FOLDER/x.csv,label=kind",
        (TABLE, gzip.compress(TABLE, mtime=0), TABLE.decode().encode("utf-16")),
    ),
    "image": (
        "images/a/x",
        "folder:FOLDER/images,size=4",
        (
            *(image("RGB", kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")),
            image("RGB", "JPEG", exif=turned()),
            image("I;16", "PNG"),
            image("I;16", "TIFF"),
            image("F", "TIFF"),
            image("L", "PNG", transparency=3),
        ),
    ),
    "cifar": ("batches/test_batch", "cifar10:FOLDER/batches:test", (pickle.dumps(BATCH, 2), pickle.dumps(BATCH, 4))),
    "cifar_archive": (
        "archive/cifar-10-python.tar.gz",
        "cifar10:FOLDER/archive:test",
        (batch_archive("w"), batch_archive("w:gz")),
    ),
    "cifar_npz": ("npz/test_batch.npz", "cifar10:FOLDER/npz:test", (batch_npz(),)),
}
