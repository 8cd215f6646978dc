"""A home for each database that the ledger may live in: what tests/database/test_session.py must know of it.

Another database is another class here, and a line in HOMES.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest

from startup.database import sqlite
from startup.database.postgres import session as postgres
from startup.database.session import Session
from startup.settings.address import parse
from tests.conftest import Server, run_query


class Home:
    """One database, empty, and ways to disturb a session with it. Everything that is opened is closed afterwards."""

    name: ClassVar[str]
    #: The driver's own errors.
    error: ClassVar[type[Exception]]
    #: A statement that does not end, and one that leaves something on the connection.
    endless: ClassVar[str]
    url: str

    def __init__(self) -> None:
        self.opened: list[Session] = []

    def connect(self, node: str = "node-1") -> Session:
        """A session of *node*'s."""
        self.opened.append(self._open(node))
        return self.opened[-1]

    def _open(self, node: str) -> Session:
        raise NotImplementedError

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """What another client sees."""
        return run_query(self.url, sql)

    def take_the_lock_away(self, session: Session) -> None:
        """What a task may do to it."""
        raise NotImplementedError

    def count(self) -> tuple[int, int]:
        """The rows of ``work`` and of ``ledger``, as others see them."""
        ((work, ledger),) = self.query("SELECT (SELECT count(*) FROM work), (SELECT count(*) FROM ledger)")
        return work, ledger


class Postgres(Home):
    name = "postgresql"
    error = psycopg.Error
    endless = "SELECT pg_sleep(60)"

    def __init__(self, server: Server, directory: Path) -> None:
        super().__init__()
        self._server, self._database = server, server.new_database()
        self.url = server.url(self._database)

    def _open(self, node: str) -> Session:
        return postgres.connect(parse(self.url), node=node, timeout=5, report=print)

    def take_the_lock_away(self, session: Session) -> None:
        session.connection.execute("SELECT pg_advisory_unlock_all()")

    def remove(self) -> None:
        self._server.drop_database(self._database)


class Sqlite(Home):
    name = "sqlite"
    error = sqlite3.Error
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    def __init__(self, server: Server, directory: Path) -> None:
        super().__init__()
        self.url = f"sqlite:///{directory}/home.db"

    def _open(self, node: str) -> Session:
        return sqlite.connect(parse(self.url), node=node)

    def take_the_lock_away(self, session: Session) -> None:
        Path(parse(self.url).path + ".startup.lock").unlink()

    def remove(self) -> None:
        pass


HOMES: dict[str, Callable[[Server, Path], Postgres | Sqlite]] = {home.name: home for home in (Postgres, Sqlite)}
#: A test's ``url`` is an address of each, one after another.
BOTH = pytest.mark.parametrize("url", HOMES, indirect=True)
