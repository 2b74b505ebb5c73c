import hashlib
from pathlib import Path

import numpy as np
import pytest
import xxhash

from zowarmup.common.exact.layout import digest
from zowarmup.server.store.blobs import BlobError, Blobs


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


def test_an_upload_grows_in_the_spool_and_is_adopted_whole(tmp_path: Path) -> None:
    blobs, data = Blobs(tmp_path), bytes(range(256)) * 10
    blobs.spool("pi.abc", 0, data[:1000])
    assert Blobs(tmp_path).spooled("pi.abc", len(data)) == 1000, "also after a restart"
    blobs.spool("pi.abc", 1000, data[1000:])
    assert not blobs.has_upload("pi.abc")
    blobs.finish("pi.abc", xxhash.xxh3_128_hexdigest(data))
    assert blobs.upload("pi.abc").read_bytes() == data
    assert not blobs.has("pi.abc"), "an upload is never taken for a blob of the coordinator's own"
    assert blobs.spooled("pi.abc", len(data)) == 0


def test_an_upload_that_is_not_what_it_claimed_is_dropped(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.spool("pi.abc", 0, b"damaged")
    with pytest.raises(BlobError, match="send it again"):
        blobs.finish("pi.abc", "0" * 32)
    assert blobs.spooled("pi.abc", 7) == 0


def test_an_upload_longer_than_it_can_be_begins_anew(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.spool("pi.abc", 0, b"too long")
    assert blobs.spooled("pi.abc", 4) == 0


def test_a_sweep_removes_what_a_crash_left_and_nothing_else(tmp_path: Path) -> None:
    blobs, data = Blobs(tmp_path), b"four"
    named, stale = blobs.put(b"named"), blobs.put(b"stale")
    (tmp_path / "spool" / ".put-torn").write_bytes(b"to")
    for name in ("pi.kept", "pi.late"):
        blobs.spool(name, 0, data + name.encode())
        blobs.finish(name, xxhash.xxh3_128_hexdigest(data + name.encode()))
    blobs.spool("pi.half", 0, b"half")
    assert blobs.sweep({named}, {"pi.kept"}, spooling=True) == 2
    assert blobs.has(named) and not blobs.has(stale) and blobs.spooled("pi.half", 10) == 4
    assert blobs.sweep({named}, {"pi.kept"}, spooling=False) == 2
    assert blobs.has(named) and blobs.has_upload("pi.kept") and blobs.spooled("pi.half", 10) == 0


def test_a_stored_upload_is_read_by_the_slice(tmp_path: Path) -> None:
    blobs, values = Blobs(tmp_path), np.arange(10, dtype="<f4")
    with pytest.raises(BlobError, match="is missing: restore it"):
        blobs.stored("pi.abc")
    blobs.spool("pi.abc", 0, values.tobytes())
    blobs.finish("pi.abc", digest(values).hex())
    stored = blobs.stored("pi.abc")
    assert stored.shape == (10,)
    assert stored.dtype == np.float32
    assert stored[3:7].tolist() == [3, 4, 5, 6]
    assert stored[8:20].tolist() == [8, 9]
