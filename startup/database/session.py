"""What the rest of the code knows of a database: an address, and one session that holds the lock and does the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Holder:
    """Who holds the lock: as the server (or the lock file) tells it."""

    node: str
    detail: str  # "pid 4711, user app, from 10.0.0.7, connected for 12 s", for a person
    pid: int | None = None  # of the server's process, where there is one
    doing: str = ""  # "for 3 s: UPDATE plans ...", where the server shows it
    cut: bool = False  # are these only the first bytes of the node's name?

    def name(self, running: str) -> str:
        """The node's whole name, if *running*, which the ledger says is at work now, is it."""
        return running if self.cut and running.startswith(self.node) else self.node

    def may_be(self, node: str) -> bool:
        """Is it *node*, as far as can be told? One that took over is not who the ledger says is at work."""
        return self.name(node) in ("", node) or not node.isascii()  # of which PostgreSQL keeps the ASCII alone


class Session(Protocol):
    """One database session: it takes the lock, and everything that the lock protects runs on it.

    SQL is written with ``%s`` for parameters and without any literal percent sign, for both dialects.
    The connection is in autocommit; a transaction is only ever opened by :meth:`transaction`.
    """

    @property
    def connection(self) -> Any:
        """psycopg.Connection (autocommit), or sqlite3.Connection (isolation_level=None). Another one after reset()."""

    @property
    def lock_fd(self) -> int | None:
        """The lock file's descriptor, for children that shall keep the lock while they live; None without a file."""

    @property
    def dialect(self) -> Literal["postgresql", "sqlite"]:
        """Whose SQL it understands."""

    @property
    def read_only(self) -> str:
        """Why nothing can be written, in words; '' when it can."""

    @property
    def dead_peer_seconds(self) -> float:
        """After so many seconds a node whose session is gone must have noticed."""

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement; its rows, or none."""

    def execute_all(self, statements: Sequence[tuple[str, Sequence[object]]]) -> None:
        """Run several statements that give no rows, in one round trip where the database can."""

    def transaction(
        self, before_commit: Callable[[], None] | None = None, table_lock_timeout: float | None = None
    ) -> AbstractContextManager[object]:
        """BEGIN ... COMMIT (SQLite: BEGIN IMMEDIATE), ROLLBACK when the block raises. Not nested. Gives its id.

        *table_lock_timeout* holds in the block, in seconds, 0 for no limit; without it the session's own does.
        *before_commit* runs inside it, last, when the block neither ended the transaction nor lost the lock.
        """

    def watch(self, on_lost: Callable[[], None]) -> AbstractContextManager[None]:
        """While a command runs: look the lock up every second; *on_lost* is called, on a thread, if it is gone."""

    def qualify(self, name: str) -> str:
        """*name* as an identifier that means the same table whatever the search_path is now."""

    def ensure_schema(self) -> None:
        """Create the address's schema where it is missing. Only under the lock."""

    def has_table(self, name: str) -> bool:
        """Is there a table of this name in the session's own schema?"""

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; none where it is not there."""

    def try_lock(self) -> bool:
        """One try, never a blocking wait."""

    def unlock(self) -> None:
        """Let the lock go; LockLost when it was not held any more."""

    def require_lock(self) -> None:
        """LockLost unless this very session holds the lock now."""

    def holder(self) -> Holder | None:
        """Who holds the lock, where that can be seen."""

    def connected(self) -> set[str] | None:
        """The nodes that have a session now, this one aside; None where that cannot be told."""

    def reset(self) -> None:
        """Undo what a task or migration did to the session (search_path, role, timeouts), the lock aside."""

    def blockers(self, pid: int | None = None) -> list[str]:
        """The sessions this one, or the server's process *pid*, is waiting for, each in words. None on SQLite."""

    def cancel(self) -> None:
        """End the statement that runs now, from another thread or a signal handler."""

    def close(self) -> None:
        """Close the session, and with it the lock."""
