# ruff: noqa: PT012 - the block under test is a transaction
"""What only the SQLite session promises: lock file, other writers, ways to commit. The rest: test_session.py."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from startup.database import sqlite
from startup.database.sqlite import SqliteSession
from startup.errors import Interrupted, LockLost, SettingError, TaskFailed, Unreachable
from startup.settings.address import parse

Query = Callable[[str, str], list[tuple[Any, ...]]]
WaitUntil = Callable[..., Any]
Connect = Callable[..., SqliteSession]

#: Takes the lock, says so, and keeps it until it is killed; with an argument, a child of its own keeps it too.
HOLDER = """
import subprocess, sys, time
from startup.database import sqlite
from startup.settings.address import parse
session = sqlite.connect(parse(sys.argv[1]), node="other")
assert session.try_lock()
if len(sys.argv) > 2:
    child = subprocess.Popen(["sleep", "60"], pass_fds=[session.lock_fd], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
else:
    print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def connect(sqlite_url: str) -> Iterator[Connect]:
    """``connect(node)``: a session with the test's database, closed afterwards."""
    opened: list[SqliteSession] = []

    def open_one(node: str = "node-1") -> SqliteSession:
        opened.append(sqlite.connect(parse(sqlite_url), node=node))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


@pytest.fixture
def session(connect: Connect) -> SqliteSession:
    """One session that holds the lock."""
    one = connect()
    assert one.try_lock()
    return one


@pytest.fixture
def lock_file(sqlite_url: str) -> Path:
    return Path(parse(sqlite_url).path + ".startup.lock")


@pytest.fixture
def other_process(sqlite_url: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A process that holds the lock when this returns; its first line of output is in ``.line``."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, sqlite_url, *arguments]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


class TestOpening:
    def test_the_connection_is_in_autocommit(self, connect: Connect, query: Query, sqlite_url: str) -> None:
        session = connect()
        assert session.execute("CREATE TABLE t (i INTEGER, s TEXT)") == []
        session.execute("INSERT INTO t VALUES (%s, %s)", [1, "a"])
        assert query(sqlite_url, "SELECT * FROM t") == [(1, "a")]
        assert session.execute(f"SELECT i FROM {session.qualify('t')}") == [(1,)]

    def test_asking_for_a_table_makes_no_file(self, connect: Connect, sqlite_url: str) -> None:
        assert not connect().tables("t")
        assert not os.path.exists(parse(sqlite_url).path)

    def test_foreign_keys_are_as_sqlite_has_them_by_default(self, connect: Connect) -> None:
        assert connect().execute("PRAGMA foreign_keys") == [(0,)]

    def test_a_missing_directory_is_a_wrong_setting(self, tmp_path: Path) -> None:
        with pytest.raises(SettingError, match=f"there is no directory {tmp_path}/no"):
            sqlite.connect(parse(f"sqlite:///{tmp_path}/no/x.db"))

    def test_a_directory_is_a_wrong_setting(self, tmp_path: Path) -> None:
        with pytest.raises(SettingError, match="is a directory"):
            sqlite.connect(parse(f"sqlite:///{tmp_path}"))

    def test_a_file_that_is_no_database_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "x.db").write_text("hello, I am no database" * 100)
        with pytest.raises(Unreachable, match="file is not a database"):
            sqlite.connect(parse(f"sqlite:///{tmp_path}/x.db"))

    @pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become nobody")
    def test_a_user_who_may_not_is_told_so(self, query: Query) -> None:
        code = """
import os, sys
from startup import errors
from startup.database import sqlite
from startup.settings.address import parse
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
session = sqlite.connect(parse(sys.argv[1]))
print(session.read_only, "|", bool(session.tables("t")))
for action in (session.try_lock, lambda: session.transaction().__enter__()):
    try:
        action()
    except errors.StartupError as error:
        print(error.code, error)
"""
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o755)
            url = f"sqlite:///{directory}/test.db"
            query(url, "CREATE TABLE t (i)")
            output = subprocess.check_output([sys.executable, "-c", code, url], text=True).splitlines()
        assert "test.db is not writable for this user (uid 65534) | True" in output[0]
        assert output[1].startswith("78") and "cannot be locked (Permission denied)" in output[1]
        assert output[2].startswith("69") and "cannot be written to" in output[2]


class TestLock:
    def test_a_waiting_node_learns_who_holds_it(self, connect: Connect, lock_file: Path) -> None:
        first, second = connect("web-1"), connect("web-2")
        assert second.holder() is None
        assert first.try_lock()
        for asking in (first, second):
            seen = asking.holder()
            assert seen is not None
            assert seen.node == "web-1"
            assert seen.detail == f"pid {os.getpid()}, since {json.loads(lock_file.read_text())['since']}"
        first.unlock()
        assert second.holder() is None

    def test_a_lock_file_that_a_killed_process_left_behind_holds_nobody_up(
        self, connect: Connect, other_process: Callable[..., subprocess.Popen[str]], lock_file: Path
    ) -> None:
        process, session = other_process(), connect()
        assert first_line(process) == "held"
        assert not session.try_lock()
        seen = session.holder()
        assert seen is not None and seen.node == "other"
        process.kill()
        process.wait()
        assert lock_file.read_text()
        assert session.holder() is None
        assert session.try_lock()

    def test_a_command_that_inherits_the_descriptor_keeps_the_lock_until_it_ends(
        self, connect: Connect, other_process: Callable[..., subprocess.Popen[str]], wait_until: WaitUntil
    ) -> None:
        process, session = other_process("with a child"), connect()
        command = int(first_line(process))
        process.kill()
        process.wait()
        assert not session.try_lock()
        os.kill(command, signal.SIGKILL)
        wait_until(session.try_lock)

    def test_letting_go_counts_for_children_that_hold_the_descriptor_too(
        self, session: SqliteSession, connect: Connect
    ) -> None:
        assert session.lock_fd is not None
        with subprocess.Popen(["sleep", "60"], pass_fds=[session.lock_fd]) as child:
            session.unlock()
            assert connect("b").try_lock()
            child.kill()

    def test_it_is_not_handed_to_children_by_itself(self, session: SqliteSession) -> None:
        assert session.lock_fd is not None
        assert not os.get_inheritable(session.lock_fd)

    def test_a_lock_file_that_was_removed_is_a_lost_lock(self, session: SqliteSession, lock_file: Path) -> None:
        lock_file.unlink()
        with pytest.raises(LockLost, match="removed or replaced"):
            session.require_lock()
        assert session.lock_fd is None

    def test_a_lock_file_that_was_replaced_is_a_lost_lock(
        self, session: SqliteSession, connect: Connect, lock_file: Path
    ) -> None:
        lock_file.unlink()
        assert connect("b").try_lock()
        with pytest.raises(LockLost, match="removed or replaced"):
            session.unlock()

    def test_a_lock_that_a_child_gave_away_is_lost(self, session: SqliteSession, connect: Connect) -> None:
        assert session.lock_fd is not None
        fcntl.flock(session.lock_fd, fcntl.LOCK_UN)
        with pytest.raises(LockLost, match="was unlocked"):
            session.require_lock()

    def test_a_lock_that_a_child_gave_away_and_another_took_is_lost(
        self, session: SqliteSession, connect: Connect
    ) -> None:
        assert session.lock_fd is not None
        fcntl.flock(session.lock_fd, fcntl.LOCK_UN)
        assert connect("b").try_lock()
        with pytest.raises(LockLost, match="another process has locked"):
            session.require_lock()

    def test_two_names_of_one_database_share_a_lock(self, session: SqliteSession, tmp_path: Path) -> None:
        (tmp_path / "link.db").symlink_to(tmp_path / "test.db")
        other = sqlite.connect(parse(f"sqlite:///{tmp_path}/link.db"))
        assert not other.try_lock()


class TestTransaction:
    @pytest.fixture(autouse=True)
    def table(self, sqlite_url: str, query: Query) -> None:
        query(sqlite_url, "CREATE TABLE work (i INTEGER UNIQUE); CREATE TABLE ledger (i INTEGER)")

    @pytest.fixture
    def count(self, sqlite_url: str, query: Query) -> Callable[[], list[tuple[Any, ...]]]:
        return lambda: query(sqlite_url, "SELECT (SELECT count(*) FROM work), (SELECT count(*) FROM ledger)")

    def mark(self, session: SqliteSession) -> Callable[[], None]:
        return lambda: (session.execute("INSERT INTO ledger VALUES (1)"), None)[1]

    WAYS: dict[str, Callable[[Any], object]] = {
        "COMMIT": lambda connection: connection.execute("COMMIT"),
        "commit lower case, in a comment": lambda connection: connection.execute("/* x */ commit"),
        "END": lambda connection: connection.execute("END TRANSACTION"),
        "ROLLBACK": lambda connection: connection.execute("ROLLBACK"),
        "a cursor's COMMIT": lambda connection: connection.cursor().execute("COMMIT"),
        "a plain cursor's COMMIT": lambda connection: connection.cursor(sqlite3.Cursor).execute("COMMIT"),
        "commit()": lambda connection: connection.commit(),
        "rollback()": lambda connection: connection.rollback(),
        "with connection": lambda connection: connection.__enter__(),
        "executescript()": lambda connection: connection.executescript("INSERT INTO work VALUES (2)"),
        "a cursor's executescript()": lambda connection: connection.cursor().executescript("SELECT 1"),
        "a plain cursor's executescript()": lambda connection: connection.cursor(sqlite3.Cursor).executescript(""),
        "isolation_level": lambda connection: setattr(connection, "isolation_level", None),
        "sqlite3's own commit()": lambda connection: sqlite3.Connection.commit(connection),
        "set_authorizer()": lambda connection: connection.set_authorizer(lambda *_: 0),
    }

    @pytest.mark.parametrize("way", WAYS)
    def test_every_way_to_commit_is_refused_in_words_and_takes_all_back(
        self, session: SqliteSession, count: Callable[[], list[tuple[Any, ...]]], way: str
    ) -> None:
        with session.transaction():
            pass
        session.execute("BEGIN")
        session.execute("COMMIT")  # cached by sqlite3 as a statement that is allowed
        with pytest.raises(sqlite3.DatabaseError) as caught, session.transaction(self.mark(session)):
            session.connection.execute("INSERT INTO work VALUES (1)")
            self.WAYS[way](session.connection)
            pytest.fail("it was not refused")
        assert count() == [(0, 0)]
        if "plain" not in way and "own" not in way and way != "isolation_level":
            assert "inside the task's transaction" in str(caught.value)

    @pytest.mark.parametrize("way", [way for way in WAYS if way != "isolation_level"])
    def test_a_task_that_swallows_the_refusal_fails_all_the_same(
        self, session: SqliteSession, count: Callable[[], list[tuple[Any, ...]]], way: str
    ) -> None:
        with pytest.raises(TaskFailed, match="inside the task's transaction"), session.transaction(self.mark(session)):
            session.connection.execute("INSERT INTO work VALUES (1)")
            with pytest.raises(sqlite3.DatabaseError):
                self.WAYS[way](session.connection)
        assert count() == [(0, 0)]

    def test_setting_autocommit_commits_nothing(
        self, session: SqliteSession, count: Callable[[], list[tuple[Any, ...]]]
    ) -> None:
        with pytest.raises(ZeroDivisionError), session.transaction(self.mark(session)):
            session.connection.execute("INSERT INTO work VALUES (1)")
            with suppress(sqlite3.Error):
                session.connection.autocommit = True
            raise ZeroDivisionError
        assert count() == [(0, 0)]

    def test_a_rollback_that_a_constraint_did_fails_the_task(
        self, session: SqliteSession, count: Callable[[], list[tuple[Any, ...]]]
    ) -> None:
        with pytest.raises(TaskFailed, match="a rollback inside"), session.transaction(self.mark(session)):
            session.connection.execute("INSERT INTO work VALUES (1)")
            with pytest.raises(sqlite3.IntegrityError):
                session.connection.execute("INSERT OR ROLLBACK INTO work VALUES (1)")
        assert count() == [(0, 0)]

    def test_a_task_that_closes_the_connection_fails(self, session: SqliteSession) -> None:
        with pytest.raises(TaskFailed, match="closed the connection"), session.transaction(self.mark(session)):
            session.connection.close()

    def test_afterwards_the_connection_commits_as_ever(self, session: SqliteSession) -> None:
        with session.transaction():
            pass
        session.connection.executescript("BEGIN; INSERT INTO work VALUES (1); COMMIT")
        with session.connection:
            session.connection.execute("INSERT INTO work VALUES (2)")
        assert session.execute("SELECT count(*) FROM work") == [(2,)]

    def test_it_waits_for_another_writer_and_gives_up_in_words(
        self, session: SqliteSession, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_app = sqlite3.connect(parse(sqlite_url).path, isolation_level=None, check_same_thread=False)
        with_app.execute("BEGIN IMMEDIATE")
        threading.Timer(0.4, lambda: with_app.execute("COMMIT")).start()
        start = time.monotonic()
        with session.transaction():
            session.execute("INSERT INTO work VALUES (1)")
        assert time.monotonic() - start > 0.3
        monkeypatch.setattr(sqlite, "BUSY", 0.1)
        with_app.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unreachable, match="cannot be written to: database is locked"), session.transaction():
            pass
        with_app.close()

    def test_a_signal_ends_the_wait_for_another_writer(self, session: SqliteSession, sqlite_url: str) -> None:
        def stop(number: int, frame: object) -> None:
            raise Interrupted(143)

        with_app = sqlite3.connect(parse(sqlite_url).path, isolation_level=None)
        with_app.execute("BEGIN IMMEDIATE")
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)  # again: what is raised in Hypothesis' gc callback is swallowed
        start = time.monotonic()
        try:
            with pytest.raises(Interrupted), session.transaction():
                pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            with_app.close()
        assert time.monotonic() - start < 15


def test_nothing_that_a_task_did_to_the_connection_is_left(session: SqliteSession, tmp_path: Path) -> None:
    connection = session.connection
    connection.execute("CREATE TEMP TABLE leftover (i)")
    connection.execute("PRAGMA foreign_keys = on")
    connection.execute("ATTACH ? AS other", [str(tmp_path / "other.db")])
    connection.row_factory = sqlite3.Row
    connection.execute("CREATE TABLE t (i)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (1)")
    session.reset()
    assert session.execute("PRAGMA foreign_keys") == [(0,)]
    assert session.execute("SELECT name FROM pragma_database_list") == [("main",)]
    assert session.execute("SELECT count(*) FROM temp.sqlite_master") == [(0,)]
    assert session.execute("SELECT count(*) FROM t") == [(0,)]
    session.require_lock()
