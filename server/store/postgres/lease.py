"""The lease as one row, by the database's clock."""

import contextlib
from collections.abc import Iterator

from psycopg.sql import SQL, Identifier

from zowarmup.server.store.lease import Held, Holder, require_lasting, superseded
from zowarmup.server.store.postgres.connection import Database, DatabaseRefused, PostgresSession

ANSWER_S = 2.0
"""A lease is renewed every second or so: what takes longer is tried anew."""


class PostgresLease:
    """See `Lease`. `answer_s`: how long the database may take to answer."""

    def __init__(self, database: Database, *, answer_s: float = ANSWER_S) -> None:
        self._database, self._answer_s = database, answer_s
        table = Identifier(database.schema, "lease")
        self._look = SQL(
            "SELECT epoch, name, address, secret, authority, extract(epoch FROM expires_at - clock_timestamp())::float8 FROM {}"
        ).format(table)
        # Whoever waited here for another that took it sees the row as that one left it.
        self._take = SQL("""
            INSERT INTO {table} AS now (one, epoch, name, address, secret, authority, expires_at)
            VALUES (true, 1, %(name)s, %(address)s, %(secret)s, %(authority)s, clock_timestamp() + make_interval(secs => %(lasts_s)s))
            ON CONFLICT (one) DO UPDATE SET (epoch, name, address, secret, authority, expires_at) =
                (now.epoch + 1, excluded.name, excluded.address, excluded.secret, excluded.authority,
                 clock_timestamp() + make_interval(secs => %(lasts_s)s))
            WHERE now.expires_at <= clock_timestamp()
            RETURNING epoch, extract(epoch FROM expires_at - clock_timestamp())::float8
        """).format(table=table)
        self._renew = SQL(
            "UPDATE {} SET expires_at = clock_timestamp() + make_interval(secs => %s) WHERE epoch = %s RETURNING true"
        ).format(table)
        self._give_up = SQL("UPDATE {} SET expires_at = clock_timestamp() WHERE epoch = %s").format(table)

    def look(self) -> Held | None:
        """See `Lease`."""
        with _ledger():
            return self._database.run(self._held, self._answer_s)

    def _held(self, connection: PostgresSession) -> Held | None:
        row = connection.execute(self._look).fetchone()
        if row is None:
            return None
        epoch, name, address, secret, authority, expires_in_s = row
        return Held(epoch, Holder(name=name, address=address, secret=secret, authority=authority), expires_in_s)

    def take(self, holder: Holder, lasts_s: float) -> Held | None:
        """See `Lease`."""
        require_lasting(lasts_s)
        values = {
            "name": holder.name,
            "address": holder.address,
            "secret": holder.secret,
            "authority": holder.authority,
            "lasts_s": lasts_s,
        }
        tries = 0

        def take(session: PostgresSession) -> Held | None:
            nonlocal tries
            tries += 1
            if (row := session.execute(self._take, values).fetchone()) is not None:
                return Held(row[0], holder, row[1])
            held = self._held(session) if tries > 1 else None
            return held if held is not None and held.holder == holder else None  # whose answer was lost

        with _ledger():
            return self._database.run(take, self._answer_s)

    def renew(self, epoch: int, lasts_s: float) -> None:
        """See `Lease`."""
        require_lasting(lasts_s)

        def renew(connection: PostgresSession) -> int | None:
            """The lease's epoch where it is another; 0 where there is none."""
            if connection.execute(self._renew, (lasts_s, epoch)).fetchone() is not None:
                return None
            held = self._held(connection)
            return 0 if held is None else held.epoch

        with _ledger():
            now = self._database.run(renew, self._answer_s)
        if now is not None:
            raise superseded(now, epoch)

    def give_up(self, epoch: int) -> None:
        """See `Lease`."""
        with _ledger():
            self._database.run(lambda connection: connection.execute(self._give_up, [epoch]), self._answer_s)


@contextlib.contextmanager
def _ledger() -> Iterator[None]:
    """The database's refusals as LedgerError."""
    try:
        yield
    except DatabaseRefused as error:
        raise error.of_ledger() from error
