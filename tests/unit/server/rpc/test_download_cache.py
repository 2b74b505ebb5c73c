"""Blobs as they go out: every byte from any offset, each read once for all who fetch together."""

import asyncio
import os
from pathlib import Path

import pytest

from zowarmup.server.rpc import download_cache
from zowarmup.server.rpc.download_cache import DownloadCache

DATA = bytes(range(256)) * 40


def framed(chunk: bytes) -> bytes:
    return b"<" + chunk + b">"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_cache, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(download_cache, "KEPT", 4)


async def fetched(cache: DownloadCache, path: Path, offset: int, pause_s: float = 0.0) -> bytes:
    found = b""
    async for message in cache.messages(path, framed, offset):
        assert message[:1] + message[-1:] == b"<>"
        assert len(message) <= 1002
        found += message[1:-1]
        await asyncio.sleep(pause_s)
    return found


@pytest.mark.parametrize("offset", [0, 1, 999, 1000, 1001, len(DATA) - 1, len(DATA)])
def test_every_byte_from_an_offset_on(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    assert asyncio.run(fetched(DownloadCache(), path, offset)) == DATA[offset:]


def test_an_offset_beyond_the_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    with pytest.raises(ValueError, match="beyond the end"):
        asyncio.run(fetched(DownloadCache(), path, len(DATA) + 1))


def test_those_who_fetch_together_share_and_those_who_fall_behind_do_not_miss_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reads, pread = tmp_path / "blob", [0], os.pread
    path.write_bytes(DATA)

    def counted(file: int, count: int, offset: int) -> bytes:
        reads[0] += 1
        return pread(file, count, offset)

    monkeypatch.setattr(os, "pread", counted)

    async def together(*pauses_s: float) -> list[bytes]:
        cache = DownloadCache()
        found = await asyncio.gather(*(fetched(cache, path, 0, pause_s) for pause_s in pauses_s))
        assert not cache._cache, "the last to leave clears the cache"
        return found

    assert asyncio.run(together(0, 0, 0)) == [DATA] * 3
    assert reads[0] == 11
    assert asyncio.run(together(0, 0.005)) == [DATA] * 2


def test_a_blob_that_is_removed_meanwhile_is_sent_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(DATA)

    async def script() -> None:
        messages = DownloadCache().messages(path, framed, 0)
        found = (await anext(messages))[1:-1]
        path.unlink()
        async for message in messages:
            found += message[1:-1]
        assert found == DATA

    asyncio.run(script())


def test_a_read_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, failing, pread = tmp_path / "blob", [True], os.pread
    path.write_bytes(DATA)

    def failed(file: int, count: int, offset: int) -> bytes:
        if failing[0] and offset == 2000:
            raise OSError("input/output error")
        return pread(file, count, offset)

    monkeypatch.setattr(os, "pread", failed)

    async def script() -> None:
        cache = DownloadCache()
        another = cache.messages(path, framed, 0)
        await anext(another)
        with pytest.raises(OSError, match="input/output"):
            await fetched(cache, path, 0)
        failing[0] = False
        assert await fetched(cache, path, 0) == DATA
        await another.aclose()

    asyncio.run(script())
