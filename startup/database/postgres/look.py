"""A session that can only be asked: what a boot with nothing to do needs of PostgreSQL, without psycopg's import.

The same session, checks, settings and errors, on a connection by libpq alone. What is to be written, or to be locked,
is psycopg's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.machinery import PathFinder

from startup.database.postgres import session as full
from startup.database.postgres.reach import library, limit, on_thread
from startup.database.session import Row
from startup.patience import Stopwatch
from startup.settings.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from startup.database.postgres.libpq import Connection, Library

#: Seconds for which the lock may be free until others do not wait for the node whose turn it is.
MOST_FREE = 5.0


def connect(address: Address, **options: Any) -> full.PostgresSession:
    """The session, as of :func:`startup.database.postgres.session.connect`; that one's own where it must be psycopg."""
    return full.connect(address, driver=Driver(address), **options)


class Driver(full.Driver):
    """libpq, where that is there and answers."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._library = library() if PathFinder.find_spec("psycopg") else None

    def require(self) -> None:
        """psycopg, where libpq is not there."""
        if self._library is None:
            super().require()

    def dial(self, connect_arguments: dict[str, Any], seconds: float | None) -> Any:
        """As psycopg does, who goes on where a server is silent: of a name's addresses it tries each for a while.

        A limit of the user's own counts for each of them, too.
        """
        found = self._library
        if found is None or "connect_timeout" in connect_arguments:
            self.kind = full.PostgresSession
            super().require()
            return super().dial(connect_arguments, seconds)
        self.kind = Look
        try:
            return on_thread(
                lambda: _open(found, connect_arguments, limit(seconds)), seconds, lambda late: late.close()
            )
        except MemoryError:  # where the system lets nobody make a callback (SELinux's execmem)
            self._library = None
            return self.dial(connect_arguments, seconds)
        except TimeoutError:
            self._library = None
            raise


def _open(found: Library, arguments: dict[str, Any], seconds: float) -> Connection:
    from startup.database.postgres.libpq import Connection

    connection = Connection(found, arguments)
    connection.complete(time.monotonic() + seconds)
    return connection


class Look(full.PostgresSession):
    """One statement at a time, and only such as read, but for what matters to nobody (``execute_if_free``)."""

    only_looks = True

    def _prepare(self) -> None:
        self._is_free = Stopwatch()  # nobody has the lock

    def _second(self) -> Connection:
        found = library()
        assert found is not None
        return _open(found, self._arguments, full.ASIDE)

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        if not sql.lstrip().startswith(("SELECT", "WITH", "SHOW")):
            raise self._only_looks()
        rows: list[Row] = self.connection.execute(sql, parameters)
        return rows

    def execute_if_free(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """See Session."""
        with self._alive():
            self.connection.execute(sql, parameters)

    def try_turn(self) -> bool:
        """An advisory lock, gone with this session; a node that has it and takes nothing is not waited for long."""
        if self.crowd().connected > 1:
            turn = full.lock_key(self.namespace, "startup-turn")
            ((held, ours),) = self.execute(
                "SELECT held, CASE WHEN held OR pg_catalog.pg_is_in_recovery() THEN false"
                f" ELSE pg_catalog.pg_try_advisory_lock({turn}) END"
                f" FROM (SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE {self._is_lock}) AS held) AS lock"
            )
            self._is_free.run(not held)
            if not ours and not self._is_free.over(MOST_FREE):
                return False
        full.Driver(self.address).require()
        return True

    @property
    def in_transaction(self) -> bool:
        """None is ever begun."""
        return False

    def _only_looks(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this session can only be asked")

    execute_all = execute_script = transaction = limit_table_locks = ensure_home = reset = _only_looks
    try_lock = unlock = try_lock_migrations = unlock_migrations = _only_looks
