"""The cluster's promise: done already? take the lock; done now? run, record, next.

The one place where plan, lock and ledger meet. Nodes that do not get the lock wait, and are done when everything is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from startup import log
from startup.database.session import Session
from startup.errors import Interrupted, LockLost, StartupError, TaskFailed, Unreachable
from startup.ledger import journal
from startup.ledger import ledger as book
from startup.ledger.ledger import Entry
from startup.plan.planner import Plan
from startup.plan.task import Task
from startup.process.interrupts import Interrupts
from startup.run import waiting
from startup.run.cluster import Cluster
from startup.run.execution import Execution
from startup.run.preparation import Preparation
from startup.settings.settings import Settings
from startup.state import State


class Runner:
    """Runs the tasks of one plan, in order."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        state: State,
        interrupts: Interrupts,
        connect: Callable[[], Session],
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.state = state
        self._interrupts = interrupts
        self._cluster = Cluster(settings, interrupts, connect)
        self._execution = Execution(settings, plan.phase, interrupts)
        self._preparation: Preparation | None = None
        self._journal = journal.Journal(settings.namespace, settings.node, plan.phase)
        self._left = [task.name for task in plan.tasks]

    @property
    def left(self) -> list[str]:
        """The tasks that have not run (yet)."""
        return list(self._left)

    def key(self, task: Task) -> str:
        """What a task has to be done for (see the ledger)."""
        return self._cluster.key(task)

    def pinged(self, seconds: float) -> None:
        """The app has answered, after so long."""
        self._journal.passed(journal.PING, seconds)

    def prepare(self) -> None:
        """Connect and compare on a thread while the app boots, so that nothing of it is left to do when it answers."""
        address = self.settings.address
        if self.plan.clustered and address is not None and address.dialect == "postgresql":
            self._preparation = Preparation(self._open_and_look)

    def _open_and_look(self) -> bool:
        self._cluster.open()
        with contextlib.suppress(Unreachable):  # lost again already: whoever waits connects again
            return self._cluster.done(self.plan.clustered)
        return False

    def run(self) -> None:
        """Run what must be run; a StartupError says what went wrong."""
        for note in self.plan.notes:
            log.say(note)
        tasks = self.plan.tasks
        clustered = [number for number, task in enumerate(tasks) if task.clustered]
        first, last = (clustered[0], clustered[-1] + 1) if clustered else (len(tasks), len(tasks))
        self._run_local(tasks[:first])
        if clustered:
            self._run_cluster(tasks[first:last])
        self._run_local(tasks[last:])

    def _run_local(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.run_one(task)

    def run_one(self, task: Task) -> None:
        """Run one task here and now, without lock, ledger and database."""
        with self._telling_of(task):
            started = self._announce(task)
            with self._execution.limited(task):
                said = self._execution.run(task)
            self._finished(task, started, said)

    # ------------------------------------------------------------------------ the cluster's tasks

    def _run_cluster(self, tasks: Sequence[Task]) -> None:
        outcome = journal.FAILED
        try:
            if self._is_prepared():
                done = True
            else:
                done = not waiting.Waiting(self._cluster, tasks, self._say_waiting).until_locked()
            if done:
                self._run_between(tasks)
            else:
                self._run_locked(tasks)
            outcome = journal.DONE
        except (LockLost, Unreachable):
            outcome = ""  # there is nothing left to write with
            raise
        except Interrupted:
            outcome = journal.STOPPED
            raise
        finally:
            try:
                if outcome and self._cluster.is_open:
                    with contextlib.suppress(StartupError):  # the outcome stands
                        self._journal.close(self._cluster.session, outcome)
            finally:
                self._cluster.close()

    def _is_prepared(self) -> bool:
        """Is there a session now, and was everything found done while the app booted?"""
        self._journal.begin(journal.WAIT, "database")
        try:
            if self._preparation is not None:
                return self._preparation.result()
            self._cluster.open()
            return False
        finally:
            self._journal.end()

    def _run_between(self, tasks: Sequence[Task]) -> None:
        """Everything of the cluster's is done: what is left are local tasks that stand between."""
        done = [task.name for task in tasks if task.clustered]
        for name in done:
            self._left.remove(name)
        log.say(f"nothing to do: {', '.join(done)} {'is' if len(done) == 1 else 'are'} done already")
        self._run_local([task for task in tasks if not task.clustered])

    def _run_locked(self, tasks: Sequence[Task]) -> None:
        session, ledger = self._cluster.session, self._cluster.ledger
        if why := session.read_only:
            raise Unreachable(
                f"there is work to do, but nothing can be written: {why}; right would be STARTUP_DATABASE_URL with the "
                "primary's address and a role that may write"
            )
        self._create_ledger()
        self._journal.create(session)
        waiting.for_vanished(self._cluster, self._say_waiting)
        epoch = ledger.begin(self.settings.node, self.plan.phase, len(self.plan.tasks))
        self._journal.end()
        try:
            for task in tasks:
                if task.clustered:
                    with self._telling_of(task):
                        self._run_clustered(task, epoch)
                else:
                    self.run_one(task)
        except (LockLost, Unreachable):
            raise  # there is nothing left to write with: the others see that this node is gone
        except Interrupted:
            self._interrupts.settle()
            self._end(epoch, book.STOPPED)
            raise
        except StartupError as error:
            self._end(epoch, book.FAILED, str(error))
            raise
        ledger.end(epoch, book.DONE)
        self._journal.close(session, journal.DONE)  # a session that is lost from here on is seen by what comes last
        session.unlock()

    def _end(self, epoch: int, state: str, error: str = "") -> None:
        """For the nodes that wait, and for `status`. Not having it must not hide why the run ends."""
        try:
            self._cluster.session.reset()
            self._cluster.ledger.end(epoch, state, log.redact(error))
        except Exception as reason:
            log.debug(f"the run's end could not be written: {reason}")

    def _create_ledger(self) -> None:
        try:
            self._cluster.ledger.create()
        except StartupError:
            raise
        except Exception as error:  # psycopg.errors.InsufficientPrivilege, sqlite3.OperationalError ...
            raise TaskFailed(
                f"the ledger's tables could not be made: {str(error).partition(chr(10))[0]}; the role of DATABASE_URL "
                "must be allowed to CREATE in its schema, or STARTUP_DATABASE_URL must name one that is"
            ) from error

    def _run_clustered(self, task: Task, epoch: int) -> None:
        entry = self._entry(task, epoch)
        if self._is_done(task, entry):
            self._left.remove(task.name)
            log.say(f"{self._place(task)} is done already")
            return
        started = self._announce(task)
        self._cluster.ledger.step(epoch, task.name, self._position(task))
        self._journal.write(self._cluster.session, journal.RUNNING)
        try:
            with self._execution.limited(task):
                said = self._do(task, entry, started)
        except TaskFailed as error:
            self._record_failure(task, entry, error)
            raise
        self._cluster.session.require_lock()
        self._cluster.session.reset()
        self._finished(task, started, said)

    def _is_done(self, task: Task, entry: Entry) -> bool:
        if task.kind == "migrate":
            return self._cluster.migrated(task)
        return task.policy != "always" and (entry.task, entry.key) in self._cluster.ledger.done()

    def _do(self, task: Task, entry: Entry, started: float) -> str:
        """Run one task with its ledger row; a word on what it did."""
        session, ledger = self._cluster.session, self._cluster.ledger

        def mark_done() -> None:
            seconds = round(time.monotonic() - started, 3)
            ledger.mark(entry.epoch, replace(entry, state=book.DONE, seconds=seconds))

        if task.kind == "migrate":
            return self._execution.migrate(task, session, started, self._cluster.warn_once)
        if task.transactional:
            with session.transaction(mark_done):
                return self._execution.run(task, session)
        ledger.mark(entry.epoch, entry)
        said = self._execution.run(task, session)
        session.require_lock()
        session.reset()
        mark_done()
        return said

    def _record_failure(self, task: Task, entry: Entry, error: TaskFailed) -> None:
        """LockLost instead, where the lock is gone: whoever has it now has the ledger too."""
        session = self._cluster.session
        session.reset()
        session.require_lock()
        if task.kind != "migrate":
            with contextlib.suppress(TaskFailed):
                self._cluster.ledger.mark(entry.epoch, replace(entry, state=book.FAILED, error=log.redact(str(error))))

    def _entry(self, task: Task, epoch: int) -> Entry:
        """The task's row, for its content as it is before it runs."""
        return Entry(
            task=task.name,
            key=self.key(task),
            policy=task.policy,
            state=book.RUNNING,
            node=self.settings.node,
            epoch=epoch,
            release=self.settings.release,
        )

    # ------------------------------------------------------------------------- what is said

    def _say_waiting(self, text: str) -> None:
        log.say(text)
        self.state.phase(text)
        self._journal.wait(self._cluster.session)

    def _announce(self, task: Task) -> float:
        log.say(f"{self._place(task)} starts")
        self.state.phase(f"running {self._place(task)}")
        self._journal.begin(journal.TASK, task.name)
        return time.monotonic()

    def _finished(self, task: Task, started: float, said: str = "") -> None:
        self._left.remove(task.name)
        self._journal.end()
        took = time.monotonic() - started
        what = f": {said}" if said else ""
        log.say(f"{self._place(task)} is done after {took:.2f} s{what}", seconds=took)

    @contextlib.contextmanager
    def _telling_of(self, task: Task) -> Iterator[None]:
        """Every line names the task, also the last one when it fails."""
        log.always(task=task.name, position=self._position(task), total=len(self.plan.tasks))
        yield
        log.always(task=None, position=None, total=None)

    def _position(self, task: Task) -> int:
        return self.plan.tasks.index(task) + 1

    def _place(self, task: Task) -> str:
        return f"task {self._position(task)} of {len(self.plan.tasks)}, {task.name},"
