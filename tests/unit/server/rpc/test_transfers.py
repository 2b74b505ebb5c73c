"""Blobs as they go out: every byte from any offset, each read once for all who fetch together."""

import asyncio
from pathlib import Path

import pytest

from zowarmup.server.rpc.transfers import DownloadCache
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import BlobStore, MemoryBlobs, OpenBlob

DATA = bytes(range(256)) * 40


def framed(chunk: bytes) -> bytes:
    return b"<" + chunk + b">"


def small(store: BlobStore) -> DownloadCache:
    return DownloadCache(store, chunk_bytes=1000, kept=4)


class Counted(MemoryBlobs):
    """Counts reads, which fail from the `failing` offset on."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.failing = 0, len(DATA)

    def open(self, name: str) -> OpenBlob:
        blob, store = super().open(name), self

        class Watched:
            size = blob.size

            def read(self, offset: int, count: int) -> bytes:
                store.reads += 1
                if offset >= store.failing:
                    raise OSError("input/output error")
                return blob.read(offset, count)

        return Watched()


@pytest.fixture(params=["files", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BlobFiles(tmp_path) if request.param == "files" else MemoryBlobs()


async def fetched(cache: DownloadCache, name: str, offset: int, pause_s: float = 0.0) -> bytes:
    found = b""
    async for message in cache.messages(name, framed, offset):
        assert message[:1] + message[-1:] == b"<>"
        assert len(message) <= 1002
        found += message[1:-1]
        await asyncio.sleep(pause_s)
    return found


@pytest.mark.parametrize("offset", [0, 1, 999, 1000, 1001, len(DATA) - 1, len(DATA)])
def test_every_byte_from_an_offset_on(store: BlobStore, offset: int) -> None:
    assert asyncio.run(fetched(small(store), store.put(DATA), offset)) == DATA[offset:]


def test_an_offset_beyond_the_end_is_refused(store: BlobStore) -> None:
    with pytest.raises(ValueError, match="beyond the end"):
        asyncio.run(fetched(small(store), store.put(DATA), len(DATA) + 1))


def test_those_who_fetch_together_share_and_those_who_fall_behind_do_not_miss_anything() -> None:
    store = Counted()
    name = store.put(DATA)

    async def together(*pauses_s: float) -> list[bytes]:
        cache = small(store)
        found = await asyncio.gather(*(fetched(cache, name, 0, pause_s) for pause_s in pauses_s))
        assert not cache._cache, "the last to leave clears the cache"
        return found

    assert asyncio.run(together(0, 0, 0)) == [DATA] * 3
    assert store.reads == 11
    assert asyncio.run(together(0, 0.005)) == [DATA] * 2


def test_a_blob_that_is_removed_meanwhile_is_sent_to_its_end(store: BlobStore) -> None:
    name = store.put(DATA)

    async def script() -> None:
        messages = small(store).messages(name, framed, 0)
        found = (await anext(messages))[1:-1]
        store.delete(name)
        store.free()
        async for message in messages:
            found += message[1:-1]
        assert found == DATA

    asyncio.run(script())


def test_a_read_that_failed_is_tried_again() -> None:
    store = Counted()
    name, store.failing = store.put(DATA), 2000

    async def script() -> None:
        cache = small(store)
        another = cache.messages(name, framed, 0)
        await anext(another)
        with pytest.raises(OSError, match="input/output"):
            await fetched(cache, name, 0)
        store.failing = len(DATA)
        assert await fetched(cache, name, 0) == DATA
        await another.aclose()

    asyncio.run(script())
