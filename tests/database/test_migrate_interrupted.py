"""A migration that is killed, or fails half way: never half applied, never run again blindly, and always said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

Query = Callable[[str, str], list[Any]]
ASLEEP = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
STARTED = "INSERT INTO startup_migration (id, state) VALUES ('0002_b', 'started')"
BLOCKED = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
CHILDS = "FROM pg_stat_activity WHERE application_name = 'startup/child'"


def kill_in_child(bench: Any, wait_until: Any, condition: Callable[[], object]) -> None:
    child = bench.apply_in_child()
    try:
        wait_until(condition, 20)
    finally:
        child.kill()
        child.wait()
    bench.reopen()


def test_a_transactional_migration_killed_in_the_middle_leaves_nothing_and_is_applied_next_time(
    bench: Any, query: Query, wait_until: Any
) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);", _0002_b="CREATE TABLE b (x int);\nSELECT pg_sleep(3);")
    kill_in_child(bench, wait_until, lambda: query(bench.url, ASLEEP))
    assert query(bench.url, "SELECT to_regclass('a')::text, to_regclass('b')::text") == [("a", None)]
    assert bench.apply() == 1
    assert query(bench.url, "SELECT count(*) FROM yoyo_lock") == [(0,)]
    assert bench.yoyo("list").count("\nA ") == 2


def test_a_killed_file_without_transaction_is_reported_with_what_has_run_and_not_run_again(
    bench: Any, query: Query, wait_until: Any
) -> None:
    bench.write(
        _0001_a="-- transactional: false\nCREATE TABLE a (x int);\nINSERT INTO a VALUES (1);\nSELECT pg_sleep(1.5);",
        _0002_b="CREATE TABLE b (x int);",
    )
    kill_in_child(bench, wait_until, lambda: query(bench.url, ASLEEP))
    for _ in range(2):
        said = bench.fails()
        assert f"{bench.directory}/0001_a.sql: was interrupted on child" in said
        assert "2 of its statements are known to have run" in said
        assert "yoyo mark" in said and "DELETE FROM startup_migration" in said
    assert query(bench.url, "SELECT count(*) FROM a") == [(1,)]
    assert [record.id for record in bench.state.interrupted] == ["0001_a"]
    assert query(bench.url, "SELECT to_regclass('b')") == [(None,)]
    query(bench.url, "DROP TABLE a; DELETE FROM startup_migration WHERE id = '0001_a'")  # the second way out
    assert bench.apply() == 2


def test_an_interrupted_file_that_was_finished_by_hand_and_marked_is_done(
    bench: Any, query: Query, wait_until: Any
) -> None:
    bench.write(_0001_a="-- transactional: false\nCREATE TABLE a (x int);\nSELECT pg_sleep(1.5);")
    kill_in_child(bench, wait_until, lambda: query(bench.url, ASLEEP))
    assert "was interrupted" in bench.fails()  # which takes the killed node's lock row away
    bench.yoyo("mark", "--match", "^0001_a$")
    assert bench.apply() == 0
    assert bench.state.interrupted == []


def test_an_interrupted_index_is_dropped_and_built_again(bench: Any, query: Query, wait_until: Any) -> None:
    query(bench.url, "CREATE TABLE a (x int); INSERT INTO a VALUES (1)")
    bench.write(_0001_a='-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS "A x" ON public.a (x);')
    invalid = "SELECT 1 FROM pg_index WHERE NOT indisvalid"
    with psycopg.connect(bench.url) as old:
        old.execute("INSERT INTO a VALUES (2)")
        child = bench.apply_in_child()
        wait_until(lambda: query(bench.url, invalid) and query(bench.url, BLOCKED), 20)
        child.kill()
        child.wait()
        query(bench.url, f"SELECT pg_terminate_backend(pid) {CHILDS}")
    bench.reopen()
    assert query(bench.url, invalid)
    assert [record.id for record in bench.state.interrupted] == ["0001_a"]
    assert bench.apply() == 1
    assert query(bench.url, """SELECT indisvalid FROM pg_index WHERE indexrelid = '"A x"'::regclass""") == [(True,)]
    assert any('public."A x"' in line or '"A x" is INVALID' in line for line in bench.said)


def test_an_interrupted_index_that_was_finished_just_before_is_only_marked(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.apply()
    bench.write(_0002_b="-- transactional: false\nCREATE INDEX CONCURRENTLY a_x ON a (x);")
    query(bench.url, "CREATE INDEX a_x ON a (x); " + STARTED)
    assert bench.apply() == 1


def test_an_interrupted_drop_of_an_index_is_finished(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.apply()
    bench.write(_0002_b="-- transactional: false\nDROP INDEX CONCURRENTLY a_x;")
    query(bench.url, STARTED)
    assert bench.apply() == 1


def test_an_invalid_index_under_the_name_is_not_taken_for_an_index(bench: Any, query: Query) -> None:
    """IF NOT EXISTS alone would be content with it."""
    query(bench.url, "CREATE TABLE a (x int); INSERT INTO a VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        query(bench.url, "CREATE UNIQUE INDEX CONCURRENTLY a_x ON a (x)")
    query(bench.url, "DELETE FROM a")
    bench.write(
        _0001_b="-- transactional: false\nCREATE TABLE b (x int);\n"
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS a_x ON a (x);"
    )
    assert bench.apply() == 1
    assert query(bench.url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_x'::regclass") == [(True,)]


def test_an_invalid_index_of_anybody_is_named(bench: Any, query: Query) -> None:
    query(bench.url, "CREATE TABLE a (x int); INSERT INTO a VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        query(bench.url, "CREATE UNIQUE INDEX CONCURRENTLY a_x ON a (x)")
    bench.write(_0001_b="CREATE TABLE b (x int);")
    bench.apply()
    assert any("the index a_x on a is INVALID" in line and "DROP INDEX CONCURRENTLY a_x" in line for line in bench.said)


def test_an_index_that_cannot_be_built_is_tried_again_at_the_next_start(bench: Any, query: Query) -> None:
    query(bench.url, "CREATE TABLE a (x int); INSERT INTO a VALUES (1), (1)")
    bench.write(_0001_b="-- transactional: false\nCREATE UNIQUE INDEX CONCURRENTLY a_x ON a (x);")
    said = bench.fails()
    assert "SQLSTATE 23505" in said and "an INVALID index is dropped and built again" in said
    query(bench.url, "TRUNCATE a")
    assert bench.apply() == 1
    assert query(bench.url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_x'::regclass") == [(True,)]


def test_a_file_without_transaction_whose_first_statement_fails_is_simply_run_again(bench: Any, query: Query) -> None:
    bench.write(_0001_a="-- transactional: false\nCREATE TABLE a (x nope);\nCREATE TABLE b (x int);")
    said = bench.fails()
    assert f"{bench.directory}/0001_a.sql:2: " in said and "nothing of this file" in said
    bench.write(_0001_a="-- transactional: false\nCREATE TABLE a (x int);\nCREATE TABLE b (x int);")
    assert bench.apply() == 1


def test_a_file_without_transaction_that_fails_later_says_what_has_run(bench: Any, query: Query) -> None:
    bench.write(_0001_a="-- transactional: false\nCREATE TABLE a (x int);\nCREATE TABLE b (x int);\n\nSELECT nope;")
    said = bench.fails()
    assert f"{bench.directory}/0001_a.sql:5: " in said and "statements 1 to 2 of 3 have run" in said
    assert "5 | SELECT nope;" in said
    assert "2 of its statements are known to have run" in bench.fails()


def test_a_transaction_of_the_files_own_may_choose_its_isolation(bench: Any, query: Query) -> None:
    """Nothing of ours comes between BEGIN and SET TRANSACTION, which must be the first that is asked."""
    bench.write(
        _0001_a="-- transactional: false\nBEGIN;\nSET TRANSACTION ISOLATION LEVEL REPEATABLE READ;\n"
        "CREATE TABLE a AS SELECT current_setting('transaction_isolation') AS level;\nCOMMIT;\nSELECT 1;",
    )
    assert bench.apply() == 1
    assert query(bench.url, "SELECT level FROM a") == [("repeatable read",)]
    assert query(bench.url, "SELECT statements_done FROM startup_migration") == [(5,)]


def test_without_one_the_error_says_how_to_choose_the_isolation(bench: Any) -> None:
    bench.write(_0001_a="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;\nSELECT 1;")
    said = bench.fails()
    assert "SQLSTATE 25001" in said and "BEGIN ISOLATION LEVEL ... and COMMIT around" in said
    bench.write(_0001_a="-- transactional: false\nBEGIN ISOLATION LEVEL SERIALIZABLE;\nSELECT 1;\nCOMMIT;")
    assert bench.apply() == 1


def test_what_a_transaction_of_the_files_own_takes_back_is_not_said_to_have_run(bench: Any, query: Query) -> None:
    file = "-- transactional: false\n{}BEGIN;\nCREATE TABLE b (x int);\nSELECT {};\nCOMMIT;"
    bench.write(_0001_a=file.format("CREATE TABLE a (x int);\n", "nope"))
    said = bench.fails()
    assert f"{bench.directory}/0001_a.sql:5: " in said and "statement 1 of 5 has run" in said
    assert "1 of its statements are known to have run" in bench.fails()
    assert query(bench.url, "SELECT to_regclass('a')::text, to_regclass('b')") == [("a", None)]
    query(bench.url, "DROP TABLE a; DELETE FROM startup_migration")
    bench.write(_0001_a=file.format("", "nope"))
    assert "nothing of this file" in bench.fails()
    bench.write(_0001_a=file.format("", "1"))
    assert bench.apply() == 1  # as a whole in its own transaction: it had left nothing, so it is simply run again


def test_a_commit_and_chain_in_a_file_without_transaction_counts_as_run(bench: Any, query: Query) -> None:
    bench.write(
        _0001_a="-- transactional: false\nBEGIN;\nCREATE TABLE a (x int);\nCOMMIT AND CHAIN;\nSELECT nope;\nCOMMIT;"
    )
    assert "statements 1 to 3 of 5 have run" in bench.fails()
    assert "was interrupted" in bench.fails()


def test_a_begin_without_its_commit_in_a_file_without_transaction_is_an_error(bench: Any, query: Query) -> None:
    bench.write(
        _0001_a="-- transactional: false\nBEGIN;\nCREATE TABLE a (x int);\nCOMMIT;\nBEGIN;\nCREATE TABLE b (x int);"
    )
    assert "its BEGIN has no COMMIT" in bench.fails()
    assert query(bench.url, "SELECT to_regclass('a')::text, to_regclass('b')") == [("a", None)]


def test_a_python_migration_without_transaction_that_was_killed_is_reported(
    bench: Any, query: Query, wait_until: Any
) -> None:
    bench.write(
        _0001_a_py="from yoyo import step\n__transactional__ = False\nstep('CREATE TABLE a (x int)')\n"
        "step('SELECT pg_sleep(1.5)')\n"
    )
    kill_in_child(bench, wait_until, lambda: query(bench.url, ASLEEP))
    assert "1 of its statements are known to have run" in bench.fails()


def test_a_session_that_ends_during_a_migration_is_a_lost_lock_and_nothing_stays(
    bench: Any, query: Query, wait_until: Any
) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);\nSELECT pg_sleep(20);")
    with bench.applying():
        wait_until(lambda: query(bench.url, ASLEEP))
        query(bench.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    assert "lock" in bench.failed and "session" in bench.failed
    assert bench.error.code == 75
    assert query(bench.url, "SELECT to_regclass('a')") == [(None,)]
