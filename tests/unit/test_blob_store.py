"""What holds for every store of blobs, and of uploads that come in piece by piece, whatever keeps the bytes."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

from zowarmup.server.blob_store import BlobStore, MemoryBlobs, MemoryUploads, ResumableUploads, weights_in
from zowarmup.server.blobs import Blobs
from zowarmup.server.disk import BlobError, UploadError
from zowarmup.server.spares import Spares
from zowarmup.server.spool import UploadFiles

BLOBS: dict[str, Callable[[Path], BlobStore]] = {"files": Blobs, "memory": lambda root: MemoryBlobs()}
UPLOADS: dict[str, Callable[[Path], ResumableUploads]] = {
    "files": lambda root: UploadFiles(root, Spares(root / "bin")),
    "memory": lambda root: MemoryUploads(),
}
DATA = np.arange(1000, dtype="<f4").tobytes()
DIGEST = xxhash.xxh3_128_hexdigest(DATA)


@pytest.fixture(params=BLOBS)
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BLOBS[request.param](tmp_path)


@pytest.fixture(params=UPLOADS)
def uploads(request: pytest.FixtureRequest, tmp_path: Path) -> ResumableUploads:
    return UPLOADS[request.param](tmp_path)


@pytest.mark.parametrize("data", [b"", b"weights", bytes(range(256)) * 10_000])
def test_a_blob_is_found_by_its_sha256_and_stored_once(blobs: BlobStore, data: bytes) -> None:
    sha256 = blobs.put(data)
    assert sha256 == hashlib.sha256(data).hexdigest() == blobs.put(memoryview(data))
    with blobs.open(sha256) as blob:
        assert blob.read() == data
        assert blob.seek(0) == 0 and blob.read(3) == data[:3]
    assert set(blobs.names()) == {sha256}


def test_what_was_put_does_not_change_with_the_buffer_it_came_from(blobs: BlobStore) -> None:
    buffer = bytearray(b"weights")
    sha256 = blobs.put(memoryview(buffer))
    buffer[:] = b"changed"
    with blobs.open(sha256) as blob:
        assert blob.read() == b"weights"


def test_a_blob_that_is_deleted_is_gone_but_for_whoever_reads_it(blobs: BlobStore) -> None:
    kept, gone = blobs.put(b"kept"), blobs.put(b"gone")
    with blobs.open(gone) as blob:
        blobs.delete(gone)
        blobs.delete(gone)
        assert blob.read() == b"gone"
    assert set(blobs.names()) == {kept}
    with pytest.raises(BlobError, match="is missing"):
        blobs.open(gone)
    assert blobs.put(b"gone") == gone and set(blobs.names()) == {kept, gone}


def test_weights_are_read_back_as_an_array_of_its_own(blobs: BlobStore) -> None:
    values = np.array([0.0, -0.0, 1.5, np.inf, np.nan, 5e-45], dtype="<f4")
    with blobs.open(blobs.put(values.tobytes())) as blob:
        read = weights_in(blob)
    assert read.tobytes() == values.tobytes() and read.flags.writeable


@pytest.mark.parametrize("cut", [1, 7, 1000, 3999, 4000])
def test_an_upload_grows_by_offset_and_is_whole_once_its_digest_is_right(uploads: ResumableUploads, cut: int) -> None:
    uploads.begin("pi.a", len(DATA))
    for start in range(0, len(DATA), cut):
        assert uploads.received("pi.a", len(DATA)) == start
        piece = DATA[start : start + cut]
        uploads.write("pi.a", start, piece[: cut // 2], memoryview(piece)[cut // 2 :])
    assert uploads.read("pi.a", 10, 20) == DATA[10:30] and uploads.read("pi.a", len(DATA) - 3, 9) == DATA[-3:]
    assert not uploads.has("pi.a")
    assert uploads.finish("pi.a", DIGEST, DIGEST if cut % 2 else "")
    assert uploads.has("pi.a") and uploads.received("pi.a", len(DATA)) == 0
    vector = uploads.vector("pi.a")
    assert vector.shape == (1000,) and vector.dtype == np.float32
    assert vector[3:7].tolist() == [3, 4, 5, 6] and vector[998:2000].tolist() == [998, 999]


def test_an_upload_that_is_not_what_it_claimed_is_dropped(uploads: ResumableUploads) -> None:
    uploads.write("pi.a", 0, DATA)
    with pytest.raises(UploadError, match="send it again"):
        uploads.finish("pi.a", "0" * 32)
    assert uploads.received("pi.a", len(DATA)) == 0 and not uploads.has("pi.a")
    with pytest.raises(UploadError, match="has been dropped"):
        uploads.finish("pi.a", DIGEST)
    with pytest.raises(BlobError, match="is missing"):
        uploads.vector("pi.a")


def test_an_upload_longer_than_it_can_be_begins_anew(uploads: ResumableUploads) -> None:
    uploads.write("pi.a", 0, b"too long")
    assert uploads.received("pi.a", 4) == 0 == uploads.received("pi.a", 100)


def test_nothing_is_written_behind_what_has_been_dropped(uploads: ResumableUploads) -> None:
    uploads.write("pi.a", 0, DATA[:100])
    uploads.drop_part("pi.a")
    uploads.drop_part("pi.a")
    with pytest.raises(UploadError, match="has been dropped"):
        uploads.write("pi.a", 100, DATA[100:])
    assert uploads.received("pi.a", len(DATA)) == 0


def test_a_whole_upload_is_never_replaced_by_another_of_its_name(uploads: ResumableUploads) -> None:
    uploads.write("pi.a", 0, DATA)
    assert uploads.finish("pi.a", DIGEST)
    uploads.write("pi.a", 0, DATA[::-1])
    assert not uploads.finish("pi.a", DIGEST, DIGEST)
    assert uploads.vector("pi.a")[0:1000].tobytes() == DATA
    assert uploads.received("pi.a", len(DATA)) == 0


@pytest.mark.parametrize("after_a_restart", [False, True])
def test_what_is_not_named_goes_and_nothing_else(uploads: ResumableUploads, after_a_restart: bool) -> None:
    for name in ("pi.kept", "pi.late"):
        uploads.write(name, 0, DATA)
        uploads.finish(name, DIGEST)
    uploads.write("pi.half", 0, b"half")
    if after_a_restart:
        assert uploads.sweep({"pi.kept"}) == 2
    else:
        uploads.retain({"pi.kept"})
    assert uploads.has("pi.kept") and not uploads.has("pi.late") and uploads.received("pi.half", 10) == 0
    uploads.drop("pi.kept")
    uploads.drop("pi.kept")
    assert not uploads.has("pi.kept")
