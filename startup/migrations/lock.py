"""The migrations' lock: for us by where yoyo's tables live, whatever the namespace; for stock yoyo its own lock row.

That row is committed, as stock yoyo's own is, so it waits its 10 s and is refused by itself. Ours has a negative pid,
which no process has. Under the lock any such row is stale, whoever left it; anybody else's is waited for, named, and
never removed: no clock can tell whether it is (SPEC section 6).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone

from startup.database.session import Query, Row, Session
from startup.errors import LockLost, LockUnavailable, TaskFailed
from startup.migrations import tables

#: Seconds between two lines about a wait that goes on.
EVERY = 10.0
#: Seconds to wait for a stock ``yoyo apply`` that may be running, or may have been killed.
YOYO_LIMIT = 60.0
#: Seconds that an INSERT of the row waits for one that is not committed: an older image's.
SHORT = 0.25


class YoyosRow:
    """Our row in yoyo's lock table."""

    def __init__(self, session: Session, rows: list[Row] | None = None) -> None:
        self._session, self._rows = session, rows
        self._table = session.qualify(tables.YOYOS_LOCK)
        #: The server's process, so that it can be found there; one that a node of this host has no use for on SQLite.
        self._pid = -(session.backend or 1)

    def put(self) -> Row | None:
        """Write it, for a stale one of ours too, under the lock; the row of somebody else that is in the way."""
        with self._session.transaction(table_lock_timeout=SHORT):
            rows = self._session.execute(f"SELECT pid, ctime FROM {self._table}")
            if any(pid >= 0 for pid, _ in rows):
                return next(row for row in rows if row[0] >= 0)
            self._session.execute(f"DELETE FROM {self._table} WHERE pid < 0")
            now = datetime.now(timezone.utc).replace(tzinfo=None).isoformat(" ")
            self._session.execute(
                f"INSERT INTO {self._table} (locked, ctime, pid) VALUES (1, %s, %s)", (now, self._pid)
            )
        return None

    @property
    def question(self) -> Query:
        """Is it there? In a transaction, until whose end it then cannot be taken away."""
        return f"SELECT pid FROM {self._table} WHERE pid = {self._pid}{self._session.dialect.for_update}", ()

    def require(self) -> None:
        """In a transaction, until whose end it cannot be taken away. LockLost where that has happened before."""
        rows = self._session.execute(*self.question) if self._rows is None else self._rows
        if not rows:
            raise LockLost(
                f"yoyo's lock is lost: somebody removed our row from {tables.YOYOS_LOCK} (yoyo break-lock), and a yoyo "
                "may be applying migrations now; what was not committed is rolled back; a restart goes on from there"
            )

    def answered(self, rows: list[Row]) -> YoyosRow:
        """The same, where the question has been asked along with something else."""
        return YoyosRow(self._session, rows)

    def remove(self) -> None:
        """Take it away."""
        self._session.execute(f"DELETE FROM {self._table} WHERE pid = %s", (self._pid,))


@contextmanager
def held(
    session: Session, seconds_left: Callable[[], float] | None, report: Callable[[str], None]
) -> Iterator[YoyosRow]:
    """Both locks, around everything that is done to migrations; yoyo's tables are there.

    Raises LockUnavailable after STARTUP_LOCK_TIMEOUT, TaskFailed when stock yoyo's row stays for 60 s.
    """
    patience = Patience("the migrations wait for", seconds_left, report, session.lock_timeout)
    while not session.try_lock_migrations():
        holder = session.holder(migrations=True)
        whom = f"{holder.node or 'another program'} ({holder.detail})" if holder else "a node"
        patience.a_moment(f"{whom} of another namespace, which migrates the same tables")
    try:
        row = YoyosRow(session)
        _put(row, session, Patience("the migrations wait for", seconds_left, report))
        yield row
        row.remove()
    except BaseException:
        with suppress(Exception):  # what failed stands; a row that is left is known as stale
            session.reset()
            row.remove()
        with suppress(Exception):
            session.unlock_migrations()
        raise
    session.unlock_migrations()


def _put(row: YoyosRow, session: Session, patience: Patience) -> None:
    while True:
        try:
            in_the_way = row.put()
        except Exception as error:
            if not (session.dialect.may_pass_later(error) or session.dialect.is_duplicate(error)):
                raise
            patience.a_moment("another process that takes yoyo's lock just now")
            continue
        if in_the_way is None:
            return
        patience.for_stock_yoyo(in_the_way)


def clear_stale(session: Session) -> None:
    """Nothing is pending, and there is a row of ours: take it away, if nobody is at work. Without rights it stays."""
    with suppress(Exception):
        if session.try_lock_migrations():
            try:
                session.execute(f"DELETE FROM {session.qualify(tables.YOYOS_LOCK)} WHERE pid < 0")
            finally:
                session.unlock_migrations()


class Patience:
    """Polls, says at once and then every 10 s what for, and ends with the task's time."""

    def __init__(
        self,
        what: str,
        seconds_left: Callable[[], float] | None,
        report: Callable[[str], None],
        limit: float = 0.0,
        pause: float = 0.25,
    ) -> None:
        self._what = what
        self._seconds_left = seconds_left
        self._report = report
        self._limit = limit
        self._pause = pause
        self._since = time.monotonic()
        self._next_line = 0.0

    def a_moment(self, for_whom: str) -> None:
        """Pause once. Raises TaskFailed when the time is up, LockUnavailable when the limit is."""
        now = time.monotonic()
        waited = now - self._since
        if now >= self._next_line:
            self._next_line = now + EVERY
            self._report(f"{self._what} {for_whom}, so far for {round(waited)} s")
        if self._seconds_left is not None and self._seconds_left() <= 0:
            raise TaskFailed(f"{self._what} {for_whom} for {round(waited)} s: the time for this task is up")
        if 0 < self._limit <= waited:
            raise LockUnavailable(f"{self._what} {for_whom}: not free within {self._limit:g} s (STARTUP_LOCK_TIMEOUT)")
        time.sleep(self._pause)

    def for_stock_yoyo(self, row: Row) -> None:
        """The same while stock yoyo's committed lock row is there; TaskFailed after 60 s of it."""
        if time.monotonic() - self._since > YOYO_LIMIT:
            raise TaskFailed(
                f"yoyo's lock has been held for {round(YOYO_LIMIT)} s by process {row[0]} since {row[1]} UTC: if no "
                "'yoyo apply' is running any more, it was killed and left its row behind: 'yoyo break-lock' removes it"
            )
        self.a_moment(f"a stock yoyo: process {row[0]} has its lock since {row[1]} UTC")
