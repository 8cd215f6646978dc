"""A session that can only be asked: what a boot with nothing to do needs of PostgreSQL, without psycopg's import.

The same session, checks, settings and errors, on a connection by libpq alone. What is to be written, or to be locked,
is psycopg's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from importlib.machinery import PathFinder

from startup import log
from startup.database.postgres import session as full
from startup.database.postgres.reach import TRY, library, limit, on_thread
from startup.database.session import Row
from startup.settings.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from startup.database.postgres.libpq import Connection, Library


class NotForUs(Exception):
    """psycopg is to connect."""


def connect(
    address: Address,
    *,
    namespace: str = "default",
    node: str = "",
    timeout: float = 60.0,
    pooler: bool = False,
    reads_only: bool = False,
    lock_timeout: float = 0.0,
    again: float | None = None,
    report: log.Report = log.say,
) -> full.PostgresSession:
    """The session, as of :func:`startup.database.postgres.session.connect`, whose own it is where libpq is not there.

    It is so, too, where a server is silent: to psycopg each of the addresses that a name has is one to try.
    """
    found = library() if PathFinder.find_spec("psycopg") else None
    make = partial(Look, namespace=namespace, pooler=pooler, reads_only=reads_only, report=report)
    try:
        if found is None:
            raise NotForUs
        dial = partial(_dial, found)
        return full.establish(dial, make, address, node, timeout, pooler, lock_timeout, again, report)
    except NotForUs:
        return full.connect(
            address,
            namespace=namespace,
            node=node,
            timeout=timeout,
            pooler=pooler,
            reads_only=reads_only,
            lock_timeout=lock_timeout,
            again=again,
            report=report,
        )


def _dial(found: Library, arguments: dict[str, Any], seconds: float | None) -> Connection:
    """One try to connect. A limit of the user's own counts for each address, which libpq does not tell apart here."""
    if "connect_timeout" in arguments:
        raise NotForUs
    try:
        return on_thread(lambda: _open(found, arguments, limit(seconds)), seconds, lambda late: late.close())
    except TimeoutError:
        if seconds is None or seconds > TRY:
            raise NotForUs from None
        raise


def _open(found: Library, arguments: dict[str, Any], seconds: float) -> Connection:
    from startup.database.postgres.libpq import Connection

    connection = Connection(found, arguments)
    connection.complete(time.monotonic() + seconds)
    return connection


class Look(full.PostgresSession):
    """One statement at a time, and only such as read."""

    only_looks = True

    def _prepare(self) -> None:
        pass

    def _second(self) -> Connection:
        found = library()
        assert found is not None
        return _open(found, self._arguments, full.ASIDE)

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        if not sql.lstrip().startswith(("SELECT", "WITH", "SHOW")):
            raise self._only_looks()
        rows: list[Row] = self.connection.execute(sql, parameters)
        return rows

    @property
    def in_transaction(self) -> bool:
        """None is ever begun."""
        return False

    def _only_looks(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this session can only be asked")

    execute_all = execute_script = transaction = limit_table_locks = ensure_home = reset = _only_looks
    try_lock = unlock = try_lock_migrations = unlock_migrations = _only_looks
