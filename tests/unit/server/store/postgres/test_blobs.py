"""What is particular to blobs in PostgreSQL: pages, room that is given back later, connections that end in the midst of a change, a full
disk. What holds for every store is in test_blobs of the store."""

import contextlib
import random
import signal
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.faults.proxy import Link
from tests.postgres.server import PostgresServer
from tests.unit.server.store.test_lease import LONG_S, holder
from zowarmup.server.store.blobs import BlobError, DiskRefused, UploadError
from zowarmup.server.store.postgres.blobs import PAGE_BYTES, PAGES_AT_ONCE, PostgresBlobs
from zowarmup.server.store.postgres.stores import PostgresStores

DATA = random.Random(3).randbytes((PAGES_AT_ONCE + 3) * PAGE_BYTES + 77)
Open = Callable[..., PostgresStores]


@pytest.fixture
def open_stores(postgres: PostgresServer) -> Iterator[Open]:
    schema = postgres.address().schema
    with contextlib.ExitStack() as opened:

        def open_it(port: int = 0) -> PostgresStores:
            stores = PostgresStores.open(postgres.address(schema, port=port))
            return opened.enter_context(contextlib.closing(stores))

        yield open_it


def content(blobs: PostgresBlobs, name: str) -> bytes:
    blob = blobs.open(name)
    return blob.read(0, blob.size)


@pytest.mark.parametrize("seed", range(3))
def test_pieces_of_any_length_from_any_offset_are_read_back(open_stores: Open, seed: int) -> None:
    """Also where they overlap, or leave a hole, which is zeros."""
    draw, expected = random.Random(seed), bytearray(len(DATA))
    blobs = open_stores().blobs
    blobs.write("part", 0)
    for _ in range(25):
        near = draw.randrange(0, len(DATA) // PAGE_BYTES) * PAGE_BYTES
        start = max(1, near + draw.randrange(-3, 4)) if draw.random() < 0.5 else draw.randrange(1, len(DATA))
        length = draw.choice((1, 5, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 2 * PAGE_BYTES + 3))
        piece = draw.randbytes(min(length, len(DATA) - start))
        cut = draw.randrange(len(piece) + 1)
        blobs.write("part", start, piece[:cut], memoryview(piece)[cut:])
        expected[start : start + len(piece)] = piece
    size = blobs.received("part")
    assert blobs.finish("part", "name")
    blob = blobs.open("name")
    assert blob.size == size and blob.read(0, size + 1) == expected[:size]
    for _ in range(20):
        start, count = draw.randrange(size + 10), draw.randrange(3 * PAGE_BYTES)
        assert blob.read(start, count) == expected[start:size][:count]


def test_pages_are_stored_as_they_come_and_only_those_asked_for_are_read(open_stores: Open) -> None:
    stores = open_stores()
    name = stores.blobs.put(DATA)
    with psycopg.connect(stores.database.address.url) as connection:
        pages = connection.execute(f"SELECT count(*), max(length(data)) FROM {stores.database.schema}.pages").fetchone()
    assert pages == (-(-len(DATA) // PAGE_BYTES), PAGE_BYTES)
    assert stores.blobs.open(name).read(len(DATA) - 5, 100) == DATA[-5:]


def test_what_is_deleted_leaves_the_database_when_its_time_is_over(open_stores: Open) -> None:
    stores = open_stores()
    stores.lease.take(holder("one"), LONG_S)
    soon = PostgresBlobs(stores.database, "blobs", kept_s=0.0)
    name = stores.blobs.put(DATA)
    read = stores.blobs.open(name)
    stores.blobs.leading(1).delete(name)
    stores.blobs.write("part", 0, DATA)
    stores.blobs.drop("part")
    stores.blobs.free()
    assert read.read(5, 5) == DATA[5:10], "whoever has it open reads on"
    soon.free()
    with psycopg.connect(stores.database.address.url) as connection:
        assert connection.execute(f"SELECT count(*) FROM {stores.database.schema}.pages").fetchone() == (0,)
    with pytest.raises(BlobError, match="deleted while it was read"):
        read.read(5, 5)


@pytest.mark.parametrize("seed", range(2))
def test_an_upload_on_a_link_that_resets_is_resumed_to_the_same_bytes(
    postgres: PostgresServer, open_stores: Open, seed: int
) -> None:
    open_stores()
    draw = random.Random(seed)
    with Link(f"127.0.0.1:{postgres.port}") as link:
        blobs, have = open_stores(link.port).uploads, 0
        while have < len(DATA):
            if draw.random() < 0.4:
                link.reset_after(draw.randrange(1, 400_000))
            with contextlib.suppress(DiskRefused):
                blobs.write("part", have, DATA[have : have + 300_000])
            have = open_stores().uploads.received("part")
        assert link.resets
        link.reset_after(draw.randrange(1, 300))
        assert blobs.finish("part", "name")
    assert content(open_stores().uploads, "name") == DATA


def test_a_name_whose_answer_is_lost_is_given_once(postgres: PostgresServer, open_stores: Open) -> None:
    open_stores()
    with Link(f"127.0.0.1:{postgres.port}") as link:
        blobs = open_stores(link.port).blobs
        for number in range(25):
            blobs.write("part", 0, b"%d" % number)
            link.reset_after(11 * number + 1)
            assert blobs.finish("part", str(number)), number
            assert content(blobs, str(number)) == b"%d" % number
        assert link.resets >= 10
    assert len(open_stores().blobs.names()) == 25 and open_stores().blobs.parts() == set()


def test_what_was_written_outlives_a_crash_of_the_database(postgres: PostgresServer, open_stores: Open) -> None:
    stores = open_stores()
    stores.uploads.write("part", 0, DATA[:1000])
    name = stores.blobs.put(DATA)
    postgres.restart(signal.SIGQUIT)
    assert stores.uploads.received("part") == 1000 and stores.uploads.read_part("part", 990, 99) == DATA[990:1000]
    assert content(stores.blobs, name) == DATA
    postgres.stop()
    try:
        for attempt in (lambda: stores.blobs.has(name), lambda: stores.uploads.write("part", 1000, b"x")):
            with pytest.raises(DiskRefused, match="is the database running"):
                attempt()
    finally:
        postgres.start()
    assert stores.uploads.received("part") == 1000


def test_a_full_disk_refuses_whole_and_takes_it_later(open_stores: Open) -> None:
    """The database raises what it raises then: a test cannot fill its disk."""
    stores = open_stores()
    schema = stores.database.schema
    stores.uploads.write("part", 0, DATA[:1000])
    with psycopg.connect(stores.database.address.url, autocommit=True) as admin:
        admin.execute(
            f"CREATE FUNCTION {schema}.no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
            "'No space left on device' USING ERRCODE = 'disk_full'; END $$"
        )
        admin.execute(
            f"CREATE TRIGGER no_room AFTER INSERT ON {schema}.pages FOR EACH ROW EXECUTE FUNCTION {schema}.no_room()"
        )
        with pytest.raises(DiskRefused, match="its disk is full: free space there"):
            stores.blobs.put(DATA)
        with pytest.raises(DiskRefused):
            stores.uploads.write("part", 1000, DATA[1000:])
        assert stores.uploads.received("part") == 1000
        admin.execute(f"DROP FUNCTION {schema}.no_room() CASCADE")
    assert stores.blobs.names() == set()
    assert content(stores.blobs, stores.blobs.put(DATA)) == DATA
    stores.uploads.write("part", 1000, DATA[1000:])
    assert stores.uploads.finish("part", "name") and content(stores.uploads, "name") == DATA


def test_a_part_dropped_by_another_while_it_grows_is_not_gone_on_with(open_stores: Open) -> None:
    one, other = open_stores().uploads, open_stores().uploads
    one.write("part", 0, b"begun")
    other.drop("part")
    with pytest.raises(UploadError, match="dropped"):
        one.write("part", 5, b"more")
