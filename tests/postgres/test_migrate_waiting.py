"""What a migration does while others are in its way: the app's queries come first, and the log says who it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

Query = Callable[[str, str], list[Any]]


@pytest.fixture
def table(bench: Any, query: Query) -> None:
    query(bench.url, "CREATE TABLE a (x int); INSERT INTO a VALUES (1)")


def test_a_wait_for_a_table_is_given_up_named_and_tried_again_until_the_table_is_free(
    bench: Any, query: Query, wait_until: Any, table: None
) -> None:
    bench.write(_0001_b="CREATE TABLE b (x int);\nALTER TABLE a ADD y int;")
    with psycopg.connect(bench.url, application_name="report") as reader:
        pid = reader.info.backend_pid
        reader.execute("SELECT * FROM a")
        with bench.applying(table_lock_timeout=0.3):
            wait_until(lambda: sum("tried again" in line for line in bench.said) >= 2)
            assert query(bench.url, "SELECT to_regclass('b')") == [(None,)]
            reader.rollback()
    assert bench.applied == 1
    line = next(line for line in bench.said if "tried again" in line)
    assert "STARTUP_TABLE_LOCK_TIMEOUT" in line and "application report" in line and "SELECT * FROM a" in line
    assert any(f"waits for pid {pid}" in line for line in bench.said)


def test_readers_wait_no_longer_than_the_limit_for_table_locks(
    bench: Any, query: Query, wait_until: Any, table: None
) -> None:
    bench.write(_0001_b="ALTER TABLE a ADD y int;")
    over, longest = threading.Event(), [0.0]

    def read() -> None:
        with psycopg.connect(bench.url, autocommit=True) as app:
            while not over.is_set():
                started = time.monotonic()
                app.execute("SELECT x FROM a", prepare=False)
                longest[0] = max(longest[0], time.monotonic() - started)

    with psycopg.connect(bench.url) as blocker:
        blocker.execute("SELECT * FROM a")
        reader = threading.Thread(target=read)
        reader.start()
        with bench.applying(table_lock_timeout=0.5):
            wait_until(lambda: sum("tried again" in line for line in bench.said) >= 3, 20)
            blocker.rollback()
        over.set()
        reader.join(10)
    assert bench.applied == 1
    assert 0.2 < longest[0] < 0.5 + 0.4  # it did wait, and no longer than the limit (and a busy machine)


def test_the_time_for_the_task_ends_the_tries(bench: Any, query: Query, table: None) -> None:
    bench.write(_0001_b="ALTER TABLE a ADD y int;")
    end = time.monotonic() + 1.0
    with psycopg.connect(bench.url, application_name="report") as reader:
        reader.execute("SELECT * FROM a")
        said = bench.fails(table_lock_timeout=0.2, deadline=lambda: end - time.monotonic())
    assert "SQLSTATE 55P03" in said and "application report" in said and "committed: nothing" in said


def test_a_deadlock_is_tried_again_as_a_whole_file(bench: Any, query: Query, wait_until: Any, table: None) -> None:
    query(bench.url, "CREATE TABLE b (x int)")
    bench.write(_0001_c="INSERT INTO a VALUES (2);\nLOCK TABLE a;\nSELECT pg_sleep(0.3);\nLOCK TABLE b;")
    with psycopg.connect(bench.url) as other:
        other.execute("LOCK TABLE b")
        with bench.applying(table_lock_timeout=0):
            wait_until(lambda: query(bench.url, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
            with suppress(psycopg.errors.DeadlockDetected):  # one of the two is told
                other.execute("LOCK TABLE a")
            other.rollback()
    assert bench.applied == 1
    assert query(bench.url, "SELECT count(*) FROM a WHERE x = 2") == [(1,)]


def test_a_serialization_failure_is_tried_again(bench: Any, query: Query) -> None:
    bench.write(
        _0001_a="CREATE SEQUENCE s;",
        _0002_b="DO $$ BEGIN IF nextval('s') < 3 THEN RAISE EXCEPTION 'not yet' USING ERRCODE = '40001'; END IF;"
        "END $$;",
    )
    assert bench.apply(table_lock_timeout=0.5) == 2
    assert sum("not yet" in line and "tried again" in line for line in bench.said) == 2


def test_a_single_statement_of_a_file_without_transaction_is_tried_again_too(
    bench: Any, query: Query, wait_until: Any, table: None
) -> None:
    bench.write(_0001_b="-- transactional: false\nCREATE TABLE b (x int);\nALTER TABLE a ADD y int;")
    with psycopg.connect(bench.url) as reader:
        reader.execute("SELECT * FROM a")
        with bench.applying(table_lock_timeout=0.2):
            wait_until(lambda: any("tried again" in line for line in bench.said))
            reader.rollback()
    assert bench.applied == 1


def test_an_index_built_concurrently_waits_for_old_transactions_without_a_limit(
    bench: Any, query: Query, wait_until: Any, table: None
) -> None:
    bench.write(_0001_b="-- transactional: false\nCREATE INDEX CONCURRENTLY a_x ON a (x);")
    with psycopg.connect(bench.url, application_name="report") as reader:
        reader.execute("INSERT INTO a VALUES (2)")
        with bench.applying(table_lock_timeout=0.2):
            wait_until(lambda: any("waits for" in line and "application report" in line for line in bench.said))
            time.sleep(0.5)  # well over the limit: this is what must not matter
            reader.rollback()
    assert bench.applied == 1
    assert query(bench.url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_x'::regclass") == [(True,)]


def test_a_long_migration_says_every_so_often_that_it_lives_and_how_far_an_index_is(
    bench: Any, query: Query, wait_until: Any, table: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("startup.migrations.side.EVERY", 0.4)
    bench.write(_0001_b="-- transactional: false\nCREATE INDEX CONCURRENTLY a_x ON a (x);")
    with psycopg.connect(bench.url) as reader:
        reader.execute("INSERT INTO a VALUES (2)")
        with bench.applying():
            wait_until(lambda: any("CREATE INDEX CONCURRENTLY: waiting for" in line for line in bench.said))
            reader.rollback()
    assert bench.applied == 1
    assert any("migration 1 of 1: 0001_b has been running for" in line for line in bench.said)


def test_a_python_migration_whose_own_connection_waits_for_ours_is_noticed(
    bench: Any, query: Query, wait_until: Any, table: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("startup.migrations.side.EVERY", 0.6)
    bench.write(
        _0001_b_py="import psycopg\nfrom yoyo import step\ndef up(connection):\n"
        "    connection.execute('ALTER TABLE a ADD y int')\n"
        f"    with psycopg.connect({bench.url!r}, application_name='own') as own:\n"
        "        own.execute('INSERT INTO a (x) VALUES (9)')\nstep(up)\n"
    )
    with bench.applying():
        wait_until(lambda: any("both wait for ever" in line for line in bench.said))
        assert any("(app, own) waits for it: INSERT INTO a" in line for line in bench.said)
        query(bench.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'own'")
    assert f"{bench.directory}/0001_b.py:6: " in bench.failed
    assert query(bench.url, "SELECT count(*) FROM information_schema.columns WHERE table_name = 'a'") == [(1,)]
