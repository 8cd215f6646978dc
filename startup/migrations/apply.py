"""Applying migrations on the session that holds the lock: each with its mark in one transaction, or not at all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from startup import log
from startup.database.session import Dialect, Query, Session
from startup.database.statement import AtStatement, Statement
from startup.errors import EndedInside, StartupError, TaskFailed
from startup.migrations import adoption, failure, files, indexes, lock, sqltext, tables, yoyos
from startup.migrations.files import Catalog, Migration
from startup.migrations.observer import Observer
from startup.migrations.tables import Marks, Record, State
from startup.records import dataclass, replace

Drift = Literal["fail", "warn"]
_NOTHING = "committed: nothing"
#: What is to commit with a file that took so many seconds.
Recorder = Callable[[float], Sequence[Query]]


@dataclass(frozen=True)
class Unit:
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
    before: str = _NOTHING

    @property
    def statements(self) -> Sequence[Statement]:
        """Of an SQL file."""
        return self.script.statements if self.script else ()

    @property
    def size(self) -> int:
        """How many statements or steps it has."""
        return len(self.steps.steps) if self.steps else len(self.statements)

    def named(self, what: str, before: str) -> Unit:
        """The same, as the log is to call it, after what *before* says is committed."""
        return replace(self, what=what, before=before)


@dataclass
class Progress:
    """How far a file has come that runs statement by statement."""

    unit: Unit
    #: How many have run, and of how many of these it is sure that they stay: within a BEGIN of the file's own, none.
    reached: int = 0
    durable: int = 0

    @property
    def next(self) -> Statement | None:
        """The statement that is running, or has failed."""
        return self.unit.statements[self.reached] if self.reached < len(self.unit.statements) else None

    def left_nothing(self, error: Exception, in_transaction: bool) -> bool:
        """Is all as it was before, now that *error* has ended it?"""
        undone = self.next is not None and (in_transaction or sqltext.is_atomic(self.next))
        return not self.durable and isinstance(error, AtStatement) and undone

    def __str__(self) -> str:
        size = self.unit.size
        if not self.durable:
            return f"its first statement of {size} has failed or was cut off, and may have done something"
        ran = "statement 1 has" if self.durable == 1 else f"statements 1 to {self.durable} have"
        return ran.replace(" ha", f" of {size} ha") + " run"


@dataclass
class Applier:
    """Runs units one after another. Times are in seconds."""

    session: Session
    marks: Marks
    table_lock_timeout: float
    seconds_left: Callable[[], float] | None
    report: Callable[[str], None]
    warn: Callable[[str], None]
    #: What keeps stock yoyo out.
    row: lock.YoyosRow
    observer: Observer

    # ------------------------------------------------------------------ in one transaction

    def transactional(self, unit: Unit, record: Recorder) -> float:
        """Run *unit*, and what *record* gives in the same transaction; again while only the moment was wrong.

        Seconds of the try that succeeded. Raises TaskFailed, with nothing committed, or LockLost.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                with self.observer.watching(unit.what) as watch:
                    return self._once(unit, record)
            except EndedInside as error:
                raise self._by_itself(unit, error.__cause__) from None
            except Exception as error:
                self._after_failure(unit, error)
                committed = f"{unit.before}; nothing of this file"
                if not self._may_pass_later(error):
                    raise _told(unit, error, committed, _CORRECT) from None
                self._pause(unit, error, attempt, watch.blockers, "rolled back, and tried again")

    def _once(self, unit: Unit, record: Recorder) -> float:
        started = time.monotonic()

        def last() -> Sequence[Query]:
            return record(time.monotonic() - started)

        # the session looks up the lock, and is itself again whatever role the migration took, before what is last
        if unit.steps is None:
            row, limit = self.row, self.table_lock_timeout
            self.session.run_script(
                unit.text, unit.statements, limit, row.question, lambda rows: row.answered(rows).require(), last
            )
        else:
            with self.session.transaction(lambda: self.session.execute_all(last()), self.table_lock_timeout):
                self.row.require()
                unit.steps.run(self.session, self.marks.node, lambda number: None, unit.direction)
            self.session.reset()
        return time.monotonic() - started

    def _by_itself(self, unit: Unit, error: BaseException | None) -> TaskFailed:
        """The error for a file that ended its transaction, and then may have failed; not to be run again blindly."""
        self._after_failure(unit, error)
        with self.session.transaction():
            self.marks.put(unit.migration, tables.STARTED if unit.direction == "apply" else tables.ROLLBACK)
        then = f"; then it failed: {failure.reason(failure.before_savepoints(error), 0)}" if error else ""
        following = _by_hand(unit.migration, unit.direction)
        return TaskFailed(
            f"{unit.path}: it committed or rolled back by itself (COMMIT, ROLLBACK, connection.commit() ...): "
            f"what it did may be there, its mark is not{then}\n{unit.before}\n{following}"
        )

    # ------------------------------------------------------------ statement by statement

    def by_statement(self, unit: Unit, state: str, record: Recorder) -> float:
        """Run *unit* without a transaction, its progress in a durable row with *state*; then what *record* gives.

        Raises TaskFailed, with what has run and what has not.
        """
        interrupted = self._begin_by_statement(unit, state)
        progress = Progress(unit)
        started = time.monotonic()
        try:
            with self.observer.watching(unit.what):
                self._run_statements(progress, interrupted)
        except Exception as error:
            in_transaction = self.session.in_transaction
            self._after_failure(unit, error)
            raise self._stopped_midway(progress, error, in_transaction, state) from None
        seconds = time.monotonic() - started
        self.session.reset()
        with self.session.transaction(lambda: self.session.execute_all(record(seconds))):
            self.row.require()
        return seconds

    def _begin_by_statement(self, unit: Unit, state: str) -> bool:
        """Write the row; was it begun before?"""
        with self.session.transaction():
            self.session.require_lock()
            self.row.require()
            before = self.marks.state(unit.migration)
            self.marks.put(unit.migration, state)
            return state == tables.STARTED == before

    def _run_statements(self, progress: Progress, interrupted: bool) -> None:
        unit, session = progress.unit, self.session
        limited = "lock_timeout" not in unit.text.lower()  # else the file has a limit of its own
        if limited:
            session.limit_table_locks(self.table_lock_timeout)

        def ran(number: int) -> None:
            progress.reached = number
            if not session.in_transaction or (unit.script and sqltext.is_commit(unit.statements[number - 1])):
                progress.durable = number
                with session.as_itself():  # also where the file has taken another role for its next statements
                    self.marks.progress(unit.migration, number)
            if unit.steps:
                session.require_lock()

        if unit.steps:
            unit.steps.run(session, self.marks.node, ran, unit.direction)
            return
        for number, statement in enumerate(unit.statements, 1):
            if not session.in_transaction or sqltext.is_commit(statement):
                session.require_lock()  # a query between BEGIN and SET TRANSACTION would be an error
            unlimited = limited and sqltext.is_concurrent(statement)  # it is in nobody's way
            if unlimited:
                session.limit_table_locks(0)
            indexes.run(session, statement, partial(self._run_statement, unit, statement), interrupted, self.warn)
            if unlimited:
                session.limit_table_locks(self.table_lock_timeout)
            ran(number)
        if session.in_transaction:
            raise TaskFailed(f"{unit.path}: its BEGIN has no COMMIT: what came after it is rolled back")

    def _run_statement(self, unit: Unit, statement: Statement) -> None:
        """One statement; again after a lock's limit if it leaves nothing behind when it fails."""
        attempt = 0
        while True:
            attempt += 1
            try:
                self.session.execute_script(unit.text, [statement])
                return
            except AtStatement as error:
                retry = self._may_pass_later(error) and sqltext.is_atomic(statement) and not self.session.in_transaction
                if not retry:
                    raise
                self._pause(unit, error, attempt, [], "tried again")

    def _stopped_midway(self, progress: Progress, error: Exception, in_transaction: bool, state: str) -> StartupError:
        """What has run and what has not; a file of which nothing has run is as if it had not been begun."""
        unit = progress.unit
        if progress.left_nothing(error, in_transaction) and state != tables.OWED:
            with self.session.transaction():
                self.session.require_lock()
                if state == tables.ROLLBACK:
                    self.marks.put(unit.migration, tables.DONE)
                else:
                    self.marks.forget(unit.migration)
            return _told(unit, error, f"{unit.before}; nothing of this file", _CORRECT)
        if progress.next is not None and unit.size == 1 and indexes.index_statement(progress.next):
            following = "next: put right what it says and start again: an INVALID index is dropped and built again"
        elif state == tables.OWED:
            following = "next: put right what it says and start again: post-apply files are run from the top"
        else:
            following = _by_hand(unit.migration, unit.direction)
        committed = f"{unit.before}; of this file (-- transactional: false): {progress}"
        return _told(unit, error, committed, following)

    # ---------------------------------------------------------------------- what goes wrong

    def _may_pass_later(self, error: BaseException) -> bool:
        return self.session.dialect.may_pass_later(failure.driver_error(error))

    def _after_failure(self, unit: Unit, error: BaseException | None) -> None:
        """Back to a session as it was. Raises LockLost when it is gone."""
        if isinstance(error, StartupError) and not isinstance(error, TaskFailed):
            raise error
        if error is not None and failure.session_is_gone(self.session.connection):
            raise failure.lost(unit.migration, error) from error
        self.session.reset()

    def _pause(self, unit: Unit, error: Exception, attempt: int, blockers: Sequence[str], then: str) -> None:
        """Longer each time, up to a minute, never the same: two nodes or two files must not meet again and again."""
        seconds = min(60.0, max(0.1, self.table_lock_timeout / 5) * 2 ** min(attempt - 1, 10))
        seconds *= random.uniform(0.5, 1.5)
        left = self.seconds_left() if self.seconds_left else None
        in_the_way = f"; in the way: {'; '.join(blockers)}" if blockers else ""
        if left is not None and left <= seconds:
            following = f"next: start again when nobody is in the way{in_the_way}; the time for this task is up"
            committed = f"{unit.before}; nothing of this file"
            raise _told(unit, error, committed, following) from None
        reason = failure.reason(error, self.table_lock_timeout)
        with log.about(attempt=attempt):
            self.report(f"{unit.what}: {reason}{in_the_way}; {then} in {seconds:.1f} s")
        time.sleep(seconds)


_CORRECT = "next: correct the file, or the data that it met, and start again"


def _told(unit: Unit, error: BaseException, committed: str, following: str) -> StartupError:
    adopt = unit.migration.id if unit.direction == "apply" and not unit.migration.is_post_apply else ""
    return failure.told(error, unit.path, unit.text, committed, following, adopt)


def _by_hand(migration: Migration, direction: str) -> str:
    if direction == "apply":
        return (
            "next: it is not run again by itself. Either finish it by hand and then mark it: yoyo mark --match "
            f"'^{migration.id}$'; or undo what it did, and then DELETE FROM startup_migration WHERE id = "
            f"'{migration.id}'"
        )
    return (
        "next: finish taking it back by hand, then DELETE FROM _yoyo_migration WHERE migration_id = "
        f"'{migration.id}' and DELETE FROM startup_migration WHERE id = '{migration.id}'"
    )


def unit_for(migration: Migration, catalog: Catalog, dialect: Dialect, steps: yoyos.Steps | None) -> Unit:
    """What applying *migration* is; *steps* where it is a Python one."""
    script = catalog.script(migration, dialect) if migration.is_sql else None
    transactional = script.transactional if script else steps is None or steps.transactional
    return Unit("", migration, migration.path, migration.text, "apply", transactional, script, steps)


def mends_itself(record: Record, catalog: Catalog, dialect: Dialect) -> bool:
    """Is the interrupted migration a single CREATE or DROP INDEX CONCURRENTLY, which can just be run again?"""
    migration = catalog.by_id.get(record.id)
    if record.state != tables.STARTED or migration is None or not migration.is_sql or not dialect.concurrent_indexes:
        return False
    script = catalog.script(migration, dialect)
    if script.transactional or len(script.statements) != 1:
        return False
    return indexes.index_statement(script.statements[0]) is not None


def examine(session: Session, catalog: Catalog, state: State) -> dict[str, yoyos.Steps]:
    """Read all that is pending; its Python files' steps. TaskFailed with every fault that can be seen.

    Changes nothing and needs no lock.
    """
    files.check([*state.pending, *(catalog.post_apply if state.pending else state.owed)], catalog, session.dialect)
    return yoyos.load([*state.pending, *catalog.post_apply], catalog)


def review(session: Session, catalog: Catalog, state: State, *, drift: Drift, warn: Callable[[str], None]) -> None:
    """Say what is odd about the database's migrations; changes nothing and needs no lock.

    Raises TaskFailed for one that was interrupted, and for changed content where *drift* is ``fail``.
    """
    if state.pending and not state.applied:
        for text in adoption.hints(session):
            warn(text)
    if state.unknown:
        warn(f"the database is ahead of this image, which does not have: {names(state.unknown)}; nothing is taken back")
    if state.out_of_order:
        ids = [migration.id for migration in state.out_of_order]
        warn(f"not applied yet, though later ones are: {names(ids)}")
    for record in state.interrupted:
        if record.id not in catalog.by_id:
            warn(f"the migration {record.id}, which this image does not have, was interrupted on {record.node}")
        elif not mends_itself(record, catalog, session.dialect):
            raise TaskFailed(interrupted(record, catalog.by_id[record.id], catalog, session.dialect))
    if state.drifted:
        paths = names([migration.path for migration in state.drifted])
        text = f"changed since they were applied: {paths}; a new migration would carry the change to this database"
        if drift == "fail":
            raise TaskFailed(f"{text}; restore the content, or set STARTUP_DRIFT=warn. Nothing has been applied")
        warn(text)


def interrupted(record: Record, migration: Migration, catalog: Catalog, dialect: Dialect) -> str:
    """What is told of one that was interrupted, and what a person is to do."""
    direction = "rollback" if record.state == tables.ROLLBACK else "apply"
    what = "was interrupted" if direction == "apply" else "was interrupted while it was taken back"
    done = f"{record.statements_done} of its statements are known to have run, the next one may have"
    as_it_was = migration.is_sql and direction == "apply" and migration.checksum == record.checksum
    if as_it_was and record.statements_done == len(catalog.script(migration, dialect).statements):
        done = "all of its statements have run, and only its mark is missing"
    return (
        f"{migration.path}: {what} on {record.node} at {record.at[:19]} UTC: {done}. Nothing has been applied\n"
        f"{_by_hand(migration, direction)}"
    )


def names(ids: Sequence[str], most: int = 10) -> str:
    """The first of them, and how many there are more."""
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")


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
    progress: Callable[[int, int], None] = lambda pending, applied: None,
) -> int:
    """Apply what is pending, on *session*, which must hold the lock; how many were applied.

    *table_lock_timeout* is STARTUP_TABLE_LOCK_TIMEOUT in seconds, 0 for no limit; *deadline* tells the seconds that
    are left for the task; *progress* gets how many are pending, and were applied, at each change. Raises TaskFailed
    with what went wrong, what is committed and what to do; LockLost.
    """
    state = tables.pending(session, catalog)
    steps = examine(session, catalog, state)
    for text in filter(None, (files.without_colon(migration, catalog) for migration in state.pending)):
        warn(text)
    if state.nothing_to_do and not state.interrupted:
        review(session, catalog, state, drift=drift, warn=warn)
        progress(0, 0)
        return 0
    yoyos.create_tables(session, node)
    with lock.held(session, deadline, report) as row, Observer(session, table_lock_timeout, report) as observer:
        state = tables.pending(session, catalog)  # as it stays: nobody else is at it now
        review(session, catalog, state, drift=drift, warn=warn)
        marks = Marks(session, node)
        applier = Applier(session, marks, table_lock_timeout, deadline, report, warn, row, observer)
        with session.transaction():
            session.require_lock()
            row.require()
            marks.adopt(state.unrecorded)
        indexes.warn_of_invalid(session, warn)
        applied = _apply_all(applier, catalog, state, steps, progress)
        _post_apply(applier, catalog, state, steps, applied)
    return applied


def _apply_all(
    applier: Applier,
    catalog: Catalog,
    state: State,
    steps: dict[str, yoyos.Steps],
    progress: Callable[[int, int], None],
) -> int:
    total, applied = len(state.pending), 0
    progress(total, applied)
    before = "committed: nothing"
    for number, migration in enumerate(state.pending, 1):
        unit = unit_for(migration, catalog, applier.session.dialect, steps.get(migration.id))
        unit = unit.named(f"migration {number} of {total}: {migration.id}", before)

        def record(seconds: float, unit: Unit = unit) -> list[Query]:
            return applier.marks.applied(unit.migration, unit.size, seconds, catalog.post_apply)

        if unit.transactional:
            seconds = applier.transactional(unit, record)
        else:
            seconds = applier.by_statement(unit, tables.STARTED, record)
        applied += 1
        progress(total - applied, applied)
        before = f"committed: {applied} of {total} migrations of this run, the last one {migration.id}"
        applier.report(f"{unit.what} applied in {seconds:.2f} s")
    return applied


def _post_apply(applier: Applier, catalog: Catalog, state: State, steps: dict[str, yoyos.Steps], applied: int) -> None:
    """yoyo's files for after a run that applied something. Due until they have run, not only until the next boot."""
    for migration in catalog.post_apply if applied else state.owed:
        unit = unit_for(migration, catalog, applier.session.dialect, steps.get(migration.id))
        unit = unit.named(f"post-apply: {migration.id}", f"committed: all {applied} migrations of this run")

        def record(seconds: float, migration: Migration = migration) -> list[Query]:
            return applier.marks.ran(migration)

        run = applier.transactional if unit.transactional else _owed(applier)
        applier.report(f"{unit.what} ran in {run(unit, record):.2f} s")


def _owed(applier: Applier) -> Callable[[Unit, Recorder], float]:
    return lambda unit, record: applier.by_statement(unit, tables.OWED, record)
