"""docs/adopt.md: its commands, as they stand there, on databases that Alembic, Django and dbmate have made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server
from tests.database.homes import BOTH

PAGE = (Path(__file__).parents[2] / "docs" / "adopt.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
PROGRAMS = Path(sys.executable).parent
ALEMBIC_PROJECT = Path(__file__).parents[1] / "docker" / "alembic_project"

SETTINGS = """
import os
from urllib.parse import urlsplit
url = urlsplit(os.environ["DATABASE_URL"])
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "shop"]
USE_TZ, DEFAULT_AUTO_FIELD = True, "django.db.models.BigAutoField"
ENGINE = "django.db.backends." + ("sqlite3" if url.scheme == "sqlite" else "postgresql")
NAME = url.path[1:]
DATABASES = {"default": {"ENGINE": ENGINE, "NAME": NAME, "HOST": url.hostname, "PORT": url.port, "USER": url.username,
                         "PASSWORD": url.password}}
"""
MODELS = """
from django.db import models
class Account(models.Model):
    email = models.TextField(unique=True)
    class Meta:
        db_table = "accounts"
"""
DBMATE = {
    "1_accounts": "-- migrate:up\nCREATE TABLE accounts (email text PRIMARY KEY);\n-- migrate:down\n",
    "2_first": "-- migrate:up\nINSERT INTO accounts VALUES ('admin@example.com');\n-- migrate:down\n",
}


class Tool:
    """A project of the tool's own, in which it is run by its own program."""

    table: str

    def __init__(self, directory: Path, url: str) -> None:
        self.directory, self.url = directory, url

    def run(self, *argv: str, **environ: str) -> None:
        program = PROGRAMS / argv[0]
        if not program.exists():
            pytest.skip(f"{argv[0]} is not installed: make .venv/.installed-dev")
        environ = {"PATH": os.environ["PATH"], "DATABASE_URL": self.url, **environ}
        done = subprocess.run(
            [str(program), *argv[1:]], cwd=self.directory, env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def migrate(self) -> None:
        """Make the table ``accounts``, and the tool's own."""
        raise NotImplementedError


class Alembic(Tool):
    table = "alembic_version"

    def migrate(self) -> None:
        shutil.copytree(ALEMBIC_PROJECT, self.directory / "alembic")
        url = self.url.replace("postgresql://", "postgresql+psycopg://")
        self.run("alembic", "--config", "alembic/alembic.ini", "upgrade", "head", DATABASE_URL=url)


class Django(Tool):
    table = "django_migrations"

    def migrate(self) -> None:
        (self.directory / "shop/migrations").mkdir(parents=True)
        for name in ("shop/__init__.py", "shop/migrations/__init__.py"):
            (self.directory / name).touch()
        (self.directory / "shop/models.py").write_text(MODELS)
        (self.directory / "site_settings.py").write_text(SETTINGS)
        environ = {"DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": str(self.directory)}
        self.run("django-admin", "makemigrations", "shop", **environ)
        self.run("django-admin", "migrate", "--noinput", **environ)


class Dbmate(Tool):
    table = "schema_migrations"

    def migrate(self) -> None:
        (self.directory / "db/migrations").mkdir(parents=True)
        for name, content in DBMATE.items():
            (self.directory / f"db/migrations/{name}.sql").write_text(content)
        sqlite = self.url.startswith("sqlite")
        url = self.url.replace("sqlite:///", "sqlite:") if sqlite else f"{self.url}?sslmode=disable"
        self.run("dbmate", "--no-dump-schema", "up", DATABASE_URL=url)


class Page:
    """The page's commands, run in a shell in the project's directory."""

    def __init__(self, startup: Any, server: Server, tool: Tool) -> None:
        self.startup, self.tool = startup, tool
        programs = f"{PROGRAMS}:{server.programs}:{os.environ['PATH']}"
        startup.environ |= {"PATH": programs, "DATABASE_URL": tool.url, "STARTUP_NODE": "web-1"}
        self.is_sqlite = tool.url.startswith("sqlite")

    def run(self, containing: str) -> str:
        """The block with *containing* in it, for this tool's table and this database's file; what it said."""
        (block,) = [block for block in BLOCKS if containing in block]
        block = block.replace("alembic_version", self.tool.table).replace("shop.db", self.tool.url.split("/", 3)[-1])
        done = subprocess.run(
            ["sh", "-euc", block], cwd=self.startup.directory, env=self.startup.environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def dump(self) -> None:
        if self.is_sqlite and not shutil.which("sqlite3"):
            pytest.skip("sqlite3, the program, is not installed")
        self.run("sqlite3" if self.is_sqlite else "pg_dump")


@pytest.fixture(params=[Alembic, Django, Dbmate])
def tool(request: pytest.FixtureRequest, startup: Any, url: str) -> Tool:
    made: Tool = request.param(startup.directory, url)
    made.migrate()
    (startup.directory / "migrations").mkdir()
    return made


def schema(url: str, query: Any) -> list[Any]:
    """Every column of the app's."""
    others = "NOT IN ('alembic_version', 'django_migrations', 'schema_migrations')"
    if url.startswith("sqlite"):
        ours = "name NOT LIKE '%yoyo%' AND name NOT LIKE 'startup%' AND name NOT LIKE 'sqlite%'"
        return sorted(query(url, f"SELECT name, sql FROM sqlite_master WHERE tbl_name {others} AND {ours}"))
    ours = "table_name NOT LIKE '%yoyo%' AND table_name NOT LIKE 'startup%'"
    columns = "table_name, column_name, data_type, column_default, is_nullable, is_identity"
    return list(
        query(
            url,
            f"SELECT {columns} FROM information_schema.columns WHERE table_schema = 'public' AND table_name {others}"
            f" AND {ours} ORDER BY table_name, column_name",
        )
    )


@BOTH
def test_a_database_that_a_tool_has_made_is_adopted_as_the_page_says(
    startup: Any, server: Server, query: Any, tool: Tool, url: str
) -> None:
    page = Page(startup, server, tool)
    page.dump()
    startup.write("migrations/0002_plans.sql", "CREATE TABLE plans (id int);\n")
    before = schema(url, query)
    kept = query(url, f"SELECT * FROM {tool.table}")

    forgotten = startup("init")
    assert forgotten.returncode == 70 and schema(url, query) == before
    assert f"the database has the table {tool.table} of " in forgotten.stderr
    assert "startup baseline 0001_before takes the migrations up to it" in forgotten.stderr

    said = page.run("startup baseline 0001_before\n")
    assert "1 migration would be taken" in said and "1 migration is taken for applied" in said
    assert "baseline 0001_before  once    done" in said and "1 applied, 1 pending" in said
    assert "1 applied" in page.run("startup init")
    assert ("plans",) in {row[:1] for row in schema(url, query)}
    assert query(url, f"SELECT * FROM {tool.table}") == kept and query(url, "SELECT count(*) FROM accounts") in (
        [(0,)],
        [(1,)],
    )
    tool_says = subprocess.run(
        [
            *(str(PROGRAMS / "yoyo"), "list", "--batch", "--no-config-file", "--database"),
            *(url.replace("postgresql://", "postgresql+psycopg://"), str(startup.directory / "migrations")),
        ],
        capture_output=True,
        text=True,
    )
    assert tool_says.stdout.count("\nA ") == 2, tool_says.stderr


@BOTH
def test_an_empty_database_is_made_the_same_by_the_dump(
    startup: Any, server: Server, query: Any, tool: Tool, url: str, tmp_path: Path
) -> None:
    Page(startup, server, tool).dump()
    fresh = server.new_database()
    try:
        empty = f"sqlite:///{tmp_path}/empty.db" if url.startswith("sqlite") else server.url(fresh)
        done = startup("init", DATABASE_URL=empty)
        assert done.returncode == 0, done.stderr
        assert schema(empty, query) == schema(url, query) != []
    finally:
        server.drop_database(fresh)


def test_the_lines_on_the_page_are_the_ones_that_are_printed(startup: Any, server: Server, database_url: str) -> None:
    tool = Alembic(startup.directory, database_url)
    tool.migrate()
    (startup.directory / "migrations").mkdir()
    Page(startup, server, tool).dump()
    printed = startup("init").stderr.replace("startup: ", "    startup: ").splitlines()
    line_number = re.compile(r"(?<=sql:)\d+(?=:)|\d+(?= \|)")  # pg_dump's head differs from version to version
    known = {line_number.sub("N", line) for line in printed}
    shown = [line_number.sub("N", line) for line in PAGE.splitlines() if line.startswith("    startup: ")]
    assert shown and [line for line in shown if line not in known] == [], printed


def test_the_tables_on_the_page_are_those_that_are_looked_for() -> None:
    from startup.migrations.adoption import TOOLS

    assert set(re.findall(r"^\| [^|]* \| `(\w+)` \|$", PAGE, re.MULTILINE)) == set(TOOLS)
