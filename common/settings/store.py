"""Where a run is kept that several coordinators share: a PostgreSQL database and a schema in it, without any password."""

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Self

from zowarmup.common.settings.addresses import host_and_port

_URL = re.compile(r"postgres(?:ql)?://(?P<who>[^/?#]*)(?:/(?P<database>[^/?#]*))?(?:\?(?P<query>[^#]*))?")
_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
_SECRET = re.compile(r"pass(word)?|sslpassword|oauth_client_secret", re.IGNORECASE)
_EXAMPLE = '"postgresql://zowarmup@db.example/fleet"'
_MEANS = (
    "libpq finds it in the environment (PGPASSWORD), in a password file (PGPASSFILE, ~/.pgpass, or ?passfile=PATH) or with a "
    "service (?service=NAME)"
)


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A database, and the schema of one run in it.

    Args:
        url: As libpq reads it, without a password.
        schema: 1 to 63 of a-z, 0-9 and _; empty where it is not said.
    """

    url: str
    schema: str = ""

    def __post_init__(self) -> None:
        _check_url(self.url)
        if self.schema and not _SCHEMA.fullmatch(self.schema):
            raise ValueError(
                f"schema {self.schema!r}: must be 1 to 63 of a-z, 0-9 and _, neither begin with a digit nor with pg_"
            )

    @classmethod
    def of(cls, text: str) -> Self:
        """What a run file or an option says: a URL, in which `schema=NAME` may be among the parameters. Raises ValueError, whose sentence
        never repeats the text: somebody may have put a password into it."""
        url, mark, query = text.partition("?")
        given = [one.partition("=") for one in query.split("&")] if mark else []
        left = "&".join("".join(one) for one in given if one[0] != "schema")
        schemas = [value for name, _, value in given if name == "schema"]
        if len(schemas) > 1 or "" in schemas:
            raise ValueError("schema= must be given once, with a name")
        return cls(url + (f"?{left}" if left else ""), *schemas)

    def of_run(self, name: str) -> Self:
        """With the schema of a run of that name, unless it says another."""
        return self if self.schema else replace(self, schema=schema_of(name))

    def __str__(self) -> str:
        """As `of` reads it."""
        if not self.schema:
            return self.url
        return f"{self.url}{'&' if '?' in self.url else '?'}schema={self.schema}"


def schema_of(name: str) -> str:
    """The schema of a run, unless another is said: its name, with what tells it from a name that is spelt alike."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40]
    if plain == name:
        return f"zowarmup_{plain}"
    return f"zowarmup_{plain}_{hashlib.sha256(name.encode()).hexdigest()[:8]}".replace("__", "_")


def _check_url(url: str) -> None:
    found = _URL.fullmatch(url)
    if found is None or not url.isprintable() or " " in url:
        raise ValueError(f"must be a URL of PostgreSQL, such as {_EXAMPLE}")
    user, at, hosts = found["who"].rpartition("@")
    if at and ":" in user:
        raise ValueError(f"holds a password: leave it out; {_MEANS}")
    for name in (one.partition("=")[0] for one in (found["query"] or "").split("&")):
        if _SECRET.fullmatch(name) or "%" in name:
            raise ValueError(f"holds a password: leave {name.partition('%')[0]}= out; {_MEANS}")
    for host in filter(None, hosts.split(",")):
        if "%" not in host and (":" in host.rpartition("]")[2]):
            try:
                host_and_port(host)
            except ValueError as error:
                raise ValueError(f"must be a URL of PostgreSQL, such as {_EXAMPLE}: {error}") from None
