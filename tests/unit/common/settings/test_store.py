"""Where a shared run is kept: what is read, what is refused, and that no refusal repeats a password."""

import re

import pytest

from zowarmup.common.settings.store import StoreAddress, schema_of

PASSWORD = "hunter2"


@pytest.mark.parametrize(
    ("text", "url", "schema"),
    [
        ("postgresql://", "postgresql://", ""),
        ("postgres://db/fleet", "postgres://db/fleet", ""),
        ("postgresql://one@db:5433/fleet?schema=digits", "postgresql://one@db:5433/fleet", "digits"),
        (
            "postgresql://a:1,[fd00::1]:2/f?sslmode=verify-full&schema=x_1&target_session_attrs=any",
            "postgresql://a:1,[fd00::1]:2/f?sslmode=verify-full&target_session_attrs=any",
            "x_1",
        ),
        ("postgresql:///?service=fleet&passfile=/run/pgpass", "postgresql:///?service=fleet&passfile=/run/pgpass", ""),
        ("postgresql://%2Frun%2Fpostgresql/fleet", "postgresql://%2Frun%2Fpostgresql/fleet", ""),
    ],
)
def test_there_and_back(text: str, url: str, schema: str) -> None:
    found = StoreAddress.of(text)
    assert (found.url, found.schema) == (url, schema)
    assert StoreAddress.of(str(found)) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "URL of PostgreSQL"),
        ("mysql://db/fleet", "URL of PostgreSQL"),
        ("sqlite:///run.sqlite", "URL of PostgreSQL"),
        ("postgresql://db/fleet#part", "URL of PostgreSQL"),
        ("postgresql://db/a fleet", "URL of PostgreSQL"),
        ("postgresql://db:99999/fleet", "port"),
        (f"postgresql://one:{PASSWORD}@db/fleet", "PGPASSWORD"),
        (f"postgresql://one@db/fleet?password={PASSWORD}", "PGPASSFILE"),
        (f"postgresql://one@db/fleet?sslmode=require&sslpassword={PASSWORD}", "leave sslpassword= out"),
        (f"postgresql://one@db/fleet?p%61ssword={PASSWORD}", "leave it out|leave p= out"),
        ("postgresql://db/fleet?schema=Digits", "schema 'Digits'"),
        ("postgresql://db/fleet?schema=pg_temp", "pg_"),
        ("postgresql://db/fleet?schema=", "schema="),
        ("postgresql://db/fleet?schema=a&schema=b", "once"),
        (f"postgresql://db/fleet?schema={'a' * 64}", "1 to 63"),
    ],
)
def test_what_is_no_address_is_refused_without_its_password(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        StoreAddress.of(text)
    assert PASSWORD not in str(refused.value)


def test_every_run_has_a_schema_of_its_own() -> None:
    names = [
        "digits",
        "Digits",
        "digits ",
        "di-gits",
        "di_gits",
        "数字",
        "字数",
        "a" * 64,
        "a" * 63 + "b",
        "-",
        "zowarmup",
    ]
    schemas = [schema_of(name) for name in names]
    assert schemas[0] == "zowarmup_digits"
    assert len(set(schemas)) == len(names)
    assert all(re.fullmatch(r"zowarmup_[a-z0-9_]{1,54}", schema) for schema in schemas)
    assert StoreAddress.of("postgresql://db/fleet").of_run("digits").schema == "zowarmup_digits"
    assert StoreAddress.of("postgresql://db/fleet?schema=mine").of_run("digits").schema == "mine"
