"""What the rest of the code knows of a database: one session that holds the lock and does the work, and its dialect.

Another database is one more file with both, and a line in :mod:`startup.database.connect`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from startup.process.interrupts import watching
from startup.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from startup.database.statement import Split, Statement

    #: A statement and its parameters.
    Query = tuple[str, Sequence[object]]
    Row = tuple[Any, ...]
else:
    Protocol, Row, Query = object, tuple, tuple
#: How often the lock is looked up while a command runs, in seconds.
WATCH = 1.0
#: After so many seconds without an answer to a look a server is given up: as many as for a peer that vanished.
SILENT = 30.0


class Dialect:
    """The SQL that a database understands. What is said here suits PostgreSQL and SQLite alike."""

    #: The time now, five minutes and a day ago; the type of a column that holds it.
    now: str
    some_minutes_ago: str
    a_day_ago: str
    timestamp: str
    #: How many rows there are, whatever a search_path hides.
    count = "count(*)"
    #: yoyo's class for it, ``module:name``.
    yoyo_backend: str
    #: How a parameter is written on the driver's own connection; :meth:`Session.execute` takes ``%s`` everywhere.
    placeholder = "%s"
    #: Does a writer keep out all others? Then nothing is written that nobody waits for, nor on a second connection.
    single_writer = False
    #: Locks a row that was read until the transaction ends, where others could write at all.
    for_update = " FOR UPDATE"
    #: SHA-256, in hex, of the rows' ``{line}``, an SQL expression, in its bytes' order; '' where rows cost little.
    digest = ""
    #: CREATE INDEX CONCURRENTLY, which may leave an INVALID index.
    concurrent_indexes = False

    def split(self, text: str) -> Split:
        """The statements of a file, as this database sees them; it need not be reachable for that."""
        raise NotImplementedError

    def may_pass_later(self, error: BaseException) -> bool:
        """Was it only the wrong moment: a lock that others held, a deadlock, a conflict?"""
        raise NotImplementedError

    def is_duplicate(self, error: BaseException) -> bool:
        """Was there a row with that key already?"""
        raise NotImplementedError

    def quote(self, name: str) -> str:
        """*name* as an identifier."""
        return '"' + name.replace('"', '""') + '"'

    def upsert(
        self,
        table: str,
        values: Mapping[str, str],
        key: str,
        changes: Mapping[str, str] | None = None,
        unless: str = "",
        rows: int = 1,
    ) -> str:
        """INSERT of *rows* rows (columns and SQL expressions), which replaces the row that has the same *key*.

        *changes* are expressions for columns that take another value then: ``old.NAME`` is what stands there,
        ``excluded.NAME`` what would have been inserted. Where *unless* is true of the two, the old row stays.
        """
        update = {name: f"excluded.{name}" for name in values if name not in key.split(", ")} | dict(changes or {})
        return (
            f"INSERT INTO {table} AS old ({', '.join(values)}) VALUES "
            + ", ".join([f"({', '.join(values.values())})"] * rows)
            + f" ON CONFLICT ({key}) DO UPDATE SET {', '.join(f'{name} = {value}' for name, value in update.items())}"
            + (f" WHERE NOT ({unless})" if unless else "")
        )


@dataclass(frozen=True)
class Crowd:
    """How many nodes have a session now, this one included, and how many connections the server has to spare."""

    connected: int = 1
    spare: float = float("inf")


@dataclass(frozen=True)
class Holder:
    """Who holds the lock: as the server (or the lock file) tells it."""

    node: str
    detail: str  # "pid 4711, user app, from 10.0.0.7, connected for 12 s", for a person
    pid: int | None = None  # of the server's process, where there is one
    doing: str = ""  # "for 3 s: UPDATE plans ...", where the server shows it
    truncated: bool = False  # are these only the first bytes of the node's name?

    def name(self, running: str) -> str:
        """The node's whole name, if *running*, which the ledger says is at work now, is it."""
        return running if self.truncated and running.startswith(self.node) else self.node

    def may_be(self, node: str) -> bool:
        """Is it *node*, as far as can be told? One that took over is not who the ledger says is at work."""
        return self.name(node) in ("", node) or not node.isascii()  # of which PostgreSQL keeps the ASCII alone


class Session(Protocol):
    """One database session: it takes the lock, and everything that the lock protects runs on it.

    What is defined here already suits a database that has nothing better.

    SQL is written with ``%s`` for parameters and without any literal percent sign, for both dialects.
    The connection is in autocommit; a transaction is only ever opened by :meth:`transaction`.
    """

    #: Whose SQL it understands.
    dialect: Dialect
    #: psycopg.Connection (autocommit), or sqlite3.Connection (isolation_level=None). Another one after reset().
    connection: Any
    #: May it be asked only? What takes a lock, or writes, is another session's then.
    only_looks: bool = False
    #: The lock file's descriptor, for children that shall keep the lock while they live; None without a file.
    lock_fd: int | None = None
    #: The server's process behind it; 0 where there is none.
    backend: int = 0
    #: STARTUP_LOCK_TIMEOUT, in seconds; 0: no limit.
    lock_timeout: float = 0.0
    #: Where tables were found: given to the session that replaces this one.
    homes: Any = None

    @property
    def in_transaction(self) -> bool:
        """Is a transaction open, whoever has begun it?"""

    @property
    def busy_with(self) -> str:
        """What is under way on the connection, so that no statement can follow; '' when nothing is."""
        return ""

    @property
    def read_only(self) -> str:
        """Why nothing can be written, in words; '' when it can."""

    @property
    def dead_peer_seconds(self) -> float:
        """After so many seconds a node whose session is gone must have noticed."""

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement; its rows, or none."""

    def execute_all(self, statements: Sequence[Query]) -> None:
        """Run several statements that give no rows, in one round trip where the database can."""
        for sql, parameters in statements:
            self.execute(sql, parameters)

    def execute_script(self, text: str, statements: Sequence[Statement]) -> None:
        """Run the *statements* of *text*, in one round trip where the database can; AtStatement for the one that fails.

        Whether within :meth:`transaction` or not.
        """
        from startup.database.statement import AtStatement

        for statement in statements:
            try:
                self.connection.execute(statement.text).fetchall()  # SQLite works while rows are fetched
            except Exception as error:
                raise AtStatement(error, statement.place(error)) from error

    def run_script(
        self,
        text: str,
        statements: Sequence[Statement],
        table_lock_timeout: float | None,
        first: Query,
        begun: Callable[[list[Row]], None],
        last: Callable[[], Sequence[Query]],
    ) -> None:
        """:meth:`execute_script` in a :meth:`transaction` of its own, whose guards hold, and a :meth:`reset` after it.

        In few round trips where the database can. *begun* is told the rows of *first*, which is asked before the
        statements; *last* gives what is to commit with them.
        """
        with self.transaction(lambda: self.execute_all(last()), table_lock_timeout):
            begun(self.execute(*first))
            self.execute_script(text, statements)
        self.reset()

    def execute_if_free(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """As :meth:`execute`, for what matters to nobody: it fails where another writer would have to be waited for."""
        self.execute(sql, parameters)

    def transaction(
        self, before_commit: Callable[[], None] | None = None, table_lock_timeout: float | None = None
    ) -> AbstractContextManager[object]:
        """BEGIN ... COMMIT (SQLite: BEGIN IMMEDIATE), ROLLBACK when the block raises. Not nested.

        *table_lock_timeout* holds in the block, in seconds, 0 for no limit; without it the session's own does.
        *before_commit* runs inside it, last, when the block neither ended the transaction nor lost the lock. Raises
        EndedInside for a block that ended it by itself, whether it then failed (which is the cause) or not.
        """

    def limit_table_locks(self, seconds: float) -> None:
        """How long a statement outside of :meth:`transaction` may wait for a table from here on; 0 for no limit."""
        return

    def as_itself(self) -> AbstractContextManager[None]:
        """In the block it has its own rights, whatever role was taken on it; afterwards that role's again."""
        return nullcontext()

    def watch(self, on_lost: Callable[[], None]) -> AbstractContextManager[None]:
        """While a command runs: look the lock up every WATCH seconds; *on_lost* is called, on a thread, if it is gone.

        Once, and never after the block.
        """
        return watching(self.require_lock, on_lost, WATCH)

    def qualify(self, name: str) -> str:
        """*name* as an identifier that means the same table whatever the search_path is now."""

    def ensure_home(self, name: str) -> None:
        """Before tables of *name*'s family are made, in the transaction for that: decide where, by what is there.

        Until its end nobody else makes tables here, of whatever namespace, and what is unqualified is made there.
        TaskFailed where there is no schema at all; LockUnavailable after STARTUP_LOCK_TIMEOUT.
        """

    def tables(self, *names: str) -> dict[str, set[str]]:
        """Those of these tables, of one family, that are there, each with the names of its columns. Makes nothing.

        SettingError where it is in doubt which are meant, or where they belong to somebody else.
        """

    def with_rows(self, *names: str) -> list[str]:
        """Those of these tables of others', as an unqualified name finds them, that hold a row and may be read."""
        return []

    def may_write(self, table: str) -> bool:
        """May this session SELECT, INSERT and UPDATE in a table that is there?"""
        return not self.read_only

    def try_lock(self) -> bool:
        """One try, never a wait. True also when it is ours already; SettingError where there can be no lock."""

    def try_turn(self) -> bool:
        """Of one that :attr:`only_looks`: may it be replaced by one that takes the lock? That is loaded then.

        Of many nodes only one does that at a time, and none while the lock is held. It guards nothing.
        """
        return True

    def unlock(self) -> None:
        """Let the lock go; LockLost when it was not held any more."""

    def require_lock(self) -> None:
        """LockLost unless this very session holds the lock now."""

    def try_lock_migrations(self) -> bool:
        """One try for the lock of all who migrate what yoyo's tables here remember, of whatever namespace."""

    def unlock_migrations(self) -> None:
        """Let it go; LockLost when it was not held any more."""

    def holder(self, migrations: bool = False) -> Holder | None:
        """Who holds the lock, or that of the *migrations*, where that can be seen."""

    def connected(self) -> set[str] | None:
        """The nodes that have a session now, this one aside; None where that cannot be told."""

    def crowd(self) -> Crowd:
        """Who else is here, and for how many more there is room."""
        return Crowd()

    def answered_within(self, seconds: float) -> AbstractContextManager[None]:
        """In the block a server that is silent for *seconds* ends the session: Unreachable. Not for a task's work."""
        return nullcontext()

    def reset(self) -> None:
        """Undo what a task or migration did to the session (search_path, role, timeouts), the lock aside."""

    def blockers(self, pid: int | None = None) -> list[str]:
        """The sessions this one, or the server's process *pid*, is waiting for, each in words."""
        return []

    def progress(self) -> list[str]:
        """How far the statement that runs on it is, and who waits for it, each in words. Called from another thread."""
        return []

    def invalid_indexes(self) -> list[tuple[str, str]]:
        """Indexes that no query uses, with their tables: what an interrupted CREATE INDEX CONCURRENTLY leaves."""
        return []

    def aside(self, sql: str) -> list[Row]:
        """Ask *sql* on a short-lived connection of its own, where a server has several."""
        return []

    def quiet(self) -> AbstractContextManager[None]:
        """In the block what a server says beside its results is kept from the log: it may hold values of rows."""
        return nullcontext()

    def cancel(self) -> None:
        """End the statement that runs now, from another thread or a signal handler. Never raises."""

    def close(self) -> None:
        """Close the session, and with it the lock."""
