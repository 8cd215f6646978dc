"""The parts of yoyo that are used as they are: making its tables, and reading and running Python migrations.

yoyo 9.0.0 is pinned: the backends here replace what has no public name. The only module that imports yoyo.
"""

from __future__ import annotations

import importlib
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from startup.database.session import Session
from startup.database.statement import AtStatement
from startup.database.tables import make
from startup.errors import TaskFailed
from startup.migrations import files, tables
from startup.migrations.files import Catalog, Migration
from startup.process import proof

logging.getLogger("yoyo").addHandler(logging.NullHandler())  # its tracebacks are told in our words
logging.getLogger("yoyo").propagate = False


def backend(session: Session, node: str) -> Any:
    """A yoyo backend that works on *session*'s own connection, in the transaction that is open there."""
    module, _, name = session.dialect.yoyo_backend.partition(":")
    base: Any = getattr(importlib.import_module(module), name)

    class Backend(base):  # type: ignore[misc]
        _in_transaction = True
        migration_table = tables.YOYOS
        has_transactional_ddl = True
        uri = SimpleNamespace(database=None)

        def __init__(self) -> None:
            self.DatabaseError = self.driver.DatabaseError
            self._connection = session.connection

        def execute(self, sql: str, params: dict[str, Any] | None = None) -> Any:
            if params is not None:  # sqlite3's own conversion of times is deprecated since Python 3.12
                params = {k: v.isoformat(" ") if isinstance(v, datetime) else v for k, v in params.items()}
            return super().execute(sql, params)

        def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
            return tables.log_row(node, operation)

    return Backend()


def create_tables(session: Session, node: str) -> None:
    """Make what is missing of yoyo's tables and our own. Stock yoyo may be doing so at the same time.

    Raises TaskFailed when the role may not.
    """
    for attempt in range(5):
        if _tried(session, node, last=attempt == 4):
            return


def _tried(session: Session, node: str, last: bool) -> bool:
    try:
        with session.transaction():
            _create(session, node)
    except Exception as error:
        state = getattr(error, "sqlstate", None)
        if state in ("42P07", "23505", "42710") and not last:  # it exists, since a moment ago
            return False
        if state == "42501":  # insufficient_privilege
            raise TaskFailed(
                f"the migrations' tables cannot be made: {error}; right would be GRANT CREATE ON SCHEMA for this "
                "role, or a more privileged STARTUP_DATABASE_URL"
            ) from None
        raise
    return True


#: What yoyo 9.0.0 makes of an empty database (its ``internalmigrations``), and the version that it then writes down:
#: SQL files need nothing else of yoyo, whose import costs as much as a hundred of them.
_TABLES = {
    tables.YOYOS: "migration_hash VARCHAR(64), migration_id VARCHAR(255), applied_at_utc TIMESTAMP,"
    " PRIMARY KEY (migration_hash)",
    tables.YOYOS_LOG: "id VARCHAR(36), migration_hash VARCHAR(64), migration_id VARCHAR(255), operation VARCHAR(10),"
    " username VARCHAR(255), hostname VARCHAR(255), comment VARCHAR(255), created_at_utc TIMESTAMP, PRIMARY KEY (id)",
    tables.YOYOS_VERSION: "version INT NOT NULL PRIMARY KEY, installed_at_utc TIMESTAMP",
    tables.YOYOS_LOCK: "locked INT DEFAULT 1, ctime TIMESTAMP, pid INT NOT NULL, PRIMARY KEY (locked)",
}
_VERSION = 2


def _create(session: Session, node: str) -> None:
    make(session, tables.OURS)
    there = session.tables(*_TABLES)
    version = session.qualify(tables.YOYOS_VERSION)
    if not there:
        for name, columns in _TABLES.items():
            session.execute(f"CREATE TABLE {session.qualify(name)} ({columns})")
        session.execute(f"INSERT INTO {version} VALUES (%s, %s)", (_VERSION, tables.now()))
    elif there.keys() < _TABLES.keys() or session.execute(f"SELECT max(version) FROM {version}") != [(_VERSION,)]:
        _upgrade(session, node)


def _upgrade(session: Session, node: str) -> None:
    """Let yoyo make what is missing, and what an older yoyo has made another way."""
    from yoyo import internalmigrations

    yoyo = backend(session, node)
    if not session.tables(tables.YOYOS_LOCK):
        yoyo.execute(yoyo.format_sql(yoyo.create_lock_table_sql))
    if internalmigrations.needs_upgrading(yoyo):
        internalmigrations.upgrade(yoyo)


class Steps:
    """A Python migration, loaded: what its module collected with ``step`` and ``group``."""

    def __init__(self, migration: Migration, loaded: Any) -> None:
        self.migration = migration
        self.transactional: bool = loaded.use_transactions
        self.steps: Sequence[Any] = loaded.steps

    def run(self, session: Session, node: str, done: Callable[[int], None], direction: str = "apply") -> None:
        """Run the steps (*direction* ``rollback``: backwards); *done* is told how many have run, after each."""
        yoyo = backend(session, node)
        steps = self.steps if direction == "apply" else list(reversed(self.steps))
        for number, step in enumerate(steps, 1):
            try:
                with proof.alone(), _output_to_stderr():
                    getattr(step, direction)(yoyo)
            except SystemExit as error:
                told = RuntimeError(f"it called sys.exit({error.code!r})")
                raise told.with_traceback(error.__traceback__) from None
            except yoyo.DatabaseError as last:
                first = _first(last, yoyo.DatabaseError)
                raise AtStatement(first, self._place(step, first, direction)) from first
            done(number)

    def _place(self, step: Any, error: Exception, direction: str) -> int | None:
        """Where in the file the SQL of a single step is that *error* is about; None for functions and groups."""
        leaves = list(_leaves(step))
        written = getattr(leaves[0], f"_{direction}") if len(leaves) == 1 else None
        offset = self.migration.text.find(written) if isinstance(written, str) else -1
        position = getattr(getattr(error, "diag", None), "statement_position", None)
        return offset + (int(position) - 1 if position else 0) if offset >= 0 else None

    def without_rollback(self) -> list[int]:
        """The numbers, from 1, of the steps that cannot be taken back."""
        return [n for n, step in enumerate(self.steps, 1) if any(s._rollback is None for s in _leaves(step))]

    def sql(self) -> str:
        """What would run, as text; of a Python function its name."""
        lines = []
        for step in self.steps:
            for leaf in _leaves(step):
                if isinstance(leaf._apply, str):
                    lines.append(leaf._apply.strip())
                elif leaf._apply is not None:
                    lines.append(f"-- Python: {getattr(leaf._apply, '__qualname__', leaf._apply)}(connection)")
        return "\n".join(lines)


def _first(error: Any, kind: type[BaseException]) -> Any:
    """What came first, where a COPY that was left open let yoyo's savepoints fail after it."""
    while getattr(error, "sqlstate", "") is None and isinstance(error.__context__, kind):
        error = error.__context__
    return error


def _leaves(step: Any) -> Iterator[Any]:
    """The steps with SQL or a function in them, out of yoyo's wrappers and groups."""
    if hasattr(step, "steps"):
        for inner in step.steps:
            yield from _leaves(inner)
    elif hasattr(step, "step"):
        yield from _leaves(step.step)
    else:
        yield step


@contextmanager
def _output_to_stderr() -> Iterator[None]:
    """stdout is the app's alone; yoyo prints the rows of a SELECT there, and functions print what they like."""
    import sys

    with redirect_stdout(sys.stderr):
        yield


def load(migrations: Sequence[Migration], catalog: Catalog) -> dict[str, Steps]:
    """Import those of *migrations* that are Python. Raises TaskFailed with file and line."""
    wanted = [migration for migration in migrations if not migration.is_sql]
    if not wanted:
        return {}
    from yoyo import exceptions
    from yoyo import migrations as yoyo

    for migration in catalog.migrations:  # yoyo looks dependencies up among all that were ever named to it
        yoyo.Migration(migration.id, migration.path, migration.directory)
    loaded: dict[str, Steps] = {}
    for migration in wanted:
        one = yoyo.Migration(migration.id, migration.path, migration.directory)
        try:
            with _output_to_stderr():
                one.load()
        except (Exception, SystemExit) as error:
            bad = isinstance(error, exceptions.BadMigration) and len(error.args) > 1
            cause = error.args[1] if bad else error
            where = python_line(migration.path, cause)
            raise TaskFailed(f"{where}: {words(cause)}; nothing has been applied") from None
        if not one.steps:
            raise TaskFailed(f"{migration.path}: {_no_step(migration)}; nothing has been applied")
        loaded[migration.id] = Steps(migration, one)
    return loaded


def _no_step(migration: Migration) -> str:
    """Why a Python file that does nothing is no migration."""
    if tool := files.other_tool([migration.path], migration.directory):
        return (
            f"it is a migration of {tool.name}'s, and no step of yoyo's is in it: take it out of STARTUP_MIGRATIONS, "
            f"and let {tool.name} run it: STARTUP_TASK_MIGRATE='{tool.command}'"
        )
    return "it has no step, so it would do nothing: right would be step(apply, rollback), from yoyo import step"


def python_line(path: str, error: BaseException) -> str:
    """``path:line``, the line being the last one of that file that *error* came through."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{path}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == os.path.abspath(path)]
    return f"{path}:{lines[-1]}" if lines else path


def words(error: BaseException) -> str:
    """*error* in one line."""
    return f"{type(error).__name__}: {error}".strip().rstrip(":")
