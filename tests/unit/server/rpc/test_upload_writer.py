"""Uploads as they come in: whole, checked and bounded in memory, however their chunks fall."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

from zowarmup.common.algorithms.vectors import TOLERANCE, norm
from zowarmup.server.core.errors import Rejected
from zowarmup.server.rpc import upload_writer
from zowarmup.server.rpc.upload_writer import IncomingUpload, UploadWriter
from zowarmup.server.store.blobs import Blobs, DiskRefused

VECTOR = np.random.default_rng(0).normal(size=200_000).astype("<f4")
DATA = VECTOR.tobytes()
DIGEST = xxhash.xxh3_128_hexdigest(DATA)


def on(root: Path, script: Callable[[UploadWriter], Awaitable[None]], blobs: type[Blobs] = Blobs) -> UploadWriter:
    async def run() -> UploadWriter:
        writer = UploadWriter(blobs(root))
        await asyncio.wait_for(script(writer), 20)
        writer.threads.shutdown()
        return writer

    return asyncio.run(run())


async def sent(writer: UploadWriter, data: bytes, digest: str) -> None:
    async with IncomingUpload(writer, "pi.abc", digest, len(data), 0) as upload:
        await upload.add(data)
        await upload.finish()


@pytest.mark.parametrize("chunk", [len(DATA), 1 << 18, 99_999, 4097])
def test_an_upload_comes_in_whole_however_it_is_cut(tmp_path: Path, chunk: int) -> None:
    async def script(writer: UploadWriter) -> None:
        async with IncomingUpload(writer, "pi.abc", DIGEST, len(DATA), 0) as upload:
            for start in range(0, len(DATA), chunk):
                await upload.add(memoryview(DATA)[start : start + chunk])
            await upload.finish()

    writer = on(tmp_path, script)
    assert writer.blobs.upload("pi.abc").read_bytes() == DATA
    assert writer.lengths == {"pi.abc": pytest.approx(norm(VECTOR), rel=TOLERANCE)}
    assert (writer.blobs.stored("pi.abc")[5:9] == VECTOR[5:9]).all()


def test_what_an_earlier_call_brought_counts(tmp_path: Path) -> None:
    async def script(writer: UploadWriter) -> None:
        async with IncomingUpload(writer, "pi.abc", DIGEST, len(DATA), 0) as upload:
            await upload.add(DATA[:333_331])
        assert writer.blobs.spooled("pi.abc", len(DATA)) == 333_331, "on leaving, what was added is written"
        async with IncomingUpload(writer, "pi.abc", DIGEST, len(DATA), 333_331) as upload:
            await upload.add(DATA[333_331:])
            await upload.settle()
        async with IncomingUpload(writer, "pi.abc", DIGEST, len(DATA), len(DATA)) as upload:
            await upload.finish()

    writer = on(tmp_path, script)
    assert writer.blobs.upload("pi.abc").read_bytes() == DATA
    assert writer.lengths == {"pi.abc": pytest.approx(norm(VECTOR), rel=TOLERANCE)}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**20, -(2.0**20)])
def test_values_that_no_training_makes_are_refused_and_dropped(tmp_path: Path, value: float) -> None:
    bad = VECTOR.copy()
    bad[123_456] = value
    data = bad.tobytes()
    digest = xxhash.xxh3_128_hexdigest(data)

    async def script(writer: UploadWriter) -> None:
        with pytest.raises(Rejected, match="not finite or reach"):
            await sent(writer, data, digest)
        assert writer.blobs.spooled("pi.abc", len(data)) == 0

    assert on(tmp_path, script).lengths == {}


def test_a_long_vector_of_moderate_values_is_taken(tmp_path: Path) -> None:
    data = (np.sign(VECTOR) * np.float32(2.0**20 - 1)).tobytes()
    digest = xxhash.xxh3_128_hexdigest(data)

    async def script(writer: UploadWriter) -> None:
        await sent(writer, data, digest)

    assert on(tmp_path, script).blobs.upload("pi.abc").read_bytes() == data


def test_what_is_not_what_it_claimed_to_be_is_refused(tmp_path: Path) -> None:
    async def script(writer: UploadWriter) -> None:
        with pytest.raises(Rejected, match="send it again"):
            await sent(writer, DATA, "0" * 32)

    assert on(tmp_path, script).lengths == {}


def test_a_disk_that_refuses_is_heard_of_by_whoever_adds_next(tmp_path: Path) -> None:
    class Full(Blobs):
        def spool(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
            raise DiskRefused("no space")

    async def script(writer: UploadWriter) -> None:
        async with IncomingUpload(writer, "pi.abc", DIGEST, len(DATA), 0) as upload:

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
    monkeypatch.setattr(upload_writer, "ROOM_BYTES", 10_000)
    slow = threading.Event()

    class Slow(Blobs):
        def spool(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
            slow.wait()
            super().spool(name, offset, *chunks)

    async def script(writer: UploadWriter) -> None:
        async with (
            IncomingUpload(writer, "a", DIGEST, len(DATA), 0) as upload,
            IncomingUpload(writer, "b", DIGEST, len(DATA), 0) as other,
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

    writer = on(tmp_path, script, Slow)
    assert writer.blobs.upload("a").read_bytes() == DATA
    assert writer.open == 0
