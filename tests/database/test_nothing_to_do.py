"""A boot with nothing to do is as if it were not there: what it asks the server, and what it loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
