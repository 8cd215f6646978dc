"""An SQLite session for the processes of one host: the lock is a file beside the database, held with flock(2)."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from startup import log
from startup.database.session import Dialect, Holder, Row, Session
from startup.errors import Busy, EndedInside, Interrupted, LockLost, SettingError, TaskFailed, Unreachable
from startup.settings.address import Address

if TYPE_CHECKING:
    from startup.database.statement import Split

T = TypeVar("T")

#: How long a statement waits for another connection's write to end, in seconds.
BUSY = 60.0
#: The same without the lock, where a look can be repeated, and there is something to say meanwhile.
LOOK = 2.0
#: The same for a row that matters to nobody.
SHORT = 0.1
#: For so long SQLite itself waits, in C code, where no signal is heeded; in milliseconds.
_BUSY_STEP = 200
_COMMITTED = (
    "{verb} inside the task's transaction: its work and its ledger row could not commit together. Leave it out "
    "(SAVEPOINT is allowed), or declare @task(transaction=False)"
)


#: What holds no end of a statement, closed or not, and what is one (sqlite.org, "SQL Syntax").
_TOKEN = re.compile(
    r"""'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)|`[^`]*(?:`|\Z)|\[[^\]]*(?:\]|\Z)|--[^\n]*|/\*(?:.*?\*/|.*)|;""", re.DOTALL
)
_BLANK = r"\s|--[^\n]*(?:\n|$)|/\*.*?\*/|;"
_TRIGGER = re.compile(
    rf"(?:{_BLANK}|explain\b|query\b|plan\b)*create\b(?:{_BLANK}|temp\b|temporary\b)*trigger\b",
    re.DOTALL | re.IGNORECASE,
)


class SqliteDialect(Dialect):
    """See :class:`startup.database.session.Dialect`."""

    now = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
    some_minutes_ago = "strftime('%Y-%m-%d %H:%M:%f', 'now', '-5 minutes')"
    a_day_ago = "strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 day')"
    timestamp = "text"
    yoyo_backend = "yoyo.backends.core.sqlite3:SQLiteBackend"
    placeholder = "?"
    single_writer = True
    for_update = ""

    def split(self, text: str) -> Split:
        """At each semicolon that is in no string and no comment; in a trigger, where complete_statement() says so."""
        from startup.database.statement import Split, Statement

        statements: list[Statement] = []
        start, nul = 0, text.find("\0")
        for end in [*(found.end() for found in _TOKEN.finditer(text) if found.group() == ";"), len(text)]:
            if end < len(text) and start <= nul < end:
                continue
            candidate = text[start:end]
            if end < len(text) and _TRIGGER.match(candidate) and not sqlite3.complete_statement(candidate):
                continue
            blank = re.match(rf"(?:{_BLANK})*", candidate, re.DOTALL)
            first = blank.end() if blank else 0
            if first < len(candidate):
                statements.append(Statement(candidate[first:], start + first))
            start = end
        return Split(statements)

    def is_duplicate(self, error: BaseException) -> bool:
        """A row of that key."""
        return getattr(error, "sqlite_errorname", "") in ("SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE")

    def may_pass_later(self, error: BaseException) -> bool:
        """SQLITE_BUSY and SQLITE_LOCKED; Python before 3.11 has words alone."""
        name = str(getattr(error, "sqlite_errorname", ""))
        return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or (
            isinstance(error, sqlite3.Error) and "is locked" in str(error)
        )


SQLITE = SqliteDialect()


def connect(address: Address, *, node: str = "", **_: object) -> SqliteSession:
    """Open the session. The file is made by the first statement that needs it.

    Raises SettingError when its directory is missing, Unreachable when it may not be read or is no database.
    """
    directory = os.path.dirname(address.path)
    if not os.path.isdir(directory):
        raise SettingError(f"DATABASE_URL is '{address.masked}', but there is no directory {directory}: create it")
    if os.path.isdir(address.path):
        raise SettingError(f"DATABASE_URL is '{address.masked}', which is a directory: right would be a file in it")
    session = SqliteSession(address, node)
    if os.path.exists(address.path):
        _ = session.connection
    return session


class Cursor(sqlite3.Cursor):
    """A cursor that says why COMMIT and ROLLBACK are refused in a task's transaction."""

    connection: Connection

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        try:
            super().execute(sql, parameters)
            return self
        except sqlite3.DatabaseError as error:
            if self.connection.denied and "not authorized" in str(error):
                self.connection.refuse(self.connection.denied)
            raise

    def executescript(self, sql: str, /) -> Cursor:
        if self.connection.inside:
            self.connection.refuse("executescript()")
        super().executescript(sql)
        return self


class Connection(sqlite3.Connection):
    """sqlite3's connection, whose ways to commit are shut while :meth:`SqliteSession.transaction` is open."""

    inside = False
    #: What was refused there; it fails the task even if it swallows the error.
    denied = ""

    def guard(self) -> None:
        """Shut them. Setting the authorizer makes SQLite prepare cached statements, so also COMMIT, afresh."""
        self.inside, self.denied = True, ""
        super().set_authorizer(self._authorize)

    def _authorize(self, action: int, verb: str | None, *_: str | None) -> int:
        if self.inside and action == sqlite3.SQLITE_TRANSACTION:
            self.denied = verb or "COMMIT"
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def refuse(self, verb: str) -> NoReturn:
        self.denied = verb
        raise sqlite3.ProgrammingError(_COMMITTED.format(verb=verb))

    def cursor(self, factory: Any = Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        return self.cursor().execute(sql, parameters)

    def commit(self) -> None:
        if self.inside:
            self.refuse("commit()")
        super().commit()

    def rollback(self) -> None:
        if self.inside:
            self.refuse("rollback()")
        super().rollback()

    def executescript(self, sql: str, /) -> Cursor:
        if self.inside:
            self.refuse("executescript()")
        return super().executescript(sql)  # type: ignore[return-value]

    def __enter__(self) -> Connection:
        if self.inside:
            self.refuse("'with connection:'")
        return super().__enter__()

    def set_authorizer(self, authorizer_callback: Any) -> None:
        if self.inside:
            self.refuse("set_authorizer()")
        super().set_authorizer(authorizer_callback)


class SqliteSession(Session):
    """See :class:`startup.database.Session`."""

    dialect = SQLITE
    #: The kernel frees the lock of a process that ended, at once.
    dead_peer_seconds: float = 0.0
    #: A command that inherits it keeps the lock until it ends.
    lock_fd: int | None = None

    def __init__(self, address: Address, node: str) -> None:
        self.address = address
        self._node = node
        self._path = address.path
        self._borrowed = False
        self._lock_path = os.path.realpath(address.path) + ".startup.lock"

    @cached_property
    def connection(self) -> Any:
        try:
            connection = sqlite3.connect(
                self._path, timeout=0, isolation_level=None, check_same_thread=False, factory=Connection
            )
            try:
                connection.execute("PRAGMA schema_version").fetchall()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):  # somebody writes, so it is a database
                    raise
            connection.execute(f"PRAGMA busy_timeout = {BUSY * 1000:.0f}")
        except sqlite3.Error as error:
            raise Unreachable(
                f"the database at {self.address.masked} cannot be opened: {error}; right would be an SQLite file that "
                f"this user (uid {os.geteuid()}) may read and write"
            ) from error
        return connection

    @property
    def read_only(self) -> str:
        directory = os.path.dirname(self._path)
        for path in (self._path, directory):  # SQLite makes its journal beside the file
            if os.path.exists(path) and not os.access(path, os.W_OK):
                return f"{path} is not writable for this user (uid {os.geteuid()})"
        return ""

    def qualify(self, name: str) -> str:
        """*name* as an identifier in the main database, whatever was attached."""
        return 'main."' + name.replace('"', '""') + '"'

    def ensure_home(self, name: str) -> None:
        """SQLite has no schemas, and one writer."""

    def tables(self, *names: str) -> dict[str, set[str]]:
        """Those of these tables that are there, each with the names of its columns. Asking makes no file."""
        if not os.path.exists(self._path):
            return {}
        columns = {name: self.execute("SELECT name FROM pragma_table_info(%s, 'main')", [name]) for name in names}
        return {name: {column for (column,) in rows} for name, rows in columns.items() if rows}

    def with_rows(self, *names: str) -> list[str]:
        """Those of these tables that are there, and hold a row. Asking makes no file."""
        return [name for name in self.tables(*names) if self.execute(f"SELECT 1 FROM {self.qualify(name)} LIMIT 1")]

    # Work

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement; its rows, or none. Busy while others keep us out for longer than LOOK, or BUSY."""

        def run() -> list[Row]:
            cursor = self.connection.cursor()
            cursor.row_factory = None
            try:
                rows: list[Row] = cursor.execute(sql.replace("%s", "?"), tuple(parameters)).fetchall()
                return rows
            finally:
                cursor.close()

        if self.connection.in_transaction:
            return run()
        return self._patiently(run, LOOK if self.lock_fd is None else BUSY, "used")

    def execute_if_free(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """Past :meth:`execute`, which waits for other writers, for a minute with the lock, and then fails the run."""
        self.connection.execute(f"PRAGMA busy_timeout = {SHORT * 1000:.0f}")
        try:
            self.connection.execute(sql.replace("%s", "?"), tuple(parameters))
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {BUSY * 1000:.0f}")

    @property
    def in_transaction(self) -> bool:
        return bool(self.connection.in_transaction)

    @contextmanager
    def transaction(
        self, before_commit: Callable[[], None] | None = None, table_lock_timeout: float | None = None
    ) -> Iterator[None]:
        """BEGIN IMMEDIATE ... COMMIT. In the block every way to commit is refused."""
        connection: Connection = self.connection
        if connection.in_transaction:
            raise RuntimeError("a transaction is open already")
        if why := self.read_only:  # BEGIN IMMEDIATE itself would not mind
            raise self._cannot_write(why)
        self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"), BUSY, "written to")
        try:
            connection.guard()
            yield
            self._require_transaction(connection)
            if before_commit is not None:
                before_commit()
            connection.inside = False
            self._patiently(lambda: connection.execute("COMMIT"), BUSY, "written to")
        except BaseException:
            connection.inside = False
            self._roll_back(connection)
            raise

    def _roll_back(self, connection: Connection) -> None:
        """Left open, it would lock us out: so again where a late :meth:`cancel`, or a signal, strikes just here."""
        struck: Interrupted | None = None
        for _ in range(10):
            try:
                connection.execute("ROLLBACK")
                break
            except Interrupted as interrupted:
                struck = interrupted
            except sqlite3.Error as error:  # it may be rolled back already, or closed
                if "interrupted" not in str(error):
                    break
        if struck is not None:
            raise struck

    def _require_transaction(self, connection: Connection) -> None:
        if connection.denied:
            raise TaskFailed(_COMMITTED.format(verb=connection.denied))
        try:
            rolled_back = not connection.in_transaction
            connection.execute("SELECT 1")
        except sqlite3.Error as error:
            raise TaskFailed(f"the task closed the connection that it was given: {error}") from error
        if rolled_back:  # ON CONFLICT ROLLBACK and RAISE(ROLLBACK) ask no authorizer
            raise EndedInside(_COMMITTED.format(verb="a rollback"))
        if self.lock_fd is not None:
            self.require_lock()

    def _patiently(self, run: Callable[[], T], seconds: float, what: str) -> T:
        """*run*, again and again for so long while others hold the file, and heed signals between; then Busy."""
        connection: Connection = self.connection
        deadline = time.monotonic() + seconds
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_STEP}")
        try:
            while True:
                try:
                    return run()
                except sqlite3.OperationalError as error:
                    if "locked" in str(error) and time.monotonic() < deadline:
                        continue
                    told = f"the database at {self.address.masked} cannot be {what}: {error}"
                    if "locked" in str(error):
                        raise Busy(told) from error
                    if what == "used":  # the statement's own fault
                        raise
                    raise Unreachable(told) from error
        finally:
            with suppress(sqlite3.Error):
                connection.execute(f"PRAGMA busy_timeout = {BUSY * 1000:.0f}")

    def _cannot_write(self, why: str) -> Unreachable:
        return Unreachable(f"the database at {self.address.masked} cannot be written to: {why}")

    def reset(self) -> None:
        """Undo what a task did to the connection (pragmas, ATTACH, temporary tables): the next one gets a new one."""
        connection: Connection | None = self.__dict__.pop("connection", None)
        if connection is None:
            return
        connection.inside = False
        with suppress(sqlite3.ProgrammingError):  # the task has closed it
            if connection.in_transaction:  # a signal may have struck before transaction() could roll back
                self._roll_back(connection)
        connection.close()

    def cancel(self) -> None:
        connection: Connection | None = self.__dict__.get("connection")
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.interrupt()

    def close(self) -> None:
        """Close the session, and with it the lock (but for a child that holds the descriptor still)."""
        self.reset()
        if self.lock_fd is not None:
            os.close(self.lock_fd)
            self.lock_fd = None

    # The lock

    def try_lock(self) -> bool:
        """One try, never a wait. True also when it is ours already. SettingError when there can be no lock file."""
        if self.lock_fd is not None:
            self.require_lock()
            return True
        fd = self._open_lock_file(create=True)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_in_place(fd):  # it was replaced between open and flock: the next try takes the new one
                os.close(fd)
                return False
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError as error:
            os.close(fd)
            raise self._no_lock_file(error) from error
        self.lock_fd = fd
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        content = json.dumps({"node": self._node, "pid": os.getpid(), "since": since})
        with suppress(OSError):  # another user's file may be locked but not written
            os.ftruncate(fd, 0)
            os.pwrite(fd, content.encode(), 0)
        return True

    def unlock(self) -> None:
        """Let the lock go, also for children that hold the descriptor; LockLost when it was not held any more.

        The file stays: whoever removes it takes it away from one who has just opened it.
        """
        self.require_lock()
        fd, self.lock_fd = self.lock_fd, None
        assert fd is not None
        with suppress(OSError):
            os.ftruncate(fd, 0)
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def require_lock(self) -> None:
        """LockLost unless this session holds the lock now, on the file that is now at that path."""
        fd = self.lock_fd
        if fd is None:
            raise LockLost("the lock is not held")
        if not self._is_in_place(fd):
            raise self._lost(fd, f"{self._lock_path} was removed or replaced")
        if self._is_free():
            raise self._lost(fd, f"{self._lock_path} was unlocked")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise self._lost(fd, f"another process has locked {self._lock_path}") from None

    def _lost(self, fd: int, why: str) -> LockLost:
        self.lock_fd = None
        with suppress(OSError):
            os.close(fd)
        return LockLost(
            f"the lock is lost: {why}; another node may have taken over; a restart goes on where the ledger stands"
        )

    def try_lock_migrations(self) -> bool:
        """There is one lock for a file, whatever the namespace."""
        self._borrowed = self.lock_fd is None
        return self.try_lock()

    def unlock_migrations(self) -> None:
        """Only what :meth:`try_lock_migrations` has taken."""
        if self._borrowed:
            self.unlock()

    def _open_lock_file(self, create: bool) -> int:
        try:
            return os.open(self._lock_path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)
        except PermissionError as error:
            with suppress(OSError):
                return os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
            raise self._no_lock_file(error) from error
        except OSError as error:
            raise self._no_lock_file(error) from error

    def _no_lock_file(self, error: OSError) -> SettingError:
        return SettingError(
            f"DATABASE_URL is '{self.address.masked}', but {self._lock_path} cannot be locked ({error.strerror}): its "
            f"directory must be writable for this user (uid {os.geteuid()}), and on a local file system"
        )

    def _is_in_place(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._lock_path))
        except OSError:
            return False

    def _is_free(self) -> bool:
        """Can somebody else lock it? Tried on a descriptor of its own: flock(2) is bound to that, not to a process."""
        try:
            fd = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except OSError:
            return False
        finally:
            os.close(fd)

    def connected(self) -> set[str] | None:
        """Nobody where the lock is free; else SQLite does not tell."""
        return set() if self.holder() is None else None

    def holder(self, migrations: bool = False) -> Holder | None:
        """Who holds the lock, as the lock file tells it."""
        if self.lock_fd is None and self._is_free():
            return None
        try:
            with open(self._lock_path, encoding="utf-8") as file:
                told = json.load(file)
            return Holder(node=str(told["node"]), detail=f"pid {told['pid']}, since {told['since']}")
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.debug(f"{self._lock_path} does not tell who holds it: {error}")
            return Holder(node="", detail="")
