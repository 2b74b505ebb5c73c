"""Blobs as rows: one a blob or part, and its bytes in pages of a fixed size, of which those that a read or a write touches are read or
written.

Every change is one statement and is durable when it returns, parts too. What is deleted loses its name at once; its pages stay for
whoever reads it still, here or in another coordinator, until `free` finds that `kept_s` have gone by.
"""

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg.sql import SQL, Identifier

from zowarmup.server.store.blobs import (
    BlobStore,
    DiskRefused,
    MissingBlob,
    OpenBlob,
    SharedBlobs,
    dropped,
    follower_deletes,
)
from zowarmup.server.store.lease import superseded
from zowarmup.server.store.postgres.connection import Database, DatabaseRefused, PostgresSession

PAGE_BYTES = 1 << 18
PAGES_AT_ONCE = 16
"""In one statement."""
BLOBS_KEPT_S, UPLOADS_KEPT_S = 600.0, 60.0
"""How long what was deleted can still be read by whoever has it open: snapshots go to devices on slow links."""


class PostgresBlobs(SharedBlobs):
    """See `SharedBlobs`.

    Args:
        database: Where they are.
        store: Which of the run's stores this is; a name is one blob in each.
        kept_s: How long what is deleted or dropped keeps its bytes, seconds.
    """

    def __init__(self, database: Database, store: str, *, kept_s: float) -> None:
        self._database, self._store, self._kept_s = database, store, kept_s
        blobs, pages = Identifier(database.schema, "blobs"), Identifier(database.schema, "pages")
        names = {"blobs": blobs, "pages": pages, "lease": Identifier(database.schema, "lease")}
        self._find = {
            kind: SQL("SELECT id, size FROM {blobs} WHERE store = %s AND {kind} = %s AND deleted_at IS NULL").format(
                kind=Identifier(kind), **names
            )
            for kind in ("name", "part")
        }
        self._all = {
            kind: SQL(
                "SELECT {kind} FROM {blobs} WHERE store = %s AND {kind} IS NOT NULL AND deleted_at IS NULL"
            ).format(kind=Identifier(kind), **names)
            for kind in ("name", "part")
        }
        begin = """
            INSERT INTO {blobs} AS here (store, part, size) VALUES (%(store)s, %(part)s, %(end)s)
            ON CONFLICT (store, part) WHERE deleted_at IS NULL AND part IS NOT NULL
            DO UPDATE SET size = greatest(here.size, excluded.size) RETURNING id
        """
        extend = """
            UPDATE {blobs} SET size = greatest(size, %(end)s)
            WHERE store = %(store)s AND part = %(part)s AND deleted_at IS NULL RETURNING id
        """
        # The first page may begin in its midst: then what is there stays before `skip`, and zeros stand where nothing is.
        put = """
            , written AS (
                INSERT INTO {pages} AS here (blob, number, data)
                SELECT part.id, given.number, given.data
                FROM part, unnest(%(numbers)s::integer[], %(pages)b::bytea[]) AS given (number, data)
                ON CONFLICT (blob, number) DO UPDATE SET data = CASE
                    WHEN here.number = %(first)s AND %(skip)s > 0 THEN
                        substring(here.data FROM 1 FOR %(skip)s)
                        || substring(excluded.data FROM least(length(here.data), %(skip)s) + 1)
                    ELSE excluded.data END
                    || substring(here.data FROM length(excluded.data) + 1)
            )
            SELECT count(*) FROM part
        """
        self._begin = SQL("WITH part AS (" + begin + ")" + put).format(**names)
        self._extend = SQL("WITH part AS (" + extend + ")" + put).format(**names)
        self._read = SQL("""
            SELECT here.number, here.data FROM {blobs} AS blob
            LEFT JOIN {pages} AS here ON here.blob = blob.id AND here.number BETWEEN %s AND %s WHERE blob.id = %s
        """).format(**names)
        self._name = SQL(
            "UPDATE {blobs} SET part = NULL, name = %s WHERE id = %s AND part IS NOT NULL AND deleted_at IS NULL RETURNING id"
        ).format(**names)
        self._named = SQL("SELECT name FROM {blobs} WHERE id = %s").format(**names)
        self._drop = SQL(
            "UPDATE {blobs} SET deleted_at = clock_timestamp() WHERE store = %s AND part = %s AND deleted_at IS NULL"
        ).format(**names)
        self._free = SQL("""
            DELETE FROM {blobs} WHERE id = (
                SELECT id FROM {blobs}
                WHERE store = %s AND deleted_at <= clock_timestamp() - make_interval(secs => %s)
                LIMIT 1 FOR UPDATE SKIP LOCKED
            ) RETURNING id
        """).format(**names)
        self._remove = {
            kind: SQL("""
                WITH held AS MATERIALIZED (SELECT epoch FROM {lease} WHERE one FOR SHARE),
                gone AS (
                    UPDATE {blobs} SET deleted_at = clock_timestamp()
                    WHERE store = %s AND {kind} = %s AND deleted_at IS NULL AND (SELECT epoch FROM held) = %s
                )
                SELECT coalesce((SELECT epoch FROM held), 0)
            """).format(kind=Identifier(kind), **names)
            for kind in ("name", "part")
        }

    def leading(self, epoch: int) -> BlobStore:
        """See `SharedBlobs`."""
        return PostgresLeadersBlobs(self._database, self._store, epoch, kept_s=self._kept_s)

    def names(self) -> set[str]:
        return self._everything("name")

    def has(self, name: str) -> bool:
        return self._found("name", name) is not None

    def open(self, name: str) -> OpenBlob:
        if (found := self._found("name", name)) is None:
            raise MissingBlob(f"blob {name} is missing in {self._database}: restore it from a backup")
        return _OpenRow(self, *found)

    def delete(self, name: str) -> None:
        raise follower_deletes()

    def free(self) -> None:
        with _disk():
            while self._database.run(lambda c: c.execute(self._free, (self._store, self._kept_s)).fetchone()):
                pass

    def parts(self) -> set[str]:
        return self._everything("part")

    def received(self, part: str) -> int:
        found = self._found("part", part)
        return 0 if found is None else found[1]

    def read_part(self, part: str, offset: int, count: int) -> bytes:
        if (found := self._found("part", part)) is None:
            raise dropped()
        return _OpenRow(self, *found).read(offset, count)

    def write(self, part: str, offset: int, *chunks: bytes | memoryview) -> None:
        data = memoryview(chunks[0] if len(chunks) == 1 else b"".join(chunks)).cast("B")
        most = PAGES_AT_ONCE * PAGE_BYTES
        while True:
            piece = data[: most - offset % PAGE_BYTES]
            self._write(part, offset, piece)
            offset, data = offset + len(piece), data[len(piece) :]
            if not data:
                return

    def _write(self, part: str, offset: int, data: memoryview) -> None:
        first, skip = divmod(offset, PAGE_BYTES)
        pages, begun = list[bytes](), 0
        while begun < len(data):
            room = PAGE_BYTES - (skip if not pages else 0)
            pages.append(bytes(0 if pages else skip) + data[begun : begun + room])
            begun += room
        values = {
            "store": self._store,
            "part": part,
            "end": offset + len(data),
            "numbers": list(range(first, first + len(pages))),
            "pages": pages,
            "first": first,
            "skip": skip,
        }
        statement = self._extend if offset else self._begin
        with _disk():
            (there,) = self._database.run(lambda c: c.execute(statement, values).fetchone()) or (0,)
        if not there:
            raise dropped()

    def finish(self, part: str, name: str) -> bool:
        if (found := self._found("part", part)) is None:
            raise dropped()

        def finish(connection: PostgresSession) -> bool | None:
            try:
                if connection.execute(self._name, (name, found[0])).fetchone():
                    return True
            except psycopg.errors.UniqueViolation:
                connection.execute(self._drop, (self._store, part))
                return False
            row = connection.execute(self._named, [found[0]]).fetchone()
            return True if row == (name,) else None

        with _disk():
            made = self._database.run(finish)
        if made is None:
            raise dropped()
        return made

    def drop(self, part: str) -> None:
        with _disk():
            self._database.run(lambda connection: connection.execute(self._drop, (self._store, part)))

    def read(self, blob: int, size: int, offset: int, count: int) -> bytes:
        """Bytes of the blob with that id. Raises MissingBlob where it has been gone for too long."""
        end, out = min(size, offset + count), list[memoryview]()
        while offset < end:
            first, skip = divmod(offset, PAGE_BYTES)
            last = min((end - 1) // PAGE_BYTES, first + PAGES_AT_ONCE - 1)
            piece = memoryview(self._pages(blob, first, last))
            upto = min(end, (last + 1) * PAGE_BYTES)
            out.append(piece[skip : skip + upto - offset])
            offset = upto
        return b"".join(out)

    def _pages(self, blob: int, first: int, last: int) -> bytearray:
        with _disk():
            rows = self._database.run(lambda c: c.execute(self._read, (first, last, blob), binary=True).fetchall())
        if not rows:
            raise MissingBlob(f"a blob in {self._database} has been deleted while it was read")
        whole = bytearray((last + 1 - first) * PAGE_BYTES)
        for number, data in rows:
            if number is not None:
                begin = (number - first) * PAGE_BYTES
                whole[begin : begin + len(data)] = data
        return whole

    def _found(self, kind: str, name: str) -> tuple[int, int] | None:
        """The id and size of a blob or part."""
        with _disk():
            row = self._database.run(lambda c: c.execute(self._find[kind], (self._store, name)).fetchone())
        return None if row is None else (row[0], row[1])

    def _everything(self, kind: str) -> set[str]:
        with _disk():
            rows = self._database.run(lambda c: c.execute(self._all[kind], [self._store]).fetchall())
        return {name for (name,) in rows}


class PostgresLeadersBlobs(PostgresBlobs):
    """See `SharedBlobs.leading`: the blobs for whoever leads in `epoch`."""

    def __init__(self, database: Database, store: str, epoch: int, *, kept_s: float) -> None:
        super().__init__(database, store, kept_s=kept_s)
        self._epoch = epoch

    def delete(self, name: str) -> None:
        self._removed("name", name)

    def drop(self, part: str) -> None:
        self._removed("part", part)

    def _removed(self, kind: str, name: str) -> None:
        statement, values = self._remove[kind], (self._store, name, self._epoch)
        with _disk():
            (epoch,) = self._database.run(lambda c: c.execute(statement, values).fetchone()) or (0,)
        if epoch != self._epoch:
            raise superseded(epoch, self._epoch)


class _OpenRow:
    def __init__(self, store: PostgresBlobs, blob: int, size: int) -> None:
        self._blobs, self._blob, self.size = store, blob, size

    def read(self, offset: int, count: int) -> bytes:
        return self._blobs.read(self._blob, self.size, offset, count)


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """The database's refusals as DiskRefused."""
    try:
        yield
    except DatabaseRefused as error:
        raise DiskRefused(str(error)) from error
