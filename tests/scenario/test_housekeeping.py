"""No file that cannot be removed or listed ends a run: it is said once, the run goes on, and all is tidy in the end."""

import asyncio
import contextlib
import errno
import logging
import os
import resource
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from tests.faults.logs import Logs
from tests.faults.small import PAIR, Client, Life, create, live, replayed_digest, run_file
from zowarmup.server.coordinator import Unavailable
from zowarmup.server.store.blobs import Blobs, DiskRefused
from zowarmup.server.store.data_dir import BLOBS
from zowarmup.server.store.housekeeping import Housekeeping

pytestmark = pytest.mark.event_logs("sqlite")
ERRORS = [errno.EMFILE, errno.ENFILE, errno.EIO, errno.EROFS, errno.EACCES, errno.ENOSPC]


class Patient(Client):
    """Tries again where the coordinator cannot do it now, as a real client does at UNAVAILABLE."""

    async def take_part(self, server: Life) -> None:
        while True:
            try:
                return await super().take_part(server)
            except (Unavailable, DiskRefused, OSError):
                await asyncio.sleep(0.02)


class Refusing(Blobs):
    """Removes nothing while there is an `error`."""

    error: int = 0

    def _check(self) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def drop_uploads(self, named: Collection[str]) -> None:
        self._check()
        super().drop_uploads(named)

    def empty_reusable(self, keep: int = 0, size_bytes: int = 0) -> None:
        self._check()
        super().empty_reusable(keep, size_bytes)

    def remove(self, sha256: str) -> None:
        self._check()
        super().remove(sha256)

    def sweep(self, named: Collection[str], uploads: Collection[str], spooling: bool) -> int:
        self._check()
        return super().sweep(named, uploads, spooling)


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_run_goes_on_and_tidies_up_later_where_nothing_can_be_removed(
    tmp_path: Path, event_log: Logs, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    create(tmp_path, run_file(PAIR), event_log)
    blobs = Refusing(tmp_path / BLOBS)
    blobs.error = number
    caplog.set_level(logging.WARNING)

    async def scenario() -> str:
        ledger = event_log.open(tmp_path)
        life = Life.start(ledger, blobs, tmp_path / BLOBS)
        running = asyncio.create_task(live(life, [Patient(name, tier) for name, tier in PAIR.items()]))
        reached = asyncio.create_task(life.until(lambda state: state.version >= 9))
        await asyncio.wait({running, reached}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        assert not running.done(), running.exception()
        assert life.coordinator.state.version >= 9, "refused or not, the run goes on"
        blobs.error = 0
        await asyncio.wait_for(running, 60)  # which waits for the folder to be tidy
        ledger.close()
        return life.coordinator.state.digest

    digest = asyncio.run(scenario())
    said = [r.getMessage() for r in caplog.records if "at the moment" in r.getMessage()]
    assert any("remove old snapshots" in one for one in said)
    assert len(said) == len(set(said)), "each is said once"
    assert all(os.strerror(number) in one for one in said)
    event_log.export(tmp_path)
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
    tmp_path: Path, event_log: Logs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zowarmup.server.aggregation import round_jobs

    monkeypatch.setattr(round_jobs, "RETRY_S", 0.02)
    caplog.set_level(logging.WARNING)
    data_dir = tmp_path / "server"
    create(data_dir, run_file(PAIR), event_log)

    async def scenario() -> str:
        ledger = event_log.open(data_dir)
        life = Life.start(ledger, Blobs(data_dir / BLOBS), data_dir / BLOBS)
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
        ledger.close()
        return life.coordinator.state.digest

    digest = asyncio.run(scenario())
    assert "Too many open files" in caplog.text
    event_log.export(data_dir)
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
