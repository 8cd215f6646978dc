"""On a second connection while a migration runs: who is in the way, how far an index is, and stock yoyo."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any

from startup.database.session import Row, Session
from startup.errors import TaskFailed

#: Seconds between two lines about a migration that takes long (SPEC section 9).
EVERY = 10.0
#: Seconds to wait for a stock ``yoyo apply`` that may be running, or may have been killed.
YOYO_LIMIT = 60.0
#: How far a client's clock may be off when its lock row is compared with the server's sessions.
CLOCKS = timedelta(minutes=5)


def backend(session: Session) -> int:
    """The server's process behind *session*, as the server sees it (a pooler tells another); 0 for SQLite."""
    return int(session.execute("SELECT pg_backend_pid()")[0][0]) if session.dialect == "postgresql" else 0


def connect(session: Session) -> Any:
    """A second connection to where *session* is connected, in autocommit."""
    import psycopg

    info = session.connection.info
    parameters = {**info.get_parameters(), "password": info.password or None, "connect_timeout": "5"}
    return psycopg.connect(**parameters, autocommit=True, prepare_threshold=None)


_WAITERS = """
    SELECT pid, usename, application_name, coalesce(extract(epoch FROM clock_timestamp() - query_start), 0), query
    FROM pg_catalog.pg_stat_activity WHERE %s = ANY (pg_catalog.pg_blocking_pids(pid)) AND datname = current_database()
"""
#: A statement that waits keeps its snapshot, and CREATE INDEX CONCURRENTLY waits for that: without this, for ever.
_CANCEL = """
    SELECT pid, pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity
    WHERE pid = ANY (pg_catalog.pg_blocking_pids(%s)) AND %s = ANY (pg_catalog.pg_blocking_pids(pid))
"""
_IDLE = "SELECT state = 'idle in transaction' FROM pg_catalog.pg_stat_activity WHERE pid = %s"
_INDEX = """
    SELECT command, phase, blocks_done, blocks_total, tuples_done, tuples_total, lockers_done, lockers_total
    FROM pg_catalog.pg_stat_progress_create_index WHERE pid = %s
"""


class Watch:
    """While the block runs: say every 10 s that it does, for whom it waits, and how far an index build is.

    Who is in the way is asked sooner and more often, *soon* seconds apart, so that a wait that ends by the limit
    for table locks has been seen; ``blockers`` is the last answer that named any. *barrier* is the backend of
    :func:`hold_off_stock_yoyo`: a stock yoyo that waits there and is in our way meanwhile is sent to try again.
    """

    def __init__(
        self,
        session: Session,
        backend: int,
        what: str,
        soon: float,
        report: Callable[[str], None],
        barrier: int | None = None,
    ) -> None:
        self._session = session
        self._backend = backend
        self._barrier = barrier
        self._what = what
        self._soon = soon
        self._report = report
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self.blockers: list[str] = []
        #: It waits for what we hold ourselves (DROP SCHEMA ... CASCADE), and would for ever: its statement was ended.
        self.needs_yoyos_tables = False

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join(5)

    def _loop(self) -> None:
        started = time.monotonic()
        line = started + EVERY
        said = ""
        while not self._end.wait(max(0.01, min(self._soon, line - time.monotonic()))):
            blockers = self._asked(self._session.blockers)
            if blockers:
                self.blockers = blockers
                if any(blocker.startswith(f"pid {self._barrier},") for blocker in blockers):
                    self.needs_yoyos_tables = True
                    self._session.cancel()
                self._asked(self._send_stock_yoyo_away)
            now = "; ".join(blockers)
            if now and now.split(",")[0] != said.split(",")[0] and not self._end.is_set():
                self._report(f"{self._what} waits for {now}")
                said = now
            if time.monotonic() >= line and not self._end.is_set():
                line += EVERY
                seconds = round(time.monotonic() - started)
                parts = [f"for {now}"] if now else []
                parts += self._asked(self._others)
                self._report(f"{self._what} has been running for {seconds} s" + "".join(f"; {part}" for part in parts))

    def _asked(self, question: Callable[[], list[str]]) -> list[str]:
        try:
            return question()
        except Exception:  # a line less is better than a migration that ends because of it
            return []

    def _send_stock_yoyo_away(self) -> list[str]:
        """Its INSERT is cancelled; it tries again in half a second, for the 10 s that it gives itself in all."""
        if self._barrier is None:
            return []
        with connect(self._session) as connection:
            return [str(row[0]) for row in connection.execute(_CANCEL, (self._backend, self._barrier))]

    def _others(self) -> list[str]:
        """How far an index build is, and who waits for us."""
        if self._session.dialect != "postgresql":
            return []
        with connect(self._session) as connection:
            lines = [_progress(row) for row in connection.execute(_INDEX, (self._backend,))]
            waiting = connection.execute(_WAITERS, (self._backend,)).fetchall()
            idle = connection.execute(_IDLE, (self._backend,)).fetchone()
        for pid, user, application, seconds, query in waiting[:5]:
            statement = " ".join(str(query).split())[:100]
            lines.append(f"pid {pid} ({user}, {application or 'no application name'}) waits for it: {statement}")
            if idle and idle[0] and float(seconds) >= 1:
                lines.append(
                    "this migration does nothing in the database meanwhile: if its Python code has opened the "
                    f"connection of pid {pid}, both wait for ever (use the connection that the step is given)"
                )
        return lines


def _progress(row: Row) -> str:
    command, phase, blocks, all_blocks, tuples, all_tuples, lockers, all_lockers = row
    text = f"{command}: {phase}"
    for done, total, unit in (
        (blocks, all_blocks, "blocks"),
        (tuples, all_tuples, "tuples"),
        (lockers, all_lockers, "older transactions"),
    ):
        if total:
            text += f", {done} of {total} {unit}"
    return text


@contextmanager
def hold_off_stock_yoyo(
    session: Session,
    prefix: str,
    seconds_left: Callable[[], float] | None,
    report: Callable[[str], None],
    warn: Callable[[str], None],
) -> Iterator[int | None]:
    """Keep ``yoyo apply``, started by hand, waiting while the block runs; the backend that it then waits for.

    An INSERT of yoyo's lock row that is never committed, on a second session: yoyo's own INSERT waits for it, and
    whatever happens to us it leaves no row. Raises TaskFailed when stock yoyo's row stays for 60 s. On SQLite, which
    has one writer, each migration's transaction looks for the row instead (:func:`stock_yoyo_row`).
    """
    if session.dialect == "sqlite":
        yield None
        return
    try:
        connection = connect(session)
    except Exception as error:
        warn(f"no second database session could be had ({str(error).strip()}): a 'yoyo apply' by hand would not wait")
        yield None
        return
    try:
        _notice_a_dead_peer_as(session, connection)
        _insert_row(connection, backend(session), prefix, seconds_left, report, warn)
        yield connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    finally:
        connection.close()  # rolls back


def _notice_a_dead_peer_as(session: Session, connection: Any) -> None:
    """Or the row would stay for TCP's two hours after a node has lost its network."""
    rows = session.execute(
        "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('tcp_keepalives_idle', "
        "'tcp_keepalives_interval', 'tcp_keepalives_count', 'tcp_user_timeout', 'client_connection_check_interval')"
    )
    for row in rows:
        connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", row)


def _insert_row(
    connection: Any,
    our_pid: int,
    prefix: str,
    seconds_left: Callable[[], float] | None,
    report: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    import psycopg

    for name in ("idle_in_transaction_session_timeout", "idle_session_timeout", "statement_timeout"):
        if connection.execute("SELECT 1 FROM pg_catalog.pg_settings WHERE name = %s", (name,)).fetchone():
            connection.execute(f"SET {name} = 0")
    if connection.info.server_version >= 170000:
        connection.execute("SET transaction_timeout = 0")
    wait = Patience("the migrations wait for", seconds_left, report)
    while True:
        if row := connection.execute(f"SELECT pid, ctime FROM {prefix}yoyo_lock").fetchone():
            if _holder_is_gone(connection, our_pid, row[1]):
                warn(f"yoyo's lock row of pid {row[0]}, {row[1]} UTC, is removed: no session of that time is left")
                connection.execute(f"DELETE FROM {prefix}yoyo_lock WHERE pid = %s AND ctime = %s", tuple(row))
                continue
            wait.for_stock_yoyo(row)
            continue
        # READ COMMITTED, or CREATE INDEX CONCURRENTLY would wait for this transaction's snapshot.
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        try:
            connection.execute("SET LOCAL lock_timeout = 250")
            connection.execute(
                f"INSERT INTO {prefix}yoyo_lock (locked, ctime, pid) VALUES (1, %s, %s)",
                (datetime.now(timezone.utc).replace(tzinfo=None), os.getpid()),
            )
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.UniqueViolation):
            connection.execute("ROLLBACK")
            wait.a_moment("another process that holds yoyo's lock")
        except psycopg.errors.InsufficientPrivilege as error:
            connection.execute("ROLLBACK")
            warn(f"a 'yoyo apply' started by hand would not wait: {error.diag.message_primary}")
            return


class Patience:
    """Polls, says at once and then every 10 s what for, and ends with the task's time."""

    def __init__(
        self, what: str, seconds_left: Callable[[], float] | None, report: Callable[[str], None], pause: float = 0.25
    ) -> None:
        self._what = what
        self._seconds_left = seconds_left
        self._report = report
        self._pause = pause
        self._since = time.monotonic()
        self._next_line = 0.0

    def a_moment(self, for_whom: str) -> None:
        """Pause once. Raises TaskFailed when the time is up."""
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + EVERY
            self._report(f"{self._what} {for_whom}, so far for {round(now - self._since)} s")
        if self._seconds_left is not None and self._seconds_left() <= 0:
            raise TaskFailed(f"{self._what} {for_whom} for {round(now - self._since)} s: the time for this task is up")
        time.sleep(self._pause)

    def for_stock_yoyo(self, row: Row) -> None:
        """The same while stock yoyo's committed lock row is there; TaskFailed after 60 s of it."""
        if time.monotonic() - self._since > YOYO_LIMIT:
            raise TaskFailed(
                f"yoyo's lock has been held for {round(YOYO_LIMIT)} s by process {row[0]} since {row[1]} UTC: if no "
                "'yoyo apply' is running any more, it was killed and left its row behind: 'yoyo break-lock' removes it"
            )
        self.a_moment(f"a stock yoyo: process {row[0]} has its lock since {row[1]} UTC")


def _holder_is_gone(connection: Any, our_pid: int, locked_at: Any) -> bool:
    """Stock yoyo keeps its session as long as its row: is no session left that is as old as the row?"""
    if not isinstance(locked_at, datetime):
        return False
    row = connection.execute(
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid NOT IN (pg_backend_pid(), %s) "
        "AND (backend_start IS NULL OR backend_start AT TIME ZONE 'UTC' <= %s)",
        (our_pid, locked_at + CLOCKS),
    ).fetchone()
    return bool(row is not None and row[0] == 0)


def stock_yoyo_row(session: Session) -> Row | None:
    """SQLite: stock yoyo's lock row, if it is there."""
    rows = session.execute("SELECT pid, ctime FROM main.yoyo_lock")
    return rows[0] if rows else None
