"""No file that cannot be removed or listed ends a run: it is said once, the run goes on, and all is tidy in the end."""

import asyncio
import contextlib
import errno
import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.backends import Backend, Stores, files
from tests.faults.crash import CrashingBlobs, Fuse
from tests.faults.small import PAIR, Client, Life, create, live, replayed_digest, run_file
from zowarmup.server.coordinator import Unavailable
from zowarmup.server.store.blobs import DiskRefused
from zowarmup.server.store.housekeeping import Housekeeping

pytestmark = pytest.mark.backends("files")
ERRORS = [errno.EMFILE, errno.ENFILE, errno.EIO, errno.EROFS, errno.EACCES, errno.ENOSPC]


class Patient(Client):
    """Tries again where the coordinator cannot do it now, as a real client does at UNAVAILABLE."""

    async def take_part(self, server: Life) -> None:
        while True:
            try:
                return await super().take_part(server)
            except (Unavailable, DiskRefused, OSError):
                await asyncio.sleep(0.02)


class Refusing(CrashingBlobs):
    """Removes nothing while there is an `error`."""

    error: int = 0

    def _check(self) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def delete(self, name: str) -> None:
        self._check()
        super().delete(name)

    def drop(self, part: str) -> None:
        self._check()
        super().drop(part)

    def free(self) -> None:
        self._check()
        super().free()


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_run_goes_on_and_tidies_up_later_where_nothing_can_be_removed(
    tmp_path: Path, backend: Backend, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    create(tmp_path, run_file(PAIR), backend)
    stores, fuse = backend.open(tmp_path), Fuse(tmp_path, (), backend)
    refusing = Refusing(stores.blobs, "blobs", fuse), Refusing(stores.uploads, "uploads", fuse)
    for store in refusing:
        store.error = number
    caplog.set_level(logging.WARNING)

    async def scenario() -> str:
        life = Life.start(Stores(stores.log, *refusing))
        running = asyncio.create_task(live(life, [Patient(name, tier) for name, tier in PAIR.items()]))
        reached = asyncio.create_task(life.until(lambda state: state.version >= 9))
        await asyncio.wait({running, reached}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        assert not running.done(), running.exception()
        assert life.coordinator.state.version >= 9, "refused or not, the run goes on"
        for store in refusing:
            store.error = 0
        await asyncio.wait_for(running, 60)  # which waits for the folder to be tidy
        stores.log.close()
        return life.coordinator.state.digest

    digest = asyncio.run(scenario())
    said = [r.getMessage() for r in caplog.records if "at the moment" in r.getMessage()]
    assert any("remove old snapshots" in one for one in said)
    assert len(said) == len(set(said)), "each is said once"
    assert all(os.strerror(number) in one for one in said)
    backend.export(tmp_path)
    assert replayed_digest(tmp_path) == digest


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open no file, socket or folder."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 20, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_run_without_a_descriptor_left_waits_and_goes_on_with_the_same_bits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    data_dir = tmp_path / "server"
    create(data_dir, run_file(PAIR))

    async def scenario() -> str:
        stores = files(data_dir)
        life = Life.start(stores, retry_s=0.02)
        running = asyncio.create_task(live(life, [Patient(name, tier) for name, tier in PAIR.items()]))
        for version in (2, 8, 17):
            await asyncio.wait_for(life.until(lambda state, at=version: state.version >= at), 60)  # type: ignore[misc]
            before = len(caplog.records)
            with no_descriptors():
                for _ in range(1000):
                    if len(caplog.records) > before or running.done():
                        break
                    await asyncio.sleep(0.005)
            if running.done():
                break  # it got by with the files that it had open
        await asyncio.wait_for(running, 60)
        stores.log.close()
        return life.coordinator.state.digest

    digest = asyncio.run(scenario())
    assert "Too many open files" in caplog.text
    assert replayed_digest(data_dir) == digest


def test_what_fails_for_long_is_said_again_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    keeping = Housekeeping(lambda: now)
    for now in (0.0, 1.0, 59.0, 60.0, 61.0):  # noqa: B007
        with keeping.attempt("remove it"):
            raise OSError(errno.EIO, "Input/output error")
    with keeping.attempt("remove it"):
        pass
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING", "INFO"]
    with pytest.raises(ZeroDivisionError), keeping.attempt("divide"):
        _ = 1 // 0
