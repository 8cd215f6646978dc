"""Keeping a stock ``yoyo apply`` out while migrations run: it knows its own lock row, and no advisory lock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from startup.database.session import Row, Session
from startup.errors import TaskFailed
from startup.migrations import failure, tables

#: Seconds between two lines about a wait that goes on.
EVERY = 10.0
#: Seconds to wait for a stock ``yoyo apply`` that may be running, or may have been killed.
YOYO_LIMIT = 60.0
#: How far a client's clock may be off when its lock row is compared with the server's sessions.
CLOCKS = timedelta(minutes=5)


@contextmanager
def hold_off_stock_yoyo(
    session: Session,
    seconds_left: Callable[[], float] | None,
    report: Callable[[str], None],
    warn: Callable[[str], None],
) -> Iterator[int | None]:
    """Keep ``yoyo apply``, started by hand, waiting while the block runs; the backend that it then waits for.

    An INSERT of yoyo's lock row that is never committed, on a second session: yoyo's own INSERT waits for it, and
    whatever happens to us it leaves no row. Raises TaskFailed when stock yoyo's row stays for 60 s. On SQLite, which
    has one writer, each migration's transaction looks for the row instead (:func:`stock_yoyo_row`).
    """
    if session.dialect.single_writer:
        yield None
        return
    try:
        connection = session.second()
    except Exception as error:
        warn(f"no second database session could be had ({str(error).strip()}): a 'yoyo apply' by hand would not wait")
        yield None
        return
    try:
        _insert_row(connection, session, seconds_left, report, warn)
        yield connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()[0]
    finally:
        connection.close()  # rolls back


def send_away(session: Session, barrier: int) -> None:
    """A stock yoyo that waits for *barrier* and is in our way is cancelled; it tries again, for the 10 s that it has.

    A statement that waits keeps its snapshot, and CREATE INDEX CONCURRENTLY waits for that: without this, for ever.
    """
    session.aside(
        "SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity"
        f" WHERE pid = ANY (pg_catalog.pg_blocking_pids({session.backend}))"
        f" AND {barrier} = ANY (pg_catalog.pg_blocking_pids(pid))"
    )


def _insert_row(
    connection: Any,
    session: Session,
    seconds_left: Callable[[], float] | None,
    report: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    table = session.qualify(tables.YOYOS_LOCK)
    wait = Patience("the migrations wait for", seconds_left, report)
    while True:
        if row := connection.execute(f"SELECT pid, ctime FROM {table}").fetchone():
            if _holder_is_gone(connection, session.backend, row[1]):
                warn(f"yoyo's lock row of pid {row[0]}, {row[1]} UTC, is removed: no session of that time is left")
                connection.execute(f"DELETE FROM {table} WHERE pid = %s AND ctime = %s", tuple(row))
                continue
            wait.for_stock_yoyo(row)
            continue
        # READ COMMITTED, or CREATE INDEX CONCURRENTLY would wait for this transaction's snapshot.
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        try:
            connection.execute("SET LOCAL lock_timeout = 250")
            connection.execute(
                f"INSERT INTO {table} (locked, ctime, pid) VALUES (1, %s, %s)",
                (datetime.now(timezone.utc).replace(tzinfo=None), os.getpid()),
            )
            return
        except Exception as error:
            connection.execute("ROLLBACK")
            state = failure.sqlstate(error)
            if state == "42501":  # insufficient_privilege
                warn(f"a 'yoyo apply' started by hand would not wait: {str(error).splitlines()[0]}")
                return
            if state not in ("55P03", "23505"):  # lock_not_available, unique_violation
                raise
            wait.a_moment("another process that holds yoyo's lock")


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
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database() "
        "AND backend_type = 'client backend' AND pid NOT IN (pg_catalog.pg_backend_pid(), %s) "
        "AND (backend_start IS NULL OR backend_start AT TIME ZONE 'UTC' <= %s)",
        (our_pid, locked_at + CLOCKS),
    ).fetchone()
    return bool(row is not None and row[0] == 0)


def stock_yoyo_row(session: Session) -> Row | None:
    """Stock yoyo's lock row, if it is there."""
    rows = session.execute(f"SELECT pid, ctime FROM {session.qualify(tables.YOYOS_LOCK)}")
    return rows[0] if rows else None
