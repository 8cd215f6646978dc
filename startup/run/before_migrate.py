"""STARTUP_BEFORE_MIGRATE: what must have run before a migration is applied, once for the same pending ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from startup.database.session import Session
from startup.errors import TaskFailed
from startup.plan.planner import Plan
from startup.plan.task import Task
from startup.records import replace
from startup.run.retries import to_first_line
from startup.sha256 import sha256


def due(plan: Plan, task: Task, session: Session) -> list[Task]:
    """The tasks that must have run before *task*, each for what that has pending now; none for most."""
    pending = pending_for(task, session)
    if not pending:
        return []
    # an id is a file's name, which holds no NUL
    digest = sha256("\0".join(sorted(pending)).encode(errors="surrogateescape")).hexdigest()
    return [replace(one, pending=digest) for one in plan.before_migrate]


def pending_for(task: Task, session: Session) -> list[str]:
    """The ids of the migrations that *task* would apply."""
    return task.builtin.pending(session) if task.builtin is not None and not task.ledgered else []


@contextmanager
def failed() -> Iterator[None]:
    """What fails in here says what has not been done."""
    try:
        yield
    except TaskFailed as error:
        words = "; it must run before migrations (STARTUP_BEFORE_MIGRATE), so none was applied"
        raise TaskFailed(to_first_line(str(error), words)) from error
