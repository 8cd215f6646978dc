"""Applying migrations on the session that holds the lock: each with its mark in one transaction, or not at all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from startup import log
from startup.database.session import Row, Session
from startup.errors import EndedInside, StartupError, TaskFailed
from startup.migrations import failure, files, side, sqltext, tables, yoyos
from startup.migrations.files import Catalog, Migration
from startup.migrations.tables import Marks, Record, State
from startup.migrations.yoyos import AtStatement

Drift = Literal["fail", "warn"]


class _CommittedByItself(Exception):
    """The transaction that is open now, if any, is not the one that was begun for the migration.

    *error* is what the migration failed with after that, if it did.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        super().__init__(error)


class _StockYoyo(Exception):
    """SQLite: a stock yoyo has its lock row in the table."""

    def __init__(self, row: Row) -> None:
        self.row = row
        super().__init__(row)


class _AppliedMeanwhile(Exception):
    """SQLite: a stock yoyo has applied the migration between two of our transactions."""


@dataclass(frozen=True)
class Job:
    """One file to run: *what* names it in the log; *path* and *text* are where its statements stand."""

    what: str
    migration: Migration
    path: str
    text: str
    direction: Literal["apply", "rollback"]
    transactional: bool
    script: sqltext.Script | None
    steps: yoyos.Steps | None
    #: What the whole run has committed so far, for an error message.
    before: str = "committed: nothing"

    @property
    def size(self) -> int:
        """How many statements or steps it has."""
        return len(self.script.statements if self.script else self.steps.steps if self.steps else ())

    def named(self, what: str, before: str) -> Job:
        """The same, as the log is to call it, after what *before* says is committed."""
        return replace(self, what=what, before=before)


@dataclass
class Work:
    """What a run of several jobs shares. Times are in seconds."""

    session: Session
    marks: Marks
    node: str
    table_lock_timeout: float
    seconds_left: Callable[[], float] | None
    report: Callable[[str], None]
    warn: Callable[[str], None]
    #: The backend that keeps stock yoyo waiting.
    barrier: int | None = None

    def __post_init__(self) -> None:
        self.backend = side.backend(self.session)
        self._begun: object = None

    # ------------------------------------------------------------------ in one transaction

    def transactional(self, job: Job, record: Callable[[float], None]) -> float:
        """Run *job*, and *record* (told the seconds) in the same transaction; again while it only was the wrong moment.

        Seconds of the try that succeeded. Raises TaskFailed, with nothing committed, or LockLost.
        """
        patience = side.Patience(f"{job.what} waits for", self.seconds_left, self.report)
        attempt = 0
        while True:
            attempt += 1
            watch = self._watch(job)
            started = time.monotonic()
            try:
                with watch:
                    self._once(job, lambda started=started: record(time.monotonic() - started))  # type: ignore[misc]
                self.session.reset()
                return time.monotonic() - started
            except _StockYoyo as error:
                patience.for_stock_yoyo(error.row)
            except _CommittedByItself as error:
                raise self._by_itself(job, error.error) from None
            except EndedInside:
                raise self._by_itself(job, None) from None
            except _AppliedMeanwhile:
                raise
            except Exception as error:
                self._after_failure(job, error)
                if self._has_committed():
                    raise self._by_itself(job, error) from None
                if watch.needs_yoyos_tables:
                    told = f"{job.path}: {_YOYOS_TABLES}\n{job.before}; nothing of this file\n{_CORRECT}"
                    raise TaskFailed(told) from None
                if not failure.may_pass_later(error):
                    raise self._told(job, error, f"{job.before}; nothing of this file", _CORRECT) from None
                self._pause(job, error, attempt, watch.blockers, "rolled back, and tried again")

    def _once(self, job: Job, record: Callable[[], None]) -> None:
        self._begun = None
        # transaction() looks up the lock and is itself again, whatever role the migration took, before it calls record
        with self.session.transaction(record, self.table_lock_timeout) as self._begun:
            if self.session.dialect == "sqlite":
                self._begin(job)
            try:
                self._body(job, lambda number: None)
            except Exception as error:
                if self.session.dialect == "postgresql" and not self._in_transaction():
                    raise _CommittedByItself(error) from error
                raise
            self._require_own_transaction()

    def _begin(self, job: Job) -> None:
        """SQLite: that stock yoyo is not at it; and a savepoint, which tells this transaction from another one."""
        if row := self._stock_yoyo_row(job):
            raise _StockYoyo(row)
        self.session.execute("SAVEPOINT startup_migration")

    def _require_own_transaction(self) -> None:
        """PostgreSQL: that one is open; whether it is ours transaction() asks."""
        connection = self.session.connection
        if self.session.dialect == "postgresql":
            from psycopg.pq import TransactionStatus

            status = connection.info.transaction_status
            if status == TransactionStatus.INERROR:
                raise TaskFailed("a statement failed and its error was swallowed: the transaction is rolled back")
            if status == TransactionStatus.IDLE:
                raise _CommittedByItself
            return
        import sqlite3

        try:
            self.session.execute("RELEASE startup_migration")
        except sqlite3.Error:  # no such savepoint: it went with its transaction
            raise _CommittedByItself from None

    def _stock_yoyo_row(self, job: Job) -> Row | None:
        """SQLite: stock yoyo's lock row, if it has it. Raises _AppliedMeanwhile where it has applied the file."""
        marked = self.session.execute(f"SELECT 1 FROM main.{tables.YOYOS} WHERE migration_id = %s", (job.migration.id,))
        if marked and job.direction == "apply":
            raise _AppliedMeanwhile
        return side.stock_yoyo_row(self.session)

    def _has_committed(self) -> bool:
        """Has the transaction that was begun for a migration that failed been committed, before it failed?"""
        if self.session.dialect != "postgresql":
            return False
        return bool(self.session.execute("SELECT pg_catalog.txid_status(%s)", (self._begun,))[0][0] == "committed")

    def _by_itself(self, job: Job, error: Exception | None) -> TaskFailed:
        """The error for a file that ended its transaction, and then may have failed; not to be run again blindly."""
        self._after_failure(job, error or _CommittedByItself())
        with self.session.transaction():
            self.marks.put(job.migration, tables.STARTED if job.direction == "apply" else tables.ROLLBACK)
        then = f"; then it failed: {failure.reason(failure.before_savepoints(error), 0)}" if error else ""
        return TaskFailed(
            f"{job.path}: it committed or rolled back by itself (COMMIT, ROLLBACK, connection.commit() ...): "
            f"what it did may be there, its mark is not{then}\n{job.before}\n{_by_hand(job.migration, job.direction)}"
        )

    # ------------------------------------------------------------ statement by statement

    def by_statement(self, job: Job, state: str, record: Callable[[float], None]) -> float:
        """Run *job* without a transaction, its progress in a durable row with *state*; then *record*, as above.

        Raises TaskFailed, with what has run and what has not.
        """
        patience = side.Patience(f"{job.what} waits for", self.seconds_left, self.report)
        interrupted = self._begin_by_statement(job, state, patience)
        reached = done = 0

        def progress(number: int) -> None:
            nonlocal reached, done
            reached = number
            if not self._in_transaction() or (job.script and sqltext.is_commit(job.script.statements[number - 1])):
                done = number  # within a BEGIN of the file's own nothing is durable yet
                self._keep_count(job.migration, number)

        started = time.monotonic()
        watch = self._watch(job)
        try:
            with watch:
                self._limit_table_locks(job)
                self._statements(job, interrupted, progress)
        except Exception as error:
            undone = self._in_transaction()
            self._after_failure(job, error)
            raise self._stopped_midway(job, error, done, reached, undone, state) from None
        seconds = time.monotonic() - started
        self.session.reset()
        with self.session.transaction(lambda: record(seconds)):
            pass
        return seconds

    def _begin_by_statement(self, job: Job, state: str, patience: side.Patience) -> bool:
        """Write the row; was there one already?"""
        while True:
            with self.session.transaction():
                self.session.require_lock()
                row = None
                if self.session.dialect == "sqlite":
                    row = self._stock_yoyo_row(job)
                if row is None:
                    there = self.session.execute(
                        f"SELECT state FROM {self.marks.prefix}{tables.OURS} WHERE id = %s", (job.migration.id,)
                    )
                    self.marks.put(job.migration, state)
                    return state == tables.STARTED and bool(there) and there[0][0] == state
            patience.for_stock_yoyo(row)

    def _statements(self, job: Job, interrupted: bool, progress: Callable[[int], None]) -> None:
        if job.script is None:

            def after_step(number: int) -> None:
                progress(number)
                self.session.require_lock()

            self._body(job, after_step)
            return
        for number, statement in enumerate(job.script.statements, 1):
            if not self._in_transaction() or sqltext.is_commit(statement):
                self.session.require_lock()  # a query between BEGIN and SET TRANSACTION would be an error
            if not self._index_is_there(statement, interrupted):
                self._statement(job, statement)
                self._index_is_there(statement, interrupted=False, built=True)
            progress(number)
        self._require_no_transaction(job)

    def _statement(self, job: Job, statement: sqltext.Statement) -> None:
        """One statement; again after a lock's limit if it leaves nothing behind when it fails."""
        unlimited = self._limits(job) and sqltext.is_concurrent(statement)
        attempt = 0
        while True:
            attempt += 1
            try:
                if unlimited:
                    self._set_lock_timeout("0")
                self._execute(statement)
                if unlimited:
                    self._set_lock_timeout(self._milliseconds)
                return
            except Exception as error:
                if self._in_transaction() or not (failure.may_pass_later(error) and sqltext.is_atomic(statement)):
                    raise AtStatement(error, _place(error, statement)) from error
                self._pause(job, AtStatement(error, _place(error, statement)), attempt, [], "tried again")

    def _in_transaction(self) -> bool:
        if self.session.dialect == "sqlite":
            return bool(self.session.connection.in_transaction)
        from psycopg.pq import TransactionStatus

        return bool(self.session.connection.info.transaction_status != TransactionStatus.IDLE)

    def _require_no_transaction(self, job: Job) -> None:
        if self._in_transaction():
            raise TaskFailed(f"{job.path}: its BEGIN has no COMMIT: what came after it is rolled back")

    def _keep_count(self, migration: Migration, number: int) -> None:
        """With our own rights, also where the file has taken another role for its next statements."""
        if self.session.dialect == "sqlite":
            self.marks.progress(migration, number)
            return
        role = self.session.execute("SELECT pg_catalog.current_setting('role')")[0][0]
        self.session.execute("RESET ROLE")
        self.marks.progress(migration, number)
        if role != "none":
            self.session.execute(f"SET ROLE {tables.quoted(role)}")

    def _limits(self, job: Job) -> bool:
        """Does the limit for table locks hold here, or does the file set one of its own?"""
        return self.session.dialect == "postgresql" and "lock_timeout" not in job.text.lower()

    def _limit_table_locks(self, job: Job) -> None:
        if self._limits(job):
            self._set_lock_timeout(self._milliseconds)

    def _set_lock_timeout(self, value: str) -> None:
        self.session.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", (value,))

    def _stopped_midway(
        self, job: Job, error: Exception, done: int, reached: int, undone: bool, state: str
    ) -> StartupError:
        """What has run and what has not; a file of which nothing has run is as if it had not been begun.

        *undone*: the statements between *done* and *reached* were in a transaction of the file's own.
        """
        statements = job.script.statements if job.script else []
        failed = statements[reached] if reached < len(statements) else None
        whole = failed is not None and (undone or sqltext.is_atomic(failed))
        clean = done == 0 and isinstance(error, AtStatement) and whole
        if clean and state != tables.OWED:
            with self.session.transaction():
                self.session.require_lock()
                if state == tables.ROLLBACK:
                    self.marks.put(job.migration, tables.DONE)
                else:
                    self.marks.forget(job.migration)
            return self._told(job, error, f"{job.before}; nothing of this file", _CORRECT)
        committed = f"{job.before}; of this file (-- transactional: false): {_how_many(done, job.size)}"
        if failed is not None and job.size == 1 and sqltext.index_statement(failed):
            following = "next: put right what it says and start again: an INVALID index is dropped and built again"
        elif state == tables.OWED:
            following = "next: put right what it says and start again: post-apply files are run from the top"
        else:
            following = _by_hand(job.migration, job.direction)
        return self._told(job, error, committed, following)

    # --------------------------------------------------------------------- index statements

    def _index_is_there(self, statement: sqltext.Statement, interrupted: bool, built: bool = False) -> bool:
        """Is there nothing (left) to do for this CREATE or DROP INDEX CONCURRENTLY? An INVALID index is dropped first.

        *built*: the statement has just succeeded; an INVALID index of that name (IF NOT EXISTS) is then built again.
        """
        index = sqltext.index_statement(statement) if self.session.dialect == "postgresql" else None
        if index is None:
            return False
        if index.table is None:
            there = self.session.execute("SELECT to_regclass(%s) IS NOT NULL", (index.index,))[0][0]
            return interrupted and not there
        rows = self.session.execute(_FIND_INDEX, (index.table, _plain(index.index)))
        if not rows:
            return False
        name, valid = rows[0]
        if valid:
            return interrupted
        self.warn(
            f"the index {name} is INVALID, left by an interrupted CREATE INDEX CONCURRENTLY: dropped, built again"
        )
        self._set_lock_timeout("0")
        self.session.execute(f"DROP INDEX CONCURRENTLY {name}")
        if built:
            self._execute(statement)
        self._set_lock_timeout(self._milliseconds)
        return False

    # -------------------------------------------------------------------------- running SQL

    def _body(self, job: Job, done: Callable[[int], None]) -> None:
        if job.steps is not None:
            job.steps.run(self.session, self.node, done, job.direction)
        elif job.script is not None and self.session.dialect == "postgresql":
            self._whole(job.text, job.script.statements)
        elif job.script is not None:
            for statement in job.script.statements:
                self._located(statement)

    def _located(self, statement: sqltext.Statement) -> None:
        try:
            self._execute(statement)
        except Exception as error:
            raise AtStatement(error, _place(error, statement)) from error

    def _execute(self, statement: sqltext.Statement) -> None:
        cursor = self.session.connection.execute(statement.text)
        if self.session.dialect == "sqlite":
            cursor.fetchall()  # SQLite works while rows are fetched

    def _whole(self, text: str, statements: Sequence[sqltext.Statement]) -> None:
        """All statements in one message: no round trip and no savepoint for each."""
        if not statements:
            return
        import psycopg

        class Counting(psycopg.Cursor[Any]):
            count = 0

            def _check_results(self, results: list[Any]) -> None:
                self.count = len(results)
                super()._check_results(results)

        first, last = statements[0], statements[-1]
        cursor = Counting(self.session.connection)
        try:
            cursor.execute(text[first.offset : last.offset + len(last.text)].encode(), prepare=False)
        except psycopg.Error as error:
            if error.diag.statement_position:
                offset = first.offset + int(error.diag.statement_position) - 1
            elif 0 < cursor.count <= len(statements):  # the result of the one that failed is the last
                offset = statements[cursor.count - 1].offset
            else:
                raise
            raise AtStatement(error, offset) from error
        finally:
            cursor.close()

    # ---------------------------------------------------------------------- what goes wrong

    @property
    def _milliseconds(self) -> str:
        return str(round(self.table_lock_timeout * 1000))

    def _watch(self, job: Job) -> side.Watch:
        """Often enough to see who is in the way before the wait is given up."""
        soon = min(2.0, self.table_lock_timeout / 3) if self.table_lock_timeout else 2.0
        return side.Watch(self.session, self.backend, job.what, soon, self.report, self.barrier)

    def _after_failure(self, job: Job, error: Exception) -> None:
        """Back to a session as it was. Raises LockLost when it is gone."""
        if isinstance(error, StartupError) and not isinstance(error, TaskFailed):
            raise error
        if failure.session_is_gone(self.session.connection):
            raise failure.lost(job.migration, error) from error
        self.session.reset()

    def _told(self, job: Job, error: BaseException, committed: str, following: str) -> StartupError:
        return failure.told(error, job.migration, job.path, job.text, committed, following)

    def _pause(self, job: Job, error: Exception, attempt: int, blockers: list[str], then: str) -> None:
        """Longer each time, up to a minute, never the same: two nodes or two files must not meet again and again."""
        seconds = min(60.0, max(0.1, self.table_lock_timeout / 5) * 2 ** min(attempt - 1, 10))
        seconds *= random.uniform(0.5, 1.5)
        left = self.seconds_left() if self.seconds_left else None
        if left is not None and left <= seconds:
            following = f"next: start again when nobody is in the way{_held(blockers)}; the time for this task is up"
            raise self._told(job, error, f"{job.before}; nothing of this file", following) from None
        reason = failure.reason(error, self.table_lock_timeout)
        with log.about(attempt=attempt):
            self.report(f"{job.what}: {reason}{_held(blockers)}; {then} in {seconds:.1f} s")
        time.sleep(seconds)


_YOYOS_TABLES = "it needs yoyo_lock for itself (DROP SCHEMA, DROP or LOCK TABLE), which is in use while migrations run"
_CORRECT = "next: correct the file, or the data that it met, and start again"
_FIND_INDEX = """
    SELECT i.indexrelid::regclass::text, i.indisvalid
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_class t ON t.oid = to_regclass(%s)
    WHERE c.relname = %s AND c.relnamespace = t.relnamespace
"""
_INVALID = """
    SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    WHERE NOT i.indisvalid AND c.relkind = 'i'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
"""


def _held(blockers: Sequence[str]) -> str:
    return f"; in the way: {'; '.join(blockers)}" if blockers else ""


def _plain(name: str) -> str:
    """An identifier as the catalog has it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _place(error: BaseException, statement: sqltext.Statement) -> int:
    position = getattr(getattr(error, "diag", None), "statement_position", None)
    return statement.offset + (int(position) - 1 if position else 0)


def _how_many(done: int, size: int) -> str:
    if not done:
        return f"its first statement of {size} has failed or was cut off, and may have done something"
    ran = "statement 1" if done == 1 else f"statements 1 to {done}"
    return f"{ran} of {size} {'has' if done == 1 else 'have'} run"


def _by_hand(migration: Migration, direction: str) -> str:
    if direction == "rollback":
        return (
            "next: finish taking it back by hand, then DELETE FROM _yoyo_migration WHERE migration_id = "
            f"'{migration.id}' and DELETE FROM startup_migration WHERE id = '{migration.id}'"
        )
    return (
        f"next: it is not run again by itself. Either finish it by hand and then mark it: yoyo mark --match "
        f"'^{migration.id}$'; or undo what it did, and then DELETE FROM startup_migration WHERE id = '{migration.id}'"
    )


def job_for(migration: Migration, catalog: Catalog, dialect: sqltext.Dialect, steps: yoyos.Steps | None) -> Job:
    """What applying *migration* is; *steps* where it is a Python one."""
    script = catalog.script(migration, dialect) if migration.is_sql else None
    transactional = script.transactional if script else steps is None or steps.transactional
    return Job("", migration, migration.path, migration.text, "apply", transactional, script, steps)


def mends_itself(record: Record, catalog: Catalog, dialect: sqltext.Dialect) -> bool:
    """Is the interrupted migration a single CREATE or DROP INDEX CONCURRENTLY, which can just be run again?"""
    migration = catalog.by_id.get(record.id)
    if record.state != tables.STARTED or migration is None or not migration.is_sql or dialect == "sqlite":
        return False
    script = catalog.script(migration, dialect)
    return (
        not script.transactional
        and len(script.statements) == 1
        and sqltext.index_statement(script.statements[0]) is not None
    )


def review(session: Session, catalog: Catalog, state: State, *, drift: Drift, warn: Callable[[str], None]) -> None:
    """Say what is odd about the database's migrations; changes nothing and needs no lock.

    Raises TaskFailed for one that was interrupted, and for changed content where *drift* is ``fail``.
    """
    if state.unknown:
        warn(
            f"the database is ahead of this image, which does not have: {_names(state.unknown)}; nothing is taken back"
        )
    if state.out_of_order:
        ids = [migration.id for migration in state.out_of_order]
        warn(f"not applied yet, though later ones are: {_names(ids)}")
    for record in state.interrupted:
        if record.id not in catalog.by_id:
            warn(f"the migration {record.id}, which this image does not have, was interrupted on {record.node}")
        elif not mends_itself(record, catalog, session.dialect):
            raise TaskFailed(_interrupted(record, catalog.by_id[record.id]))
    if state.drifted:
        paths = _names([migration.path for migration in state.drifted])
        text = f"changed since they were applied: {paths}; a new migration would carry the change to this database"
        if drift == "fail":
            raise TaskFailed(f"{text}; restore the content, or set STARTUP_DRIFT=warn. Nothing has been applied")
        warn(text)


def _interrupted(record: Record, migration: Migration) -> str:
    direction = "rollback" if record.state == tables.ROLLBACK else "apply"
    what = "was interrupted" if direction == "apply" else "was interrupted while it was taken back"
    done = f"{record.statements_done} of its statements are known to have run, the next one may have"
    return (
        f"{migration.path}: {what} on {record.node} at {record.at[:19]} UTC: {done}. Nothing has been applied\n"
        f"{_by_hand(migration, direction)}"
    )


def _names(ids: Sequence[str], most: int = 10) -> str:
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def _warn_of_invalid_indexes(session: Session, warn: Callable[[str], None]) -> None:
    if session.dialect == "postgresql" and session.connection.info.server_version >= 120000:
        for index, table in session.execute(_INVALID):
            warn(
                f"the index {index} on {table} is INVALID (an interrupted CREATE INDEX CONCURRENTLY or REINDEX left "
                f"it): no query uses it; DROP INDEX CONCURRENTLY {index} removes it"
            )


def apply(
    session: Session,
    catalog: Catalog,
    *,
    table_lock_timeout: float,
    drift: Drift,
    deadline: Callable[[], float] | None,
    node: str,
    report: Callable[[str], None],
    warn: Callable[[str], None],
) -> int:
    """Apply what is pending, on *session*, which must hold the lock; how many were applied.

    *table_lock_timeout* is STARTUP_TABLE_LOCK_TIMEOUT in seconds, 0 for no limit; *deadline* tells the seconds that
    are left for the task. Raises TaskFailed with what went wrong, what is committed and what to do; LockLost.
    """
    state = tables.pending(session, catalog)
    review(session, catalog, state, drift=drift, warn=warn)
    files.check([*state.pending, *(catalog.post_apply if state.pending else state.owed)], catalog, session.dialect)
    if state.nothing_to_do:
        return 0
    steps = yoyos.load([*state.pending, *catalog.post_apply], catalog)
    yoyos.create_tables(session, node)
    marks = Marks(session, tables.schema_prefix(session), node)
    with side.hold_off_stock_yoyo(session, marks.prefix, deadline, report, warn) as barrier:
        work = Work(session, marks, node, table_lock_timeout, deadline, report, warn, barrier)
        state = tables.pending(session, catalog)  # a stock yoyo may have been at it
        with session.transaction():
            session.require_lock()
            marks.adopt(state.unrecorded)
        _warn_of_invalid_indexes(session, warn)
        applied = _apply_all(work, catalog, state, steps)
        _post_apply(work, catalog, state, steps, applied)
    return applied


def _apply_all(work: Work, catalog: Catalog, state: State, steps: dict[str, yoyos.Steps]) -> int:
    total, applied = len(state.pending), 0
    before = "committed: nothing"
    for number, migration in enumerate(state.pending, 1):
        job = job_for(migration, catalog, work.session.dialect, steps.get(migration.id))
        job = job.named(f"migration {number} of {total}: {migration.id}", before)

        def record(seconds: float, job: Job = job) -> None:
            work.marks.applied(job.migration, job.size, seconds)
            for hook in catalog.post_apply:
                work.marks.put(hook, tables.OWED)

        try:
            if job.transactional:
                seconds = work.transactional(job, record)
            else:
                seconds = work.by_statement(job, tables.STARTED, record)
        except _AppliedMeanwhile:
            work.report(f"{job.what} was applied by a stock yoyo meanwhile")
            continue
        applied += 1
        before = f"committed: {applied} of {total} migrations of this run, the last one {migration.id}"
        work.report(f"{job.what} applied in {seconds:.2f} s")
    return applied


def _post_apply(work: Work, catalog: Catalog, state: State, steps: dict[str, yoyos.Steps], applied: int) -> None:
    """yoyo's files for after a run that applied something. Due until they have run, not only until the next boot."""
    for migration in catalog.post_apply if applied else state.owed:
        job = job_for(migration, catalog, work.session.dialect, steps.get(migration.id))
        job = job.named(f"post-apply: {migration.id}", f"committed: all {applied} migrations of this run")

        def record(seconds: float, migration: Migration = migration) -> None:
            work.marks.log(migration, "apply")
            work.marks.forget(migration)

        run = work.transactional if job.transactional else _owed(work)
        work.report(f"{job.what} ran in {run(job, record):.2f} s")


def _owed(work: Work) -> Callable[[Job, Callable[[float], None]], float]:
    return lambda job, record: work.by_statement(job, tables.OWED, record)
