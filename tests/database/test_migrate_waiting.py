"""What a migration does while others are in its way: the app's queries come first, and the log says who it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from startup.migrations import observer

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


class Readers:
    """An app's sessions that read on: three the table ``a``, one another, to see what the machine itself adds."""

    QUERIES = ("SELECT x FROM a", "SELECT x FROM a", "SELECT x FROM a", "SELECT x FROM elsewhere")

    def __init__(self, url: str) -> None:
        self.url = url
        self.over = threading.Event()
        #: Seconds of each query, by reader.
        self.waits: list[list[float]] = [[] for _ in self.QUERIES]
        pairs = zip(self.QUERIES, self.waits, strict=True)
        self.threads = [threading.Thread(target=self._read, args=pair) for pair in pairs]

    def _read(self, sql: str, waits: list[float]) -> None:
        with psycopg.connect(self.url, autocommit=True) as app:
            while not self.over.is_set():
                started = time.monotonic()
                app.execute(sql, prepare=False)
                waits.append(time.monotonic() - started)

    def __enter__(self) -> Readers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(20)

    def longer_than(self, seconds: float) -> int:
        """How many waits of each reader of ``a`` were; of the one with the fewest."""
        return min(sum(wait > seconds for wait in list(waits)) for waits in self.waits[:3])

    @property
    def longest(self) -> float:
        return max(max(waits) for waits in self.waits[:3])

    @property
    def noise(self) -> float:
        return max(self.waits[3])


@pytest.fixture
def altering(startup: Any, database_url: str, query: Query) -> Any:
    """An image that would alter the table ``a``."""
    query(database_url, "CREATE TABLE a (x int); CREATE TABLE elsewhere (x int)")
    startup.write("migrations/0001_b.sql", "ALTER TABLE a ADD y int;")
    startup.environ |= {"DATABASE_URL": database_url, "STARTUP_TASKS": "migrate"}
    return startup


@pytest.mark.parametrize("limit", [0.4, 1.2])
def test_readers_wait_no_longer_than_the_setting_while_a_blocker_keeps_the_migration_waiting(
    altering: Any, database_url: str, query: Query, wait_until: Any, limit: float
) -> None:
    with psycopg.connect(database_url, application_name="report") as blocker, Readers(database_url) as readers:
        blocker.execute("SELECT * FROM a")
        boot = altering.start("init", STARTUP_TABLE_LOCK_TIMEOUT=str(limit))
        wait_until(lambda: readers.longer_than(limit / 2) >= 2, 60)  # two tries met every reader
        blocker.rollback()
        assert boot.wait(60) == 0
    said = boot.stderr.read()
    assert f"a table was not free within {limit:g} s (STARTUP_TABLE_LOCK_TIMEOUT)" in said
    assert "user app, application report, from 127.0.0.1, idle in transaction, in a transaction for " in said
    assert query(database_url, "SELECT count(y) FROM a") == [(0,)]
    assert limit / 2 < readers.longest < limit + readers.noise + 0.6  # two tries in one wait would be 2.4 s for 1.2
    print(f"limit {limit} s: longest wait {readers.longest:.3f} s, of the table apart {readers.noise:.3f} s")


def test_without_a_limit_readers_wait_as_long_as_the_blocker_stays(
    altering: Any, database_url: str, query: Query, wait_until: Any
) -> None:
    """What the setting is for, and that the test above would see it fail."""
    stuck = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = 'SELECT x FROM a'"
        " AND clock_timestamp() - query_start > interval '2 s'"
    )
    with psycopg.connect(database_url) as blocker, Readers(database_url) as readers:
        blocker.execute("SELECT * FROM a")
        boot = altering.start("init", STARTUP_TABLE_LOCK_TIMEOUT="0")
        wait_until(lambda: query(database_url, stuck), 60)
        blocker.rollback()
        assert boot.wait(60) == 0
    assert readers.longest > 2


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
    assert observer.EVERY == 10  # SPEC, section 9
    monkeypatch.setattr("startup.migrations.observer.EVERY", 0.4)
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
    monkeypatch.setattr("startup.migrations.observer.EVERY", 0.6)
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
