"""Taking migrations back, the newest first; and showing what applying one would run."""

from __future__ import annotations

import os
from collections.abc import Callable

from startup.database.session import Dialect, Query, Session
from startup.database.statement import line_of
from startup.errors import SettingError, TaskFailed
from startup.log import say
from startup.log import warn as say_warning
from startup.migrations import files, lock, sqltext, tables, yoyos
from startup.migrations.apply import Applier, Unit
from startup.migrations.files import Catalog, Migration
from startup.migrations.observer import Observer
from startup.migrations.tables import Marks, State


def sql(migration: Migration, catalog: Catalog | None = None) -> str:
    """What applying *migration* would run; of a Python function its name. Raises TaskFailed if it cannot be read."""
    if migration.is_sql:
        return migration.text.strip()
    return yoyos.load([migration], catalog or Catalog([migration]))[migration.id].sql()


def rollback(
    session: Session,
    catalog: Catalog,
    count: int,
    *,
    node: str,
    table_lock_timeout: float = 5.0,
    deadline: Callable[[], float] | None = None,
    report: Callable[[str], None] = say,
    warn: Callable[[str], None] = say_warning,
) -> list[str]:
    """Take back the newest *count* migrations on *session*, which must hold the lock; their ids, newest first.

    Times are in seconds. Raises SettingError for a *count* that cannot be; TaskFailed, before anything is done, when
    one of them has no rollback or is not in this image, and for one that fails: the ones before it stay taken back.
    """
    state = tables.pending(session, catalog)
    chosen = _newest(state, catalog, count)
    steps = yoyos.load(chosen, catalog)
    units = [_unit(migration, steps.get(migration.id), catalog, session.dialect) for migration in chosen]
    yoyos.create_tables(session, node)
    marks = Marks(session, node)
    done: list[str] = []
    with lock.held(session, deadline, report) as row, Observer(session, table_lock_timeout, report) as observer:
        applier = Applier(session, marks, table_lock_timeout, deadline, report, warn, row, observer)
        now = tables.pending(session, catalog)
        if now.interrupted:
            names = ", ".join(record.id for record in now.interrupted)
            raise TaskFailed(f"interrupted before, and to be put right first: {names}. Nothing is taken back")
        if now.applied != state.applied:
            raise TaskFailed("another process has changed the database's migrations meanwhile: nothing is taken back")
        for number, unit in enumerate(units, 1):
            what = f"rollback {number} of {len(units)}: {unit.migration.id}"
            before = f"committed: {', '.join(done)} taken back" if done else "committed: nothing"
            seconds = _take_back(applier, unit.named(what, before))
            report(f"{what} done in {seconds:.2f} s")
            done.append(unit.migration.id)
    return done


def _newest(state: State, catalog: Catalog, count: int) -> list[Migration]:
    """yoyo's order backwards, among what is applied; refused where the database has newer ones than the image."""
    applied = set(state.applied)
    here = files.in_order([migration for migration in catalog.migrations if migration.id in applied], catalog)
    if not here:
        raise SettingError(f"--count {count}: none of this image's migrations is applied: nothing to take back")
    if not 1 <= count <= len(here):
        raise SettingError(f"--count {count}: {len(here)} of this image's migrations are applied: 1 to {len(here)}")
    chosen = here[: -count - 1 : -1]
    order = {name: number for number, name in enumerate(state.applied)}
    oldest = min(order[migration.id] for migration in chosen)
    if newer := [name for name in state.unknown if order[name] > oldest]:
        raise TaskFailed(
            f"applied later, and not in this image: {', '.join(newer)}: they may need what would be taken back; "
            "use the image that has them. Nothing is taken back"
        )
    return chosen


def _unit(migration: Migration, steps: yoyos.Steps | None, catalog: Catalog, dialect: Dialect) -> Unit:
    if steps is not None:
        if numbers := steps.without_rollback():
            raise TaskFailed(
                f"{migration.path}: step {', '.join(map(str, numbers))} has no rollback: step(apply, rollback). "
                "Nothing is taken back"
            )
        return Unit("", migration, migration.path, migration.text, "rollback", steps.transactional, None, steps)
    path = migration.rollback_path
    if not os.path.exists(path):
        raise TaskFailed(f"{migration.path}: there is no {path} to take it back with. Nothing is taken back")
    text = files.read(path)
    transactional = catalog.script(migration, dialect).transactional
    script = sqltext.parse(text, dialect, transactional=transactional)
    if script.faults:
        lines = [f"{path}:{line_of(text, fault.offset)}: {fault.message}" for fault in script.faults]
        raise TaskFailed("\n".join([*lines, "nothing is taken back"]))
    return Unit("", migration, path, text, "rollback", transactional, script, None)


def _take_back(applier: Applier, unit: Unit) -> float:
    def record(seconds: float) -> list[Query]:
        return applier.marks.taken_back(unit.migration)

    return (
        applier.transactional(unit, record)
        if unit.transactional
        else applier.by_statement(unit, tables.ROLLBACK, record)
    )
