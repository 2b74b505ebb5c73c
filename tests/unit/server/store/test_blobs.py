"""What holds for every blob store, whatever keeps the blobs; and what is particular to files."""

import contextlib
import errno
import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.unit.server.store.test_lease import LONG_S, holder
from zowarmup.common.system.files import sync
from zowarmup.server.store import blob_files as blobs_module
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import BlobError, BlobStore, DiskRefused, MemoryBlobs, UploadError
from zowarmup.server.store.cached_blobs import CachedBlobs
from zowarmup.server.store.postgres.stores import PostgresStores

DATA = np.random.default_rng(5).bytes(2_500_000)
Open = Callable[[], BlobStore]


@pytest.fixture(params=["files", "memory", "postgresql", "cached"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens one and the same store, which is empty at first."""
    memory = MemoryBlobs()
    if request.param in ("files", "memory"):
        yield lambda: BlobFiles(tmp_path / "blobs") if request.param == "files" else memory
        return
    address = request.getfixturevalue("postgres").address()
    with contextlib.ExitStack() as opened:

        def open_it() -> BlobStore:
            stores = opened.enter_context(contextlib.closing(PostgresStores.open(address)))
            if request.param == "postgresql":
                return stores.blobs.leading(1)
            return CachedBlobs(stores.blobs, BlobFiles(tmp_path / uuid.uuid4().hex)).leading(1)

        stores = opened.enter_context(contextlib.closing(PostgresStores.open(address)))
        stores.lease.take(holder("one"), LONG_S)
        yield open_it


def content(store: BlobStore, name: str) -> bytes:
    blob = store.open(name)
    return blob.read(0, blob.size)


def test_a_blob_is_found_by_its_sha256_and_stored_once(open_store: Open) -> None:
    blobs = open_store()
    sha256 = blobs.put(DATA)
    assert sha256 == hashlib.sha256(DATA).hexdigest() == blobs.put(memoryview(DATA))
    assert content(open_store(), sha256) == DATA
    assert open_store().names() == {sha256} and open_store().has(sha256)
    assert blobs.parts() == set()
    assert content(blobs, blobs.put(b"")) == b""


def test_a_missing_blob_says_so(open_store: Open) -> None:
    for look in (open_store().open, open_store().vector):
        with pytest.raises(BlobError, match="is missing"):
            look("0" * 64)
    open_store().delete("0" * 64)


def test_a_blob_that_is_deleted_is_read_on_by_whoever_has_it_open(open_store: Open) -> None:
    blobs = open_store()
    one, other = blobs.put(DATA), blobs.put(b"other")
    read = blobs.open(one)
    blobs.delete(one)
    assert blobs.names() == {other} and not blobs.has(one)
    blobs.free()
    assert (read.size, read.read(0, len(DATA) + 1)) == (len(DATA), DATA)
    assert read.read(len(DATA) - 5, 10) == DATA[-5:]
    assert content(blobs, blobs.put(DATA)) == DATA, "and comes again"


def test_a_vector_is_read_by_the_slice(open_store: Open) -> None:
    blobs, values = open_store(), np.arange(600_000, dtype="<f4")
    vector = blobs.vector(blobs.put(values.tobytes()))
    assert vector.shape == (600_000,) and vector.dtype == np.float32
    assert vector[3:7].tolist() == [3, 4, 5, 6]
    assert vector[599_998:600_010].tolist() == [599_998, 599_999]
    whole = vector.load()
    assert (whole == values).all() and whole.dtype == np.float32
    whole[0] = 7
    assert vector[0:1] == 0


def test_a_part_grows_by_offset_and_is_a_blob_once_it_is_finished(open_store: Open) -> None:
    blobs = open_store()
    blobs.write("pi.abc", 0, DATA[:1000], memoryview(DATA)[1000:1100])
    assert open_store().received("pi.abc") == 1100, "also after a restart"
    assert blobs.read_part("pi.abc", 1098, 10) == DATA[1098:1100]
    assert blobs.parts() == {"pi.abc"} and blobs.names() == set()
    open_store().write("pi.abc", 1100, DATA[1100:])
    assert blobs.finish("pi.abc", "pi.def")
    assert content(open_store(), "pi.def") == DATA
    assert (blobs.received("pi.abc"), blobs.parts()) == (0, set())


def test_a_blob_is_never_replaced(open_store: Open) -> None:
    blobs = open_store()
    for number, data in enumerate((b"first", b"second")):
        blobs.write("part", 0, data)
        assert blobs.finish("part", "name") is (number == 0)
    assert content(blobs, "name") == b"first" and blobs.parts() == set()


def test_what_was_dropped_is_not_gone_on_with(open_store: Open) -> None:
    blobs = open_store()
    blobs.write("part", 0, b"begun")
    blobs.drop("part")
    assert blobs.received("part") == 0
    with pytest.raises(UploadError, match="dropped"):
        blobs.write("part", 5, b"more")
    with pytest.raises(UploadError, match="dropped"):
        blobs.finish("part", "name")
    blobs.drop("part")
    blobs.write("part", 0, b"anew")
    assert blobs.finish("part", "name") and content(blobs, "name") == b"anew"


def test_threads_write_their_pieces_of_a_draft_in_any_order(open_store: Open) -> None:
    blobs, pieces = open_store(), range(0, len(DATA), 100_000)
    with blobs.draft() as draft:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda at: blobs.write(draft, at, DATA[at : at + 100_000]), reversed(pieces)))
        sha256 = blobs.keep(draft)
    assert content(blobs, sha256) == DATA and blobs.parts() == set()


def test_a_draft_goes_with_an_error(open_store: Open) -> None:
    blobs = open_store()

    def fail() -> None:
        with blobs.draft() as draft:
            blobs.write(draft, 100, b"piece")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert blobs.parts() == blobs.names() == set()


def test_a_sweep_removes_what_a_crash_left_and_nothing_else(open_store: Open) -> None:
    blobs = open_store()
    named, stale = blobs.put(b"named"), blobs.put(b"stale")
    blobs.write("half", 0, b"half")
    assert open_store().sweep({named, "another"}) == 2
    assert blobs.names() == {named} and blobs.parts() == set()
    assert not blobs.has(stale) and open_store().sweep({named}) == 0


def test_writers_of_the_same_blob_at_once_store_it_once(open_store: Open) -> None:
    blobs, together = open_store(), threading.Barrier(4)

    def put(_: int) -> str:
        together.wait()
        return blobs.put(DATA)

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(put, range(4)))) == 1
    assert len(blobs.names()) == 1 and blobs.parts() == set()


# In files.


def test_what_is_deleted_leaves_the_disk_when_its_room_is_freed(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    blobs.delete(blobs.put(DATA))
    blobs.write("part", 0, DATA)
    blobs.drop("part")
    assert len(list((tmp_path / "bin").iterdir())) == 2
    blobs.free()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_part_that_a_crash_left_of_another_process_is_not_written_into(tmp_path: Path) -> None:
    """In a container every process has the same id."""

    def killed() -> None:
        with BlobFiles(tmp_path).draft() as draft:
            BlobFiles(tmp_path).write(draft, 0, DATA)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    (draft,) = BlobFiles(tmp_path).parts()
    with BlobFiles(tmp_path).draft() as another:
        assert another != draft
        BlobFiles(tmp_path).keep(another)


@pytest.mark.parametrize("failing", ["open", "fsync", "replace"])
def test_a_blob_that_the_disk_refuses_is_refused_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    blobs = BlobFiles(tmp_path)
    genuine = getattr(os, failing)

    def refuse(path: object, *rest: object, **named: object) -> object:
        if failing == "replace" and "bin" in str(rest[0]):
            return genuine(path, *rest, **named)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, refuse)
        with pytest.raises(DiskRefused, match="No space left on device"):
            blobs.put(b"weights")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "nothing half written stays"
    assert content(blobs, blobs.put(b"weights")) == b"weights"


def test_a_sync_that_was_refused_is_not_made_good_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system could not write it may call clean."""
    blobs = BlobFiles(tmp_path)
    blobs.write("a", 0, DATA)

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", refuse)
        with pytest.raises(DiskRefused):
            blobs.finish("a", "name")
    assert blobs.received("a") == 0 and not blobs.has("name")


def test_a_name_that_is_not_on_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        if path.is_dir():
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    blobs = BlobFiles(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(blobs_module, "sync", refuse)
        with pytest.raises(DiskRefused):
            blobs.put(DATA)
    sha256 = hashlib.sha256(DATA).hexdigest()
    assert not blobs.has(sha256)
    assert blobs.put(DATA) == sha256 and blobs.has(sha256)


def test_a_file_and_then_its_folder_are_synced_before_a_blob_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, seen = BlobFiles(tmp_path), list[tuple[str, bool]]()
    name = hashlib.sha256(DATA).hexdigest()

    def watched(path: Path) -> None:
        seen.append(("folder" if path == tmp_path else "file", blobs.has(name)))
        sync(path)

    monkeypatch.setattr(blobs_module, "sync", watched)
    assert blobs.put(DATA) == name
    assert seen == [("file", False), ("folder", True)]
