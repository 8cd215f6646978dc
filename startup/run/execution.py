"""One task's own work: its function or its command, what it is given, and how its failure is told."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import GeneratorType

from startup import log
from startup.database.session import Session
from startup.errors import Interrupted, LockLost, StartupError, TaskFailed, TimedOut
from startup.plan import modules
from startup.plan.planner import LOCKLESS_PHASES
from startup.plan.task import Context, Task
from startup.process import proof
from startup.process.command import Command
from startup.process.interrupts import Interrupts
from startup.settings.settings import Settings

LOST = (
    "the lock was lost while task {} ran, so that was stopped: its database session ended, and another node may have "
    "taken over; a restart goes on where the ledger stands"
)

_MUST_YIELD = "a backfill is a function that has the yield in itself; a coroutine wants asyncio.run()"


class Execution:
    """Runs the tasks of one phase; knows neither lock nor ledger."""

    def __init__(self, settings: Settings, phase: str, interrupts: Interrupts, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._phase = phase
        self._interrupts = interrupts
        self._warn = warn

    @contextlib.contextmanager
    def limited(self, task: Task) -> Iterator[None]:
        """In here the task's time runs, and what it raises becomes a TaskFailed with its name.

        A lost lock, a wrong setting and a signal stay what they are.
        """
        try:
            limit = self._interrupts.limit(task.timeout or 0, self._settings.stop_timeout, f"task {task.name}")
            with limit, self._interrupts.heeded():
                yield
        except TimedOut:
            self._interrupts.settle()
            phases = "STARTUP_HOOK_TIMEOUT, for the phase, " if self._phase in LOCKLESS_PHASES else ""
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
            raise type(error)(text) from None
        except StartupError:
            raise
        except BaseException as error:
            import traceback

            log.debug("".join(traceback.format_exception(error)))
            text = f"{type(error).__name__}: {str(error).strip()}".removesuffix(": ")
            raise TaskFailed(f"task {task.name} failed: {text}{modules.place(error)}") from error

    def run(self, task: Task, started: float, session: Session | None = None) -> str:
        """Run a task that began at *started* (``time.monotonic()``), on *session* if it needs one; a word on it.

        A command ends with LockLost when the session's lock is gone.
        """
        if task.builtin is not None and session is not None:
            end = started + (task.timeout or 0)
            told = task.builtin.run(session, (lambda: end - time.monotonic()) if task.timeout else None, self._warn)
            self._interrupts.heed()
            return told
        if task.function is not None:
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
        with self.as_a_task():
            left = task.function(self._context(task, session))
        if hasattr(left, "send"):
            raise TaskFailed(f"it returned a {type(left).__name__}, which nobody runs: {_MUST_YIELD}")

    def generator(self, task: Task, session: Session, cursor: object) -> GeneratorType[object, None, object]:
        """A generator task's generator, which has not begun; :meth:`as_a_task` goes around each of its steps."""
        assert task.function is not None
        found = task.function(self._context(task, session, cursor))
        assert isinstance(found, GeneratorType)
        return found

    def settle(self) -> None:
        """Returns when no statement will be cancelled any more for what has come."""
        self._interrupts.settle()

    @contextlib.contextmanager
    def as_a_task(self) -> Iterator[None]:
        """Around a task's own code: it sees the app's modules, and what it swallows of signals is raised again."""
        modules.see_the_apps_modules(self._settings.environ)
        with proof.alone(), contextlib.redirect_stdout(sys.stderr):  # stdout is the app's, or a verb's
            yield
        self._interrupts.heed()

    def _context(self, task: Task, session: Session | None, cursor: object = None) -> Context:
        return Context(
            task=task.name,
            phase=self._phase,
            node=self._settings.node,
            release=self._settings.release,
            environ=self._settings.task_environ(task.name, self._phase),
            connection=session.connection if session is not None else None,
            cursor=cursor,
        )

    def _command(self, task: Task, lock_fd: int | None = None) -> Command:
        environ = self._settings.task_environ(task.name, self._phase)
        keep_open = () if lock_fd is None else (lock_fd,)
        return Command(task.argv, environ, self._interrupts, self._settings.stop_timeout, keep_open)
