"""Files that are written over: only what nobody needs or reads, and never taken for what they are not."""

import fcntl
import hashlib
import mmap
import os
import signal
from pathlib import Path

import pytest
import xxhash

from zowarmup.server.store import file_reuse
from zowarmup.server.store.blobs import BlobError, Blobs, DiskRefused
from zowarmup.server.store.file_reuse import LEASES, ReusableFiles
from zowarmup.server.store.upload_files import MARK

needs_leases = pytest.mark.skipif(not LEASES, reason="only Linux says whether somebody has a file open")
OLD, NEW = b"old!" * 1000, b"new?" * 1000
NEW_SHA256, NEW_DIGEST = hashlib.sha256(NEW).hexdigest(), xxhash.xxh3_128_hexdigest(NEW)


def uploaded(blobs: Blobs, data: bytes = OLD) -> str:
    blobs.spool("pi.old", 0, data)
    blobs.finish("pi.old", xxhash.xxh3_128_hexdigest(data))
    return "pi.old"


def with_a_spare(root: Path) -> tuple[Blobs, int]:
    """Blobs with the spare file of an upload that was dropped, and its inode."""
    blobs = Blobs(root)
    old = uploaded(blobs)
    inode = (root / "uploads" / old).stat().st_ino
    blobs.drop_upload(old)
    blobs.empty_reusable(1, len(OLD))
    return blobs, inode


@needs_leases
def test_an_upload_is_written_over_one_that_was_dropped(tmp_path: Path) -> None:
    blobs, inode = with_a_spare(tmp_path)
    blobs.reuse("pi.new", len(NEW))
    assert blobs.spooled("pi.new", len(NEW)) == 0, "what the file held is no part of the upload"
    blobs.spool("pi.new", 0, NEW[:1000], NEW[1000:1500])
    assert Blobs(tmp_path).spooled("pi.new", len(NEW)) == 1500, "also after a restart"
    blobs.reuse("pi.new", len(NEW))
    blobs.spool("pi.new", 1500, NEW[1500:])
    assert blobs.spooled("pi.new", len(NEW)) == len(NEW)
    assert blobs.spooled_bytes("pi.new", 998, 4) == NEW[998:1002]
    blobs.finish("pi.new", NEW_DIGEST)
    assert blobs.upload("pi.new").read_bytes() == NEW
    assert (tmp_path / "uploads" / "pi.new").stat().st_ino == inode
    assert list((tmp_path / "spool").iterdir()) == []


@needs_leases
def test_a_blob_is_written_over_one_that_was_removed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    old = blobs.put(OLD)
    inode = blobs.path(old).stat().st_ino
    blobs.remove(old)
    assert not blobs.has(old)
    blobs.empty_reusable(1, len(OLD))
    assert blobs.put(NEW) == NEW_SHA256
    assert blobs.path(NEW_SHA256).read_bytes() == NEW
    assert blobs.path(NEW_SHA256).stat().st_ino == inode


@needs_leases
@pytest.mark.parametrize("done", [0, 1500, len(NEW)])
def test_what_a_crash_leaves_of_an_upload_over_another_file_is_taken_up(tmp_path: Path, done: int) -> None:
    blobs, _ = with_a_spare(tmp_path)
    blobs.reuse("pi.new", len(NEW))
    blobs.spool("pi.new", 0, NEW[:done])
    after = Blobs(tmp_path)
    after.sweep([], [], spooling=True)
    assert after.spooled("pi.new", len(NEW)) == done
    after.spool("pi.new", done, NEW[done:])
    after.finish("pi.new", NEW_DIGEST)
    assert after.upload("pi.new").read_bytes() == NEW


@needs_leases
def test_a_crash_between_the_end_of_an_upload_and_its_name_loses_nothing(tmp_path: Path) -> None:
    blobs, _ = with_a_spare(tmp_path)
    blobs.reuse("pi.new", len(NEW))
    blobs.spool("pi.new", 0, NEW)
    os.truncate(tmp_path / "spool" / "pi.new.over", len(NEW))
    after = Blobs(tmp_path)
    assert after.spooled("pi.new", len(NEW)) == len(NEW)
    after.finish("pi.new", NEW_DIGEST)
    assert after.upload("pi.new").read_bytes() == NEW


@needs_leases
def test_a_mark_that_a_power_cut_left_ahead_of_its_bytes_is_found_out(tmp_path: Path) -> None:
    blobs, _ = with_a_spare(tmp_path)
    blobs.reuse("pi.new", len(NEW))
    with (tmp_path / "spool" / "pi.new.over").open("r+b") as file:
        file.seek(len(NEW))
        file.write(MARK.pack(2000))
    blobs.spool("pi.new", 2000, NEW[2000:])
    with pytest.raises(BlobError, match="send it again"):
        blobs.finish("pi.new", NEW_DIGEST)
    assert blobs.spooled("pi.new", len(NEW)) == 0
    assert not blobs.has_upload("pi.new")


@needs_leases
@pytest.mark.parametrize("mapped", [False, True])
def test_what_somebody_reads_is_not_written_over(tmp_path: Path, mapped: bool) -> None:
    blobs = Blobs(tmp_path)
    old = uploaded(blobs)
    with (tmp_path / "uploads" / old).open("rb") as file:
        reader = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if mapped else file
        if mapped:
            file.close()
        blobs.drop_upload(old)
        blobs.empty_reusable(1, len(OLD))
        assert blobs.put(NEW) == NEW_SHA256
        assert reader.read() == OLD
        reader.close()
    assert list((tmp_path / "bin").iterdir()) == [], "nor is it kept"


@needs_leases
def test_who_opens_a_file_while_it_is_looked_at_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells whoever has a lease by a signal: by itself one that ends a process."""
    (path := tmp_path / "spare").write_bytes(OLD)
    told: list[int] = []
    real = fcntl.fcntl

    def meddle(descriptor: int, command: int, argument: int) -> int:
        done: int = real(descriptor, command, argument)
        if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_WRLCK):
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return done

    before = signal.signal(signal.SIGIO, lambda number, _: told.append(number))
    try:
        monkeypatch.setattr(fcntl, "fcntl", meddle)
        assert file_reuse._is_unread(path)
        signal.raise_signal(signal.SIGURG)  # ignored, as it is by itself
        assert not told
    finally:
        signal.signal(signal.SIGIO, before)


@needs_leases
def test_what_has_another_name_is_not_written_over(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    old = uploaded(blobs)
    os.link(tmp_path / "uploads" / old, tmp_path / "copy")
    blobs.drop_upload(old)
    blobs.empty_reusable(1, len(OLD))
    blobs.put(NEW)
    assert (tmp_path / "copy").read_bytes() == OLD


@needs_leases
def test_only_so_many_are_kept_and_only_of_the_size_that_is_needed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    for n in range(3):
        blobs.drop_upload(uploaded(blobs, OLD[:-1] + bytes([n])))
    blobs.drop_upload(uploaded(blobs, b"short"))
    blobs.empty_reusable(2, len(OLD))
    assert [path.stat().st_size for path in (tmp_path / "bin").iterdir()] == [len(OLD)] * 2
    blobs.reuse("pi.new", len(NEW) + 1)
    assert len(list((tmp_path / "bin").iterdir())) == 2, "another size begins a file of its own"
    blobs.empty_reusable()
    assert list((tmp_path / "bin").iterdir()) == []


def test_what_is_in_the_bin_is_not_taken_before_its_old_name_is_gone_from_the_disk(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.drop_upload(uploaded(blobs))
    blobs.reuse("pi.new", len(NEW))
    assert list((tmp_path / "spool").iterdir()) == [], "only `empty_reusable` syncs the folder"


@needs_leases
def test_a_disk_that_refuses_gets_the_room_of_what_is_spare(tmp_path: Path) -> None:
    blobs, _ = with_a_spare(tmp_path)
    (tmp_path / "spool" / "pi.new").mkdir()  # nothing can be written there
    with pytest.raises(DiskRefused):
        blobs.spool("pi.new", 0, NEW)
    assert list((tmp_path / "bin").iterdir()) == []


def test_without_leases_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reuse, "LEASES", False)
    with_a_spare(tmp_path)
    assert list((tmp_path / "bin").iterdir()) == []
    assert not ReusableFiles(tmp_path / "bin").take(len(OLD), tmp_path / "spool" / "x")
