# ruff: noqa: PT012, SIM117 - the block under test is a transaction
"""What only the PostgreSQL session promises: reaching the server, poolers, roles. The rest: test_session.py.

What a look promises, too, is asked of both: of the session by psycopg and of the one by libpq alone.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from startup.database.postgres import look
from startup.database.postgres import reach as postgres_connect
from startup.database.postgres import session as postgres
from startup.database.postgres.session import PostgresSession
from startup.errors import EndedInside, Interrupted, LockLost, SettingError, TaskFailed, Unreachable
from startup.ledger.journal import RUNNING, Journal
from startup.settings.address import parse
from tests.conftest import PASSWORD

Query = Callable[[str, str], list[tuple[Any, ...]]]
WaitUntil = Callable[..., Any]
Connect = Callable[..., PostgresSession]


#: Each test of a class, or one, with either session.
BOTH = pytest.mark.parametrize("opener", [postgres, look], ids=["psycopg", "libpq"], indirect=True)


@pytest.fixture
def opener(request: pytest.FixtureRequest) -> Any:
    """The module whose ``connect`` opens a test's sessions: psycopg's, unless both are asked for."""
    return getattr(request, "param", postgres)


@pytest.fixture
def connect(opener: Any, database_url: str) -> Iterator[Connect]:
    """``connect(node, url=..., **settings)``: a session with the test's database, closed afterwards."""
    opened: list[PostgresSession] = []

    def open_one(node: str = "node-1", url: str = database_url, **settings: Any) -> PostgresSession:
        session: PostgresSession = opener.connect(
            parse(url), **{"node": node, "timeout": 5, "report": print, **settings}
        )
        opened.append(session)
        return session

    yield open_one
    for session in opened:
        session.close()


@pytest.fixture
def session(connect: Connect) -> PostgresSession:
    """One session that holds the lock."""
    one = connect()
    assert one.try_lock()
    return one


@pytest.fixture
def kill(server: Any, query: Query, wait_until: WaitUntil) -> Callable[[PostgresSession], None]:
    """``kill(session)``: end its backend, as a fail-over or an administrator does."""

    def kill_one(session: PostgresSession) -> None:
        admin = server.admin_url("postgres")
        query(admin, f"SELECT pg_terminate_backend({session.backend})")
        wait_until(lambda: not query(admin, f"SELECT 1 FROM pg_stat_activity WHERE pid = {session.backend}"))

    return kill_one


@BOTH
class TestReaching:
    def test_limits_that_would_end_an_idle_or_long_session_are_off_whatever_the_role_says(
        self, connect: Connect, server: Any, query: Query, database: str
    ) -> None:
        limits = ["statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"]
        for name in [*limits, "transaction_timeout"]:
            query(server.admin_url(database), f"ALTER DATABASE {database} SET {name} = '7s'")
        query(
            server.admin_url(database), f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"
        )
        session = connect()
        for name in [*limits, "transaction_timeout"]:
            assert session.execute(f"SHOW {name}") == [("0",)], name
        assert session.execute("SHOW default_transaction_isolation") == [("read committed",)]
        if session.only_looks:
            return
        with session.transaction():
            assert session.execute("SHOW transaction_isolation") == [("read committed",)]

    def test_both_ends_notice_a_vanished_peer_in_about_30_seconds(self, connect: Connect) -> None:
        session = connect()
        assert session.execute("SHOW tcp_user_timeout") == [("30000",)]
        assert session.execute("SHOW tcp_keepalives_idle") == [("10",)]
        assert session.execute("SHOW client_connection_check_interval") == [("2s",)]
        option = socket.TCP_USER_TIMEOUT
        with socket.socket(fileno=os.dup(session.connection.fileno())) as mine:
            assert mine.getsockopt(socket.IPPROTO_TCP, option) == 30000
            assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert session.dead_peer_seconds == 32

    def test_an_address_with_its_own_tcp_settings_keeps_them(self, connect: Connect, database_url: str) -> None:
        session = connect(url=database_url + "?tcp_user_timeout=45000&keepalives_idle=33")
        with socket.socket(fileno=os.dup(session.connection.fileno())) as mine:
            assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 45000
            assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 33
        assert session.dead_peer_seconds == 47

    def test_over_a_socket_file_a_dead_peer_is_noticed_at_once(
        self, connect: Connect, server: Any, database: str
    ) -> None:
        assert connect(url=server.admin_url(database)).dead_peer_seconds == 2

    def test_the_application_name_is_the_node_cut_to_what_postgresql_keeps(self, connect: Connect) -> None:
        session = connect(node="n" * 80)
        assert session.execute("SHOW application_name") == [("startup/" + "n" * 55,)]

    def test_parameters_of_other_tools_do_not_disturb(self, connect: Connect, database_url: str) -> None:
        url = database_url + "?connection_limit=5&pgbouncer=true&schema=public&sslmode=disable&application_name=mine"
        assert connect(url=url).execute("SHOW application_name") == [("startup/node-1",)]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (("s3cr3t-Pa55", "wr0ng-Pa55"), "the password was rejected"),
            ((":s3cr3t-Pa55", ""), "the password was rejected, or is missing"),
            (("/test_", "/no_such_"), "the database does not exist"),
            (("//app:", "//nobody_here:"), "the password was rejected"),
        ],
    )
    def test_what_waiting_cannot_mend_fails_at_once_without_the_password(
        self, connect: Connect, database_url: str, change: tuple[str, str], says: str
    ) -> None:
        start = time.monotonic()
        with pytest.raises(Unreachable) as caught:
            connect(url=database_url.replace(*change), timeout=60)
        assert says in str(caught.value)
        assert "Pa55" not in str(caught.value)
        assert caught.value.code == 69
        assert time.monotonic() - start < 30

    def test_a_role_that_does_not_exist_fails_at_once(self, connect: Connect, server: Any, database: str) -> None:
        with pytest.raises(Unreachable, match="the role does not exist"):
            connect(url=server.admin_url(database).replace("postgres@", "stranger@"), timeout=60)

    def test_tls_that_the_server_does_not_speak_fails_at_once(self, connect: Connect, database_url: str) -> None:
        with pytest.raises(Unreachable, match="no TLS connection could be agreed on"):
            connect(url=database_url + "?sslmode=require", timeout=60)

    def test_a_parameter_that_libpq_cannot_read_is_a_wrong_setting(self, connect: Connect, database_url: str) -> None:
        with pytest.raises(SettingError, match=r"DATABASE_URL is .*no-verify") as caught:
            connect(url=database_url + "?sslmode=no-verify", timeout=60)
        assert "Pa55" not in str(caught.value)

    def test_a_refused_connection_is_waited_for_until_the_time_limit(self, opener: Any, free_port: int) -> None:
        lines: list[str] = []
        start = time.monotonic()
        with pytest.raises(Unreachable, match=r"within 0.5 s \(STARTUP_DATABASE_TIMEOUT\): the connection is refused"):
            opener.connect(
                parse(f"postgresql://app:geheim-1@127.0.0.1:{free_port}/x"), timeout=0.5, report=lines.append
            )
        assert 0.3 < time.monotonic() - start < 8
        assert lines == [
            f"waiting for the database at postgresql://app:***@127.0.0.1:{free_port}/x: the connection is refused"
        ]

    def test_a_long_wait_shows_that_it_lives(
        self, opener: Any, free_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres_connect, "PROGRESS", 0.2)
        lines: list[str] = []
        with pytest.raises(Unreachable):
            opener.connect(parse(f"postgresql://127.0.0.1:{free_port}/x"), timeout=1, report=lines.append)
        assert [line.split(" ", 1)[0] for line in lines[:2]] == ["waiting", "still"]
        assert "Connection refused" in lines[1]

    def test_a_host_that_cannot_be_resolved_is_waited_for_and_named(self, opener: Any) -> None:
        with pytest.raises(Unreachable, match="the host name cannot be resolved"):
            opener.connect(parse("postgresql://app@no-such-host.invalid/x"), timeout=5, report=print)

    def test_a_socket_directory_without_a_server_is_waited_for(self, opener: Any, tmp_path: Path) -> None:
        with pytest.raises(Unreachable, match="the connection is refused"):
            opener.connect(parse(f"postgresql:///x?host={tmp_path}"), timeout=0.2, report=print)

    def test_a_server_that_accepts_and_says_nothing_is_left_at_the_time_limit(self, opener: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            start = time.monotonic()
            with pytest.raises(Unreachable, match="there is no answer"):
                opener.connect(parse(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x"), timeout=0.5, report=print)
            assert time.monotonic() - start < 8

    def test_a_signal_ends_the_wait_at_once(self, opener: Any, free_port: int) -> None:
        def stop(number: int, frame: object) -> None:
            raise Interrupted(143)

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        start = time.monotonic()
        try:
            with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Interrupted):
                opener.connect(parse(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x"), timeout=0, report=print)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - start < 8

    def test_a_server_that_starts_meanwhile_is_waited_for_with_a_line_for_each_change(
        self, opener: Any, new_server: Callable[..., Any], wait_until: WaitUntil
    ) -> None:
        server = new_server()
        server.stop()
        lines: list[str] = []
        url = server.url("postgres")
        with ThreadPoolExecutor() as pool:
            connecting = pool.submit(opener.connect, parse(url), timeout=30, report=lines.append)
            wait_until(lambda: lines)
            server.start()
            connecting.result().close()
        assert "the connection is refused" in lines[0]
        assert len(lines) == len(set(lines))

    def test_too_many_connections_are_waited_for(
        self, opener: Any, new_server: Callable[..., Any], query: Query
    ) -> None:
        server = new_server(max_connections="6", superuser_reserved_connections="1")
        taken = [psycopg.connect(server.url("postgres")) for _ in range(5)]
        lines: list[str] = []

        def report(line: str) -> None:
            lines.append(line)
            taken.pop().close()

        session = opener.connect(parse(server.url("postgres")), timeout=20, report=report)
        assert session.execute("SELECT 1") == [(1,)]
        assert "too many connections" in lines[0]
        for connection in taken:
            connection.close()
        session.close()

    def test_a_standby_and_a_read_only_default_are_told_apart_and_a_lock_there_binds_nobody(
        self, new_server: Callable[..., Any], connect: Connect, query: Query, database_url: str
    ) -> None:
        server = new_server()
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        standby = connect(url=server.url("postgres"))
        assert "standby" in standby.read_only
        if not standby.only_looks:
            assert not standby.try_lock()
            with pytest.raises(Unreachable, match="cannot be written to"), standby.transaction():
                pass
            standby.reset()
        assert connect().read_only == ""
        reader = connect(url=database_url + "?options=-c%20default_transaction_read_only%3Don")
        assert "default_transaction_read_only is on" in reader.read_only

    def test_of_several_hosts_the_one_that_can_be_written_to_is_taken(
        self, new_server: Callable[..., Any], connect: Connect, server: Any, free_port: int
    ) -> None:
        standby = new_server()
        standby.stop()
        (standby.data / "standby.signal").touch()
        standby.start()
        url = server.url("postgres").replace("@", f"@127.0.0.1:{free_port},127.0.0.1:{standby.port},")
        session = connect(url=url)
        assert session.execute("SHOW port") == [(str(server.port),)]
        assert session.read_only == ""


class TestPsycopg:
    def test_the_session_is_in_autocommit_read_committed_without_prepared_statements(self, connect: Connect) -> None:
        session = connect()
        assert session.connection.autocommit
        assert session.connection.prepare_threshold is None
        assert session.execute("SHOW default_transaction_isolation") == [("read committed",)]
        assert session.execute("SELECT %s::text, 1", ["a"]) == [("a", 1)]
        assert session.execute("CREATE TABLE t (i int)") == []


class TestWords:
    @pytest.mark.parametrize(
        ("silent_below", "says"), [(0.2, "the connection is refused"), (0.8, "there is no answer")]
    )
    def test_a_last_try_with_little_time_does_not_hide_the_error_before_it(
        self, silent_below: float, says: str
    ) -> None:
        def attempt(left: float | None) -> None:
            assert left is not None
            if left > silent_below:
                raise psycopg.OperationalError("Connection refused")
            time.sleep(left)
            raise TimeoutError(f"no answer within {left:.1f} s")

        with pytest.raises(Unreachable, match=says):
            postgres_connect.reach(attempt, lambda _: "", parse("postgresql://127.0.0.1/x"), 1, print)

    @pytest.mark.parametrize(
        ("text", "words", "final"),
        [
            ('connection to server at "certificate-db", port 5432 failed: Connection refused', "refused", False),
            ('failed: FATAL:  database "certificates" does not exist', "database does not exist", True),
            ("server certificate for \"db\" does not match host name \"x\"", "TLS", True),
            ("SSL error: certificate verify failed", "TLS", True),
            ("could not create SSL context: library has no ciphers", "TLS", True),
            ("SSL error: unexpected eof while reading", "hangs up", False),
            ("FATAL:  the database system is not yet accepting connections", "starting up", False),
            ("FATAL:  the database system is shutting down", "starting up", False),
            ("FATAL:  no pg_hba.conf entry for host \"10.0.0.9\", user \"app\", no encryption", "does not admit", True),
            ("server closed the connection unexpectedly", "hangs up", False),
            ("session is read-only", "read-only", False),
            ("FATAL: no more connections allowed (max_client_conn)", "too many connections", False),
            ("something never seen", "the connection failed", False),
        ],
    )  # fmt: skip
    def test_libpqs_words_are_understood(self, text: str, words: str, final: bool) -> None:
        failure = postgres_connect.explain(text)
        assert words in failure.words
        assert failure.final is final


class TestLock:
    def test_namespaces_do_not_share_it(self, connect: Connect) -> None:
        assert connect("a", namespace="one").try_lock()
        assert connect("b", namespace="two").try_lock()
        assert not connect("c", namespace="one").try_lock()

    @pytest.mark.parametrize("namespace", ["default", "a", "b", "c", "d"])
    def test_it_is_found_in_pg_locks_whatever_the_signs_of_its_halves(self, connect: Connect, namespace: str) -> None:
        session = connect(namespace=namespace)
        with pytest.raises(LockLost):
            session.require_lock()
        assert session.try_lock()
        session.require_lock()

    def test_a_lock_that_is_found_lost_by_the_timelines_row_is_not_passed_over(
        self, session: PostgresSession, kill: Callable[[PostgresSession], None]
    ) -> None:
        journal = Journal("default", "node-1", "post_start")
        journal.create(session)
        journal.write(session, RUNNING)
        kill(session)
        with pytest.raises(LockLost):
            journal.write(session, RUNNING)

    def test_it_is_free_as_soon_as_its_session_is_gone(
        self, session: PostgresSession, connect: Connect, kill: Callable[[PostgresSession], None]
    ) -> None:
        other = connect("b")
        kill(session)
        assert other.try_lock()
        with pytest.raises(LockLost, match="its database session is gone") as caught:
            session.require_lock()
        assert caught.value.code == 75

    @BOTH
    def test_losing_a_session_without_the_lock_is_an_unreachable_database(
        self, connect: Connect, kill: Callable[[PostgresSession], None]
    ) -> None:
        session = connect()
        kill(session)
        with pytest.raises(Unreachable):
            session.execute("SELECT 1")

    @pytest.mark.parametrize("how", ["SELECT pg_advisory_unlock_all()", "DISCARD ALL"])
    def test_a_lock_that_a_task_dropped_is_noticed(self, session: PostgresSession, how: str) -> None:
        session.connection.execute(how)
        with pytest.raises(LockLost, match="something released it"):
            session.require_lock()
        with pytest.raises(LockLost):
            session.require_lock()

    def test_a_waiting_node_learns_who_holds_it(self, connect: Connect) -> None:
        holder, waiting = connect("web-1"), connect("web-2")
        assert waiting.holder() is None
        assert holder.try_lock()
        seen = waiting.holder()
        assert seen is not None
        assert seen.node == "web-1"
        assert f"pid {holder.backend}, user app, from 127.0.0.1, connected for 0 s" in seen.detail

    def test_a_holder_of_another_role_is_seen_too(self, connect: Connect, server: Any, database: str) -> None:
        assert connect("web-1", url=server.admin_url(database)).try_lock()
        seen = connect("web-2").holder()
        assert seen is not None
        assert seen.node == "web-1"
        assert "user postgres" in seen.detail

    def test_the_schema_of_the_address_is_made_and_used(
        self, connect: Connect, database_url: str, query: Query
    ) -> None:
        session = connect(url=database_url + "?schema=Odd%22one")
        assert not session.tables("t")
        assert session.try_lock()
        for _ in range(2):
            with session.transaction():
                session.ensure_home("t")
        session.execute("CREATE TABLE t (i int, j int)")
        assert session.tables("t") == {"t": {"i", "j"}}
        assert query(database_url, "SELECT schemaname FROM pg_tables WHERE tablename = 't'") == [('Odd"one',)]
        assert session.qualify("t") == '"Odd""one"."t"'
        assert not connect().tables("t")

    def test_a_schema_that_may_not_be_made_is_a_wrong_setting(
        self, connect: Connect, server: Any, query: Query
    ) -> None:
        session = connect(url=server.url("template1") + "?schema=mine")
        with pytest.raises(SettingError, match=r"schema 'mine'.*permission denied"):
            session.ensure_home("t")

    def test_creating_an_index_concurrently_works_while_others_wait(self, connect: Connect) -> None:
        runner, waiting = connect("a"), connect("b")
        assert runner.try_lock()
        over = threading.Event()

        def wait() -> None:
            while not over.is_set():
                assert not waiting.try_lock()
                waiting.holder()

        thread = threading.Thread(target=wait)
        thread.start()
        try:
            runner.execute("CREATE TABLE t (i int)")
            runner.execute("CREATE INDEX CONCURRENTLY t_i ON t (i)")
        finally:
            over.set()
            thread.join()
        assert runner.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_i'::regclass") == [(True,)]


class TestWatch:
    def test_the_watcher_is_told_once_when_the_session_is_gone(
        self, session: PostgresSession, kill: Callable[[PostgresSession], None], wait_until: WaitUntil
    ) -> None:
        told: list[float] = []
        with session.watch(lambda: told.append(time.monotonic())):
            kill(session)
            wait_until(lambda: told, timeout=20)
        with pytest.raises(LockLost):
            session.require_lock()
        assert len(told) == 1


class TestTransaction:
    @pytest.fixture(autouse=True)
    def table(self, database_url: str, query: Query) -> None:
        query(database_url, "CREATE TABLE work (i int); CREATE TABLE ledger (i int)")

    @pytest.fixture
    def count(self, database_url: str, query: Query) -> Callable[[], tuple[int, int]]:
        def ask() -> tuple[int, int]:
            return query(database_url, "SELECT (SELECT count(*) FROM work), (SELECT count(*) FROM ledger)")[0]

        return ask

    def mark(self, session: PostgresSession) -> Callable[[], None]:
        return lambda: (session.execute("INSERT INTO ledger VALUES (1)"), None)[1]

    @pytest.mark.parametrize(
        "how",
        [
            "COMMIT",
            "ROLLBACK",
            "COMMIT; BEGIN",
            "COMMIT AND CHAIN",
            "ROLLBACK AND CHAIN",
            "COMMIT; BEGIN; INSERT INTO work VALUES (2)",
            "END",
            "ABORT",
        ],
    )
    def test_a_commit_or_rollback_from_inside_fails_the_task(
        self, session: PostgresSession, count: Callable[[], tuple[int, int]], how: str
    ) -> None:
        with (
            pytest.raises(TaskFailed, match="committed or rolled back from inside"),
            session.transaction(self.mark(session)),
        ):
            session.connection.execute("INSERT INTO work VALUES (1)")
            session.connection.execute(how)
        assert count()[1] == 0
        session.reset()
        session.require_lock()

    def test_with_connection_is_refused(self, session: PostgresSession, count: Callable[[], tuple[int, int]]) -> None:
        with pytest.raises((psycopg.ProgrammingError, LockLost)):
            with session.transaction(self.mark(session)), session.connection:
                session.connection.execute("INSERT INTO work VALUES (1)")
        assert count() == (0, 0)

    def test_psycopgs_rollback_exception_is_a_failure_too(
        self, session: PostgresSession, count: Callable[[], tuple[int, int]]
    ) -> None:
        with pytest.raises(TaskFailed), session.transaction(self.mark(session)):
            session.connection.execute("INSERT INTO work VALUES (1)")
            raise psycopg.Rollback
        assert count() == (0, 0)

    def test_savepoints_are_the_tasks_own_business(
        self, session: PostgresSession, count: Callable[[], tuple[int, int]]
    ) -> None:
        with session.transaction(self.mark(session)):
            with pytest.raises(psycopg.Error), session.connection.transaction():
                session.connection.execute("SELECT nonsense")
            with session.connection.transaction():
                session.connection.execute("INSERT INTO work VALUES (1)")
        assert count() == (1, 1)

    def test_a_failed_statement_that_nobody_minded_fails_the_task(
        self, session: PostgresSession, count: Callable[[], tuple[int, int]]
    ) -> None:
        with pytest.raises(TaskFailed, match="a statement failed"), session.transaction(self.mark(session)):
            with pytest.raises(psycopg.Error):
                session.connection.execute("SELECT nonsense")
        assert count() == (0, 0)

    def test_nothing_commits_once_the_lock_was_let_go(
        self, session: PostgresSession, connect: Connect, count: Callable[[], tuple[int, int]]
    ) -> None:
        other = connect("b")
        with pytest.raises(LockLost), session.transaction(self.mark(session)):
            session.connection.execute("INSERT INTO work VALUES (1)")
            session.connection.execute("SELECT pg_advisory_unlock_all()")
            assert other.try_lock()
        assert count() == (0, 0)

    def test_nothing_commits_once_the_session_is_gone(
        self, session: PostgresSession, kill: Callable[[PostgresSession], None], count: Callable[[], tuple[int, int]]
    ) -> None:
        with pytest.raises(LockLost), session.transaction(self.mark(session)):
            session.connection.execute("INSERT INTO work VALUES (1)")
            kill(session)
        assert count() == (0, 0)

    def test_an_error_that_only_follows_from_a_lost_session_is_told_as_the_loss(
        self, session: PostgresSession, kill: Callable[[PostgresSession], None]
    ) -> None:
        with pytest.raises(LockLost), session.transaction():
            kill(session)
            try:
                session.connection.execute("SELECT 1")
            except psycopg.Error as error:
                raise RuntimeError("could not load the plans") from error

    def test_the_role_and_search_path_of_the_task_do_not_reach_what_follows(
        self, session: PostgresSession, server: Any, database: str, query: Query, count: Callable[[], tuple[int, int]]
    ) -> None:
        role = f"weak_{database}"
        query(server.admin_url(database), f"CREATE ROLE {role}; GRANT {role} TO app")
        try:
            with session.transaction(self.mark(session)):
                session.connection.execute("INSERT INTO work VALUES (1)")
                session.connection.execute("SELECT set_config('search_path', '', false)")
                session.connection.execute(f"SET ROLE {role}")
            assert count() == (1, 1)
        finally:
            query(server.admin_url(database), f"DROP ROLE {role}")

    @pytest.mark.parametrize("kind", [Interrupted(143), GeneratorExit()], ids=["Interrupted", "any other"])
    def test_a_signal_cancels_the_statement_and_takes_all_back(
        self,
        session: PostgresSession,
        count: Callable[[], tuple[int, int]],
        server: Any,
        query: Query,
        kind: BaseException,
    ) -> None:
        def stop(number: int, frame: object) -> None:
            raise kind

        before = signal.signal(signal.SIGALRM, stop)
        start = time.monotonic()
        try:
            with pytest.raises(type(kind)), session.transaction(self.mark(session)):
                session.connection.execute("INSERT INTO work VALUES (1)")
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                session.connection.execute("SELECT pg_sleep(30)")
        finally:
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - start < 15
        assert count() == (0, 0)
        state = f"SELECT state FROM pg_stat_activity WHERE pid = {session.backend}"
        assert query(server.admin_url("postgres"), state) == [("idle",)]
        session.require_lock()

    def test_a_copy_that_was_left_open_commits_nothing_and_hangs_nothing(
        self, session: PostgresSession, count: Callable[[], tuple[int, int]]
    ) -> None:
        with pytest.raises(ZeroDivisionError), session.transaction(self.mark(session)):
            session.connection.execute("INSERT INTO work VALUES (1)")
            session.connection.pgconn.send_query(b"COPY work FROM STDIN")
            raise ZeroDivisionError
        assert count() == (0, 0)
        session.require_lock()


class TestScript:
    """What a migration's SQL does: its own transaction in a few messages, under the guards of any other."""

    @pytest.fixture(autouse=True)
    def table(self, database_url: str, query: Query) -> None:
        query(database_url, "CREATE TABLE ledger (name text UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def run(self, session: PostgresSession, text: str, name: str = "a", **changes: Any) -> None:
        mark = "INSERT INTO public.ledger VALUES (%s)"
        session.run_script(
            text, session.dialect.split(text).statements, 5.0, ("SELECT 1", ()), lambda rows: None,
            **{"last": lambda: [(mark, [name])], **changes},
        )  # fmt: skip

    def marks(self, url: str, query: Query) -> list[str]:
        return [name for (name,) in query(url, "SELECT name FROM ledger ORDER BY name")]

    @pytest.mark.parametrize(
        "how",
        [
            *("COMMIT", "COMMIT; BEGIN", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK; BEGIN"),
            *("COMMIT; SELECT nonsense", "COMMIT; BEGIN; SELECT nonsense"),
        ],
    )
    def test_one_that_ends_its_transaction_is_not_marked(
        self, session: PostgresSession, database_url: str, query: Query, how: str
    ) -> None:
        with pytest.raises(EndedInside):
            self.run(session, f"SELECT 1; {how};")
        assert self.marks(database_url, query) == [] and not session.in_transaction
        session.require_lock()

    def test_one_that_lets_the_lock_go_commits_nothing(
        self, session: PostgresSession, database_url: str, query: Query
    ) -> None:
        with pytest.raises(LockLost):
            self.run(session, "CREATE TABLE a (); SELECT pg_advisory_unlock_all();")
        assert self.marks(database_url, query) == []
        assert query(database_url, "SELECT to_regclass('a')") == [(None,)]

    def test_an_error_at_commit_leaves_nothing_and_is_told_as_it_is(
        self, session: PostgresSession, database_url: str, query: Query
    ) -> None:
        with pytest.raises(psycopg.errors.UniqueViolation):
            self.run(session, "INSERT INTO ledger VALUES ('a');")
        assert self.marks(database_url, query) == [] and not session.in_transaction
        self.run(session, "SELECT 1;")
        assert self.marks(database_url, query) == ["a"]

    def test_what_fails_after_its_commit_is_no_failure_of_it_and_tried_again(
        self, session: PostgresSession, database_url: str, query: Query, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        as_new = [session._as_new, "SELECT nonsense"]
        monkeypatch.setattr(PostgresSession, "_as_new", property(lambda self: as_new.pop()))
        self.run(session, "SET search_path = nowhere;")
        assert self.marks(database_url, query) == ["a"] and not as_new
        assert session.execute("SHOW search_path") == [('"$user", public',)]

    def test_encodings_and_ways_to_read_strings_that_it_takes_do_not_reach_its_mark(
        self, session: PostgresSession, database_url: str, query: Query
    ) -> None:
        name = "\u4e00 \\' \\"
        self.run(session, "SET client_encoding = 'LATIN1'; SET standard_conforming_strings = off;", name)
        assert self.marks(database_url, query) == [name]
        assert session.execute("SHOW client_encoding") == [("UTF8",)]

    def test_its_settings_are_not_those_under_which_it_is_marked(
        self, session: PostgresSession, database_url: str, query: Query
    ) -> None:
        shown = "INSERT INTO public.ledger VALUES (current_setting(%s))"
        names = ("synchronous_commit", "session_authorization", "search_path", "statement_timeout", "lock_timeout")
        query(database_url, "CREATE SCHEMA other; ALTER TABLE ledger DROP CONSTRAINT ledger_name_key")
        self.run(
            session,
            "SET synchronous_commit = off; SET search_path = other; SET statement_timeout = '1h'; SET lock_timeout = 7",
            last=lambda: [(shown, [name]) for name in names],
        )
        default = query(database_url, "SHOW synchronous_commit")[0][0]
        assert self.marks(database_url, query) == sorted(['"$user", public', "0", "0", "app", default])

    def test_nothing_that_it_did_to_the_session_is_left(
        self, session: PostgresSession, server: Any, database: str, query: Query
    ) -> None:
        role = f"weak_{database}"
        query(server.admin_url(database), f"CREATE ROLE {role}; GRANT {role} TO app")
        self.run(
            session,
            "CREATE TEMP TABLE leftover (i int); LISTEN somebody; PREPARE statement AS SELECT 1;"
            "DECLARE leftover CURSOR WITH HOLD FOR SELECT 1; SET lock_timeout = '1h'; SET search_path = '';"
            "SELECT pg_advisory_lock(-5), pg_advisory_lock(-5), pg_advisory_lock_shared(-7, 8);"
            "SELECT pg_advisory_lock(7, -8), pg_advisory_lock(5::bigint << 40);"
            f"SET ROLE {role};",
        )
        for name, value in {"lock_timeout": "0", "search_path": '"$user", public', "role": "none"}.items():
            assert session.execute(f"SHOW {name}") == [(value,)], name
        for left in ("pg_listening_channels()", "pg_prepared_statements", "pg_cursors WHERE is_holdable"):
            assert session.execute(f"SELECT FROM {left}") == [], left
        assert session.execute("SELECT to_regclass('leftover')") == [(None,)]
        held = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = {session.backend}"
        assert session.execute(held) == [(1,)]
        session.require_lock()
        query(server.admin_url(database), f"DROP ROLE {role}")

    def test_a_signal_cancels_it_and_takes_all_back(
        self, session: PostgresSession, server: Any, database_url: str, query: Query
    ) -> None:
        def stop(number: int, frame: object) -> None:
            raise Interrupted(143)

        before = signal.signal(signal.SIGALRM, stop)
        start = time.monotonic()
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(Interrupted):
                self.run(session, "CREATE TABLE a (); SELECT pg_sleep(30);")
        finally:
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - start < 15
        state = f"SELECT state FROM pg_stat_activity WHERE pid = {session.backend}"
        assert query(server.admin_url("postgres"), state) == [("idle",)]
        assert query(database_url, "SELECT to_regclass('a')") == [(None,)]
        session.require_lock()

    def test_others_see_the_script_itself_while_it_runs(
        self, session: PostgresSession, database_url: str, query: Query, wait_until: WaitUntil
    ) -> None:
        text = "SELECT pg_sleep(1) -- mine"
        running = threading.Thread(target=self.run, args=[session, text])
        running.start()
        shown = "SELECT query FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        assert wait_until(lambda: query(database_url, shown)) == [(text,)]
        running.join()


class TestReset:
    def test_nothing_that_a_task_did_to_the_session_is_left(
        self, session: PostgresSession, server: Any, database: str, query: Query, connect: Connect
    ) -> None:
        admin = server.admin_url(database)
        role = f"weak_{database}"
        query(admin, f"CREATE ROLE {role}; GRANT {role} TO app")
        connection = session.connection
        connection.execute("CREATE TEMP TABLE leftover (i int)")
        connection.execute("LISTEN somebody")
        connection.execute("PREPARE statement AS SELECT 1")
        connection.execute("DECLARE leftover CURSOR WITH HOLD FOR SELECT 1")
        connection.execute("SELECT pg_advisory_lock(-5), pg_advisory_lock(-5), pg_advisory_lock_shared(-7, 8)")
        connection.execute("SET lock_timeout = '1h'; SET statement_timeout = '1h'; SET idle_session_timeout = '1h'")
        connection.execute("SET application_name = 'mine'; SET search_path = ''; SET datestyle = 'German'")
        connection.execute(f"SET ROLE {role}")
        connection.row_factory = psycopg.rows.dict_row
        connection.autocommit = False
        connection.execute("SELECT 1")
        session.reset()
        expected = {"lock_timeout": "0", "statement_timeout": "0", "idle_session_timeout": "0", "role": "none"}
        expected |= {"application_name": "startup/node-1", "search_path": '"$user", public', "datestyle": "ISO, MDY"}
        for name, value in expected.items():
            assert session.execute(f"SHOW {name}") == [(value,)], name
        assert session.connection.autocommit
        assert session.connection.execute("SELECT 1").fetchone() == (1,)
        assert session.execute("SELECT pg_listening_channels()") == []
        assert session.execute("SELECT 1 FROM pg_cursors WHERE name = 'leftover'") == []
        assert session.execute("SELECT to_regclass('leftover')") == [(None,)]
        assert session.execute("SELECT count(*) FROM pg_prepared_statements") == [(0,)]
        held = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = {session.backend}"
        assert session.execute(held) == [(1,)]
        session.require_lock()
        assert not connect("b").try_lock()
        query(admin, f"DROP ROLE {role}")

    def test_the_schema_of_the_address_is_in_force_again(self, connect: Connect, database_url: str) -> None:
        session = connect(url=database_url + "?schema=app_schema")
        session.ensure_home("t")
        session.connection.execute("SELECT set_config('search_path', '', false)")
        session.reset()
        assert session.execute("SELECT current_schema()") == [("app_schema",)]
        session.connection.execute("SET search_path = public")
        assert not session.tables("t")
        assert session.qualify("t") == '"app_schema"."t"'


class TestBlockers:
    def test_who_blocks_is_told_in_words(
        self, session: PostgresSession, database_url: str, wait_until: WaitUntil
    ) -> None:
        session.execute("CREATE TABLE t (i int)")
        with psycopg.connect(database_url, application_name="report") as other:
            other.execute("SELECT   i,\n  'x' FROM t WHERE i = 1" + " OR i = 2" * 50)
            waiting = threading.Thread(target=lambda: session.execute("ALTER TABLE t ADD COLUMN j int"))
            waiting.start()
            (told,) = wait_until(session.blockers)
            pid = other.info.backend_pid
            other.rollback()
            waiting.join()
        start = f"pid {pid}, user app, application report, from 127.0.0.1, idle in transaction"
        assert told.startswith(f"{start}, in a transaction for 0 s: SELECT i, 'x' FROM t WHERE i = 1 OR i = 2")
        assert told.endswith("...") and len(told) < 350
        assert session.blockers() == []

    def test_a_session_of_another_role_is_told_without_its_statement(
        self, session: PostgresSession, server: Any, database: str, wait_until: WaitUntil
    ) -> None:
        session.execute("CREATE TABLE t (i int)")
        with psycopg.connect(server.admin_url(database)) as other:
            other.execute("LOCK TABLE t")
            waiting = threading.Thread(target=lambda: session.execute("SELECT * FROM t"))
            waiting.start()
            (told,) = wait_until(session.blockers)
            pid = other.info.backend_pid
            other.rollback()
            waiting.join()
        assert told.startswith(f"pid {pid}, user postgres, state not shown to this role")

    def test_a_database_that_does_not_answer_blocks_nothing_else(
        self, session: PostgresSession, server: Any, database: str, query: Query
    ) -> None:
        query(server.admin_url("postgres"), f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        assert session.blockers() == []


class TestPooler:
    @pytest.fixture
    def pooler(self, pooler: Callable[[str, str], str], database: str) -> Callable[[str], str]:
        """``pooler(mode)``: a PgBouncer before the test's database; its address."""
        return lambda mode: pooler(mode, database)

    @BOTH
    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_it_is_refused_with_what_to_set(self, connect: Connect, pooler: Callable[[str], str], mode: str) -> None:
        with pytest.raises(SettingError) as caught:
            connect(url=pooler(mode))
        for word in ("DATABASE_URL", "STARTUP_DATABASE_URL", "STARTUP_POOLER=session"):
            assert word in str(caught.value)
        assert caught.value.code == 78
        assert "Pa55" not in str(caught.value)

    def test_session_mode_works_where_it_is_said(self, connect: Connect, pooler: Callable[[str], str]) -> None:
        url = pooler("session")
        first, second = connect("a", url=url, pooler=True), connect("b", url=url, pooler=True)
        assert first.try_lock()
        assert not second.try_lock()
        seen = second.holder()
        assert seen is not None and seen.node == "a"
        first.reset()
        first.require_lock()
        assert first.execute("SHOW application_name") == [("startup/a",)]
        first.close()
        assert connect("c").try_lock()

    @BOTH
    def test_session_mode_is_found_to_be_that(self, connect: Connect, pooler: Callable[[str], str]) -> None:
        assert connect(url=pooler("session"), pooler=True).execute("SHOW application_name") == [("startup/node-1",)]

    @BOTH
    def test_transaction_mode_that_is_said_to_be_session_mode_is_found_out(
        self, connect: Connect, pooler: Callable[[str], str]
    ) -> None:
        with pytest.raises(SettingError, match="STARTUP_POOLER is 'session', but"):
            connect(url=pooler("transaction"), pooler=True)

    def test_a_server_session_that_changes_is_a_lost_lock(
        self, connect: Connect, pooler: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(PostgresSession, "_refuse_pooler", lambda *_: None)
        url = pooler("transaction")
        session = connect(url=url, pooler=True)
        assert session.try_lock()
        with psycopg.connect(url, prepare_threshold=None) as other:
            other.execute("SELECT 1")
            with pytest.raises(LockLost, match="changed under us"):
                session.require_lock()


@BOTH
class TestWhereTheConnectionLeads:
    def test_a_host_of_the_environments_is_a_dead_peer_like_any_other(
        self, connect: Connect, server: Any, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(server.port))
        assert connect(url=f"postgresql://app:{PASSWORD}@/{database}").dead_peer_seconds == 32
        monkeypatch.setenv("PGHOST", str(server.directory))
        assert connect(url=f"postgresql://postgres@/{database}").dead_peer_seconds == 2

    def test_a_host_of_a_service_files_too(
        self, connect: Connect, server: Any, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        (tmp_path / "services").write_text(f"[tasks]\nhost=127.0.0.1\nport={server.port}\ndbname={database}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        url = f"postgresql://app:{PASSWORD}@/?service=tasks"
        assert connect(url=url).dead_peer_seconds == 32


class TestAHomeThatWasRolledBack:
    def test_is_made_again_and_locked_by_what_is_there_now(
        self, connect: Connect, database_url: str, query: Query
    ) -> None:
        """The first to make tables may be told, at that, that somebody else has just done so."""
        session = connect(url=database_url + "?schema=later")
        with pytest.raises(ZeroDivisionError), session.transaction():
            session.ensure_home("yoyo_lock")
            raise ZeroDivisionError
        assert session.tables("yoyo_lock") == {}
        with session.transaction():
            session.ensure_home("yoyo_lock")
            session.execute("CREATE TABLE yoyo_lock (locked int)")
        assert session.tables("yoyo_lock") == {"yoyo_lock": {"locked"}}
        other = connect(url=database_url + "?schema=later")
        assert other.tables("yoyo_lock")
        assert session.try_lock_migrations() and not other.try_lock_migrations()
