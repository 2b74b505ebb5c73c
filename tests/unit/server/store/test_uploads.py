"""Whose delta is whose, and what of it stays, whatever keeps the bytes; and uploads as they come in: whole, checked and bounded
in memory, however their chunks fall."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash

from tests.faults.small import EXAMPLES, LAYOUT, PAIR, run_file
from tests.tasks import scored
from tests.unit.server.store.test_lease import LONG_S, holder
from zowarmup.common.algorithms.vectors import TOLERANCE, norm
from zowarmup.common.messages.values import Delta, Phase, Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import upload_name
from zowarmup.server.core.decide import decide
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.evolve import fold
from zowarmup.server.core.state import State
from zowarmup.server.rpc.transfers import ClientCalls
from zowarmup.server.store import blob_files as blobs_module
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import BlobStore, DiskRefused, MemoryBlobs
from zowarmup.server.store.postgres.stores import PostgresStores
from zowarmup.server.store.uploads import ROOM_BYTES, UploadStore

VECTOR = np.random.default_rng(0).normal(size=200_000).astype("<f4")
DATA = VECTOR.tobytes()
QUOTA = 1 << 30


def vector(seed: int, size: int = 1 << 18) -> bytes:
    return np.random.default_rng(seed).standard_normal(size).astype("<f4").tobytes()


def digest(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def name_of(client: str, data: bytes) -> str:
    return upload_name(client, 1, digest(data))


def opened(round: int) -> ev.RoundOpened:
    return ev.RoundOpened(round, Phase.WARM_UP, 0, ("a",), (1,), (EXAMPLES,), 9e9, "", 1, 0.0)


def content(store: BlobStore, client: str, data: bytes) -> bytes:
    return store.open(name_of(client, data)).read(0, len(data) + 1)


@pytest.fixture(scope="module")
def state() -> State:
    program = ev.ProgramRecord("b" * 64, 1, LAYOUT.to_json(), DataCard(shape=(20,), classes=4), 1, 1, *scored(4))
    initial = ev.Snapshot(0, "c" * 64, 20, "d" * 32)
    return decide(None, cmd.CreateRun("run", run_file(PAIR), program, initial), 0.0).state


@pytest.fixture(params=["files", "memory", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    if request.param != "postgresql":
        yield BlobFiles(tmp_path / "uploads") if request.param == "files" else MemoryBlobs()
        return
    with contextlib.closing(PostgresStores.open(request.getfixturevalue("postgres").address())) as stores:
        stores.lease.take(holder("one"), LONG_S)
        yield stores.uploads.leading(1)


class Watched(MemoryBlobs):
    """Tells of each write before it is made."""

    def __init__(self, told: Callable[[bytes], None]) -> None:
        super().__init__()
        self._told = told

    def write(self, part: str, offset: int, *chunks: bytes | memoryview) -> None:
        self._told(bytes(chunks[0]))
        super().write(part, offset, *chunks)


async def upload(uploads: UploadStore, client: str, data: bytes, said: str = "") -> str:
    async with uploads.receive(client, 1, said or digest(data), len(data), 0) as incoming:
        await incoming.add(data)
        await incoming.finish()
    return name_of(client, data)


def on(
    store: BlobStore, state: State, script: Callable[[UploadStore], Awaitable[None]], room_bytes: int = ROOM_BYTES
) -> UploadStore:
    async def run() -> UploadStore:
        uploads = UploadStore(store, QUOTA, state, room_bytes=room_bytes)
        async with asyncio.timeout(20):
            await script(uploads)
        uploads.threads.shutdown()
        return uploads

    return asyncio.run(run())


@pytest.mark.parametrize("chunk", [len(DATA), 1 << 18, 99_999, 4097])
def test_an_upload_comes_in_whole_however_it_is_cut(store: BlobStore, state: State, chunk: int) -> None:
    async def script(uploads: UploadStore) -> None:
        async with uploads.receive("pi", 1, digest(DATA), len(DATA), 0) as incoming:
            for start in range(0, len(DATA), chunk):
                await incoming.add(memoryview(DATA)[start : start + chunk])
            await incoming.finish()
        assert await uploads.received("pi", 1, digest(DATA), len(DATA)) == len(DATA)

    uploads = on(store, state, script)
    assert content(store, "pi", DATA) == DATA and store.parts() == set()
    assert uploads.norm(name_of("pi", DATA)) == pytest.approx(norm(VECTOR), rel=TOLERANCE)
    assert (uploads.vector(name_of("pi", DATA))[5:9] == VECTOR[5:9]).all()


def test_an_upload_is_resumed_from_what_an_earlier_call_brought(store: BlobStore, state: State) -> None:
    async def script(uploads: UploadStore) -> None:
        async with uploads.receive("pi", 1, digest(DATA), len(DATA), 0) as incoming:
            await incoming.add(DATA[:333_331])
        assert await uploads.received("pi", 1, digest(DATA), len(DATA)) == 333_331, (
            "on leaving, what was added is written"
        )
        with pytest.raises(Rejected, match="333331 bytes of this delta are here"):
            uploads.receive("pi", 1, digest(DATA), len(DATA), 0)
        async with UploadStore(store, QUOTA, state).receive("pi", 1, digest(DATA), len(DATA), 333_331) as incoming:
            await incoming.add(DATA[333_331:])
            await incoming.settle()
        assert not store.has(name_of("pi", DATA)), "that call broke before the end"
        assert await uploads.received("pi", 1, digest(DATA), len(DATA)) == len(DATA)
        assert store.has(name_of("pi", DATA)), "it is made whole by whoever asks"

    uploads = on(store, state, script)
    assert content(store, "pi", DATA) == DATA
    assert uploads.norm(name_of("pi", DATA)) == pytest.approx(norm(VECTOR), rel=TOLERANCE)


def test_what_waits_for_long_is_written_though_nothing_more_comes(store: BlobStore, state: State) -> None:
    """A slow link's bytes are not lost with the coordinator."""

    async def script(uploads: UploadStore) -> None:
        async with uploads.receive("pi", 1, digest(DATA), len(DATA), 0) as incoming:
            await incoming.add(DATA[:7])
            while store.received(name_of("pi", DATA)) < 7:
                await asyncio.sleep(0.01)

    on(store, state, script)


def test_an_upload_with_more_than_its_size_begins_anew(store: BlobStore, state: State) -> None:
    async def script(uploads: UploadStore) -> None:
        store.write(name_of("pi", DATA), 0, DATA, b"more")
        assert await uploads.received("pi", 1, digest(DATA), len(DATA)) == 0
        await upload(uploads, "pi", DATA)

    on(store, state, script)
    assert content(store, "pi", DATA) == DATA


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**20, -(2.0**20)])
def test_values_that_no_training_makes_are_refused_and_dropped(state: State, value: float) -> None:
    bad, store = VECTOR.copy(), MemoryBlobs()
    bad[123_456] = value
    data = bad.tobytes()

    async def script(uploads: UploadStore) -> None:
        with pytest.raises(Rejected, match="not finite or reach"):
            await upload(uploads, "pi", data)
        assert await uploads.received("pi", 1, digest(data), len(data)) == 0

    assert on(store, state, script).norm(name_of("pi", data)) is None


def test_a_long_vector_of_moderate_values_is_taken(state: State) -> None:
    data, store = (np.sign(VECTOR) * np.float32(2.0**20 - 1)).tobytes(), MemoryBlobs()

    async def script(uploads: UploadStore) -> None:
        await upload(uploads, "pi", data)

    on(store, state, script)
    assert content(store, "pi", data) == data


def test_what_is_not_what_it_claimed_to_be_is_refused_and_dropped(store: BlobStore, state: State) -> None:
    async def script(uploads: UploadStore) -> None:
        with pytest.raises(Rejected, match="send it again"):
            await upload(uploads, "pi", DATA, "0" * 32)
        assert uploads.norm(upload_name("pi", 1, "0" * 32)) is None

    on(store, state, script)
    assert store.names() == store.parts() == set()


def test_a_disk_that_refuses_is_heard_of_by_whoever_adds_next(state: State) -> None:
    def refuse(_: bytes) -> None:
        raise DiskRefused("no space")

    async def script(uploads: UploadStore) -> None:
        async with uploads.receive("pi", 1, digest(DATA), len(DATA), 0) as incoming:

            async def add() -> None:
                for start in range(0, len(DATA), 1000):
                    await incoming.add(DATA[start : start + 1000])
                    await asyncio.sleep(0.001)

            with pytest.raises(DiskRefused, match="no space"):
                await add()
            with pytest.raises(DiskRefused, match="no space"):
                await incoming.finish()

    on(Watched(refuse), state, script)


def test_a_sender_waits_while_too_much_waits_for_the_disk(state: State) -> None:
    slow = threading.Event()

    def wait(_: bytes) -> None:
        slow.wait()

    store = Watched(wait)

    async def script(uploads: UploadStore) -> None:
        async with (
            uploads.receive("a", 1, digest(DATA), len(DATA), 0) as incoming,
            uploads.receive("b", 1, digest(DATA), len(DATA), 0) as other,
        ):
            added = 0

            async def add() -> None:
                nonlocal added
                for start in range(0, len(DATA), 1000):
                    await incoming.add(DATA[start : start + 1000])
                    added += 1000

            adding = asyncio.create_task(add())
            while added < 5000:
                await asyncio.sleep(0.001)
            for _ in range(100):
                await asyncio.sleep(0)
            assert added == 5000, "half of the room, and one chunk more is being added"
            assert not adding.done()
            slow.set()
            await adding
            await incoming.finish()
            await other.settle()

    assert on(store, state, script, room_bytes=10_000).receiving == 0
    assert content(store, "a", DATA) == DATA


def test_a_client_names_what_it_has_uploaded_and_nothing_else(store: BlobStore, state: State) -> None:
    async def script(uploads: UploadStore) -> None:
        data = vector(1)
        await upload(uploads, "a", data)
        assert await uploads.received("b", 1, digest(data), len(data)) == 0
        with (
            pytest.raises(Rejected, match="b has not uploaded the delta it names"),
            uploads.naming("b", 1, digest(data)),
        ):
            pass
        await upload(uploads, "b", data)
        with uploads.naming("b", 1, digest(data)):
            await uploads.received("a", 1, digest(b"another"), len(data))
        assert not store.has(name_of("a", data))
        assert store.has(name_of("b", data)), "each has its own"
        assert uploads.norm(name_of("a", data)) is None and uploads.norm(name_of("b", data)) is not None

    on(store, state, script)


def test_a_round_has_room_for_so_many_bytes(store: BlobStore, state: State) -> None:
    async def script(_: UploadStore) -> None:
        uploads = UploadStore(store, 5 * len(DATA) // 2, state)
        for client in ("a", "b", "a"):
            await uploads.received(client, 1, digest(DATA), len(DATA))
        with pytest.raises(Rejected, match=r"2 deltas of this round take .* server.uploads_mb"):
            await uploads.received("c", 1, digest(DATA), len(DATA))
        await uploads.received("b", 1, digest(b"in its place"), len(DATA))
        uploads(0.0, [ev.RoundAbandoned(1, "test")], state)
        await uploads.received("c", 1, digest(DATA), len(DATA))

    on(store, state, script)


def test_an_upload_may_be_named_only_once_it_is_on_the_disk(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has its name before the folder is synced, and loses it again where that fails."""
    store, data, seen = BlobFiles(tmp_path), vector(1), list[str]()

    async def script(uploads: UploadStore) -> None:
        def sync(path: Path) -> None:
            if path != tmp_path:
                return
            assert store.has(name_of("a", data))
            try:
                with uploads.naming("a", 1, digest(data)):
                    seen.append("named")
            except Rejected as rejected:
                seen.append(rejected.reason)

        with monkeypatch.context() as slow:
            slow.setattr(blobs_module, "sync", sync)
            await upload(uploads, "a", data)
        assert seen == ["malformed"]
        with uploads.naming("a", 1, digest(data)):
            pass

    on(store, state, script)


def test_what_a_contribution_names_stays_from_the_moment_it_is_looked_at(store: BlobStore, state: State) -> None:
    async def script(uploads: UploadStore) -> None:
        data = vector(1)
        name = await upload(uploads, "a", data)
        with uploads.naming("a", 1, digest(data)):
            await uploads.received("a", 1, digest(b"another"), len(data))
            uploads(0.0, [ev.Committed(1, 1, "d" * 32, (), None, ())], state)
            assert store.has(name), "on its way into the state"
        assert not uploads._being_named, "nothing is remembered of what has arrived"
        given = Delta(1, digest(data), EXAMPLES, 0.5)
        uploads(0.0, [opened(1), ev.Contributed("a", given, 1.0)], state)
        await uploads.received("a", 1, digest(b"a third"), len(data))
        assert store.has(name), "in the state"
        uploads(0.0, [ev.RoundAbandoned(1, "test")], state)
        assert not store.has(name)
        assert uploads.norm(name) is None

    on(store, state, script)


def test_a_round_of_scalars_has_nothing_to_drop_and_takes_no_thread(store: BlobStore, state: State) -> None:
    async def script(uploads: UploadStore) -> None:
        uploads(0.0, [ev.RoundAbandoned(1, "test")], state)  # after a restart there may be something
        uploads.threads.shutdown()
        for version in (1, 2):
            uploads(0.0, [ev.RoundClosed(version + 1, "all")], state)
            uploads(0.0, [ev.Committed(version, version + 1, "d" * 32, (), None, ())], state)
        uploads(0.0, [opened(4)], state)
        store.write(upload_name("a", 4, digest(DATA)), 0, DATA)
        with pytest.raises(RuntimeError, match="shutdown"):
            uploads(0.0, [ev.RoundClosed(4, "all")], state)

    on(store, state, script)


def with_a_contribution(state: State, data: bytes, closed: bool = False) -> State:
    """A round in progress, or one that is aggregated, to which the client "a" has contributed this delta."""
    enrolled = decide(state, cmd.Enrol("a", Tier.HIGH, EXAMPLES, "5" * 64), 0.0).state
    events: list[ev.Event] = [opened(1), ev.Contributed("a", Delta(1, digest(data), EXAMPLES, 0.5), 1.0)]
    later = fold(enrolled, [*events, ev.RoundClosed(1, "all")] if closed else events)
    assert later is not None
    return later


def test_after_a_restart_what_the_ledger_names_stays(store: BlobStore, state: State) -> None:
    async def script(uploads: UploadStore) -> None:
        data = vector(1)
        name = await upload(uploads, "a", data)
        again = UploadStore(store, QUOTA, with_a_contribution(state, data))
        for other in (data, b"another"):
            await again.received("a", 1, digest(other), len(data))
        assert store.has(name)

    on(store, state, script)


def test_after_a_restart_what_no_round_can_use_goes(store: BlobStore, state: State) -> None:
    async def script(uploads: UploadStore) -> None:
        data = vector(1)
        for client in ("a", "b"):
            await upload(uploads, client, data)
        half, later = upload_name("c", 1, "0" * 32), upload_name("c", 2, "0" * 32)
        for part in (half, later, upload_name("c", 0, "0" * 32), "of no round"):
            store.write(part, 0, b"half")
        again = UploadStore(store, QUOTA, with_a_contribution(state, data))
        assert again.resume(with_a_contribution(state, data)) == 2, "others may still be resumed and named"
        assert store.parts() == {half, later}
        assert again.resume(with_a_contribution(state, data, closed=True)) == 2
        assert store.names() == {name_of("a", data)} and store.parts() == {later}
        over = replace(state, round=1)
        assert UploadStore(store, QUOTA, over).resume(over) == 1

    on(store, state, script)


def test_what_a_later_round_has_begun_stays(store: BlobStore, state: State) -> None:
    """The next round is open, and a client of another coordinator uploads for it, before the observers of this one hear
    that the last is over."""

    async def script(uploads: UploadStore) -> None:
        late, named = vector(1), vector(2)
        await upload(uploads, "a", late)
        later = with_a_contribution(state, named, closed=True)
        await upload(uploads, "a", named)
        whole, half = upload_name("b", 2, digest(DATA)), upload_name("a", 2, "0" * 32)
        store.write(whole, 0, DATA)
        store.finish(whole, whole)
        store.write(half, 0, b"half")
        store.write(upload_name("c", 1, "0" * 32), 0, b"half")
        uploads(0.0, [ev.RoundClosed(1, "all")], later)
        assert store.names() == {name_of("a", named), whole} and store.parts() == {half}
        for ended in (ev.Committed(1, 1, "d" * 32, (), None, ()), ev.RoundAbandoned(1, "test")):
            uploads(0.0, [ended], state)
            assert store.names() == {whole} and store.parts() == {half}
        uploads(0.0, [opened(2), ev.RoundAbandoned(2, "test")], state)
        assert store.names() == store.parts() == set()

    on(store, state, script)


def test_a_client_goes_on_with_a_later_round_though_the_last_ends_late(store: BlobStore, state: State) -> None:
    async def script(uploads: UploadStore) -> None:
        async with uploads.receive("a", 2, digest(DATA), len(DATA), 0) as incoming:
            await incoming.add(DATA[:1000])
            await incoming.settle()
            uploads(0.0, [ev.RoundAbandoned(1, "test")], state)
            await incoming.add(DATA[1000:])
            await incoming.finish()
        assert uploads.norm(upload_name("a", 2, digest(DATA))) is not None
        with uploads.naming("a", 2, digest(DATA)):
            pass

    on(store, state, script)


def test_what_others_have_left_of_a_round_goes_with_it(store: BlobStore, state: State) -> None:
    """A part that a call before a restart has begun: nobody holds it."""

    async def script(uploads: UploadStore) -> None:
        uploads(0.0, [ev.RoundAbandoned(1, "test")], state)
        uploads(0.0, [opened(2)], state)
        store.write(upload_name("b", 2, "0" * 32), 0, b"half")
        uploads(0.0, [ev.RoundAbandoned(2, "test")], state)
        assert store.parts() == set()

    on(store, state, script)


def test_after_a_restart_a_client_may_name_what_it_had_uploaded(store: BlobStore, state: State) -> None:
    """Its stream may be back before it knows that the coordinator was gone."""

    async def script(uploads: UploadStore) -> None:
        data = vector(1)
        await upload(uploads, "a", data)
        again = UploadStore(store, QUOTA, state)
        with pytest.raises(Rejected), again.naming("b", 1, digest(data)):
            pass
        with again.naming("a", 1, digest(data)):
            pass
        again(0.0, [ev.RoundAbandoned(1, "test")], state)
        with pytest.raises(Rejected), again.naming("a", 1, digest(data)):
            pass

    on(store, state, script)


def test_a_superseded_call_has_written_its_last_before_the_next_begins(state: State) -> None:
    """The first call's thread is late; what it brings is not what the second hashes."""
    wrong, right = vector(7)[: 1 << 19], vector(4)
    late, begun = threading.Event(), threading.Event()

    def wait(chunk: bytes) -> None:
        if chunk[:4] == wrong[:4]:
            begun.set()
            late.wait(10)

    store = Watched(wait)

    async def script(uploads: UploadStore) -> None:
        calls = ClientCalls("upload", 1)

        async def first() -> None:
            async with calls.one("a"), uploads.receive("a", 1, digest(right), len(right), 0) as incoming:
                await incoming.add(wrong)
                await incoming.settle()

        async def second() -> int:
            async with calls.one("a"):
                have = await uploads.received("a", 1, digest(right), len(right))
                async with uploads.receive("a", 1, digest(right), len(right), have) as incoming:
                    await incoming.add(right[have:])
                    await incoming.finish()
            return have

        older = asyncio.create_task(first())
        await asyncio.to_thread(begun.wait, 10)
        waiting = asyncio.create_task(second())
        for _ in range(3):
            await asyncio.sleep(0.05)
            assert not waiting.done()
        newer = asyncio.create_task(second())  # which supersedes the one that waits, and waits as that did
        await asyncio.sleep(0.05)
        late.set()
        for superseded in (older, waiting):
            with pytest.raises(Rejected, match="superseded"):
                await superseded
        with pytest.raises(Rejected, match="the upload's digest is"):
            await newer  # it went on from the wrong bytes, and says so
        assert not store.has(name_of("a", right))
        assert await second() == 0
        assert not calls._calls, "nothing is remembered of calls that have ended"

    on(store, state, script)
    assert content(store, "a", right) == right


def test_two_calls_that_finish_the_same_upload_finish_it_once(store: BlobStore, state: State) -> None:
    data = vector(3)

    async def script(uploads: UploadStore) -> None:
        calls = ClientCalls("upload", 1)
        async with calls.one("a"), uploads.receive("a", 1, digest(data), len(data), 0) as incoming:
            await incoming.add(data)

        async def ask() -> None:
            async with calls.one("a"):
                assert await uploads.received("a", 1, digest(data), len(data)) == len(data)

        asked = await asyncio.gather(ask(), ask(), ask(), return_exceptions=True)
        assert [type(answer) for answer in asked] == [Rejected, Rejected, type(None)]

    on(store, state, script)
    assert content(store, "a", data) == data


@pytest.mark.parametrize("before_the_last", [True, False])
def test_what_is_dropped_underneath_an_upload_leaves_no_hole(
    store: BlobStore, state: State, before_the_last: bool
) -> None:
    data = vector(2)
    half = len(data) // 2

    async def script(uploads: UploadStore) -> None:
        async with uploads.receive("a", 1, digest(data), len(data), 0) as incoming:
            await incoming.add(data[:half])
            await incoming.settle()
            if not before_the_last:
                await incoming.add(data[half:])
                await incoming.settle()
            uploads(0.0, [ev.RoundAbandoned(1, "test")], state)
            if before_the_last:
                await incoming.add(data[half:])
            with pytest.raises(Rejected, match="dropped") as refused:
                await incoming.finish()
        assert refused.value.reason == ("offset" if before_the_last else "damaged")
        assert await uploads.received("a", 1, digest(data), len(data)) == 0

    on(store, state, script)
    assert store.names() == store.parts() == set()


def test_a_disk_that_gives_no_room_back_is_no_end_of_the_round(state: State, caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(MemoryBlobs):
        def free(self) -> None:
            raise OSError("input/output error")

    store = Stuck()

    async def script(uploads: UploadStore) -> None:
        await upload(uploads, "a", DATA)
        uploads(0.0, [ev.RoundAbandoned(1, "test")], state)

    on(store, state, script)
    assert store.names() == set() and "cannot remove uploads that are no longer needed" in caplog.text
