"""How DATABASE_URL is read."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from startup import log
from startup.settings.address import for_commands, parse


@pytest.fixture(autouse=True)
def fresh_secrets() -> Iterator[None]:
    log._secrets.clear()
    yield
    log._secrets.clear()


@pytest.mark.parametrize(
    "scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgres+asyncpg", "PostgreSQL", "psql", "postgis"]
)
def test_every_spelling_of_the_scheme_means_postgresql(scheme: str) -> None:
    address = parse(f"{scheme}://app:pw-7@db:6543/shop")
    assert address.dialect == "postgresql"
    assert address.conninfo == {"user": "app", "password": "pw-7", "host": "db", "port": "6543", "dbname": "shop"}
    assert address.masked == "postgresql://app:***@db:6543/shop"


@pytest.mark.parametrize(
    ("url", "conninfo"),
    [
        ("postgresql://", {}),
        ("postgresql:///shop", {"dbname": "shop"}),
        ("postgresql://db", {"host": "db"}),
        ("postgresql://db/shop", {"host": "db", "dbname": "shop"}),
        ("postgresql://app@/shop?host=/run/pg", {"user": "app", "host": "/run/pg", "dbname": "shop"}),
        ("postgresql://%2Frun%2Fpg/shop", {"host": "/run/pg", "dbname": "shop"}),
        ("postgresql://%2Frun%2Fpg:5433/shop", {"host": "/run/pg", "port": "5433", "dbname": "shop"}),
        ("postgresql://a%40b:p%2Fq%3F%23%25@/s%20p", {"user": "a@b", "password": "p/q?#%", "dbname": "s p"}),
        ("postgresql://app:p+q@db/x", {"user": "app", "password": "p+q", "host": "db", "dbname": "x"}),
        ("postgresql:///x?ssl=no-verify", {"sslmode": "require", "dbname": "x"}),
        ("postgresql:///x?user=me@server", {"user": "me@server", "dbname": "x"}),
        ("postgresql://[::1]:5433/x", {"host": "::1", "port": "5433", "dbname": "x"}),
        ("postgresql://a:1,b:2,[::1]/x", {"host": "a,b,::1", "port": "1,2,", "dbname": "x"}),
        ("postgresql:///x?host=a:1&host=b:2", {"host": "a,b", "port": "1,2", "dbname": "x"}),
        ("postgresql:///x?host=::1&port=7", {"host": "::1", "port": "7", "dbname": "x"}),
        ("postgresql:///x?host=a,b&port=7", {"host": "a,b", "port": "7", "dbname": "x"}),
        ("postgresql://db:5/x?host=other", {"host": "other", "port": "5", "dbname": "x"}),
        ("postgresql:///x?sslmode=verify-full&user=u", {"sslmode": "verify-full", "user": "u", "dbname": "x"}),
        ("postgresql:///x?options=-c%20geqo%3Doff", {"options": "-c geqo=off", "dbname": "x"}),
        ("postgresql:///x?ssl=true", {"sslmode": "require", "dbname": "x"}),
        ("postgresql+asyncpg:///x?ssl=verify-ca", {"sslmode": "verify-ca", "dbname": "x"}),
    ],
)  # fmt: skip
def test_an_address_becomes_libpq_keywords(url: str, conninfo: dict[str, str]) -> None:
    assert parse(url).conninfo == conninfo


def test_schema_is_kept_apart_and_parameters_of_other_tools_are_dropped_by_name() -> None:
    address = parse(
        "postgresql://db/x?schema=s%22x&connection_limit=5&pgbouncer=true&sslmode=require&application_name=a"
    )
    assert address.schema == 's"x'
    assert address.conninfo == {"host": "db", "dbname": "x", "sslmode": "require"}
    assert address.dropped == ("application_name", "connection_limit", "pgbouncer")
    assert parse("postgresql://db/x?schema=").schema is None


@pytest.mark.parametrize("name", ["schema", "currentSchema", "current_schema", "search_path"])
def test_a_schema_is_honoured_by_whichever_name_a_tool_gives_it(name: str) -> None:
    address = parse(f"postgresql://db/x?{name}=App_1")
    assert (address.schema, address.dropped) == ("App_1", ())
    assert for_commands(f"postgresql://db/x?{name}=App_1", address) == (
        "postgresql://db/x",
        '-c search_path="App_1"',
    )


def test_all_keywords_of_the_installed_libpq_are_known() -> None:
    import psycopg

    from startup.settings.address import LIBPQ

    ours = {"application_name", "fallback_application_name", "client_encoding", "replication", "sslkeylogfile"}
    assert {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()} - ours <= LIBPQ


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:geheim%2F1@db/x",
        "postgresql://app@db/x?password=geheim%2F1",
        "postgresql://app@db/x?sslpassword=geheim%2F1&sslmode=require",
    ],
)
def test_a_password_is_masked_and_hidden_from_the_log(url: str) -> None:
    address = parse(url)
    assert "geheim" not in address.masked and "geheim" not in repr(address)
    assert log.MASK in address.masked
    for form in ("geheim/1", "geheim%2F1"):
        assert log.redact(f"no {form} here") == "no *** here"


@pytest.mark.parametrize(
    "url",
    ["postgresql://a:1,[::1]:2/x?schema=s", "postgresql://u@/x?host=/run/pg&port=7", "postgresql:///x?host=a,b&port=7"],
)
def test_the_masked_address_can_be_read_again(url: str) -> None:
    assert parse(parse(url).masked) == parse(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is not an address"),
        ("shop.db", "is not an address"),
        ("host=db password=geheim", "is not an address"),
        ("app:geheim@db/x?next=http://y", "is not an address"),
        ("jdbc:postgresql://app:geheim@db/x", "is not an address"),
        ("mysql://app:geheim@db/x", "'mysql://', which is not supported"),
        ("mongodb+srv://app:geheim@db/x", "STARTUP_TASK_MIGRATE"),
        ("postgresql://app:p@geheim@db/x", "%40"),
        ("postgresql://app@corp:geheim@db/x", "%40"),
        ("postgresql://app:geheim%@db/x", "%25"),
        ("postgresql://app:ge%heim%zz@db/x", "%25"),
        ("postgresql://app:geheim 1@db/x", "a space"),
        ("postgresql://db/x?schema=app,public", "search_path%3Da,b"),
        ("postgresql://db/x?search_path=app,public", "search_path%3Da,b"),
        ("postgresql://db/x?currentSchema=$user", "?schema=NAME"),
        ("postgresql://db/x?schema=a&search_path=b", "by schema and search_path"),
        ("postgresql://db/x?ssl=sometimes", "verify-full"),
        ("postgresql://app:geheim/1@db/x", "%2F"),
        ("postgresql://app:geheim?1@db/x", "%3F"),
        ("postgresql://app:12/34geheim@db/x", "%2F"),
        ("postgresql://app:12?34geheim@db/x", "%3F"),
        ("postgresql://app:12?34geheim@db/x?sslmode=disable", "%3F"),
        ("postgresql://db/geheim@db:5432/x", "%2F"),
        ("postgresql://app:geheim", "no number from 1 to 65535"),
        ("postgresql://app:geheim@db:99999/x", "from 1 to 65535"),
        ("postgresql://app:geheim@[::1/x", "[::1]:5432"),
        ("postgresql://app:geheim%00@db/x", "%00"),
        ("sqlite://", "in memory"),
        ("sqlite:///", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///x.db?mode=memory", "in memory"),
        ("sqlite:///file:x.db?uri=true", "SQLite URI"),
        ("sqlite://data/x.db", "sqlite:///data/x.db"),
        ("sqlite+pysqlcipher://:geheim@/x.db", "a password"),
        ("sqlite:////data/", "names a directory, /data/"),
    ],
)
def test_a_wrong_address_is_refused_with_what_would_be_right(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        parse(url)
    assert "geheim" not in str(caught.value)


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_no_text_at_all_leaks_its_password_or_raises_anything_but_valueerror(text: str) -> None:
    try:
        shown = parse(f"postgresql://app:Gehe1m-{text}").masked
    except ValueError as error:
        shown = str(error)
    assert "Gehe1m" not in log.redact(shown)


def test_sqlite_paths_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("sqlite:///startup.db").path == str(tmp_path / "startup.db")
    assert parse("sqlite:////data/a%20b.db").path == "/data/a b.db"
    assert parse("sqlite+aiosqlite:////data/x.db?timeout=5").path == "/data/x.db"
    assert parse("sqlite+aiosqlite:////data/x.db?timeout=5").dropped == ("timeout",)
    assert parse("sqlite:////data/x.db").masked == "sqlite:////data/x.db"


def test_reading_an_address_imports_no_database_driver() -> None:
    code = "import sys; from startup.settings.address import parse; parse('postgresql://db/x'); print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"psycopg", "sqlite3"} & set(modules)


@pytest.mark.parametrize(
    ("value", "address", "options"),
    [
        ("postgresql://h/d", "postgresql://h/d", ""),
        ("postgresql://h/d?sslmode=disable", "postgresql://h/d?sslmode=disable", ""),
        ("postgresql://h/d?schema=app", "postgresql://h/d", '-c search_path="app"'),
        ("postgres+x://h/d?schema=a&pgbouncer=true&port=1", "postgres+x://h/d?port=1", '-c search_path="a"'),
        ("postgresql://h/d?schema=a%22%20b%5C", "postgresql://h/d", '-c search_path="a""\\ b\\\\"'),
        ("postgresql://h/d?connection_limit=5", "postgresql://h/d", ""),
        ("psql://u:p@h/d", "postgresql://u:p@h/d", ""),
        ("PostGIS://h/d?port=1&schema=a", "postgresql://h/d?port=1", '-c search_path="a"'),
        ("postgresql://h/d?ssl=true&port=1", "postgresql://h/d?port=1&sslmode=require", ""),
        ("postgresql://h/d?ssl=no-verify", "postgresql://h/d?sslmode=require", ""),
        ("postgresql://h/d?options=-ca&schema=s", "postgresql://h/d?options=-ca%20-c%20search_path%3D%22s%22", ""),
        ("postgresql:///d?host=a:1&host=b:2", "postgresql:///d?host=a,b&port=1,2", ""),
    ],
)  # fmt: skip
def test_commands_get_an_address_that_libpq_takes(value: str, address: str, options: str) -> None:
    assert for_commands(value, parse(value)) == (address, options)
