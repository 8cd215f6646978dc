"""The ledger: which task has run, for which content or release, where, when, and how it ended.

Two tables, created under the lock. ``startup_ledger`` has a row for each task and key; ``startup_run`` has one row a
namespace: the present or last run, whose ``epoch`` is the fencing token that each run raises. Both only ever gain
columns, and every statement names the columns that it means and that are there, so nodes of older and newer images
read each other's.
"""

from __future__ import annotations

from contextlib import nullcontext

from startup import log
from startup.database.session import Row, Session
from startup.database.tables import Table, make
from startup.errors import StartupError, TaskFailed
from startup.records import dataclass, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"
#: Of a backfill: some batches are done, and whoever goes on begins at the cursor.
PARTIAL = "partial"
#: Characters of a cursor in a line.
SHOWN = 60


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
    cursor: str = ""  # JSON: where a backfill's next batch begins
    batches: int | None = None  # that are done
    rate: float | None = None  # of them a second


def progress(cursor: str, batches: int | None, rate: float | None) -> str:
    """How far a backfill is, and how fast, for a person: its cursor without secrets, and not all of a long one."""
    cursor = log.redact(cursor)
    cursor = cursor if len(cursor) <= SHOWN else f"{cursor[:SHOWN]}..."
    pace = f", {rate:.1f} a second" if rate else ""
    return f"{batches or 0:,} batches, at {cursor}{pace}"


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
        first_awaited = before.epoch if before.state == RUNNING else before.epoch + 1
        if failed < first_awaited:
            return ""
        return self.failure if failed == self.failed_epoch else f"{self.error} (on {self.node})"

    def place(self) -> str:
        """Where the run is, for a person."""
        if not self.task:
            return "before its first task"
        return f"at task {self.position} of {self.total}, {self.task}"


_TYPES = {"str": "text", "int": "bigint", "int | None": "bigint", "float | None": "double precision", "Any": "{time}"}


def _table(name: str, row: type[Entry] | type[Run], key: str) -> Table:
    """A column for each field of *row*, and the namespace."""
    columns = {field.name: _TYPES[str(field.type)] for field in fields(row)}
    return Table(name, {"namespace": "text"} | columns, key)


LEDGER = _table("startup_ledger", Entry, "namespace, task, key")
RUN = _table("startup_run", Run, "namespace")


class Ledger:
    """Reads and writes both tables on the session that does the work."""

    def __init__(self, session: Session, namespace: str) -> None:
        self._session = session
        self._namespace = namespace
        self._columns: dict[str, set[str]] = {}

    def move_to(self, session: Session) -> None:
        """On another session of the same database, with what was found out on the one before."""
        session.homes = self._session.homes or session.homes
        self._session = session

    def exists(self) -> bool:
        """Have the tables been made? Once seen, they stay."""
        if not self._columns:
            there = self._session.tables(LEDGER.name, RUN.name)
            self._columns = there if len(there) == 2 else {}
        return bool(self._columns)

    def create(self, inside: bool = False) -> None:
        """Make the tables, and the columns that an older image did not know. Only under the lock.

        In a transaction of its own, or *inside* the one that is open.
        """
        if self.exists() and all(table.stands_in(self._columns) for table in (LEDGER, RUN)):
            return
        with nullcontext() if inside else self._session.transaction():
            make(self._session, LEDGER, RUN)
        self._columns = {}

    def entries(self) -> list[Entry]:
        """Every row of the namespace, in the order in which they were begun."""
        return [Entry(*row) for row in self._read(LEDGER, Entry, " ORDER BY started_at, task")]

    def entry(self, task: str, key: str) -> Entry | None:
        """The row of a task and key, where there is one."""
        return next((entry for entry in self.entries() if (entry.task, entry.key) == (task, key)), None)

    def done(self) -> set[tuple[str, str]]:
        """Task and key of everything that has been done."""
        return {(entry.task, entry.key) for entry in self.entries() if entry.state == DONE}

    def run(self) -> Run:
        """The present or last run; a Run with epoch 0 when there was none."""
        rows = self._read(RUN, Run)
        names = [field.name for field in fields(Run)]
        known = {name: value for row in rows for name, value in zip(names, row, strict=True) if value is not None}
        return Run(**known)

    def _read(self, table: Table, kind: type[Entry] | type[Run], order: str = "") -> list[Row]:
        """The fields of *kind*, NULL for a column that an older image did not make."""
        if not self.exists():
            return []
        have = self._columns[table.name]
        columns = ", ".join(field.name if field.name in have else "NULL" for field in fields(kind))
        return self._execute(f"SELECT {columns} FROM {{{table.name}}} WHERE namespace = %s{order}", (self._namespace,))

    def begin(self, node: str, phase: str, total: int) -> int:
        """Start a run: its epoch, one above the last. Only under the lock."""
        epoch = self.run().epoch + 1
        names = ("namespace", "epoch", "state", "node", "phase", "total")
        self._execute(
            self._session.dialect.upsert(
                "{startup_run}",
                dict.fromkeys(names, "%s") | {"started_at": "{now}", "changed_at": "{now}"},
                RUN.key,
                {"task": "NULL", "position": "NULL", "error": "NULL"},
            ),
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
        """Write a task's row: running, partial, done or failed. In the task's own transaction where it has one.

        What this run has done stays done: a time limit may strike just after the commit. A cursor stands until it is
        done, whatever happens meanwhile.
        """
        running = entry.state == RUNNING
        names = ["namespace", "task", "key", "policy", "state", "node", "epoch", "release", "seconds", "error"]
        if entry.state in (PARTIAL, DONE):
            names += ["cursor", "batches", "rate"]
        self._execute(
            self._session.dialect.upsert(
                "{startup_ledger}",
                dict.fromkeys(names, "%s") | {"started_at": "{now}", "finished_at": "NULL" if running else "{now}"},
                LEDGER.key,
                {} if running else {"started_at": "coalesce(old.started_at, {now})"},
                unless=f"old.state = '{DONE}' AND excluded.state = '{FAILED}' AND old.epoch = excluded.epoch",
            ),
            (
                self._namespace,
                *(None if value == "" else value for value in (getattr(entry, one) for one in names[1:])),
            ),
        )

    def forget(self, task: str) -> int:
        """Take a task out, whatever its key; how many rows that were."""
        rows = [entry for entry in self.entries() if entry.task == task]
        if rows:
            self._execute("DELETE FROM {startup_ledger} WHERE namespace = %s AND task = %s", (self._namespace, task))
        return len(rows)

    def forget_keys(self, prefix: str) -> None:
        """Take out what was done for keys that begin so."""
        for entry in self.entries():
            if entry.key.startswith(prefix):
                self._execute(
                    "DELETE FROM {startup_ledger} WHERE namespace = %s AND task = %s AND key = %s",
                    (self._namespace, entry.task, entry.key),
                )

    def now(self) -> object:
        """The time by the clock that all of this is told in."""
        return self._execute("SELECT {now}", ())[0][0]

    def _execute(self, sql: str, parameters: tuple[object, ...]) -> list[Row]:
        sql = sql.replace("{now}", self._session.dialect.now)
        names = {table.name: self._session.qualify(table.name) for table in (LEDGER, RUN)}
        for table, name in names.items():
            sql = sql.replace(f"{{{table}}}", name)
        try:
            return self._session.execute(sql, parameters)
        except StartupError:
            raise
        except Exception as error:  # psycopg.errors.InsufficientPrivilege, sqlite3.OperationalError ...
            raise TaskFailed(
                f"the ledger could not be used: {str(error).partition(chr(10))[0]}; the role of DATABASE_URL needs "
                f"SELECT, INSERT, UPDATE and DELETE on {' and '.join(names.values())}"
            ) from error
