"""One task's own work: its function or its command, what it is given, and how its failure is told."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from startup import log
from startup.database.session import Session
from startup.errors import Interrupted, LockLost, StartupError, TaskFailed, TimedOut
from startup.plan.planner import STOP_PHASES, see_the_apps_modules
from startup.plan.task import Context, Task
from startup.process.command import Command
from startup.process.interrupts import Interrupts
from startup.settings.settings import Settings

if TYPE_CHECKING:
    from startup.migrations import apply


LOST = (
    "the lock was lost while task {} ran, so that was stopped: its database session ended, and another node may have "
    "taken over; a restart goes on where the ledger stands"
)


class Execution:
    """Runs the tasks of one phase; knows neither lock nor ledger."""

    def __init__(self, settings: Settings, phase: str, interrupts: Interrupts) -> None:
        self._settings = settings
        self._phase = phase
        self._interrupts = interrupts

    @contextlib.contextmanager
    def limited(self, task: Task) -> Iterator[None]:
        """In here the task's time runs, and what it raises becomes a TaskFailed with its name.

        A lost lock, a wrong setting and a signal stay what they are.
        """
        try:
            with self._interrupts.limit(task.timeout, self._settings.stop_timeout, f"task {task.name}"):
                yield
        except TimedOut:
            self._interrupts.settle()
            phases = "STARTUP_HOOK_TIMEOUT, for the phase, " if self._phase in STOP_PHASES else ""
            raise TaskFailed(
                f"task {task.name} was not done within {task.timeout:.3g} s, its time limit ({phases}STARTUP_TIMEOUT, "
                "or the task's own): let it do less, or give it more time"
            ) from None
        except Interrupted:  # a KeyboardInterrupt is the task's own: SIGINT raises ours
            raise
        except TaskFailed as error:
            text = str(error)
            if not text.startswith(f"task {task.name} "):
                text = f"task {task.name} failed: {text}"
            raise TaskFailed(text) from None
        except StartupError:
            raise
        except BaseException as error:
            log.debug(_traceback(error))
            raise TaskFailed(f"task {task.name} failed: {_explain(error)}") from error

    def run(self, task: Task, session: Session | None = None) -> str:
        """Run a task; a word on what it did. A command ends with LockLost when *session*'s lock is gone."""
        if task.kind == "users" and session is not None:
            from startup.builtin import users

            return users.insert(session, task.data, self._settings.users_table)
        if task.kind == "function":
            self._call(task, session)
        elif session is None:
            self._command(task).wait()
        else:
            command = self._command(task, session.lock_fd)
            with session.watch(lambda: command.lose(LockLost(LOST.format(task.name)))):
                command.wait()
        return ""

    def _call(self, task: Task, session: Session | None) -> None:
        assert task.function is not None
        context = Context(
            task=task.name,
            phase=self._phase,
            node=self._settings.node,
            release=self._settings.release,
            environ=self._settings.task_environ(task.name, self._phase),
        )
        context._connection = session.connection if session is not None else None
        see_the_apps_modules(self._settings.environ)
        with contextlib.redirect_stdout(sys.stderr):  # stdout is the app's, or a verb's
            task.function(context)

    def _command(self, task: Task, lock_fd: int | None = None) -> Command:
        argv = [task.command] if task.kind == "hook" else ["/bin/sh", "-c", task.command]
        environ = self._settings.task_environ(task.name, self._phase)
        keep_open = () if lock_fd is None else (lock_fd,)
        return Command(argv, environ, self._interrupts, self._settings.stop_timeout, keep_open)

    def migrate(self, task: Task, session: Session, started: float, warn: Callable[[str], None]) -> str:
        """Apply what is pending, on the session that holds the lock; *started* is of ``time.monotonic()``."""
        from startup.migrations import apply

        limit = task.timeout
        count = apply.apply(
            session,
            task.data,
            table_lock_timeout=self._settings.table_lock_timeout,
            drift=cast("apply.Drift", self._settings.drift),
            deadline=(lambda: started + limit - time.monotonic()) if limit else None,
            node=self._settings.node,
            report=log.say,
            warn=warn,
        )
        return f"{count} applied"


def _explain(error: BaseException) -> str:
    """Type and message of what a task raised, and the line of it that is not ours."""
    from startup.plan.planner import _where

    text = str(error).strip()
    return f"{type(error).__name__}{': ' + text if text else ''}{_where(error)}"


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
