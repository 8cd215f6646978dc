"""`migrate` on SQLite: the same promises for the processes of one host."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from startup.errors import TaskFailed

Query = Callable[[str, str], list[Any]]


@pytest.fixture
def bench(sqlite_bench: Any) -> Any:
    return sqlite_bench


def test_migrations_are_applied_and_stock_yoyo_agrees(bench: Any, query: Query) -> None:
    bench.write(
        _0001_a="CREATE TABLE a (x text); INSERT INTO a VALUES ('5 %;');\n"
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; SELECT 2; END;",
        _0002_b="-- depends: 0001_a\nBEGIN;\nCREATE TABLE b (x int);\nCOMMIT;",
        _0003_c="-- transactional: false\nVACUUM;\nCREATE TABLE c (x int);",
        _0004_d_py="from yoyo import step\nstep('INSERT INTO b VALUES (1)', 'DELETE FROM b')\n"
        "step(lambda connection: connection.cursor().execute('INSERT INTO b VALUES (2)'))\n",
    )
    assert bench.state.nothing_to_do is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bench.apply() == 4
    assert query(bench.url, "SELECT count(*) FROM b") == [(2,)]
    assert bench.yoyo("list").count("\nA ") == 4
    assert bench.apply() == 0 and bench.state.nothing_to_do


def test_asking_what_is_pending_makes_no_file(bench: Any) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    assert [m.id for m in bench.state.pending] == ["0001_a"]
    assert not os.path.exists(bench.url.removeprefix("sqlite:///"))


def test_stock_yoyo_goes_on_where_we_stopped_and_we_where_it_did(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.yoyo("apply")
    bench.write(_0002_b="CREATE TABLE b (x int);", _0002_b__rollback="DROP TABLE b;")
    assert bench.apply() == 1
    assert bench.rollback(1) == ["0002_b"]
    bench.yoyo("apply")
    assert bench.state.nothing_to_do and bench.state.drifted == []


def test_yoyos_tables_are_as_yoyo_makes_them(bench: Any, new_bench: Any, tmp_path: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.apply()
    other = new_bench(f"sqlite:///{tmp_path}/other.db")
    other.yoyo("apply")
    for table in ("_yoyo_migration", "_yoyo_log", "_yoyo_version", "yoyo_lock"):
        columns = f"SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('{table}')"
        assert query(bench.url, columns) == query(other.url, columns) != [], table
    for question in ("SELECT version FROM _yoyo_version", "SELECT count(*) FROM yoyo_lock"):
        assert query(bench.url, question) == query(other.url, question)


def test_a_failing_file_leaves_nothing_and_is_shown_with_its_line(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);\nINSERT INTO a VALUES (1);\nINSERT INTO nope VALUES (1);")
    said = bench.fails()
    assert f"{bench.directory}/0001_a.sql:3: " in said and "no such table: nope" in said
    assert query(bench.url, "SELECT name FROM sqlite_master WHERE name = 'a'") == []


def test_a_statement_that_cannot_run_in_a_transaction_is_told_how_to(bench: Any) -> None:
    bench.write(_0001_a="VACUUM;")
    assert "-- transactional: false" in bench.fails()


@pytest.mark.parametrize("how", ["connection.execute('COMMIT')", "connection.commit()", "connection.rollback()"])
def test_a_python_migration_that_commits_by_itself_changes_nothing(bench: Any, query: Query, how: str) -> None:
    bench.write(
        _0001_a_py="from yoyo import step\ndef up(connection):\n    connection.execute('CREATE TABLE a (x int)')\n"
        f"    {how}\nstep(up)\n"
    )
    bench.fails()
    assert query(bench.url, "SELECT name FROM sqlite_master WHERE name = 'a'") == []
    assert bench.state.applied == []


def test_a_migration_killed_in_the_middle_leaves_nothing_and_is_applied_next_time(
    bench: Any, query: Query, tmp_path: Any, wait_until: Any
) -> None:
    started = tmp_path / "started"
    bench.write(
        _0001_a="CREATE TABLE a (x int);",
        _0002_b_py="from yoyo import step\nimport pathlib, time\nstep('INSERT INTO a VALUES (1)')\n"
        "def wait(connection):\n"
        f"    if not pathlib.Path({str(started)!r}).exists():\n"
        f"        pathlib.Path({str(started)!r}).touch(); time.sleep(60)\nstep(wait)\n",
    )
    child = bench.apply_in_child()
    wait_until(started.exists, 20)
    child.kill()
    child.wait()
    bench.reopen()
    assert query(bench.url, "SELECT count(*) FROM a") == [(0,)]
    assert bench.apply() == 1
    assert query(bench.url, "SELECT count(*) FROM a") == [(1,)]


def test_a_file_without_transaction_that_stopped_half_way_is_reported(bench: Any, query: Query) -> None:
    bench.write(_0001_a="-- transactional: false\nCREATE TABLE a (x int);\nSELECT nope;")
    assert "statement 1 of 2 has run" in bench.fails()
    assert "1 of its statements are known to have run" in bench.fails()
    query(bench.url, "DROP TABLE a; DELETE FROM startup_migration")
    bench.write(_0001_a="-- transactional: false\nCREATE TABLE a (x int);\nSELECT 1;")
    assert bench.apply() == 1


def test_a_stock_yoyo_that_has_its_lock_is_waited_for(
    bench: Any, query: Query, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.yoyo("apply")
    bench.write(_0002_b="CREATE TABLE b (x int);")
    query(bench.url, "INSERT INTO yoyo_lock VALUES (1, '2026-01-01 00:00:00', 4711)")
    with bench.applying():
        wait_until(lambda: any("process 4711 has its lock since 2026-01-01" in line for line in bench.said))
        query(bench.url, "DELETE FROM yoyo_lock")
    assert bench.applied == 1
    bench.write(_0003_c="CREATE TABLE c (x int);")
    query(bench.url, "INSERT INTO yoyo_lock VALUES (1, '2026-01-01 00:00:00', 4711)")
    monkeypatch.setattr("startup.migrations.lock.YOYO_LIMIT", 0.5)
    assert "yoyo break-lock" in bench.fails()


def test_rollback_refuses_without_its_file(bench: Any) -> None:
    bench.write(_0001_a="SELECT 1;")
    bench.apply()
    with pytest.raises(TaskFailed, match=r"0001_a\.rollback\.sql"):
        bench.rollback(1)
