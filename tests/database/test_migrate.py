"""`migrate` on a real PostgreSQL: what is applied, what commits with what, and what stock yoyo then sees."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from startup.errors import LockLost
from tests.database.conftest import CHILD

#: Does a session sleep inside a migration?
ASLEEP = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
Query = Callable[[str, str], list[Any]]


def test_pending_migrations_are_applied_in_order_and_said(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);", _0002_b="INSERT INTO a VALUES (1), (2);")
    assert bench.apply() == 2
    assert query(bench.url, "SELECT count(*) FROM a") == [(2,)]
    assert "migration 2 of 2: 0002_b applied in" in bench.said[-1]
    assert bench.apply() == 0
    assert bench.state.nothing_to_do
    assert bench.yoyo("list").count("\nA ") == 2


def test_a_failing_statement_is_shown_as_a_good_compiler_would(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (name int);", _0002_b="INSERT INTO a VALUES (1);\n\nSELECT nmae FROM a;\n")
    assert bench.fails() == (
        f'{bench.directory}/0002_b.sql:3: column "nmae" does not exist (SQLSTATE 42703)\n'
        "  3 | SELECT nmae FROM a;\n"
        "    |        ^\n"
        'hint: Perhaps you meant to reference the column "a.name".\n'
        "committed: 1 of 2 migrations of this run, the last one 0001_a; nothing of this file\n"
        "next: correct the file, or the data that it met, and start again"
    )
    assert query(bench.url, "SELECT count(*) FROM a") == [(0,)]


# -------------------------------------------------------------------------------- what commits with what


def test_a_migration_its_log_row_its_mark_and_our_row_are_one_transaction(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.apply()
    xids = query(
        bench.url,
        "SELECT xmin::text FROM _yoyo_migration UNION SELECT xmin::text FROM _yoyo_log"
        " UNION SELECT xmin::text FROM startup_migration UNION SELECT xmin::text FROM pg_class WHERE relname = 'a'",
    )
    assert len(xids) == 1
    assert query(bench.url, "SELECT operation, hostname FROM _yoyo_log") == [("apply", "node-a")]


def test_a_plain_file_of_many_statements_takes_one_transaction_id(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.apply()
    bench.write(_0002_b="".join(f"INSERT INTO a VALUES ({n});\n" for n in range(2000)))
    before = query(bench.url, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")[0][0]
    bench.apply()
    after = query(bench.url, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")[0][0]
    assert query(bench.url, "SELECT count(*), count(DISTINCT xmin::text) FROM a") == [(2000, 1)]
    assert after - before <= 5  # adoption and the barrier against stock yoyo included


def test_an_error_without_a_position_still_names_the_line_of_its_statement(bench: Any) -> None:
    bench.write(
        _0001_a="CREATE TABLE a (x int PRIMARY KEY);\n-- twice:\nINSERT INTO a VALUES (1);\n\n"
        "INSERT INTO a\n VALUES (1);"
    )
    said = bench.fails()
    assert f"{bench.directory}/0001_a.sql:5: " in said and "SQLSTATE 23505" in said
    assert "detail: Key (x)=(1) already exists." in said


@pytest.mark.parametrize(
    "content",
    [
        "BEGIN;\nCREATE TABLE a (x int);\nCOMMIT;\n",
        "-- what it is for\nSTART TRANSACTION;\nCREATE TABLE a (x int);\nEND\n",
    ],
)
def test_a_begin_and_commit_around_a_whole_file_are_taken_off(bench: Any, query: Query, content: str) -> None:
    bench.write(_0001_a=content)
    assert bench.apply() == 1
    assert query(
        bench.url, "SELECT count(DISTINCT x) FROM (SELECT xmin::text x FROM _yoyo_migration UNION ALL"
        " SELECT xmin::text FROM pg_class WHERE relname = 'a') y"
    ) == [(1,)]  # fmt: skip


def test_a_file_that_would_commit_by_itself_is_refused_before_anything_is_applied(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);", _0002_b="CREATE TABLE b (x int);\nCOMMIT;\nSELECT 1;")
    said = bench.fails()
    assert f"{bench.directory}/0002_b.sql:2: COMMIT" in said and "-- transactional: false" in said
    assert query(bench.url, "SELECT to_regclass('a'), to_regclass('_yoyo_migration')") == [(None, None)]


@pytest.mark.parametrize("how", ["connection.execute('COMMIT')", "connection.execute('COMMIT; BEGIN')"])
def test_a_python_migration_that_commits_by_itself_is_caught_and_not_run_again(
    bench: Any, query: Query, how: str
) -> None:
    bench.write(
        _0001_a_py="from yoyo import step\ndef up(connection):\n    connection.execute('CREATE TABLE a (x int)')\n"
        f"    {how}\nstep(up)\n"
    )
    assert "committed or rolled back by itself" in bench.fails()
    assert query(bench.url, "SELECT count(*) FROM _yoyo_migration") == [(0,)]
    again = bench.fails()
    assert "interrupted" in again and "yoyo mark" in again
    bench.yoyo("mark")
    assert bench.apply() == 0


@pytest.mark.parametrize("how", ["COMMIT", "COMMIT; BEGIN", "COMMIT; BEGIN; CREATE TABLE b ()"])
@pytest.mark.parametrize("fault", ["raise ValueError('no plan')", "connection.execute('SELECT nope')"])
def test_a_python_migration_that_commits_by_itself_and_then_fails_is_not_run_again(
    bench: Any, query: Query, how: str, fault: str
) -> None:
    """Its commit has happened: 'nothing of this file' would be a lie."""
    bench.write(
        _0001_a_py="from yoyo import step\ndef up(connection):\n    connection.execute('CREATE TABLE a (x int)')\n"
        f"    connection.execute('{how}')\n    {fault}\nstep(up)\n"
    )
    said = bench.fails()
    assert "committed or rolled back by itself" in said and "then it failed: " in said
    assert "no plan" in said or "SQLSTATE 42703" in said
    assert query(bench.url, "SELECT to_regclass('a')::text, to_regclass('b')") == [("a", None)]
    assert "was interrupted" in bench.fails()


def test_psycopgs_own_commit_inside_a_python_migration_is_refused_and_nothing_stays(bench: Any, query: Query) -> None:
    bench.write(
        _0001_a_py="from yoyo import step\ndef up(connection):\n    connection.execute('CREATE TABLE a (x int)')\n"
        "    connection.commit()\nstep(up)\n"
    )
    assert f"{bench.directory}/0001_a.py:4: " in bench.fails()
    assert query(bench.url, "SELECT to_regclass('a')") == [(None,)]


def test_what_a_migration_does_to_the_session_neither_breaks_its_mark_nor_reaches_the_next(
    bench: Any, query: Query
) -> None:
    bench.write(
        _0001_a="SELECT set_config('search_path', '', false); SET lock_timeout = 0; CREATE TABLE public.a (x int);",
        _0002_b="CREATE TABLE b (x int);",
    )
    assert bench.apply() == 2
    assert query(bench.url, "SELECT count(*) FROM public.b") == [(0,)]


def test_a_role_that_a_migration_takes_does_not_write_its_mark(
    bench: Any, query: Query, server: Any, database: str
) -> None:
    role = f"owner_{database}"
    query(server.admin_url(database), f"CREATE ROLE {role}; GRANT {role} TO app; GRANT ALL ON SCHEMA public TO {role}")
    try:
        bench.write(
            _0001_a=f"SET ROLE {role}; CREATE TABLE a (x int);",
            _0002_b=f"-- transactional: false\nSET ROLE {role};\nCREATE TABLE b (x int);\nCREATE TABLE c (x int);",
        )
        assert bench.apply() == 2
        owners = query(bench.url, "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename IN ('a', 'b', 'c')")
        assert owners == [(role,)]
    finally:
        query(server.admin_url(database), f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_migration_that_lets_the_lock_go_commits_nothing(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int); SELECT pg_advisory_unlock_all();")
    with pytest.raises(LockLost):
        bench.apply()
    assert query(bench.url, "SELECT to_regclass('a')") == [(None,)]


def test_percent_signs_casts_and_dollar_quotes_are_sent_as_they_are(bench: Any, query: Query) -> None:
    bench.write(
        _0001_a="CREATE TABLE a (x text); INSERT INTO a VALUES ('100 %'), ('%s'), ('a;b');"
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN RETURN 7 % 4; END; $body$;"
        "CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2::int; END;",
        _0002_b="-- transactional: false\nINSERT INTO a VALUES ('5 %'); INSERT INTO a SELECT f()::text || g();",
    )
    assert bench.apply() == 2
    assert query(bench.url, "SELECT string_agg(x, ',') FROM a") == [("100 %,%s,a;b,5 %,32",)]


# -------------------------------------------------------------------------------- stock yoyo


def test_stock_yoyo_agrees_and_goes_on_where_we_stopped_and_we_where_it_did(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.apply()
    bench.write(_0002_b="CREATE TABLE b (x int);")
    bench.yoyo("apply")
    assert [m.id for m in bench.state.unrecorded] == ["0002_b"]
    bench.write(_0003_c="CREATE TABLE c (x int);")
    assert bench.apply() == 1
    assert bench.state.unrecorded == []  # adopted, with the content it has now
    assert query(bench.url, "SELECT id FROM startup_migration ORDER BY id") == [("0001_a",), ("0002_b",), ("0003_c",)]
    assert bench.yoyo("list").count("\nA ") == 3


def test_yoyos_tables_are_as_yoyo_makes_them(bench: Any, new_bench: Any, server: Any, query: Query) -> None:
    columns = (
        "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_name LIKE '%yoyo%' ORDER BY 1, 2"
    )
    keys = "SELECT conname, contype::text FROM pg_constraint WHERE conname LIKE '%yoyo%' ORDER BY 1"
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.apply()
    name = server.new_database()
    try:
        other = new_bench(server.url(name))
        other.yoyo("apply")
        for question in (columns, keys, "SELECT version FROM _yoyo_version", "SELECT count(*) FROM yoyo_lock"):
            assert query(bench.url, question) == query(other.url, question)
    finally:
        server.drop_database(name)


def test_what_is_missing_of_yoyos_tables_is_made_by_yoyo(bench: Any, query: Query) -> None:
    """As after a yoyo of before 7.3, which had no lock table, or another's hand."""
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.yoyo("apply")
    query(bench.url, "DROP TABLE yoyo_lock")
    bench.write(_0002_b="CREATE TABLE b (x int);")
    assert bench.apply() == 1
    assert bench.yoyo("list").count("\nA ") == 2


def test_sql_files_are_applied_without_importing_yoyo(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);", _0002_b="-- transactional: false\nVACUUM a;")
    bench.session.close()
    program = CHILD + "\nassert not {'yoyo', 'sqlparse'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program, bench.url, str(bench.directory)], check=True)
    assert query(bench.url, "SELECT count(*) FROM _yoyo_migration") == [(2,)]


@pytest.mark.parametrize("transactional", ["true", "false"])
def test_a_stock_yoyo_started_meanwhile_waits_and_then_finds_everything_done(
    bench: Any, query: Query, wait_until: Any, transactional: str
) -> None:
    bench.write(_0001_a=f"-- transactional: {transactional}\nCREATE TABLE a (x int);\nSELECT pg_sleep(1.5);")
    with bench.applying() as thread:
        wait_until(lambda: query(bench.url, ASLEEP))
        assert bench.yoyo("apply") == ""
        thread.join(20)
    assert bench.applied == 1
    assert query(bench.url, "SELECT count(*) FROM yoyo_lock") == [(0,)]


def test_an_index_is_built_concurrently_while_stock_yoyo_waits(bench: Any, query: Query, wait_until: Any) -> None:
    bench.write(
        _0001_a="CREATE TABLE a (x int);",
        _0002_b="-- transactional: false\nSELECT pg_sleep(1);\nCREATE INDEX CONCURRENTLY a_x ON a (x);",
    )
    with bench.applying() as thread:
        wait_until(lambda: query(bench.url, ASLEEP))
        bench.yoyo("apply")
        thread.join(20)
    assert bench.applied == 2
    assert query(bench.url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_x'::regclass") == [(True,)]


def test_a_lock_row_that_somebody_may_hold_is_waited_for_and_then_told_how_to_break(
    bench: Any, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.yoyo("apply")
    bench.write(_0002_b="CREATE TABLE b (x int);")
    monkeypatch.setattr("startup.migrations.lock.YOYO_LIMIT", 1.0)
    with psycopg.connect(bench.url, autocommit=True) as holder:
        holder.execute("INSERT INTO yoyo_lock VALUES (1, now() AT TIME ZONE 'UTC', 4712)")
        said = bench.fails()
        assert "process 4712" in said and "yoyo break-lock" in said
        assert any("process 4712 has its lock since" in line for line in bench.said)
        holder.execute("DELETE FROM yoyo_lock")
    assert bench.apply() == 1
