import hashlib
from pathlib import Path

import numpy as np
import pytest
import xxhash

from zowarmup.common.layout import digest
from zowarmup.server.blobs import BlobError, Blobs
from zowarmup.server.spares import Spares
from zowarmup.server.spool import UploadFiles


def test_a_blob_is_found_by_its_sha256_and_stored_once(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    sha256 = blobs.put(b"weights")
    assert sha256 == hashlib.sha256(b"weights").hexdigest() == blobs.put(b"weights")
    assert blobs.path(sha256).read_bytes() == b"weights"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [sha256]


def test_a_vector_is_read_in_place(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    values = np.arange(5, dtype=np.float32)
    assert (blobs.vector(blobs.put(values.tobytes())) == values).all()


def test_a_missing_blob_says_so(tmp_path: Path) -> None:
    with pytest.raises(BlobError, match="is missing: restore it"):
        Blobs(tmp_path).path("0" * 64)


def upload_files(root: Path) -> UploadFiles:
    return UploadFiles(root, Spares(root / "bin"))


def test_an_upload_grows_in_the_spool_and_is_adopted_whole(tmp_path: Path) -> None:
    files, data = upload_files(tmp_path), bytes(range(256)) * 10
    files.write("pi.abc", 0, data[:1000])
    assert upload_files(tmp_path).received("pi.abc", len(data)) == 1000, "also after a restart"
    files.write("pi.abc", 1000, data[1000:])
    assert not files.has("pi.abc")
    files.finish("pi.abc", xxhash.xxh3_128_hexdigest(data))
    assert files.path("pi.abc").read_bytes() == data
    assert not Blobs(tmp_path).has("pi.abc"), "an upload is never taken for a blob of the coordinator's own"
    assert files.received("pi.abc", len(data)) == 0


def test_an_upload_that_is_not_what_it_claimed_is_dropped(tmp_path: Path) -> None:
    files = upload_files(tmp_path)
    files.write("pi.abc", 0, b"damaged")
    with pytest.raises(BlobError, match="send it again"):
        files.finish("pi.abc", "0" * 32)
    assert files.received("pi.abc", 7) == 0


def test_an_upload_longer_than_it_can_be_begins_anew(tmp_path: Path) -> None:
    files = upload_files(tmp_path)
    files.write("pi.abc", 0, b"too long")
    assert files.received("pi.abc", 4) == 0


def test_a_sweep_removes_what_a_crash_left_and_nothing_else(tmp_path: Path) -> None:
    blobs, data = Blobs(tmp_path), b"four"
    files = UploadFiles(tmp_path, blobs.spares)
    named, stale = blobs.put(b"named"), blobs.put(b"stale")
    (tmp_path / "spool" / ".put-torn").write_bytes(b"to")
    for name in ("pi.kept", "pi.late"):
        files.write(name, 0, data + name.encode())
        files.finish(name, xxhash.xxh3_128_hexdigest(data + name.encode()))
    files.write("pi.half", 0, b"half")
    assert blobs.sweep({named}) == 2
    assert blobs.has(named) and not blobs.has(stale) and files.received("pi.half", 10) == 4
    assert files.sweep({"pi.kept"}) == 2
    assert blobs.has(named) and files.has("pi.kept") and files.received("pi.half", 10) == 0


def test_a_stored_upload_is_read_by_the_slice(tmp_path: Path) -> None:
    files, values = upload_files(tmp_path), np.arange(10, dtype="<f4")
    with pytest.raises(BlobError, match="is missing: restore it"):
        files.vector("pi.abc")
    files.write("pi.abc", 0, values.tobytes())
    files.finish("pi.abc", digest(values).hex())
    stored = files.vector("pi.abc")
    assert stored.shape == (10,)
    assert stored.dtype == np.float32
    assert stored[3:7].tolist() == [3, 4, 5, 6]
    assert stored[8:20].tolist() == [8, 9]
