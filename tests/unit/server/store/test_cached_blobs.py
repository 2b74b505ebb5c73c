"""Files in front of shared blobs. That they keep the contract is in test_blobs."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.unit.server.store.test_lease import LONG_S, holder
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import BlobError, MemorySharedBlobs, OpenBlob
from zowarmup.server.store.cached_blobs import CachedBlobs
from zowarmup.server.store.event_log import Fenced
from zowarmup.server.store.lease import MemoryLease

DATA = np.random.default_rng(5).bytes(2_500_000)


class Counted(MemorySharedBlobs):
    """Which blobs were read from where they really are."""

    def __init__(self) -> None:
        lease = MemoryLease(lambda: 0.0)
        lease.take(holder("one"), LONG_S)
        super().__init__(lease.leading)
        self.opened: list[str] = []

    def open(self, name: str) -> OpenBlob:
        self.opened.append(name)
        return super().open(name)


def test_a_blob_is_fetched_once_and_then_a_file(tmp_path: Path) -> None:
    shared = Counted()
    name, cached = shared.put(DATA), CachedBlobs(shared, BlobFiles(tmp_path))
    together = threading.Barrier(4)

    def read(_: int) -> bytes:
        together.wait()
        return cached.open(name).read(7, 9)

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(read, range(4))) == {DATA[7:16]}
    assert cached.path(name).read_bytes() == DATA and shared.opened == [name]
    again = CachedBlobs(shared, BlobFiles(tmp_path))
    assert again.path(name) == cached.path(name) and shared.opened == [name], "also after a restart"
    assert BlobFiles(tmp_path).parts() == set()


def test_what_is_written_here_is_a_file_at_once(tmp_path: Path) -> None:
    shared = Counted()
    cached = CachedBlobs(shared, BlobFiles(tmp_path)).leading(1)
    name = cached.put(DATA)
    assert cached.path(name).read_bytes() == DATA and shared.opened == [] and shared.has(name)


def test_a_deletion_reaches_both_and_needs_to_lead(tmp_path: Path) -> None:
    shared = Counted()
    cached = CachedBlobs(shared, BlobFiles(tmp_path))
    name = cached.put(DATA)
    with pytest.raises(Fenced):
        cached.delete(name)
    assert shared.has(name) and cached.path(name).exists()
    cached.leading(1).delete(name)
    assert not shared.has(name) and BlobFiles(tmp_path).names() == set()
    with pytest.raises(BlobError, match="missing"):
        cached.path(name)


def test_files_of_blobs_that_another_deleted_are_let_go(tmp_path: Path) -> None:
    shared, files = Counted(), BlobFiles(tmp_path)
    cached = CachedBlobs(shared, files)
    kept, gone = cached.put(b"kept"), cached.put(b"gone")
    read = cached.open(gone)
    cached.retain({kept, "not here"})
    assert files.names() == {kept} and read.read(0, 9) == b"gone"
    assert shared.names() == {kept, gone}, "the blobs themselves are the leader's business"


def test_a_blob_that_is_damaged_where_it_is_kept_is_no_file(tmp_path: Path) -> None:
    shared = Counted()
    name = shared.put(DATA)
    shared._blobs[name] = DATA[:-1] + b"x"
    with pytest.raises(BlobError, match=f"blob {name} is damaged in the database"):
        CachedBlobs(shared, BlobFiles(tmp_path)).open(name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_disk_here_costs_the_file_and_not_the_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Counted()
    cached = CachedBlobs(shared, BlobFiles(tmp_path))

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", refuse)
        name = cached.put(DATA)
        assert cached.open(name).read(0, len(DATA)) == DATA
    assert cached.path(name).read_bytes() == DATA
