"""The migration tools, each as its users wire it up: the same files in its own form, and its command."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from bench.things import PEERS, Bench, timed
from tests.conftest import run_query

Sql = Callable[[int], str]


def one_table(number: int) -> str:
    """The usual migration of these rows."""
    return f"CREATE TABLE table_{number:05} (id integer, name text, created_at timestamptz DEFAULT now());\n"


def many_statements(count: int) -> Sql:
    """A file of *count* INSERTs and a table for them."""
    lines = "".join(f"INSERT INTO large (id, name) VALUES ({number}, 'name {number}');\n" for number in range(count))
    return lambda _: "CREATE TABLE large (id integer, name text);\n" + lines


class Tool:
    """One tool. ``marks`` is SQL that makes all of *count* migrations applied, where the first is already."""

    name = ""

    def write(self, directory: Path, count: int, sql: Sql) -> None:
        """The project: *count* migrations."""
        raise NotImplementedError

    def command(self, directory: Path, url: str) -> tuple[list[str], dict[str, str]]:
        """Command line and environment that apply what is pending."""
        raise NotImplementedError

    def marks(self, count: int) -> str:
        raise NotImplementedError


class Ours(Tool):
    name = "startup-tasks init"

    def __init__(self, bench: Bench) -> None:
        self._product = bench.product

    def write(self, directory: Path, count: int, sql: Sql) -> None:
        (directory / "migrations").mkdir()
        for number in range(1, count + 1):
            (directory / "migrations" / f"{number:05}_step.sql").write_text(sql(number))

    def command(self, directory: Path, url: str) -> tuple[list[str], dict[str, str]]:
        env = {"DATABASE_URL": url, "STARTUP_NODE": "n"}
        return [self._product.entrypoint, "startup", "init"], env

    def marks(self, count: int) -> str:
        """yoyo's, and each file's checksum."""
        ids = [f"{number:05}_step" for number in range(2, count + 1)]
        texts = (one_table(number).rstrip().encode() for number in range(2, count + 1))
        pairs = zip(ids, map(hashlib.sha256, texts), strict=True)
        rows = ", ".join(f"('{name}', '{content.hexdigest()}', 'done', now())" for name, content in pairs)
        ours = f"INSERT INTO startup_migration (id, checksum, state, applied_at) VALUES {rows}"
        return f"{_yoyos_marks(count)}; {ours}"


def _yoyos_marks(count: int) -> str:
    return (
        "INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc) SELECT "
        "encode(sha256(id::bytea), 'hex'), id, now() FROM (SELECT lpad(n::text, 5, '0') || '_step' AS id "
        f"FROM generate_series(2, {count}) AS n)"
    )


class Yoyo(Ours):
    name = "yoyo apply"

    def command(self, directory: Path, url: str) -> tuple[list[str], dict[str, str]]:
        address = url.replace("postgresql:", "postgresql+psycopg:")
        return [str(PEERS / "yoyo"), "apply", "--batch", "--no-config-file", "-d", address, "migrations"], {}

    def marks(self, count: int) -> str:
        return _yoyos_marks(count)


class Alembic(Tool):
    name = "alembic upgrade head"

    def write(self, directory: Path, count: int, sql: Sql) -> None:
        (directory / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/scripts\n")
        (directory / "scripts" / "versions").mkdir(parents=True)
        (directory / "scripts" / "env.py").write_text(
            "import os\nfrom alembic import context\nfrom sqlalchemy import create_engine\n"
            "with create_engine(os.environ['DATABASE_URL']).connect() as connection:\n"
            "    context.configure(connection=connection)\n"
            "    with context.begin_transaction():\n        context.run_migrations()\n"
        )
        for number in range(1, count + 1):
            down = repr(f"r{number - 1:05}") if number > 1 else None
            # driver_cmd: as written, without looking for :parameters
            (directory / "scripts" / "versions" / f"r{number:05}.py").write_text(
                f"from alembic import op\nrevision = 'r{number:05}'\ndown_revision = {down}\n"
                f"def upgrade():\n    op.get_bind().exec_driver_sql({sql(number)!r})\n"
            )

    def command(self, directory: Path, url: str) -> tuple[list[str], dict[str, str]]:
        env = {"DATABASE_URL": url.replace("postgresql:", "postgresql+psycopg:")}
        return [str(PEERS / "alembic"), "upgrade", "head"], env

    def marks(self, count: int) -> str:
        return f"UPDATE alembic_version SET version_num = 'r{count:05}'"


class Dbmate(Tool):
    name = "dbmate up"

    def write(self, directory: Path, count: int, sql: Sql) -> None:
        (directory / "db" / "migrations").mkdir(parents=True)
        for number in range(1, count + 1):
            path = directory / "db" / "migrations" / f"{20200101000000 + number}_step.sql"
            path.write_text(f"-- migrate:up\n{sql(number)}\n-- migrate:down\n")

    def command(self, directory: Path, url: str) -> tuple[list[str], dict[str, str]]:
        env = {"DATABASE_URL": f"{url}?sslmode=disable"}
        return [str(PEERS / "dbmate"), "--no-dump-schema", "up"], env

    def marks(self, count: int) -> str:
        return f"INSERT INTO schema_migrations SELECT 20200101000000 + n FROM generate_series(2, {count}) AS n"


class Django(Tool):
    name = "django migrate"

    def write(self, directory: Path, count: int, sql: Sql) -> None:
        (directory / "shop" / "migrations").mkdir(parents=True)
        for package in ("shop", "shop/migrations"):
            (directory / package / "__init__.py").touch()
        (directory / "site_settings.py").write_text(
            "import os\nfrom urllib.parse import urlsplit\nurl = urlsplit(os.environ['DATABASE_URL'])\n"
            "INSTALLED_APPS = ['shop']\nUSE_TZ = True\nDATABASES = {'default': {'ENGINE': "
            "'django.db.backends.postgresql', 'HOST': url.hostname, 'PORT': url.port, 'USER': url.username, "
            "'PASSWORD': url.password, 'NAME': url.path[1:]}}\n"
        )
        for number in range(1, count + 1):
            after = f"('shop', '{number - 1:05}_step')" if number > 1 else ""
            (directory / "shop" / "migrations" / f"{number:05}_step.py").write_text(
                "from django.db import migrations\nclass Migration(migrations.Migration):\n"
                f"    dependencies = [{after}]\n    operations = [migrations.RunSQL({sql(number)!r})]\n"
            )

    def command(self, directory: Path, url: str) -> tuple[list[str], dict[str, str]]:
        env = {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": str(directory)}
        return [str(PEERS / "django-admin"), "migrate", "--noinput", "-v", "0"], env

    def marks(self, count: int) -> str:
        return (
            "INSERT INTO django_migrations (app, name, applied) SELECT 'shop', lpad(n::text, 5, '0') || '_step', now() "
            f"FROM generate_series(2, {count}) AS n"
        )


def all_tools(bench: Bench) -> list[Tool]:
    """Ours first; those that make has installed."""
    found: list[Tool] = [Ours(bench), Yoyo(bench), Alembic(), Dbmate(), Django()]
    return [tool for tool in found if os.access(tool.command(Path(), "")[0][0], os.X_OK)]


def applied(bench: Bench, tool: Tool, count: int) -> tuple[Path, str]:
    """A project of *count* migrations and a database that has them all: one applied, the others marked."""
    key = (tool.name, count)
    if key not in bench.cache:
        first, directory, url = bench.new_directory(), bench.new_directory(), bench.new_database()
        for made, number in ((first, 1), (directory, count)):
            tool.write(made, number, one_table)
        argv, env = tool.command(first, url)
        timed(argv, env, first)
        run_query(url, tool.marks(count))
        run_query(url, "ANALYZE")
        argv, env = tool.command(directory, url)
        timed(argv, env, directory)  # Python's own are compiled by it
        bench.cache[key] = directory, url
    found: tuple[Path, str] = bench.cache[key]
    return found
