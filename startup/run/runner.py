"""The cluster's promise: done already? take the lock; done now? run, record, next.

The one place where plan, lock and ledger meet. Nodes that do not get the lock wait, and are done when everything is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

from startup import log
from startup.database.session import Session
from startup.errors import Interrupted, LockLost, StartupError, TaskFailed, Unreachable
from startup.ledger import journal
from startup.ledger.ledger import DONE, FAILED, RUNNING, STOPPED, Entry
from startup.plan.planner import Plan
from startup.plan.task import BEFORE_MIGRATE, Task
from startup.process.interrupts import Interrupts
from startup.records import replace
from startup.run.cluster import Cluster
from startup.settings.settings import Settings
from startup.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.run.execution import Execution


class Runner:
    """Runs the tasks of one plan, in order."""

    def __init__(
        self, settings: Settings, plan: Plan, state: State, interrupts: Interrupts, connect: Callable[..., Session]
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.state = state
        self._interrupts = interrupts
        self._cluster = Cluster(settings, interrupts, connect)
        self._journal = journal.Journal(settings.namespace, settings.node, plan.phase)
        self._epoch = 0  # of the run that this node has begun
        #: The tasks that have not run (yet).
        self.left = [task.name for task in plan.tasks]

    @cached_property
    def _execution(self) -> Execution:
        """Of tasks: most boots run none."""
        from startup.run.execution import Execution

        return Execution(self.settings, self.plan.phase, self._interrupts, self._cluster.warn_once)

    @property
    def spans(self) -> Sequence[journal.Span]:
        """What it has done so far, and is at."""
        return self._journal.spans

    def pinged(self, seconds: float) -> None:
        """The app has answered, after so long."""
        self._journal.passed(journal.PING, seconds)

    def prepare(self) -> None:
        """Connect and compare on a thread while the app boots, so that nothing of it is left to do when it answers."""
        address = self.settings.address
        if self.plan.clustered and address is not None and not address.path:  # a file is soon open
            self._cluster.prepare(self.plan.clustered)

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
        with self._named(task):
            started = self._announce(task)

            def once() -> str:
                with self._execution.limited(task):
                    return self._execution.run(task, time.monotonic())

            self._finished(task, started, self._tried(task, once))

    # ------------------------------------------------------------------------ the cluster's tasks

    def _run_cluster(self, tasks: Sequence[Task]) -> None:
        try:
            with self._interrupts.heeded():
                self._keep_promise(tasks)
        except (LockLost, Unreachable):
            raise  # there is nothing left to write with: the others see that this node is gone
        except Interrupted:
            self._interrupts.settle()
            self._end(STOPPED)
            raise
        except StartupError as error:
            self._end(FAILED, str(error))
            raise
        finally:
            self._cluster.close()

    def _keep_promise(self, tasks: Sequence[Task]) -> None:
        """Done already? Take the lock; done now? Run, record, next."""
        if self._open(tasks) or not self._locked(tasks):
            self._run_between(tasks)
            self._end(DONE)
            return
        self._begin()
        for task in tasks:
            if self.plan.before_migrate:
                self._run_before(task)
            with self._named(task):
                if not task.clustered:
                    self.run_one(task)
                elif self._cluster.done([task]):
                    self.left.remove(task.name)
                    log.say(f"{self._place(task)} is done already")
                else:
                    self._run_and_record(task)
        self._cluster.ledger.end(self._epoch, DONE)
        self._epoch = 0
        session = self._cluster.session
        self._journal.close(session, DONE)  # a session that is lost from here on is seen by what comes last
        session.unlock()

    def _run_before(self, task: Task) -> None:
        """What must have run before *task*, if that is ``migrate`` and a migration is pending."""
        from startup.run.before_migrate import due, failed

        for one in due(self.plan, task, self._cluster.session):
            with self._named(one), failed():
                if self._cluster.done([one]):
                    log.say(f"{self._place(one)} is done already, for the same pending migrations")
                else:
                    self._run_and_record(one)

    def _open(self, tasks: Sequence[Task]) -> bool:
        """Was everything found done, while the app booted or now? Else there is a session."""
        self._journal.begin(journal.WAIT, "database")
        try:
            return self._cluster.open_prepared(tasks)
        finally:
            self._journal.end()

    def _locked(self, tasks: Sequence[Task]) -> bool:
        """Wait for the lock; False when others have done all."""
        from startup.run.waiting import Waiting

        return Waiting(self._cluster, tasks, self._say_waiting).until_locked()

    def _run_between(self, tasks: Sequence[Task]) -> None:
        """Everything of the cluster's is done: what is left are local tasks that stand between."""
        done = [task.name for task in tasks if task.clustered]
        for name in done:
            self.left.remove(name)
        log.say(f"nothing to do: {', '.join(done)} {'is' if len(done) == 1 else 'are'} done already")
        self._run_local([task for task in tasks if not task.clustered])

    def _begin(self) -> None:
        """With the lock, and when nobody can be at work any more: a new run."""
        from startup.run import waiting

        session, ledger = self._cluster.session, self._cluster.ledger
        if why := session.read_only:
            raise waiting.unwritable("nothing can be written", why)
        try:
            ledger.create()
        except StartupError:
            raise
        except Exception as error:  # psycopg.errors.InsufficientPrivilege, sqlite3.OperationalError ...
            raise TaskFailed(
                f"the ledger's tables could not be made: {str(error).partition(chr(10))[0]}; the role of DATABASE_URL "
                "must be allowed to CREATE in its schema, or STARTUP_DATABASE_URL must name one that is"
            ) from error
        self._journal.create(session)
        waiting.for_vanished(self._cluster, self._say_waiting)
        self._epoch = ledger.begin(self.settings.node, self.plan.phase, len(self.plan.tasks))
        self._journal.end()

    def _end(self, state: str, error: str = "") -> None:
        """For the nodes that wait, and for `status`. Not having it must not hide why the run ends."""
        try:
            if self._epoch:
                self._cluster.session.reset()
                self._cluster.ledger.end(self._epoch, state, log.redact(error))
            if self._cluster.is_open:
                self._journal.close(self._cluster.session, state)
        except Exception as reason:
            log.debug(f"the run's end could not be written: {reason}")

    def _run_and_record(self, task: Task) -> None:
        session, ledger = self._cluster.session, self._cluster.ledger
        key = task.key(self.settings.release)  # of its content as it is before it runs
        entry = Entry(task.name, key, task.policy, RUNNING, self.settings.node, self._epoch, self.settings.release)
        started = self._announce(task)
        ledger.step(self._epoch, task.name, self._position(task))
        self._journal.write(session, RUNNING)

        def once() -> str:
            try:
                with self._execution.limited(task):
                    return self._run_with_row(task, entry, time.monotonic())
            except TaskFailed:
                session.reset()
                session.require_lock()  # LockLost instead: whoever has it now has the ledger too
                raise

        try:
            result = self._tried(task, once)
        except TaskFailed as error:
            if task.ledgered:
                with contextlib.suppress(TaskFailed):
                    ledger.mark(self._epoch, replace(entry, state=FAILED, error=log.redact(str(error))))
            raise
        session.require_lock()
        session.reset()
        self._finished(task, started, result)

    def _run_with_row(self, task: Task, entry: Entry, started: float) -> str:
        """Run one task with its ledger row, in one transaction where it can be; a word on what it did."""
        session, ledger = self._cluster.session, self._cluster.ledger

        def mark_done() -> None:
            seconds = round(time.monotonic() - started, 3)
            ledger.mark(self._epoch, replace(entry, state=DONE, seconds=seconds))

        if not task.ledgered:
            return self._execution.run(task, started, session)
        if task.batched:
            from startup.run.backfill import Backfill

            return Backfill(self._execution, session, ledger, entry, partial(self._say_going_on, task)).run(
                task, started
            )
        if task.transactional:
            with session.transaction(mark_done):
                return self._execution.run(task, started, session)
        ledger.mark(self._epoch, entry)
        result = self._execution.run(task, started, session)
        session.require_lock()
        session.reset()
        mark_done()
        return result

    def _tried(self, task: Task, once: Callable[[], str]) -> str:
        """Do *once*, and again while the task has retries left. The nodes that wait for it see a task that runs."""
        from startup.run.retries import tried

        def tell(what: str) -> None:
            self.state.phase(f"running {self._place(task)} {what}")

        return tried(task, once, self._require_lock_if_held, tell)

    def _require_lock_if_held(self) -> None:
        if self._epoch:
            self._cluster.session.require_lock()

    # ------------------------------------------------------------------------- what is told

    def _say_waiting(self, text: str) -> None:
        log.say(text)
        self.state.phase(text)
        self._journal.wait(self._cluster.session, self._cluster.away)

    def _say_going_on(self, task: Task, text: str) -> None:
        log.say(f"{self._place(task)} {text}")
        self.state.phase(f"running {self._place(task)} which {text}")

    def _announce(self, task: Task) -> float:
        log.say(f"{self._place(task)} starts")
        self.state.phase(f"running {self._place(task)}")
        self._journal.begin(journal.TASK, task.name)
        return time.monotonic()

    def _finished(self, task: Task, started: float, result: str) -> None:
        if task.policy != BEFORE_MIGRATE:
            self.left.remove(task.name)
        self._journal.end()
        took = time.monotonic() - started
        log.say(f"{self._place(task)} is done after {took:.2f} s{': ' if result else ''}{result}", seconds=took)

    @contextlib.contextmanager
    def _named(self, task: Task) -> Iterator[None]:
        """Every line names the task, also the last one when it fails."""
        log.always(task=task.name, position=self._position(task), total=len(self.plan.tasks))
        yield
        log.always(task=None, position=None, total=None)

    def _position(self, task: Task) -> int:
        if task.policy == BEFORE_MIGRATE:  # that of ``migrate``
            return [one.builtin is not None and not one.ledgered for one in self.plan.tasks].index(True) + 1
        return self.plan.tasks.index(task) + 1

    def _place(self, task: Task) -> str:
        what = f"{task.name} {BEFORE_MIGRATE}" if task.policy == BEFORE_MIGRATE else task.name
        return f"task {self._position(task)} of {len(self.plan.tasks)}, {what},"
