"""The ledger: which task has run, for which content or release, where, when, and how it ended.

Two tables, created under the lock. ``startup_ledger`` has a row for each task and key; ``startup_run`` has one row a
namespace: the present or last run, whose ``epoch`` is the fencing token that each run raises. Both only ever gain
columns, and every statement names the columns that it means and that are there, so nodes of older and newer images
read each other's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from startup.database.session import Row, Session
from startup.errors import StartupError, TaskFailed

TABLES = ("startup_ledger", "startup_run")

_COLUMNS = {
    "startup_ledger": {
        "namespace": "text NOT NULL",
        "task": "text NOT NULL",
        "key": "text NOT NULL",
        "policy": "text",
        "state": "text NOT NULL",
        "node": "text",
        "epoch": "bigint",
        "release": "text",
        "started_at": "{time}",
        "finished_at": "{time}",
        "seconds": "double precision",
        "error": "text",
    },
    "startup_run": {
        "namespace": "text NOT NULL",
        "epoch": "bigint NOT NULL",
        "state": "text NOT NULL",
        "node": "text",
        "phase": "text",
        "task": "text",
        "position": "integer",
        "total": "integer",
        "started_at": "{time}",
        "changed_at": "{time}",
        "error": "text",
        "failed_epoch": "bigint",
        "failure": "text",
    },
}
_KEYS = {"startup_ledger": "namespace, task, key", "startup_run": "namespace"}
_TIME = {"postgresql": "timestamptz", "sqlite": "text"}
#: The advisory lock for making the tables: held for a moment, by one who waits for nothing.
_CREATION = int.from_bytes(b"startup+", "big")
NOW = {"postgresql": "clock_timestamp()", "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')"}

RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"


@dataclass(frozen=True)
class Entry:
    """One row of the ledger."""

    task: str
    key: str
    policy: str
    state: str
    node: str
    epoch: int
    release: str
    started_at: Any = None
    finished_at: Any = None
    seconds: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Run:
    """The present or last run of the namespace; ``failed_epoch`` and ``failure`` are of the last one that failed."""

    epoch: int = 0
    state: str = DONE
    node: str = ""
    phase: str = ""
    task: str = ""
    position: int = 0
    total: int = 0
    started_at: Any = None
    changed_at: Any = None
    error: str = ""
    failed_epoch: int = 0
    failure: str = ""

    def failed_since(self, before: Run) -> str:
        """How a run failed that was going on at *before*, or came after it; '' when none did."""
        # An image that is older than failed_epoch leaves the state alone.
        failed = max(self.failed_epoch, self.epoch if self.state == FAILED else 0)
        first_awaited = before.epoch + (before.state != RUNNING)
        if failed < first_awaited:
            return ""
        return self.failure if failed == self.failed_epoch else f"{self.error} (on {self.node})"

    def place(self) -> str:
        """Where the run is, for a person."""
        if not self.task:
            return "before its first task"
        return f"at task {self.position} of {self.total}, {self.task}"


def make_tables(session: Session, tables: dict[str, dict[str, str]], keys: dict[str, str]) -> None:
    """Make what is missing of *tables*, and of their columns. In a transaction, under the lock."""
    if session.dialect == "postgresql":  # another namespace has another lock, and the same tables
        session.execute(f"SELECT pg_catalog.pg_advisory_xact_lock({_CREATION})")
    session.ensure_schema()
    for table, columns in tables.items():
        kinds = {column: kind.format(time=_TIME[session.dialect]) for column, kind in columns.items()}
        if not session.has_table(table):
            body = ", ".join(f"{column} {kind}" for column, kind in kinds.items())
            session.execute(f"CREATE TABLE {session.qualify(table)} ({body}, PRIMARY KEY ({keys[table]}))")
            continue
        have = session.columns(table)
        for column, kind in kinds.items():
            if column not in have:
                name = session.qualify(table)
                session.execute(f"ALTER TABLE {name} ADD COLUMN {column} {kind.removesuffix(' NOT NULL')}")


class Ledger:
    """Reads and writes both tables on the session that does the work."""

    def __init__(self, session: Session, namespace: str) -> None:
        self._session = session
        self._namespace = namespace
        self._columns: dict[str, set[str]] = {}

    def exists(self) -> bool:
        """Have the tables been made? Once seen, they stay."""
        if not self._columns:
            found = {name: self._session.columns(name) for name in TABLES}  # of a table that is not there: none
            self._columns = found if all(found.values()) else {}
        return bool(self._columns)

    def create(self) -> None:
        """Make the tables, and the columns that an older image did not know. Only under the lock."""
        if self.exists() and all(self._columns[table] >= set(columns) for table, columns in _COLUMNS.items()):
            return
        with self._session.transaction():
            make_tables(self._session, _COLUMNS, _KEYS)
        self._columns = {}

    def entries(self) -> list[Entry]:
        """Every row of the namespace, in the order in which they were begun."""
        return [Entry(*row) for row in self._read("startup_ledger", Entry, " ORDER BY started_at, task")]

    def done(self) -> set[tuple[str, str]]:
        """Task and key of everything that has been done."""
        return {(entry.task, entry.key) for entry in self.entries() if entry.state == DONE}

    def run(self) -> Run:
        """The present or last run; a Run with epoch 0 when there was none."""
        rows = self._read("startup_run", Run)
        names = [field.name for field in fields(Run)]
        known = {name: value for row in rows for name, value in zip(names, row, strict=True) if value is not None}
        return Run(**known)

    def _read(self, table: str, kind: type[Entry] | type[Run], order: str = "") -> list[Row]:
        """The fields of *kind*, NULL for a column that an older image did not make."""
        if not self.exists():
            return []
        have = self._columns[table]
        columns = ", ".join(field.name if field.name in have else "NULL" for field in fields(kind))
        return self._execute(f"SELECT {columns} FROM {{{table}}} WHERE namespace = %s{order}", (self._namespace,))

    def begin(self, node: str, phase: str, total: int) -> int:
        """Start a run: its epoch, one above the last. Only under the lock."""
        epoch = self.run().epoch + 1
        self._execute(
            "INSERT INTO {startup_run} AS old (namespace, epoch, state, node, phase, total, started_at, changed_at) "
            "VALUES (%s, %s, %s, %s, %s, %s, {now}, {now}) "
            "ON CONFLICT (namespace) DO UPDATE SET epoch = excluded.epoch, "
            "state = excluded.state, node = excluded.node, phase = excluded.phase, total = excluded.total, "
            "started_at = excluded.started_at, changed_at = excluded.changed_at, task = NULL, position = NULL, "
            "error = NULL",
            (self._namespace, epoch, RUNNING, node, phase, total),
        )
        return epoch

    def step(self, epoch: int, task: str, position: int) -> None:
        """The run has come to this task."""
        self._execute(
            "UPDATE {startup_run} SET task = %s, position = %s, changed_at = {now} WHERE namespace = %s AND epoch = %s",
            (task, position, self._namespace, epoch),
        )

    def end(self, epoch: int, state: str, error: str = "") -> None:
        """The run is over."""
        values: tuple[object, ...] = (state, error or None)
        failed = ""
        if state == FAILED:
            failed, values = ", failed_epoch = epoch, failure = %s || ' (on ' || node || ')'", (*values, error)
        self._execute(
            f"UPDATE {{startup_run}} SET state = %s, error = %s{failed}, changed_at = {{now}} "
            "WHERE namespace = %s AND epoch = %s",
            (*values, self._namespace, epoch),
        )

    def mark(self, epoch: int, entry: Entry) -> None:
        """Write a task's row: running, done or failed. In the task's own transaction where it has one.

        What this run has done stays done: a time limit may strike just after the commit.
        """
        finished = "NULL" if entry.state == RUNNING else "{now}"
        started = "excluded.started_at" if entry.state == RUNNING else "coalesce(old.started_at, {now})"
        self._execute(
            "INSERT INTO {startup_ledger} AS old "
            "(namespace, task, key, policy, state, node, epoch, release, started_at, "
            f"finished_at, seconds, error) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, {{now}}, {finished}, %s, %s) "
            "ON CONFLICT (namespace, task, key) DO UPDATE SET policy = excluded.policy, state = excluded.state, "
            "node = excluded.node, epoch = excluded.epoch, release = excluded.release, "
            f"started_at = {started}, finished_at = excluded.finished_at, "
            "seconds = excluded.seconds, error = excluded.error "
            f"WHERE old.state <> '{DONE}' OR excluded.state <> '{FAILED}' OR old.epoch <> excluded.epoch",
            (
                self._namespace,
                entry.task,
                entry.key,
                entry.policy,
                entry.state,
                entry.node,
                epoch,
                entry.release or None,
                entry.seconds,
                entry.error or None,
            ),
        )

    def forget(self, task: str) -> int:
        """Take a task out, whatever its key; how many rows that were."""
        rows = [entry for entry in self.entries() if entry.task == task]
        if rows:
            self._execute("DELETE FROM {startup_ledger} WHERE namespace = %s AND task = %s", (self._namespace, task))
        return len(rows)

    def now(self) -> object:
        """The time by the clock that all of this is told in."""
        return self._execute("SELECT {now}", ())[0][0]

    def _execute(self, sql: str, parameters: tuple[object, ...]) -> list[Row]:
        sql = sql.replace("{now}", NOW[self._session.dialect])
        for table in TABLES:
            sql = sql.replace(f"{{{table}}}", self._session.qualify(table))
        try:
            return self._session.execute(sql, parameters)
        except StartupError:
            raise
        except Exception as error:  # psycopg.errors.InsufficientPrivilege, sqlite3.OperationalError ...
            raise TaskFailed(
                f"the ledger could not be used: {str(error).partition(chr(10))[0]}; the role of DATABASE_URL needs "
                f"SELECT, INSERT, UPDATE and DELETE on {' and '.join(map(self._session.qualify, TABLES))}"
            ) from error
