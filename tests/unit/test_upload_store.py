"""Uploads as they come in: whole, checked and bounded in memory, however their chunks fall."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

from tests.unit.test_uploads import state_of_a_run
from zowarmup.common.methods.rough import TOLERANCE
from zowarmup.common.methods.vector import length
from zowarmup.server import upload_store
from zowarmup.server.disk import DiskRefused
from zowarmup.server.rejection import Rejected
from zowarmup.server.spares import Spares
from zowarmup.server.spool import UploadFiles
from zowarmup.server.upload_store import Upload, UploadStore

VECTOR = np.random.default_rng(0).normal(size=200_000).astype("<f4")
DATA = VECTOR.tobytes()
DIGEST = xxhash.xxh3_128_hexdigest(DATA)


def on(
    root: Path, script: Callable[[UploadStore], Awaitable[None]], files: type[UploadFiles] = UploadFiles
) -> UploadStore:
    async def run() -> UploadStore:
        store = UploadStore(files(root, Spares(root / "bin")), 1 << 30, state_of_a_run())
        await asyncio.wait_for(script(store), 20)
        store.threads.shutdown()
        return store

    return asyncio.run(run())


def whole(store: UploadStore, name: str) -> bytes:
    vector = store.vector(name)
    return vector[0 : vector.shape[0]].tobytes()


async def sent(store: UploadStore, data: bytes, digest: str) -> None:
    async with Upload(store, "pi.abc", digest, len(data), 0) as upload:
        await upload.add(data)
        await upload.finish()


@pytest.mark.parametrize("chunk", [len(DATA), 1 << 18, 99_999, 4097])
def test_an_upload_comes_in_whole_however_it_is_cut(tmp_path: Path, chunk: int) -> None:
    async def script(store: UploadStore) -> None:
        async with Upload(store, "pi.abc", DIGEST, len(DATA), 0) as upload:
            for start in range(0, len(DATA), chunk):
                await upload.add(memoryview(DATA)[start : start + chunk])
            await upload.finish()

    store = on(tmp_path, script)
    assert whole(store, "pi.abc") == DATA
    assert store.norm("pi.abc") == pytest.approx(length(VECTOR), rel=TOLERANCE)
    assert (store.files.vector("pi.abc")[5:9] == VECTOR[5:9]).all()


def test_what_an_earlier_call_brought_counts(tmp_path: Path) -> None:
    async def script(store: UploadStore) -> None:
        async with Upload(store, "pi.abc", DIGEST, len(DATA), 0) as upload:
            await upload.add(DATA[:333_331])
        assert store.files.received("pi.abc", len(DATA)) == 333_331, "on leaving, what was added is written"
        async with Upload(store, "pi.abc", DIGEST, len(DATA), 333_331) as upload:
            await upload.add(DATA[333_331:])
            await upload.settle()
        async with Upload(store, "pi.abc", DIGEST, len(DATA), len(DATA)) as upload:
            await upload.finish()

    store = on(tmp_path, script)
    assert whole(store, "pi.abc") == DATA
    assert store.norm("pi.abc") == pytest.approx(length(VECTOR), rel=TOLERANCE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**20, -(2.0**20)])
def test_values_that_no_training_makes_are_refused_and_dropped(tmp_path: Path, value: float) -> None:
    bad = VECTOR.copy()
    bad[123_456] = value
    data = bad.tobytes()
    digest = xxhash.xxh3_128_hexdigest(data)

    async def script(store: UploadStore) -> None:
        with pytest.raises(Rejected, match="not finite or reach"):
            await sent(store, data, digest)
        assert store.files.received("pi.abc", len(data)) == 0

    assert on(tmp_path, script).norm("pi.abc") is None


def test_a_long_vector_of_moderate_values_is_taken(tmp_path: Path) -> None:
    data = (np.sign(VECTOR) * np.float32(2.0**20 - 1)).tobytes()
    digest = xxhash.xxh3_128_hexdigest(data)

    async def script(store: UploadStore) -> None:
        await sent(store, data, digest)

    assert whole(on(tmp_path, script), "pi.abc") == data


def test_what_is_not_what_it_claimed_to_be_is_refused(tmp_path: Path) -> None:
    async def script(store: UploadStore) -> None:
        with pytest.raises(Rejected, match="send it again"):
            await sent(store, DATA, "0" * 32)

    assert on(tmp_path, script).norm("pi.abc") is None


def test_a_disk_that_refuses_is_heard_of_by_whoever_adds_next(tmp_path: Path) -> None:
    class Full(UploadFiles):
        def write(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
            raise DiskRefused("no space")

    async def script(store: UploadStore) -> None:
        async with Upload(store, "pi.abc", DIGEST, len(DATA), 0) as upload:

            async def add() -> None:
                for start in range(0, len(DATA), 1000):
                    await upload.add(DATA[start : start + 1000])
                    await asyncio.sleep(0.001)

            with pytest.raises(DiskRefused, match="no space"):
                await add()
            with pytest.raises(DiskRefused, match="no space"):
                await upload.finish()

    on(tmp_path, script, Full)


def test_a_sender_waits_while_too_much_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_store, "ROOM_BYTES", 10_000)
    slow = threading.Event()

    class Slow(UploadFiles):
        def write(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
            slow.wait()
            super().write(name, offset, *chunks)

    async def script(store: UploadStore) -> None:
        async with (
            Upload(store, "a", DIGEST, len(DATA), 0) as upload,
            Upload(store, "b", DIGEST, len(DATA), 0) as other,
        ):
            added = 0

            async def add() -> None:
                nonlocal added
                for start in range(0, len(DATA), 1000):
                    await upload.add(DATA[start : start + 1000])
                    added += 1000

            adding = asyncio.create_task(add())
            await asyncio.sleep(0.05)
            assert added == 5000, "half of the room, and one chunk more is being added"
            assert not adding.done()
            slow.set()
            await adding
            await upload.finish()
            await other.settle()

    store = on(tmp_path, script, Slow)
    assert whole(store, "a") == DATA
    assert store.receiving == 0
