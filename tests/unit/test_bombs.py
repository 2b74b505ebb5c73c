"""Bombs: files that are small, and take any amount of memory where their reader believes them.

Each is read in a fresh child after an honest file of its kind, and the child's peak may grow by `most_mb` beyond that: far
less than what the file announces. `sentence` is how it is refused.
"""

import bz2
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.client.hostile_programs import constant, graph, model
from tests.faults.bombs import Member, array_header, deflated, gzipped, png, reading, zipped
from tests.faults.small import LAYOUT
from tests.fuzz.data_files import BATCH, TABLE, archive, image
from zowarmup.common.exact.replica import Commit
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.codec import encode_commit

HUGE = 256 << 20
MOST_MB = 96.0
CIFAR = "cifar-10-batches-py"


@dataclass(frozen=True)
class Bomb:
    """`honest` and `hostile` write the files of a folder; `spec`: what the reader is given, with FOLDER for that."""

    reader: str
    spec: str
    honest: Callable[[Path], object]
    hostile: Callable[[Path], object]
    sentence: str
    most_mb: float = MOST_MB


def data(
    spec: str, name: str, honest: bytes, hostile: Callable[[], bytes], sentence: str, most_mb: float = MOST_MB
) -> Bomb:
    return Bomb("data", spec, writing(name, lambda: honest), writing(name, hostile), sentence, most_mb)


def writing(name: str, content: Callable[[], bytes]) -> Callable[[Path], object]:
    def write(folder: Path) -> object:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.write_bytes(content())

    return write


def npz(hostile: Callable[[], bytes], sentence: str, **more: float) -> Bomb:
    return data("npz:FOLDER/x.npz", "x.npz", archive(True), hostile, sentence, **more)


def labels() -> Member:
    file = io.BytesIO()
    np.save(file, np.array([0, 1, 1]))
    return Member.stored("y.npy", file.getvalue())


def rows() -> Member:
    file = io.BytesIO()
    np.save(file, np.ones((3, 4), np.float32))
    return Member.stored("x.npy", file.getvalue())


def rows_header() -> bytes:
    return array_header((1 << 16, 4096), "|u1")


def batch(hostile: Callable[[], bytes], sentence: str, **more: float) -> Bomb:
    return data("cifar10:FOLDER:test", "test_batch", pickle.dumps(BATCH, 2), hostile, sentence, **more)


def pickled(labels: bytes, before: bytes = b"N") -> bytes:
    """A batch whose labels are what these operations leave on the stack, after those before."""
    honest = pickle.dumps({"data": BATCH["data"]}, 2)
    return honest[:-1] + b"X\6\0\0\0before" + before + b"sX\6\0\0\0labels" + labels + b"s."


def doubling(levels: int, pair: bytes) -> bytes:
    """Operations that leave a value which holds the one before it twice, that the one before it, and so on: 2^levels ones. Those
    before it are items of a list that is left beside."""
    out = b"]" + b"(" + b"K\1q\1"
    for _ in range(levels):
        out += pair + b"q\1"
    return out + b"e"


LISTS, TUPLES = b"](h\1h\1e", b"h\1h\1\x86"


def tar(hostile: Callable[[], bytes], sentence: str, **more: float) -> Bomb:
    return data("cifar10:FOLDER:test", "cifar-10-python.tar.gz", honest_tar(), hostile, sentence, **more)


def honest_tar() -> bytes:
    file, content = io.BytesIO(), pickle.dumps(BATCH, 2)
    with tarfile.open(fileobj=file, mode="w:gz") as made:
        member = tarfile.TarInfo(f"{CIFAR}/test_batch")
        member.size = len(content)
        made.addfile(member, io.BytesIO(content))
    return file.getvalue()


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.USTAR_FORMAT)


def many_members() -> bytes:
    one = tar_header("a", 0)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(one * 1000) for _ in range(400)) + packer.flush()


def directory_of(entries: int) -> bytes:
    file = io.BytesIO()
    start = b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", 45, 45, 0, 0, 0, 33, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0)
    for number in range(entries):
        file.write(start + b"%06d" % number)
    size = file.tell()
    file.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, entries & 0xFFFF, entries & 0xFFFF, size, 0, 0))
    return file.getvalue()


def images(name: str, hostile: Callable[[], bytes], sentence: str, **more: float) -> Bomb:
    return data("folder:FOLDER/images,size=4", f"images/a/{name}", image("L", "PNG"), hostile, sentence, **more)


def flat(kind: str, side: int, mode: str = "L", **settings: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, kind, **settings)
    return file.getvalue()


def tiled() -> bytes:
    """A TIFF of 16 x 16 pixels, in one tile of 16,384 x 16,384."""
    side = 1 << 14
    packed, _ = deflated(side * side)
    content = b"\x78\x9c" + packed + struct.pack(">I", (side * side) % 65521 << 16 | 1)
    tags = [
        (256, 4, 16),
        (257, 4, 16),
        (258, 3, 8),
        (259, 3, 8),
        (262, 3, 1),
        (277, 3, 1),
        (322, 4, side),
        (323, 4, side),
    ]
    tags += [(324, 4, 8 + 2 + 12 * 10 + 4), (325, 4, len(content))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + content


def csv(hostile: Callable[[], bytes], sentence: str, **more: float) -> Bomb:
    return data("csv:FOLDER/x.csv,label=kind", "x.csv", gzip.compress(TABLE), hostile, sentence, **more)


RUN = b'name = "x"\n[model]\nname = "mlp"\n[warmup]\nrounds = 1\n[zeroth_order]\nrounds = 2\n[evaluation]\ndata = "digits:test"\n'


def toml(hostile: Callable[[], bytes], sentence: str) -> Bomb:
    return Bomb("run_file", "FOLDER/run.toml", writing("run.toml", lambda: RUN), writing("run.toml", hostile), sentence)


def one(reader: str, honest: bytes, hostile: Callable[[], bytes], sentence: str, **more: float) -> Bomb:
    return Bomb(reader, "FOLDER/file", writing("file", lambda: honest), writing("file", hostile), sentence, **more)


def sparse(begin: bytes, size: int, name: str = "file") -> Callable[[Path], object]:
    """Writes a file that has a size and takes no room on the disk."""

    def write(folder: Path) -> object:
        (folder / name).write_bytes(begin)
        os.truncate(folder / name, len(begin) + size)
        return None

    return write


def saved(folder: Path) -> None:
    """A state dict of torch's with the tensors of a layout."""
    torch.save({tensor.name: torch.zeros(tensor.shape) for tensor in LAYOUT.tensors}, folder / "file.pth")


def tensors(gap: bytes = b"", more: int = 0, large: int = 0) -> bytes:
    """A safetensors file with the tensors of a layout, `more` empty ones, and one of so many bytes, which are not here."""
    held = {tensor.name: (tensor.shape, tensor.size * 4) for tensor in LAYOUT.tensors}
    held |= {f"empty-{number}": ((0,), 0) for number in range(more)}
    if large:
        held["large"] = ((large,), large)
    said, end = {}, 0
    for name, (shape, size) in held.items():
        kind = "U8" if name == "large" else "F32"
        said[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(said).encode() + gap
    return struct.pack("<Q", len(header)) + header + bytes(end - large)


def field(number: int, content: bytes) -> bytes:
    """Of a protobuf message: bytes, or a message."""
    size, said = len(content), bytearray()
    while size > 0x7F:
        said.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(said) + bytes([size]) + content


def program() -> bytes:
    made: bytes = model(graph(constant("secret", *[0] * 32, kind="uint8"))).SerializeToString()
    return made


def commit() -> bytes:
    return encode_commit(Commit(3, b"d" * 16, (Step(7, LAYOUT.blocks[1], (1, -2, 3)),)), LAYOUT)


def record() -> bytes:
    return struct.pack("<II", len(commit()), zlib.crc32(commit())) + commit()


IDENTITY = b'{"client": "pi", "credential": "00", "run_id": "r", "tier": "low", "name": "pi"}'

BOMBS = {
    "npz: zeros in x": npz(
        lambda: zipped([labels(), Member.zeros("x.npy", HUGE, array_header((1 << 16, 4096), "|u1"))]),
        "unpacks to",
    ),
    "npz: zeros in y": npz(
        lambda: zipped([rows(), Member.zeros("y.npy", HUGE, array_header((HUGE >> 3,), "<i8"))]), "unpacks to"
    ),
    "npz: a header of spaces": npz(
        lambda: zipped([labels(), Member.zeros("x.npy", HUGE, array_header((3, 4), "<f4", 2, HUGE), b" ")]),
        "damaged",
    ),
    "npz: another compression": npz(
        lambda: zipped([labels(), Member("x.npy", bz2.compress(rows_header() + bytes(HUGE)), 0, HUGE + 128, 12)]),
        "damaged",
    ),
    "npz: a shape that is not there": npz(
        lambda: zipped([labels(), Member.zeros("x.npy", 48, array_header((1 << 16, 4096), "|u1"))]), "damaged"
    ),
    "npz: a size that is not there": npz(
        lambda: zipped([labels(), Member("x.npy", array_header((1 << 16, 4096), "|u1"), 0, HUGE + 128, 0)]),
        "damaged",
    ),
    "npz: sizes in zip64": npz(
        lambda: zipped([labels(), Member("x.npy", array_header((1 << 40, 4096), "|u1"), 0, (1 << 52) + 128, 0)]),
        "damaged",
    ),
    "npz: many entries": npz(lambda: directory_of(200_000), "entries"),
    "npz: objects": npz(
        lambda: zipped([labels(), Member.zeros("x.npy", 1 << 20, array_header((1 << 40,), "|O"))]), "plain array"
    ),
    "cifar: zeros beside the batch": Bomb(
        "data",
        "cifar10:FOLDER:test",
        writing("test_batch.npz", lambda: npz_batch()),
        writing(
            "test_batch.npz",
            lambda: zipped([*npz_members(), Member.zeros("more.npy", HUGE, array_header((HUGE,), "|u1"))]),
        ),
        "",
    ),
    "cifar: zeros in the batch": Bomb(
        "data",
        "cifar10:FOLDER:test",
        writing("test_batch.npz", lambda: npz_batch()),
        writing(
            "test_batch.npz",
            lambda: zipped(
                [npz_members()[1], Member.zeros("data.npy", 3072 << 17, array_header((1 << 17, 3072), "|u1"))]
            ),
        ),
        "unpacks to",
    ),
    "pickle: a place in the memo": batch(lambda: b"\x80\x02}r\xff\xff\xff\x0f.", "lacks"),
    "pickle: lists of lists": batch(lambda: pickled(b"h\1", doubling(24, LISTS)), "its labels are neither"),
    "pickle: tuples of tuples": batch(lambda: pickled(b"cnumpy\ndtype\nh\1\x85R", doubling(24, TUPLES)), "not plain"),
    "pickle: tuples of tuples as a key": batch(
        lambda: pickled(b"}h\1K\1s", doubling(40, TUPLES)), "its keys are not all texts"
    ),
    "pickle: marks": batch(lambda: b"\x80\x02" + b"(" * (8 << 20), "operations"),
    "pickle: lists": batch(lambda: b"\x80\x02" + b"]" * (8 << 20), "operations"),
    "pickle: encoded again and again": batch(
        lambda: pickled(
            b"]q\1(c_codecs\nencode\nq\2X\0\0\x10\0" + b"x" * (1 << 20) + b"q\3" + b"h\2h\3\x85R" * 1000 + b"e"
        ),
        "labels",
    ),
    "pickle: one text in many places": batch(
        lambda: pickled(b"](X\0\0\x10\0" + b"x" * (1 << 20) + b"q\3" + b"h\3" * 1000 + b"e"), "labels"
    ),
    "tar: zeros": tar(
        lambda: gzipped(HUGE, tar_header(f"{CIFAR}/test_batch", HUGE) + b"\x80\2T" + struct.pack("<i", HUGE - 20)),
        "unpacks to",
    ),
    "tar: a header of zeros": tar(lambda: gzipped(HUGE, tar_header("x", HUGE, tarfile.XHDTYPE)), "may have"),
    "tar: a name of zeros": tar(lambda: gzipped(HUGE, tar_header("x", HUGE, tarfile.GNUTYPE_LONGNAME)), "may have"),
    "tar: many members": tar(many_members, "more than 1000 files"),
    "tar: another compression": tar(lambda: bz2.compress(bytes(HUGE)), "damaged"),
    "image: black PNG": images("x.png", lambda: png(9000, 9000), "pixels"),
    "image: PNG without its pixels": images("x.png", lambda: png(9000, 9000, b""), "pixels"),
    "image: black GIF": images("x.gif", lambda: flat("GIF", 9000), "pixels"),
    "image: black TIFF": images("x.tif", lambda: flat("TIFF", 9000, compression="tiff_deflate"), "pixels"),
    "image: black WebP": images("x.webp", lambda: flat("WEBP", 9000, "RGB", lossless=True, method=0), "pixels"),
    "image: a tile of a TIFF": images("x.tif", tiled, "pixels"),
    "image: PPM without its pixels": images("x.ppm", lambda: b"P6 9000 9000 255\n", "pixels"),
    "csv: one line": csv(lambda: gzipped(60 << 20, b"a,kind\n", b"1"), "line 2"),
    "csv: a first line": csv(lambda: gzipped(60 << 20, b"", b"a"), "line 1"),
    "csv: lines within quotes": csv(lambda: gzipped(15 << 20, b"a,kind\n", b'"\n",'), "quotes"),
    "csv: unpacks without end": csv(lambda: gzipped(HUGE, b"a,kind\n", b"1"), "unpacks to"),
    "csv: labels": csv(lambda: b"a,kind\n" + b"".join(b"1,%d\n" % n for n in range(400_000)), "labels"),
    "csv: columns": csv(lambda: b",".join(b"c%d" % n for n in range(300_000)) + b",c0,kind\n1\n", "c0"),
    "toml: a policy's name of many parts": one(
        "policy", b"probes = 3\n", lambda: b".".join([b"a"] * 10_000) + b" = 1\n", "nested"
    ),
    "toml: a name in quotes of many parts": toml(lambda: b"[ " + b" . ".join([b'"a"'] * 10_000) + b" ]\n", "nested"),
    "safetensors: a header of gaps": one(
        "weights", tensors(), lambda: tensors(b" " * (64 << 20)), "list of its tensors"
    ),
    "safetensors: tensors of nothing": one("left", tensors(), lambda: tensors(more=300_000), "list of its tensors"),
    "safetensors: a header that is not there": one(
        "left", tensors(), lambda: struct.pack("<Q", 1 << 26) + b"{", "list of"
    ),
    "safetensors: a tensor that nobody asked for": Bomb(
        "weights", "FOLDER/file", writing("file", tensors), sparse(tensors(large=HUGE), HUGE), ""
    ),
    "state dict: unpacks without end": Bomb(
        "weights",
        "FOLDER/file.pth",
        saved,
        writing("file.pth", lambda: zipped([Member("w/data.pkl", *deflated(HUGE), HUGE)])),
        "unpacks to",
    ),
    "program: nodes of nothing": one("program", program(), lambda: field(7, b"\x0a\0" * (8 << 20)), "program"),
    "program: names of nothing": one(
        "program", program(), lambda: field(7, field(1, b"\x0a\0" * (8 << 20))), "program"
    ),
    "program: a shape of a million axes": one(
        "program", program(), lambda: field(7, field(5, field(1, bytes(16 << 20)))), "program"
    ),
    "commit: steps of nothing": one("commit", commit(), lambda: commit() + b"\x1a\0" * (16 << 20), "fields"),
    "commit: steps of nothing on the stream": one(
        "answer", field(3, commit()), lambda: field(3, b"\x1a\0" * (16 << 20)), "fields"
    ),
    "commit: a step of zeros": one("commit", commit(), lambda: field(3, field(3, bytes(60 << 20))), "fields"),
    "state: an identity of zeros": Bomb(
        "identity", "FOLDER", writing("identity.json", lambda: IDENTITY), sparse(b"", HUGE, "identity.json"), "may have"
    ),
    "state: an identity of lists": Bomb(
        "identity",
        "FOLDER",
        writing("identity.json", lambda: IDENTITY),
        writing("identity.json", lambda: b"[" + b"[]," * (20 << 20)),
        "may have",
    ),
    "state: a log of zeros": Bomb("commit_log", "FOLDER/file", writing("file", record), sparse(b"", HUGE), "whole"),
    "state: a record that is not there": Bomb(
        "commit_log", "FOLDER/file", writing("file", record), sparse(struct.pack("<II", HUGE, 0), HUGE), "whole"
    ),
    "certificates: a gap": Bomb(
        "authority",
        "FOLDER/file",
        writing("file", lambda: b"-----BEGIN CERTIFICATE-----\n"),
        sparse(b"", HUGE),
        "may have",
    ),
    "toml: a name of many parts": toml(lambda: b".".join([b"a"] * 10_000) + b" = 1\n", "nested"),
    "toml: tables": toml(lambda: b"".join(b"[a%d]\n" % n for n in range(100_000)), "may have"),
}


def npz_members() -> list[Member]:
    found = []
    for name, value in (("data", BATCH["data"]), ("labels", np.array(BATCH["labels"]))):
        file = io.BytesIO()
        np.save(file, np.asarray(value))
        found.append(Member.stored(f"{name}.npy", file.getvalue()))
    return found


def npz_batch() -> bytes:
    return zipped(npz_members())


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_bomb_is_refused_before_it_takes_memory(name: str, tmp_path: Path) -> None:
    bomb = BOMBS[name]
    for kind, write in (("honest", bomb.honest), ("hostile", bomb.hostile)):
        (tmp_path / kind).mkdir()
        write(tmp_path / kind)
    held = sum(file.stat().st_size for file in (tmp_path / "hostile").rglob("*") if file.is_file())
    honest, hostile = (bomb.spec.replace("FOLDER", str(tmp_path / kind)) for kind in ("honest", "hostile"))
    found = reading(bomb.reader, honest, hostile)
    print(f"{name}: {held} bytes, {found.more_mb:.0f} MB, {found.kind}: {found.sentence}")
    assert found.more_mb < bomb.most_mb, found
    assert bomb.sentence in found.sentence and bool(bomb.sentence) == bool(found.kind), found
