# ruff: noqa: PT012 - the block under test is a transaction
"""What every database promises: the docstrings of ``startup.database.session``, on each of ``homes.HOMES``.

This is the list of what another database has to do. What only one of them promises is in a file of its own.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import startup.database.session as promise
from startup.database.session import Session
from startup.database.statement import AtStatement, Statement
from startup.database.tables import Table, make
from startup.errors import EndedInside, Interrupted, LockLost, TaskFailed
from tests.database.homes import HOMES, Home

WaitUntil = Callable[..., Any]


@pytest.fixture(params=HOMES)
def home(request: pytest.FixtureRequest, server: Any, tmp_path: Path) -> Iterator[Home]:
    one = HOMES[request.param](server, tmp_path)
    yield one
    for session in one.opened:
        session.close()
    one.remove()


@pytest.fixture
def session(home: Home) -> Session:
    """One that holds the lock."""
    one = home.connect()
    assert one.try_lock()
    return one


class TestSession:
    def test_what_it_runs_is_seen_by_others_at_once(self, home: Home) -> None:
        session = home.connect()
        assert session.execute("CREATE TABLE t (i integer, s text)") == []
        assert session.execute("INSERT INTO t VALUES (%s, %s)", [1, "a"]) == []
        assert home.query("SELECT * FROM t") == [(1, "a")]
        assert session.execute(f"SELECT s FROM {session.qualify('t')} WHERE i = %s", [1]) == [("a",)]
        assert not session.in_transaction

    def test_several_statements_run_in_their_order(self, home: Home) -> None:
        session = home.connect()
        insert = "INSERT INTO t VALUES (%s)"
        session.execute_all([("CREATE TABLE t (i integer)", ()), (insert, [1]), (insert, [2]), ("DELETE FROM t", ())])
        assert home.query("SELECT count(*) FROM t") == [(0,)]

    def test_a_script_fails_at_the_statement_that_is_wrong(self, home: Home) -> None:
        text = "CREATE TABLE t (i integer);\nINSERT INTO t VALUES (1);\n-- and now\nSELECT nonsense;\n"
        session = home.connect()
        statements = session.dialect.split(text).statements
        with pytest.raises(AtStatement) as caught, session.transaction():
            session.execute_script(text, statements)
        assert caught.value.offset is not None and text[caught.value.offset :].startswith(("SELECT", "nonsense"))
        assert isinstance(caught.value.error, home.error)
        with session.transaction():
            session.execute_script(text, statements[:2])
        assert home.query("SELECT i FROM t") == [(1,)]

    def test_a_file_is_split_into_its_statements(self, home: Home) -> None:
        split = home.connect().dialect.split("-- a\nSELECT ';';\n\nSELECT 2")
        assert split.statements == [Statement("SELECT ';';", 5), Statement("SELECT 2", 18)]

    def test_asking_for_tables_names_those_that_are_there_with_their_columns_and_makes_nothing(
        self, home: Home, tmp_path: Path
    ) -> None:
        session = home.connect()
        assert session.tables("t", "u") == {}
        assert not list(tmp_path.iterdir())
        session.execute("CREATE TABLE t (i integer, s text)")
        assert session.tables("t", "u") == {"t": {"i", "s"}}

    def test_tables_are_made_and_gain_columns(self, session: Session, home: Home) -> None:
        columns = {"a": "text", "b": "integer", "at": "{time}"}
        for width in (1, 2, 2, 3):
            with session.transaction():
                make(session, Table("t", dict(list(columns.items())[:width]), key="a"))
            assert session.tables("t") == {"t": set(list(columns)[:width])}
        session.execute(f"INSERT INTO t VALUES ('x', 1, {session.dialect.now})")
        assert session.execute(f"SELECT a FROM t WHERE at > {session.dialect.a_day_ago}") == [("x",)]
        with pytest.raises(home.error):
            session.execute("INSERT INTO t (a) VALUES ('x')")

    def test_an_upsert_inserts_or_replaces_but_for_what_shall_stay(self, home: Home) -> None:
        session = home.connect()
        session.execute("CREATE TABLE t (a text, b integer, c integer, PRIMARY KEY (a))")

        def put(*row: object, **options: Any) -> list[Any]:
            values = dict.fromkeys(("a", "b", "c"), "%s")
            session.execute(session.dialect.upsert(session.qualify("t"), values, "a", **options), row)
            return session.execute("SELECT a, b, c FROM t ORDER BY a")

        assert put("x", 1, 1, "y", 1, 1, rows=2) == [("x", 1, 1), ("y", 1, 1)]
        assert put("x", 2, 2) == [("x", 2, 2), ("y", 1, 1)]
        assert put("x", 5, 5, changes={"c": "old.c + excluded.b"}) == [("x", 5, 7), ("y", 1, 1)]
        assert put("x", 0, 0, unless="old.b > excluded.b") == [("x", 5, 7), ("y", 1, 1)]

    def test_an_identifier_is_quoted(self, home: Home) -> None:
        session = home.connect()
        name = 'a "b"'
        session.execute(f"CREATE TABLE {session.qualify(name)} (i integer)")
        assert session.tables(name) == {name: {"i"}}

    def test_it_can_be_written_to(self, home: Home) -> None:
        session = home.connect()
        session.execute("CREATE TABLE t (i integer)")
        assert session.read_only == "" and session.may_write("t")
        session.execute_if_free("INSERT INTO t VALUES (%s)", [1])
        assert home.query("SELECT i FROM t") == [(1,)]

    def test_it_has_its_own_rights_and_nobody_in_its_way(self, session: Session) -> None:
        with session.as_itself():
            session.limit_table_locks(1)
        assert session.blockers() == [] and session.progress() == [] and session.invalid_indexes() == []
        assert session.dead_peer_seconds >= 0

    def test_nothing_that_a_task_did_to_the_connection_is_left(self, session: Session) -> None:
        session.connection.execute("CREATE TEMP TABLE leftover (i integer)")
        session.execute("CREATE TABLE t (i integer)")
        session.connection.execute("BEGIN")
        session.connection.execute("INSERT INTO t VALUES (1)")
        session.connection.row_factory = None
        session.reset()
        assert not session.in_transaction
        assert session.execute("SELECT count(*) FROM t") == [(0,)]
        assert session.connection.execute("SELECT 1").fetchone() == (1,)
        session.execute("CREATE TEMP TABLE leftover (i integer)")
        session.require_lock()


class TestLock:
    def test_one_session_of_many_has_it_until_it_lets_go(self, home: Home) -> None:
        first, second = home.connect("a"), home.connect("b")
        assert first.try_lock() and first.try_lock()
        assert not second.try_lock()
        first.require_lock()
        first.unlock()
        assert second.try_lock()

    def test_it_is_free_when_its_session_is_closed(self, session: Session, home: Home, wait_until: WaitUntil) -> None:
        other = home.connect("b")
        assert not other.try_lock()
        session.close()
        wait_until(other.try_lock)  # a server's process takes a moment to end

    def test_without_it_there_is_nothing_to_require(self, home: Home) -> None:
        with pytest.raises(LockLost):
            home.connect().require_lock()

    def test_one_that_a_task_gave_away_is_noticed_and_told_as_lost(self, session: Session, home: Home) -> None:
        home.take_the_lock_away(session)
        for _ in range(2):
            with pytest.raises(LockLost) as caught:
                session.require_lock()
            assert caught.value.code == 75

    def test_letting_go_what_is_gone_is_told(self, session: Session, home: Home) -> None:
        home.take_the_lock_away(session)
        with pytest.raises(LockLost):
            session.unlock()

    def test_a_waiting_node_learns_who_holds_it(self, home: Home) -> None:
        holder, waiting = home.connect("web-1"), home.connect("web-2")
        assert waiting.holder() is None
        assert holder.try_lock()
        seen = waiting.holder()
        assert seen is not None and seen.node == "web-1" and seen.detail.startswith("pid ")
        assert seen.may_be("web-1") and not seen.may_be("web-3")
        holder.unlock()
        assert waiting.holder() is None

    def test_the_nodes_that_are_connected_are_told_or_nothing_is(self, session: Session, home: Home) -> None:
        assert home.connect("b").connected() in ({"node-1"}, None)

    def test_the_watcher_is_told_once_when_it_is_gone(
        self, session: Session, home: Home, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(promise, "WATCH", 0.02)
        told: list[bool] = []
        with session.watch(lambda: told.append(True)):
            home.take_the_lock_away(session)
            wait_until(lambda: told)
        assert told == [True]

    def test_nobody_is_told_while_all_is_well(
        self, session: Session, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(promise, "WATCH", 0.01)
        looked: list[int] = []
        require_lock = session.require_lock

        def look() -> None:
            looked.append(1)
            require_lock()

        monkeypatch.setattr(session, "require_lock", look)
        told: list[bool] = []
        with session.watch(lambda: told.append(True)):
            wait_until(lambda: len(looked) > 5)
        assert not told
        assert not [thread for thread in threading.enumerate() if thread.name == "startup-watch"]


class TestTransaction:
    @pytest.fixture(autouse=True)
    def table(self, home: Home) -> None:
        home.query("CREATE TABLE work (i integer)")
        home.query("CREATE TABLE ledger (i integer)")

    @pytest.fixture
    def mark(self, session: Session) -> Callable[[], None]:
        """The row that must commit with the work."""

        def put() -> None:
            session.execute("INSERT INTO ledger VALUES (1)")

        return put

    def work(self, session: Session) -> None:
        session.connection.execute("INSERT INTO work VALUES (1)")

    def test_the_work_and_what_follows_it_commit_together(
        self, session: Session, home: Home, mark: Callable[[], None]
    ) -> None:
        with session.transaction(mark, table_lock_timeout=1):
            self.work(session)
            assert session.in_transaction and home.count() == (0, 0)
        assert home.count() == (1, 1) and not session.in_transaction

    def test_an_error_takes_all_back(self, session: Session, home: Home, mark: Callable[[], None]) -> None:
        with pytest.raises(ZeroDivisionError), session.transaction(mark):
            self.work(session)
            raise ZeroDivisionError
        assert home.count() == (0, 0)
        session.require_lock()

    def test_an_error_in_what_follows_takes_all_back(self, session: Session, home: Home) -> None:
        def fail() -> None:
            session.execute("INSERT INTO no_table VALUES (1)")

        with pytest.raises(home.error), session.transaction(fail):
            self.work(session)
        assert home.count() == (0, 0)

    @pytest.mark.parametrize("how", ["COMMIT", "ROLLBACK", "END", "/* x */ commit", "COMMIT; BEGIN"])
    def test_one_that_the_block_ended_by_itself_marks_nothing_and_fails(
        self, session: Session, home: Home, mark: Callable[[], None], how: str
    ) -> None:
        with pytest.raises((TaskFailed, home.error)), session.transaction(mark):
            self.work(session)
            for statement in how.split(";"):
                session.connection.execute(statement)
        assert home.count()[1] == 0
        session.reset()
        session.require_lock()

    @pytest.mark.parametrize("how", ["commit", "rollback", "__enter__"])
    def test_the_drivers_own_ways_to_end_it_are_refused_and_to_swallow_that_helps_nothing(
        self, session: Session, home: Home, mark: Callable[[], None], how: str
    ) -> None:
        with pytest.raises((TaskFailed, home.error)), session.transaction(mark):
            self.work(session)
            getattr(session.connection, how)()
            raise TaskFailed("it was not refused")
        assert home.count()[1] == 0

    def test_a_block_that_ended_it_and_then_failed_says_both(self, session: Session, home: Home) -> None:
        ended = False
        with pytest.raises((EndedInside, ZeroDivisionError)) as caught, session.transaction():
            with suppress(home.error):  # where it is refused, nothing was ended
                session.connection.execute("COMMIT")
                ended = True
            raise ZeroDivisionError
        assert isinstance(caught.value, EndedInside) == ended
        assert isinstance(caught.value.__cause__ if ended else caught.value, ZeroDivisionError)

    def test_savepoints_are_the_blocks_own_business(
        self, session: Session, home: Home, mark: Callable[[], None]
    ) -> None:
        with session.transaction(mark):
            for statement in ("SAVEPOINT a", "INSERT INTO work VALUES (1)", "ROLLBACK TO a", "RELEASE a"):
                session.connection.execute(statement)
            self.work(session)
        assert home.count() == (1, 1)

    def test_nothing_commits_once_the_lock_is_lost(
        self, session: Session, home: Home, mark: Callable[[], None]
    ) -> None:
        with pytest.raises(LockLost), session.transaction(mark):
            self.work(session)
            home.take_the_lock_away(session)
        assert home.count() == (0, 0)

    def test_it_does_not_nest(self, session: Session) -> None:
        with session.transaction(), pytest.raises(RuntimeError), session.transaction():
            pass

    def test_afterwards_the_connection_commits_as_ever(self, session: Session, home: Home) -> None:
        with session.transaction():
            pass
        session.connection.execute("BEGIN")
        self.work(session)
        session.connection.execute("COMMIT")
        assert home.count() == (1, 0)

    @pytest.mark.parametrize("kind", [Interrupted(143), GeneratorExit()], ids=["Interrupted", "any other"])
    def test_what_a_signals_handler_raises_takes_all_back(
        self, session: Session, home: Home, mark: Callable[[], None], kind: BaseException
    ) -> None:
        def stop(number: int, frame: object) -> None:
            raise kind

        before = signal.signal(signal.SIGALRM, stop)
        ended = threading.Timer(0.5, session.cancel)  # as the watching thread does for a database in C code
        try:
            with pytest.raises((type(kind), home.error)) as caught, session.transaction(mark):
                self.work(session)
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                ended.start()
                session.connection.execute(home.endless)
            assert isinstance(caught.value, type(kind))
        finally:
            signal.signal(signal.SIGALRM, before)
            ended.join()
        session.reset()
        assert home.count() == (0, 0)
        session.require_lock()

    def test_another_thread_can_cancel(self, session: Session, home: Home) -> None:
        threading.Timer(0.3, session.cancel).start()
        with pytest.raises(home.error), session.transaction():
            self.work(session)
            session.connection.execute(home.endless)
        assert home.count() == (0, 0)
        session.require_lock()


class TestScript:
    @pytest.fixture(autouse=True)
    def table(self, home: Home) -> None:
        home.query("CREATE TABLE work (i integer)")
        home.query("CREATE TABLE ledger (i integer)")

    def run(self, session: Session, text: str, begun: Callable[[list[Any]], None] = lambda rows: None) -> None:
        asked = (f"SELECT count(*) FROM {session.qualify('work')}", ())
        last = [("INSERT INTO ledger VALUES (%s)", [1]), ("INSERT INTO ledger VALUES (%s)", [2])]
        session.run_script(text, session.dialect.split(text).statements, 5.0, asked, begun, lambda: last)

    def test_what_is_last_commits_with_it_and_what_is_asked_first_is_told(self, session: Session, home: Home) -> None:
        told: list[Any] = []
        self.run(session, "INSERT INTO work VALUES (1);\nINSERT INTO work VALUES (2);", told.append)
        assert home.count() == (2, 2) and not session.in_transaction
        self.run(session, "CREATE TEMP TABLE leftover (i integer);", told.append)
        assert told == [[(0,)], [(2,)]]
        self.run(session, "CREATE TEMP TABLE leftover (i integer);")

    def test_where_the_answer_is_not_as_it_should_be_nothing_is_done(self, session: Session, home: Home) -> None:
        def refuse(rows: list[Any]) -> None:
            raise LockLost("it is gone")

        with pytest.raises(LockLost, match="it is gone"):
            self.run(session, "INSERT INTO work VALUES (1);", refuse)
        assert home.count() == (0, 0) and not session.in_transaction

    def test_one_that_fails_leaves_nothing_and_says_where(self, session: Session, home: Home) -> None:
        text = "INSERT INTO work VALUES (1);\nSELECT nonsense;"
        with pytest.raises(AtStatement) as caught:
            self.run(session, text)
        assert caught.value.offset is not None and text[caught.value.offset :].startswith(("SELECT", "nonsense"))
        assert home.count() == (0, 0) and not session.in_transaction
        self.run(session, "INSERT INTO work VALUES (1);")
        assert home.count() == (1, 2)

    def test_one_without_a_statement_is_marked_too(self, session: Session, home: Home) -> None:
        self.run(session, "-- nothing to do\n")
        assert home.count() == (0, 2)
