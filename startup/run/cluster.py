"""The database as the runner sees it: one session, the ledger on it, and how much of a list is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from startup import log
from startup.database.session import Session
from startup.errors import SettingError
from startup.ledger.ledger import Ledger
from startup.plan.task import Task
from startup.process.interrupts import Interrupts
from startup.settings.settings import Settings

if TYPE_CHECKING:
    from startup.migrations import apply


class Cluster:
    """Opens the session that waits, holds the lock and does the work; never more than one at a time."""

    def __init__(self, settings: Settings, interrupts: Interrupts, connect: Callable[[], Session]) -> None:
        self.settings = settings
        self._interrupts = interrupts
        self._connect = connect
        self._session: Session | None = None
        self._ledger: Ledger | None = None
        self._warned: set[str] = set()

    def open(self) -> None:
        """Connect; raises Unreachable after STARTUP_DATABASE_TIMEOUT, SettingError. Closes what was open."""
        self.close()
        self._session = self._connect()
        self._ledger = Ledger(self._session, self.settings.namespace)
        self._interrupts.cancel = self._session.cancel

    def close(self) -> None:
        """Close the session, and with it the lock."""
        self._interrupts.cancel = None
        if self._session is not None:
            self._session.close()
            self._session = None

    @property
    def is_open(self) -> bool:
        """Is there a session?"""
        return self._session is not None

    @property
    def session(self) -> Session:
        """The session, which is open."""
        assert self._session is not None
        return self._session

    @property
    def ledger(self) -> Ledger:
        """The ledger, on that session."""
        assert self._ledger is not None
        return self._ledger

    def done(self, tasks: Sequence[Task]) -> bool:
        """Is there nothing to do for any of *tasks*? Asked without the lock; changes nothing.

        An ``always`` task is never done. Raises TaskFailed for an applied migration whose content has changed.
        """
        clustered = [task for task in tasks if task.clustered]
        ledgered = [task for task in clustered if task.kind != "migrate"]
        if any(task.policy == "always" for task in ledgered):
            return False
        done = self.ledger.done() if ledgered else set()
        if any((task.name, self.key(task)) not in done for task in ledgered):
            return False
        return all(self.migrated(task) for task in clustered if task.kind == "migrate")

    def key(self, task: Task) -> str:
        """What a task has to be done for: once and for all, for a release, for a content."""
        if task.policy == "release":
            return f"release {self.settings.release}"
        if task.policy == "change":
            try:
                return f"content {task.content()}"
            except OSError as error:
                raise SettingError(f"task {task.name}: {error.filename} cannot be read: {error.strerror}") from None
        return task.policy

    def migrated(self, task: Task) -> bool:
        """Is nothing of *task*'s migrations pending? What is odd about them is then said, once."""
        from startup.migrations import tables

        state = tables.pending(self.session, task.data)
        # What looks interrupted may be running now, on the node that holds the lock.
        if not state.nothing_to_do or any(record.id in task.data.by_id for record in state.interrupted):
            return False
        if state.odd:
            from startup.migrations import apply

            drift = cast("apply.Drift", self.settings.drift)
            apply.review(self.session, task.data, state, drift=drift, warn=self.warn_once)
        return True

    def warn_once(self, text: str) -> None:
        """A warning that was not said before."""
        if text not in self._warned:
            self._warned.add(text)
            log.warn(text)
