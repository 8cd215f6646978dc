"""A boot with nothing to do is as if it were not there: what it asks the server, and what it loads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from startup.database.postgres import look
from startup.database.postgres import session as postgres
from startup.migrations import files, tables
from startup.settings.address import parse
from tests.conftest import Query, Server, Startup
from tests.unit.test_cli import MAY_BE_IMPORTED_TO_LOOK, not_allowed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def migrated(startup: Startup, database_url: str) -> Startup:
    """A node whose two migrations are applied."""
    startup.environ["DATABASE_URL"] = database_url
    startup.write("migrations/0001_a.sql", "CREATE TABLE a (id integer);\n")
    startup.write("migrations/0002_b.sql", "CREATE TABLE b (id integer);\n")
    assert startup("init").returncode == 0
    return startup


def test_it_takes_no_lock_and_less_than_ten_statements(
    migrated: Startup, server: Server, database: str, query: Query
) -> None:
    query(server.admin_url("postgres"), f"ALTER DATABASE {database} SET log_statement = 'all'")
    before = len(server.log())
    done = migrated("init", STARTUP_NODE="counted")
    assert (done.returncode, "nothing to do" in done.stderr) == (0, True), done.stderr
    asked = [line for line in server.log()[before:].splitlines() if "startup/counted LOG:" in line]
    assert 0 < len(asked) < 10, asked
    assert not [line for line in asked if "advisory_lock" in line]


def sessions(startup: Startup, server: Server, query: Query, database: str, **environ: str) -> list[list[str]]:
    """What each of a boot's sessions has asked, in the order in which they began."""
    query(server.admin_url("postgres"), f"ALTER DATABASE {database} SET log_statement = 'all'")
    before = len(server.log())
    done = startup("init", STARTUP_NODE="counted", **environ)
    assert done.returncode == 0, done.stderr
    asked: dict[str, list[str]] = {}
    for pid, text in re.findall(
        r"\[(\d+)\] startup/counted LOG: +(?:statement|execute[^:]*): +(\w.*)", server.log()[before:]
    ):
        asked.setdefault(pid, []).append(text)
    return list(asked.values())


def test_what_is_to_do_is_done_on_a_session_of_its_own_and_the_look_has_only_read(
    migrated: Startup, server: Server, database: str, query: Query
) -> None:
    migrated.write("migrations/0003_c.sql", "CREATE TABLE c (id integer);\n")
    look_asked, work = sessions(migrated, server, query, database)
    assert look_asked and all(text.startswith(("SELECT", "WITH", "SHOW")) for text in look_asked)
    assert not [text for text in look_asked if "advisory" in text]
    assert [text for text in work if "pg_try_advisory_lock" in text] and [text for text in work if "CREATE" in text]


def test_where_there_is_always_something_to_do_nothing_looks_first(
    migrated: Startup, server: Server, database: str, query: Query
) -> None:
    assert len(sessions(migrated, server, query, database, STARTUP_TASKS="greet", STARTUP_TASK_GREET="true")) == 1


def test_a_stale_row_in_yoyos_lock_is_cleared_by_a_session_that_may(
    migrated: Startup, server: Server, database: str, database_url: str, query: Query
) -> None:
    query(database_url, "INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), -7)")
    assert len(sessions(migrated, server, query, database)) == 2
    assert query(database_url, "SELECT pid FROM yoyo_lock") == []


#: What another tool, a person or another image may have done to what stands in the database.
CHANGES = {
    "nothing": "",
    "a mark that the image does not know": "INSERT INTO _yoyo_migration VALUES ('h', '0003_c', now())",
    "a mark that is gone": "DELETE FROM _yoyo_migration WHERE migration_id = '0002_b'",
    "one mark for another": "UPDATE _yoyo_migration SET migration_id = '0002_c' WHERE migration_id = '0002_b'",
    "a mark that is twice there": "INSERT INTO _yoyo_migration SELECT 'h', migration_id, applied_at_utc"
    " FROM _yoyo_migration LIMIT 1",
    "a mark that is newer": "UPDATE _yoyo_migration SET applied_at_utc = now() + interval '1 day'",
    "a row that is gone": "DELETE FROM startup_migration WHERE id = '0001_a'",
    "a row too many": "INSERT INTO startup_migration (id, state) VALUES ('0003_c', 'done')",
    "another content": "UPDATE startup_migration SET checksum = repeat('0', 64) WHERE id = '0001_a'",
    "two contents that changed places": "UPDATE startup_migration a SET checksum = b.checksum"
    " FROM startup_migration b WHERE a.id <> b.id",
    "a content that is not known": "UPDATE startup_migration SET checksum = NULL WHERE id = '0001_a'",
    "one that has begun": "UPDATE startup_migration SET state = 'started' WHERE id = '0001_a'",
    "one that is being taken back": "UPDATE startup_migration SET state = 'rollback' WHERE id = '0001_a'",
    "a row of ours in yoyo's lock": "INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), -7)",
    "another's row in yoyo's lock": "INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), 7)",
    "a table that is gone": "DROP TABLE startup_migration",
    "one row that reads as two": "UPDATE startup_migration SET id = concat('0001_a ', checksum, chr(10), '0002_b')"
    " WHERE id = '0002_b'; UPDATE _yoyo_migration SET migration_id = (SELECT max(id) FROM startup_migration)"
    " WHERE migration_id = '0002_b'",
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_digest_tells_that_nothing_is_to_do_and_never_when_anything_is(
    migrated: Startup, database_url: str, query: Query, change: str
) -> None:
    if CHANGES[change]:
        query(database_url, CHANGES[change])
    catalog = files.load([str(migrated.directory / "migrations")], given=True)
    same = change in ("nothing", "another's row in yoyo's lock")
    for module in (postgres, look):
        with closing(module.connect(parse(database_url))) as session:
            assert tables.all_as_recorded(session, catalog) == same
            state = tables.pending(session, catalog)
            assert not same or (state.nothing_to_do and not state.odd and not state.locked)


def test_the_digest_is_of_the_files_as_they_are_now(migrated: Startup, database_url: str) -> None:
    with closing(look.connect(parse(database_url))) as session:
        for name, content, same in (
            ("0001_a.sql", "CREATE TABLE a (id integer);\r\n", True),
            ("0001_a.sql", "CREATE TABLE a (id bigint);\n", False),
            ("0001_a.sql", "CREATE TABLE a (id integer);\n", True),
            ("0003_c.sql", "CREATE TABLE c (id integer);\n", False),
        ):
            migrated.write(f"migrations/{name}", content)
            catalog = files.load([str(migrated.directory / "migrations")], given=True)
            assert tables.all_as_recorded(session, catalog) == same


SHOW = """
import sys
sys.path.insert(0, sys.argv[1])
from startup import cli
code = cli.main(["init"])
print(*sys.modules)
sys.exit(code)
"""


def test_neither_what_applies_migrations_nor_psycopg_is_loaded(migrated: Startup) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", SHOW, str(ROOT)],
        cwd=migrated.directory,
        env={**migrated.environ, "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert not_allowed([*loaded], MAY_BE_IMPORTED_TO_LOOK) == set()
    assert {"startup.migrations.tables", "startup.database.postgres.look"} <= loaded
    assert not loaded & {
        "psycopg",
        "yoyo",
        "startup.migrations.apply",
        "startup.migrations.sqltext",
        "startup.database.statement",
    }
