import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from zowarmup.server.blobs import BlobError, Blobs


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
    sha256 = hashlib.sha256(data).hexdigest()
    blobs.spool("pi.abc", 0, data[:1000])
    assert Blobs(tmp_path).spooled("pi.abc", len(data)) == 1000, "also after a restart"
    blobs.spool("pi.abc", 1000, data[1000:])
    assert not blobs.has(sha256)
    blobs.finish("pi.abc", sha256)
    assert blobs.path(sha256).read_bytes() == data
    assert blobs.spooled("pi.abc", len(data)) == 0


def test_an_upload_that_is_not_what_it_claimed_is_dropped(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.spool("pi.abc", 0, b"damaged")
    with pytest.raises(BlobError, match="send it again"):
        blobs.finish("pi.abc", "0" * 64)
    assert blobs.spooled("pi.abc", 7) == 0


def test_an_upload_longer_than_it_can_be_begins_anew(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.spool("pi.abc", 0, b"too long")
    assert blobs.spooled("pi.abc", 4) == 0


def test_sweeping_keeps_what_is_named_and_what_is_new(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    old, kept, new = (blobs.put(content) for content in (b"old", b"kept", b"new"))
    blobs.spool("pi.abc", 0, b"half an upload")
    for path in (blobs.path(old), blobs.path(kept), tmp_path / "spool" / "pi.abc"):
        os.utime(path, (100, 100))
    blobs.sweep({kept}, before=200)
    assert [blobs.has(sha256) for sha256 in (old, kept, new)] == [False, True, True]
    assert blobs.spooled("pi.abc", 100) == 0
