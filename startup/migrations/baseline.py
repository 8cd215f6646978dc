"""Taking migrations for applied on a database that was there before: their marks alone, nothing of the files runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from startup.database.session import Session
from startup.errors import TaskFailed
from startup.log import say
from startup.log import warn as say_warning
from startup.migrations import apply, files, lock, tables, yoyos
from startup.migrations.apply import Drift
from startup.migrations.files import Catalog, Migration
from startup.migrations.tables import Marks, State
from startup.records import replace

#: Writes what is to commit with the marks.
Recorder = Callable[[], None]


def preview(
    session: Session, catalog: Catalog, last: Migration, *, drift: Drift, warn: Callable[[str], None] = say_warning
) -> list[Migration]:
    """What :func:`baseline` would take now. Changes nothing and needs no lock; raises what that does."""
    state = tables.pending(session, catalog)
    if state.interrupted and session.holder(migrations=True):
        warn("another node migrates this database just now: what it has applied then is left as it is")
        state = replace(state, interrupted=())
    return _to_take(session, catalog, state, last, drift, warn)


def _to_take(
    session: Session, catalog: Catalog, state: State, last: Migration, drift: Drift, warn: Callable[[str], None]
) -> list[Migration]:
    """In yoyo's order. TaskFailed for what is applied after *last*, was interrupted, or has another content now."""
    order = files.in_order(catalog.migrations, catalog)
    end = order.index(last) + 1
    _refuse_later(state, last, order[end:])
    unknown = []
    for record in state.interrupted:
        if apply.mends_itself(record, catalog, session.dialect):
            raise TaskFailed(
                f"baseline {last.id}: {record.id} was interrupted on {record.node}, and the next boot builds its index "
                "again: take the baseline after that. Nothing is taken"
            )
        if migration := catalog.by_id.get(record.id):
            raise TaskFailed(apply.interrupted(record, migration, catalog, session.dialect))
        unknown.append(record)
    odd = replace(state, pending=(), out_of_order=(), interrupted=unknown)
    apply.review(session, catalog, odd, drift=drift, warn=warn)
    applied = set(state.applied)
    return [migration for migration in order[:end] if migration.id not in applied]


def _refuse_later(state: State, last: Migration, after: Sequence[Migration]) -> None:
    applied = set(state.applied)
    if later := [migration.id for migration in after if migration.id in applied]:
        raise TaskFailed(
            f"baseline {last.id}: applied already, after it: {apply.names(later)}; right would be {later[-1]} or a "
            "later one. Nothing is taken"
        )
    if ahead := [name for name in state.unknown if name > last.id]:
        raise TaskFailed(
            f"baseline {last.id}: applied already, after it, and not in this image: {apply.names(ahead)}; use the "
            "image that has them. Nothing is taken"
        )


def baseline(
    session: Session,
    catalog: Catalog,
    last: Migration,
    *,
    node: str,
    drift: Drift = "fail",
    record: Recorder,
    report: Callable[[str], None] = say,
    warn: Callable[[str], None] = say_warning,
) -> list[Migration]:
    """Take all up to *last* for applied, on *session*, which must hold the lock; those that were not so before.

    *record* is called in the transaction that writes all of it, if there is any. Raises TaskFailed for what is applied
    after *last*, was interrupted, or has another content now; LockUnavailable, LockLost.
    """
    try:
        yoyos.create_tables(session, node)
        with lock.held(session, None, report) as row:
            state = tables.pending(session, catalog)  # as it stays: nobody else is at it now
            taken = _to_take(session, catalog, state, last, drift, warn)
            if taken:
                marks = Marks(session, node)
                with session.transaction():
                    session.require_lock()
                    row.require()
                    session.execute_all([query for migration in taken for query in marks.taken(migration)])
                    record()
    except Exception as error:
        if getattr(error, "sqlstate", None) != "42501":  # insufficient_privilege
            raise
        raise TaskFailed(
            f"the marks cannot be written: {error}; right would be a role that may write in yoyo's tables, or a more "
            "privileged STARTUP_DATABASE_URL. Nothing is taken"
        ) from None
    return taken
