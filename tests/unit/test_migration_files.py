"""What an image's directories hold: yoyo's names and order, other tools' directories, and what SQL text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from startup.database.postgres import splitter
from startup.database.postgres.dialect import POSTGRESQL
from startup.database.sqlite import SQLITE
from startup.database.statement import Statement
from startup.errors import SettingError, TaskFailed
from startup.migrations import files, sqltext
from startup.migrations.files import Catalog
from startup.migrations.indexes import IndexStatement, index_statement


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "migrations").mkdir()
    return tmp_path


def put(here: Path, **contents: str) -> None:
    for name, content in contents.items():
        (here / "migrations" / name.replace("__", ".").lstrip("_")).write_text(content)


def test_files_ids_and_order_are_yoyos(here: Path) -> None:
    import yoyo

    for name in ("10.sql", "2.sql", "2.rollback.sql", "1-b.py", "1.py", "_tmp_yoyonew1.sql", "x.txt", "post-apply.sql"):
        (here / "migrations" / name).write_text("")
    (here / "migrations" / "sub.sql").mkdir()
    stock = yoyo.read_migrations("migrations")
    catalog = files.load(["migrations"], given=True)
    assert [(m.id, m.path) for m in catalog.migrations] == [(m.id, m.path) for m in stock]
    assert [m.id for m in catalog.post_apply] == [m.id for m in stock.post_apply] == ["post-apply"]


def test_a_default_directory_may_be_missing_or_empty_and_a_line_says_so(here: Path) -> None:
    assert "no *.sql or *.py" in str(files.load(["migrations"], given=False).note)
    (here / "migrations").rmdir()
    catalog = files.load(["migrations"], given=False)
    assert not catalog.migrations and "STARTUP_MIGRATIONS" in str(catalog.note)


@pytest.mark.parametrize(
    "value", ["nowhere", "migrations", "package:startup:nowhere", "package:nothing_here:x", "a.sql"]
)
def test_a_directory_that_was_set_may_not_be_missing_or_empty(here: Path, value: str) -> None:
    (here / "a.sql").write_text("SELECT 1")
    with pytest.raises(SettingError, match=f"STARTUP_MIGRATIONS='{value}'"):
        files.load([value], given=True)


def test_several_directories_globs_and_packages_are_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in ("apps/b/db", "apps/a/db", "shop/db"):
        (here / directory).mkdir(parents=True)
        (here / directory / f"{directory[:6].replace('/', '-')}.sql").write_text("SELECT 1")
    (here / "shop" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(here))
    catalog = files.load(["apps/*/db", "package:shop:db", "apps/a/db"], given=True)
    assert [m.id for m in catalog.migrations] == ["apps-a", "apps-b", "shop-d"]


@pytest.mark.parametrize(
    ("names", "command"),
    [
        (["env.py", "script.py.mako"], "alembic upgrade head"),
        (["env.py", "script.py.mako", "alembic.ini"], "flask db upgrade"),
        (["__init__.py", "0001_initial.py"], "python manage.py migrate"),
        (["1_a.up.sql", "1_a.down.sql"], "migrate -path"),
        (["V1__a.sql", "V2__b.sql"], "flyway"),
        (["migration_lock.toml"], "prisma migrate deploy"),
        (["1_a.sql"], "dbmate"),
    ],
)
def test_another_tools_directory_is_left_alone_with_the_way_to_run_it(
    here: Path, names: list[str], command: str
) -> None:
    for name in names:
        content = (
            "-- migrate:up\nSELECT 1;"
            if name == "1_a.sql"
            else "from django.db import migrations\nclass M(migrations.Migration): ..."
        )
        (here / "migrations" / name).write_text(content)
    catalog = files.load(["migrations"], given=False)
    assert not catalog.migrations and f"STARTUP_TASK_MIGRATE='{'npx ' if 'prisma' in command else ''}{command}" in str(
        catalog.note
    )
    with pytest.raises(SettingError, match="STARTUP_TASK_MIGRATE"):
        files.load(["migrations"], given=True)


def test_two_files_of_one_id_are_both_named(here: Path) -> None:
    put(here, a__sql="SELECT 1;", a__py="")
    with pytest.raises(TaskFailed, match=r"migrations/a\.sql and migrations/a\.py"):
        files.load(["migrations"], given=True)


def test_two_files_of_one_id_in_two_directories_are_both_named(here: Path) -> None:
    put(here, a__sql="SELECT 1;")
    (here / "more").mkdir()
    (here / "more" / "a.sql").write_text("SELECT 1;")
    with pytest.raises(TaskFailed, match=r"more/a\.sql and migrations/a\.sql are both the migration 'a'"):
        files.load(["migrations", "more"], given=True)


@pytest.mark.parametrize("name", ["__init__.py", ".0001.sql", "0001.down.sql", "0001.rolback.sql", "0001.undo.sql"])
def test_a_file_that_yoyo_would_take_for_a_migration_by_mistake_is_refused(here: Path, name: str) -> None:
    put(here, _0001__sql="SELECT 1;")
    (here / "migrations" / name).write_text("")
    catalog = files.load(["migrations"], given=True)
    with pytest.raises(TaskFailed, match=f"migrations/{name}:1: "):
        files.check(catalog.migrations, catalog, POSTGRESQL)


def test_a_missing_dependency_is_named_with_the_line_and_the_nearest_name(here: Path) -> None:
    put(here, _0001_users__sql="SELECT 1;", _0002__sql="-- why\n-- depends: 0001_user\nSELECT 1;")
    catalog = files.load(["migrations"], given=True)
    with pytest.raises(TaskFailed, match=r"0002\.sql:2: depends on '0001_user'.*did you mean '0001_users'"):
        files.in_order(catalog.migrations, catalog)


def test_a_circle_of_dependencies_is_named(here: Path) -> None:
    put(here, a__sql="-- depends: b\n", b__py="__depends__ = {'c'}\n", c__sql="-- depends: a\n", d__sql="-- depends: a")
    catalog = files.load(["migrations"], given=True)
    with pytest.raises(TaskFailed, match="in a circle: a -> b -> c -> a"):
        files.in_order(catalog.migrations, catalog)


@given(st.lists(st.sets(st.integers(0, 11), max_size=3), min_size=1, max_size=12))
def test_the_order_is_yoyos_whatever_the_dependencies(edges: list[set[int]]) -> None:
    from yoyo.topologicalsort import CycleError, topological_sort

    graph = {f"{n:02}": {f"{d:02}" for d in ds if d < len(edges) and d != n} for n, ds in enumerate(edges)}
    migrations = [files.Migration(name, f"{name}.sql", "") for name in graph]
    for migration in migrations:
        vars(migration)["text"] = "".join(f"-- depends: {need}\n" for need in graph[migration.id])
    try:
        stock = list(topological_sort(list(graph), graph))
    except CycleError:
        with pytest.raises(TaskFailed, match="in a circle"):
            files.in_order(migrations, Catalog(migrations))
        return
    assert [m.id for m in files.in_order(migrations, Catalog(migrations))] == stock


def test_a_file_that_is_not_utf_8_is_told_with_its_line(here: Path) -> None:
    (here / "migrations" / "a.sql").write_bytes(b"SELECT 1;\nSELECT '\xe4';\n")
    catalog = files.load(["migrations"], given=True)
    with pytest.raises(TaskFailed, match=r"migrations/a\.sql:2: not UTF-8 \(byte 0xe4\)"):
        files.check(catalog.migrations, catalog, POSTGRESQL)


# ------------------------------------------------------------------------------------------------------------ SQL text


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("SELECT 1; SELECT 2", ["SELECT 1;", "SELECT 2"]),
        (";;\n-- only\n/* comments */;", []),
        ("SELECT ';', \";\", E'\\';', $$;$$, $a$;$$;$a$, a$b$ FROM t;", None),
        ("SELECT 1 /* ; /* ; */ ; */; SELECT 2", ["SELECT 1 /* ; /* ; */ ; */;", "SELECT 2"]),
        ("CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2);", None),
        (
            "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;",
            None,
        ),
        ("CREATE PROCEDURE /* x */ p() LANGUAGE sql BEGIN ATOMIC SELECT 1; END; SELECT 2", ["@", "SELECT 2"]),
        ('SELECT "begin", CASE WHEN 1=1 THEN 2 END; SELECT 2', ["@", "SELECT 2"]),
        ("DO $do$ BEGIN PERFORM 1; END $do$; SELECT $1", ["@", "SELECT $1"]),
        ("SELECT 'it''s;'; SELECT U&'\\0041;'", ["SELECT 'it''s;';", "SELECT U&'\\0041;'"]),
    ],
)
def test_statements_are_split_as_postgresql_reads_them(text: str, statements: list[str] | None) -> None:
    found = [statement.text for statement in sqltext.parse(text, POSTGRESQL).statements]
    assert len(found) == (1 if statements is None else len(statements))
    assert all(
        want in ("@", got) for want, got in zip([text] if statements is None else statements, found, strict=True)
    )
    assert not sqltext.parse(text, POSTGRESQL).faults


WORDS_OF_SQL = (
    "insert into t values (1)",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1",
    "END",
    "select",
    "case",
)
MARKS_OF_SQL = r""" x;'';"";E';e';\;\';$$;$a$;$1;(;);((;));--;-;/;/*;*/; ;,;é;';';"a""".split(";")
PIECES_OF_SQL = (*WORDS_OF_SQL, *MARKS_OF_SQL, ";", ";\n", "\n", "'a;b'", '"a;b"', "(';')", "'\n'")


@given(st.lists(st.sampled_from(PIECES_OF_SQL), max_size=25).map("".join), st.sampled_from([8, 20, 2000]))
def test_a_plain_statement_is_split_as_if_it_were_looked_at_closely(text: str, short: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitter, "_SHORT", short)
        quickly = splitter.split(text)
        for way in ("_PLAIN", "_ROWS"):
            patch.setattr(splitter, way, re.compile("(?!)"))
        assert splitter.split(text) == quickly


def test_a_plain_statement_needs_no_closer_look() -> None:
    text = "INSERT INTO t (a, b) VALUES (-1, 'it''s; so'), (2, \"c;d\") ;\n" * 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitter, "_TOKEN", re.compile("(?!)"))
        assert len(splitter.split(text).statements) == 3


@given(st.text(alphabet="a;'\"$-/*\\\n(eE)b ", max_size=60))
def test_any_text_is_split_into_pieces_of_itself(text: str) -> None:
    for dialect in (POSTGRESQL, SQLITE):
        for statement in sqltext.parse(text, dialect).statements:
            assert text[statement.offset :].startswith(statement.text) and statement.text.strip()


@pytest.mark.parametrize(
    "comment",
    ["-- Depends on the weather: a lot", "-- Transaction: one per order", "-- note: x", "--: ;", "-- requires x"],
)
def test_prose_in_comments_is_no_directive(comment: str) -> None:
    script = sqltext.parse(f"{comment}\nSELECT 1;\n{comment}\n", POSTGRESQL)
    assert script.transactional and not script.depends and not script.faults


def test_a_comment_inside_a_function_body_is_no_directive() -> None:
    text = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$\n-- depends: nothing\nSELECT 1 $$;"
    assert not sqltext.parse(text, POSTGRESQL).faults


def test_directives_are_read_as_yoyo_reads_them() -> None:
    script = sqltext.parse("\n-- what\n  --depends: a b\n-- depends : c\n--transactional:FALSE\nSELECT 1;", POSTGRESQL)
    assert (script.depends, script.transactional, script.faults) == (("a", "b", "c"), False, [])


def test_index_statements_are_told_from_others() -> None:
    def index(text: str) -> IndexStatement | None:
        return index_statement(Statement(text, 0))

    assert index('CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "a""b" ON ONLY s . "T" (x);') == (
        IndexStatement('"a""b"', 's . "T"')
    )
    assert index("drop index concurrently if exists s.i restrict;") == IndexStatement("s.i", None)
    assert index("CREATE INDEX i ON t (x)") is index("CREATE INDEX CONCURRENTLY ON t (x)") is None


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("-- Depends: none", ""),
        ("-- depend: nothing else", ""),
        ("-- Requires: pg_net extension", ""),
        ("-- Dependencies: none", ""),
        ("-- Depends: 0001_users", "is not read"),
        ("-- depend: 0001_user", "is not read"),
        ("-- Transactional: false", "is not read"),
    ],
)
def test_prose_in_a_files_header_is_a_comment_and_what_names_an_id_a_fault(header: str, fault: str) -> None:
    found = sqltext.parse(f"{header}\nSELECT 1;\n", POSTGRESQL, known=["0001_users", "0002_plans"]).faults
    assert bool(found) == bool(fault) and all(fault in one.message for one in found)


def test_files_and_lines_that_are_nearly_right_are_named_in_a_warning(startup: Any, sqlite_url: str) -> None:
    startup.write("migrations/0001_a.sql", "CREATE TABLE a (i int);\n")
    startup.write("migrations/0002_b.sql", "-- depends 0001_a\nCREATE TABLE b (i int);\n")
    for name in ("0003_c.SQL", "0004_d.sql.txt", "0001_a.rollback.sql", "notes.txt"):
        startup.write(f"migrations/{name}", "SELECT 1;\n")
    done = startup("init", DATABASE_URL=sqlite_url)
    assert done.returncode == 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if "warning" in line]
    assert len(warned) == 3 and "0003_c.SQL is no migration" in warned[0] and "0004_d.sql.txt" in warned[1]
    assert "right would be -- depends: 0001_a" in warned[2]


@pytest.mark.parametrize(
    ("mark", "command"),
    [("manage.py", "python manage.py migrate"), ("alembic.ini", "alembic upgrade head"), ("bin/rails", "db:migrate")],
)
def test_another_tools_project_without_migrations_of_ours_is_named_with_its_command(
    startup: Any, sqlite_url: str, mark: str, command: str
) -> None:
    startup.write(mark, "")
    done = startup("init", DATABASE_URL=sqlite_url)
    assert done.returncode == 0
    assert (
        "no directory 'migrations' here" in done.stderr
        and f"STARTUP_TASK_MIGRATE='{command}" in done.stderr.replace("bin/rails ", "")
    )


def test_begin_counts_outside_parentheses_alone_as_psql_has_it() -> None:
    """psqlscan.l: identifiers are counted where paren_depth is 0."""
    text = 'CREATE FUNCTION f(begin int, "end" int) RETURNS int LANGUAGE sql RETURN 1; SELECT 2;'
    split = POSTGRESQL.split(text)
    assert [one.text for one in split.statements] == [text[: text.index(" SELECT")], "SELECT 2;"]
    body = "CREATE OR REPLACE PROCEDURE p(a int) BEGIN ATOMIC SELECT (CASE WHEN a > 1 THEN 1 END); END; SELECT 3;"
    assert [one.text for one in POSTGRESQL.split(body).statements] == [body[: body.index(" SELECT 3")], "SELECT 3;"]
