"""The migrations' lock: ours by where yoyo's tables live, and yoyo's own row, which no clock makes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from startup.database.postgres import session as postgres
from startup.errors import LockLost, LockUnavailable, TaskFailed
from startup.migrations import lock
from startup.settings.address import parse
from tests.database.conftest import connect

BOTH = pytest.mark.parametrize("url", ["postgresql", "sqlite"], indirect=True)
ROW = "SELECT pid FROM yoyo_lock"


@pytest.fixture
def any_bench(new_bench: Any, url: str) -> Any:
    return new_bench(url)


@BOTH
def test_the_row_stands_while_migrations_run_and_is_gone_afterwards(any_bench: Any, query: Any) -> None:
    any_bench.write(_0001_a="CREATE TABLE seen (pid int);\nINSERT INTO seen SELECT pid FROM yoyo_lock;")
    assert any_bench.apply() == 1
    ((pid,),) = query(any_bench.url, "SELECT pid FROM seen")
    assert pid < 0
    assert query(any_bench.url, ROW) == []


@BOTH
def test_a_failed_migration_leaves_no_row(any_bench: Any, query: Any) -> None:
    any_bench.write(_0001_a="SELECT nope;")
    any_bench.fails()
    assert query(any_bench.url, ROW) == []
    any_bench.session.require_lock()


@BOTH
def test_a_row_that_a_killed_node_left_is_cleared_when_something_is_pending(any_bench: Any, query: Any) -> None:
    any_bench.write(_0001_a="SELECT 1;")
    any_bench.apply()
    query(any_bench.url, "INSERT INTO yoyo_lock VALUES (1, '2036-01-01 00:00:00', -4711)")
    any_bench.write(_0002_b="SELECT 2;")
    assert any_bench.apply() == 1
    assert query(any_bench.url, ROW) == []


@BOTH
def test_a_row_that_a_killed_node_left_is_cleared_by_a_look_that_finds_nothing_pending(
    any_bench: Any, query: Any
) -> None:
    any_bench.write(_0001_a="SELECT 1;")
    any_bench.apply()
    any_bench.session.unlock()
    query(any_bench.url, "INSERT INTO yoyo_lock VALUES (1, '2036-01-01 00:00:00', -4711)")
    assert any_bench.state.locked and any_bench.state.nothing_to_do
    lock.clear_stale(any_bench.session)
    assert query(any_bench.url, ROW) == []
    assert any_bench.session.try_lock()


@BOTH
def test_a_row_of_a_node_at_work_is_not_cleared(any_bench: Any, query: Any) -> None:
    any_bench.write(_0001_a="SELECT 1;")
    any_bench.apply()
    query(any_bench.url, "INSERT INTO yoyo_lock VALUES (1, '2026-01-01 00:00:00', -4711)")
    other = connect(any_bench.url)
    try:
        other.tables("yoyo_lock")
        any_bench.session.tables("yoyo_lock")
        assert any_bench.session.try_lock_migrations()
        lock.clear_stale(other)
        assert query(any_bench.url, ROW) == [(-4711,)]
        any_bench.session.unlock_migrations()
    finally:
        other.close()


@BOTH
@pytest.mark.parametrize("moment", ["2016-01-01 00:00:00", "2036-01-01 00:00:00"])
def test_the_row_of_a_stock_yoyo_is_never_removed_whatever_its_clock_says(
    any_bench: Any, query: Any, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_bench.write(_0001_a="SELECT 1;")
    any_bench.apply()
    monkeypatch.setattr(lock, "YOYO_LIMIT", 0.5)
    query(any_bench.url, f"INSERT INTO yoyo_lock VALUES (1, '{moment}', 4711)")
    any_bench.write(_0002_b="SELECT 2;")
    assert "process 4711 since" in any_bench.fails()
    assert query(any_bench.url, ROW) == [(4711,)]


@BOTH
def test_a_row_that_was_broken_meanwhile_is_a_lost_lock_before_the_next_file(any_bench: Any, query: Any) -> None:
    any_bench.write(
        _0001_a="CREATE TABLE a (x int);\nDELETE FROM yoyo_lock;",
        _0002_b="CREATE TABLE b (x int);",
    )
    with pytest.raises(LockLost, match="yoyo break-lock"):
        any_bench.apply()
    any_bench.session.require_lock()
    assert [m.id for m in any_bench.state.pending] == ["0002_b"]


@BOTH
def test_a_row_that_was_broken_meanwhile_is_a_lost_lock_before_the_mark_of_a_file_without_transaction(
    any_bench: Any, query: Any
) -> None:
    any_bench.write(_0001_a="-- transactional: false\nCREATE TABLE a (x int);\nDELETE FROM yoyo_lock;")
    with pytest.raises(LockLost, match="yoyo break-lock"):
        any_bench.apply()
    assert any_bench.state.applied == []


def test_yoyo_break_lock_waits_for_the_transaction_of_the_migration_that_runs(
    bench: Any, query: Any, wait_until: Any
) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);\nSELECT pg_sleep(1.5);")
    with bench.applying() as thread:
        wait_until(lambda: query(bench.url, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        bench.yoyo("break-lock")
        assert query(bench.url, "SELECT to_regclass('a')::text") == [("a",)]
        thread.join(20)
    assert bench.applied == 1


def test_an_uncommitted_row_of_an_older_image_is_waited_for(bench: Any, query: Any, wait_until: Any) -> None:
    import psycopg

    bench.write(_0001_a="SELECT 1;")
    bench.apply()
    bench.write(_0002_b="SELECT 2;")
    with psycopg.connect(bench.url) as older:
        older.execute("INSERT INTO yoyo_lock VALUES (1, '2026-01-01 00:00:00', 4711)")
        with bench.applying():
            wait_until(lambda: any("takes yoyo's lock just now" in line for line in bench.said))
            older.rollback()
    assert bench.applied == 1


def test_the_lock_of_another_namespace_is_waited_for_as_long_as_the_limit_says(bench: Any, query: Any) -> None:
    bench.write(_0001_a="SELECT 1;")
    bench.apply()
    bench.write(_0002_b="SELECT 2;")
    other = connect(bench.url)
    try:
        other.tables("yoyo_lock")
        assert other.try_lock_migrations()
        bench.session.lock_timeout = 0.5
        with pytest.raises(LockUnavailable, match=r"of another namespace, .*STARTUP_LOCK_TIMEOUT"):
            bench.apply()
        assert bench.state.pending
        bench.session.lock_timeout = 0.0
        with pytest.raises(TaskFailed, match="the time for this task is up"):
            bench.apply(deadline=lambda: -1.0)
        other.unlock_migrations()
        assert bench.apply() == 1
    finally:
        other.close()


def test_what_another_namespace_is_at_now_is_not_called_interrupted(bench: Any, query: Any, wait_until: Any) -> None:
    """Its file without a transaction has begun, and has no mark: it is waited for, and then there is nothing to do."""
    bench.write(_0001_a="-- transactional: false\nCREATE TABLE a (x int);\nSELECT pg_sleep(1.5);")
    child = bench.apply_in_child()
    try:
        wait_until(lambda: query(bench.url, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        bench.session = postgres.connect(parse(bench.url), namespace="another")
        assert bench.session.try_lock()
        assert bench.apply() == 0
    finally:
        child.wait(30)
    assert child.returncode == 0
    assert bench.state.interrupted == []


def test_a_database_of_yoyo_5_is_upgraded_and_nothing_runs_again(bench: Any, query: Any) -> None:
    query(
        bench.url,
        "CREATE TABLE _yoyo_migration (id varchar(255) PRIMARY KEY, ctime timestamp);"
        "INSERT INTO _yoyo_migration VALUES ('0001_a', '2016-01-01 00:00:00')",
    )
    bench.write(_0001_a="SELECT nope;")
    assert bench.state.applied == ["0001_a"] and bench.state.nothing_to_do
    bench.write(_0002_b="CREATE TABLE b (x int);")
    assert bench.apply() == 1
    assert query(bench.url, "SELECT migration_id FROM _yoyo_migration ORDER BY 1") == [("0001_a",), ("0002_b",)]
    assert bench.yoyo("list").count("\nA ") == 2


def test_stock_yoyo_is_refused_by_a_row_of_ours_and_says_so(bench: Any, query: Any, wait_until: Any) -> None:
    bench.write(_0001_a="-- transactional: false\nCREATE TABLE a (x int);\nSELECT pg_sleep(13);")
    with bench.applying() as thread:
        wait_until(lambda: query(bench.url, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        with pytest.raises(AssertionError, match=r"Process -\d+ has locked this database"):
            bench.yoyo("apply")
        thread.join(30)
    assert bench.applied == 1
