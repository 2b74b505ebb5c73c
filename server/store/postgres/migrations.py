"""The tables of a run, made and changed by numbered steps, each of which says what it does.

A schema has a table of the steps that were taken. Whoever opens it to write takes those that are missing, in one transaction
and under a lock of the schema's own: of two coordinators that start together one does, and the other finds it done. A schema that
knows a step which this version does not is refused.
"""

from dataclasses import dataclass

from psycopg.sql import SQL, Identifier

from zowarmup.common.settings.run import SOFTWARE
from zowarmup.server.store.event_log import LedgerError
from zowarmup.server.store.postgres.connection import Database, DatabaseRefused, PostgresSession

LONGEST_S = 3600.0
"""What a step may take: it may go through all that is there."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `sql` has {schema} where the schema's name goes."""

    what: str
    sql: str


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        "make the event log: a row an event, numbered from 1 without gaps",
        """
        CREATE TABLE {schema}.events (
            id bigint PRIMARY KEY CHECK (id > 0),
            at double precision NOT NULL,
            kind text NOT NULL,
            body text NOT NULL
        )
        """,
    ),
    Migration(
        "make the lease: one row, which says who leads, in which epoch and until when",
        """
        CREATE TABLE {schema}.lease (
            one boolean PRIMARY KEY CHECK (one),
            epoch bigint NOT NULL CHECK (epoch > 0),
            name text NOT NULL,
            address text NOT NULL,
            secret text NOT NULL,
            authority text NOT NULL,
            expires_at timestamptz NOT NULL
        )
        """,
    ),
    Migration(
        "make the blobs: a row a blob or part, and its bytes in pages that are stored as they come",
        """
        CREATE TABLE {schema}.blobs (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            store text NOT NULL,
            part text,
            name text,
            size bigint NOT NULL DEFAULT 0,
            deleted_at timestamptz,
            CHECK ((part IS NULL) <> (name IS NULL))
        );
        CREATE UNIQUE INDEX blobs_by_name ON {schema}.blobs (store, name) WHERE deleted_at IS NULL AND name IS NOT NULL;
        CREATE UNIQUE INDEX blobs_by_part ON {schema}.blobs (store, part) WHERE deleted_at IS NULL AND part IS NOT NULL;
        CREATE TABLE {schema}.pages (
            blob bigint NOT NULL REFERENCES {schema}.blobs ON DELETE CASCADE,
            number integer NOT NULL,
            data bytea NOT NULL,
            PRIMARY KEY (blob, number)
        );
        ALTER TABLE {schema}.pages ALTER COLUMN data SET STORAGE EXTERNAL
        """,
    ),
)


def migrate(database: Database, migrations: tuple[Migration, ...] = MIGRATIONS) -> list[int]:
    """Bring a schema to this version, made where it is not there.

    Args:
        database: The schema's.
        migrations: All steps, in order.

    Returns:
        The numbers of the steps that were taken.

    Raises:
        LedgerError: The schema is a newer version's, or the database refuses.
    """
    schema = Identifier(database.schema)

    def take(connection: PostgresSession) -> list[int]:
        with connection.transaction():
            connection.execute("SET LOCAL statement_timeout TO 0")
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"zowarmup {database.schema}"])
            (there,) = _one(connection, "SELECT count(*) FROM pg_namespace WHERE nspname = %s", database.schema)
            if not there:
                connection.execute(SQL("CREATE SCHEMA {}").format(schema))
            connection.execute(
                SQL(
                    "CREATE TABLE IF NOT EXISTS {}.migrations (number integer PRIMARY KEY, what text NOT NULL, "
                    "by text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
                ).format(schema)
            )
            taken = _taken(connection, database)
            _require_known(database, taken, migrations)
            missing = [number for number in range(1, len(migrations) + 1) if number not in taken]
            for number in missing:
                step = migrations[number - 1]
                connection.execute(SQL(step.sql).format(schema=schema))
                connection.execute(
                    SQL("INSERT INTO {}.migrations (number, what, by) VALUES (%s, %s, %s)").format(schema),
                    (number, step.what, SOFTWARE),
                )
            return missing

    try:
        return database.run(take, LONGEST_S)
    except DatabaseRefused as error:
        raise error.of_ledger() from error


def require_current(database: Database, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """For whoever only reads. Raises LedgerError where the schema is not of this version, or not there."""
    try:
        there = database.run(
            lambda connection: _one(connection, "SELECT to_regclass(%s) IS NOT NULL", f"{database.schema}.migrations")[
                0
            ]
        )
        taken = database.run(lambda connection: _taken(connection, database)) if there else {}
    except DatabaseRefused as error:
        raise error.of_ledger() from error
    if not taken:
        raise LedgerError(f"{database} holds no run: start a coordinator with it, or name the schema that has one")
    _require_known(database, taken, migrations)
    if len(taken) < len(migrations):
        raise LedgerError(
            f"{database} has {len(taken)} of the {len(migrations)} migrations of this version: start a coordinator of this version "
            "once, or use the zowarmup that the coordinators have"
        )


def _taken(connection: PostgresSession, database: Database) -> dict[int, str]:
    rows = connection.execute(
        SQL("SELECT number, what FROM {}.migrations ORDER BY number").format(Identifier(database.schema))
    )
    return dict(rows.fetchall())


def _require_known(database: Database, taken: dict[int, str], migrations: tuple[Migration, ...]) -> None:
    newest = max(taken, default=0)
    if newest > len(migrations):
        raise LedgerError(
            f"{database} is a newer zowarmup's: its migration {newest} ({taken[newest]}) is not known to this version, which has "
            f"{len(migrations)}; use the zowarmup that wrote it, or a newer one"
        )


def _one(connection: PostgresSession, query: str, *values: object) -> tuple[object, ...]:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row
