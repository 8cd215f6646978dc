"""What the database tests share: ``bench`` (PostgreSQL) and ``sqlite_bench``: migrations, and a locked session."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from startup.database import sqlite
from startup.database.postgres import session as postgres
from startup.database.session import Session
from startup.errors import TaskFailed
from startup.migrations import apply, files, rollback, tables
from startup.settings import address

CHILD = """
import sys
from startup.database.postgres import session as postgres
from startup.database import sqlite
from startup.settings import address
from startup.migrations import apply, files, rollback, tables
url, directory = sys.argv[1:]
session = (sqlite if url.startswith("sqlite") else postgres).connect(address.parse(url), node="child")
while not session.try_lock(): pass
apply.apply(session, files.load([directory], given=True), table_lock_timeout=5, drift="fail", deadline=None,
                 node="child", report=print, warn=print)
"""


def connect(url: str) -> Session:
    where = address.parse(url)
    return sqlite.connect(where, node="node-a") if where.dialect == "sqlite" else postgres.connect(where, node="node-a")


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """An address of PostgreSQL's, or of what BOTH says."""
    kind = getattr(request, "param", "postgresql")
    address: str = request.getfixturevalue("database_url" if kind == "postgresql" else "sqlite_url")
    return address


class Bench:
    """A directory of migrations, a locked session, and what was said."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.said: list[str] = []
        self.error: Exception | None = None
        self.session = connect(url)
        assert self.session.try_lock()

    def write(self, **contents: str) -> None:
        """``_0001_first="SQL"`` is written to 0001_first.sql; a name that ends in _py to a Python file."""
        for name, content in contents.items():
            stem = name.removeprefix("_")
            target = stem.removesuffix("_py") + ".py" if stem.endswith("_py") else stem.replace("__", ".") + ".sql"
            (self.directory / target).write_text(content)

    @property
    def catalog(self) -> files.Catalog:
        return files.load([str(self.directory)], given=True)

    def apply(self, **settings: Any) -> int:
        settings = {"table_lock_timeout": 5.0, "drift": "fail", "deadline": None, **settings}
        return apply.apply(
            self.session, self.catalog, node="node-a", report=self.said.append, warn=self.said.append, **settings
        )

    def fails(self, **settings: Any) -> str:
        """Apply; it must fail with 70; what it said."""
        with pytest.raises(TaskFailed) as caught:
            self.apply(**settings)
        return str(caught.value)

    @contextmanager
    def applying(self, **settings: Any) -> Iterator[threading.Thread]:
        """Apply on a thread while the block runs; ``applied`` or ``failed`` holds the outcome afterwards."""

        def work() -> None:
            try:
                self.applied = self.apply(**settings)
            except Exception as error:
                self.error, self.failed = error, str(error)

        self.applied, self.failed = -1, ""
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield thread
        finally:
            thread.join(60)
            assert not thread.is_alive()

    def apply_in_child(self) -> subprocess.Popen[str]:
        """A process of its own, to be killed, that takes the lock (ours is let go) and applies."""
        self.session.close()
        return subprocess.Popen([sys.executable, "-c", CHILD, self.url, str(self.directory)], text=True)

    def reopen(self) -> None:
        """A new session, with the lock as soon as it is free."""
        self.session = connect(self.url)
        deadline = time.monotonic() + 20
        while not self.session.try_lock():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def rollback(self, count: int = 1) -> list[str]:
        return rollback.rollback(
            self.session, self.catalog, count, node="node-a", report=self.said.append, warn=self.said.append
        )

    @property
    def state(self) -> tables.State:
        return tables.pending(self.session, self.catalog)

    def yoyo(self, *arguments: str) -> str:
        """Stock yoyo's command line on the same database and directory."""
        done = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "yoyo"), arguments[0], "--batch", "--no-config-file"),
                *("--database", self.url.replace("postgresql://", "postgresql+psycopg://")),
                *(*arguments[1:], str(self.directory)),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def new_bench(tmp_path: Path) -> Iterator[Callable[[str], Bench]]:
    """``new_bench(url)``: one for another address."""
    made: list[Bench] = []

    def make(url: str) -> Bench:
        directory = tmp_path / "migrations"
        directory.mkdir(exist_ok=True)
        made.append(Bench(directory, url))
        return made[-1]

    yield make
    for one in made:
        one.session.close()


@pytest.fixture
def bench(new_bench: Callable[[str], Bench], database_url: str) -> Bench:
    return new_bench(database_url)


@pytest.fixture
def sqlite_bench(new_bench: Callable[[str], Bench], sqlite_url: str) -> Bench:
    return new_bench(sqlite_url)
