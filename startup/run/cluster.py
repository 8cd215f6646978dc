"""The database as the runner sees it: one session, the ledger on it, and how much of a list is done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from startup import log
from startup.database.session import SILENT, Crowd, Session
from startup.errors import Unreachable
from startup.ledger.ledger import Ledger
from startup.plan.task import Task
from startup.process.interrupts import Interrupts
from startup.settings.settings import Settings

#: With more nodes connected, or fewer connections to spare, one that waits keeps none between two looks.
MOST_CONNECTED, LEAST_SPARE = 55, 10
NICE = 10  # setpriority(2); on Linux a thread has its own


class Cluster:
    """Opens the session that waits, holds the lock and does the work; never more than one at a time."""

    def __init__(self, settings: Settings, interrupts: Interrupts, connect: Callable[..., Session]) -> None:
        self.settings = settings
        self._interrupts = interrupts
        self._connect = connect
        self._session: Session | None = None
        self._ledger: Ledger | None = None
        self._thread: threading.Thread | None = None
        self._connected = False  # has there been a session that could have done the work?
        #: Was there nothing to do?
        self.found_done = False
        self._error: BaseException | None = None
        self._warned: set[str] = set()
        #: Does it wait without a connection between two looks?
        self.away = False

    def open(self, left: float = 0.0) -> None:
        """Connect; raises Unreachable after STARTUP_DATABASE_TIMEOUT, SettingError. Closes what was open.

        What was found out before is kept. *left* is what is left of STARTUP_LOCK_TIMEOUT then: LockUnavailable.
        """
        self.close()
        self._take(self._connect(again=left) if self._connected else self._connect())
        self._connected = True

    def _take(self, session: Session) -> None:
        if self._ledger is None:
            self._ledger = Ledger(session, self.settings.namespace)
        else:
            self._ledger.move_to(session)
        self._session = session
        self._interrupts.cancel = session.cancel

    def close(self) -> None:
        """Close the session, and with it the lock."""
        self._interrupts.cancel = None
        if self._session is not None:
            self._session.close()
            self._session = None

    def look(self, tasks: Sequence[Task]) -> bool:
        """Is all done? Most boots ask no more than that, so a session that costs little asks it first, if there is one.

        False where there is none. Unless all was :attr:`found_done`, a session is left open; see :meth:`has_turn`.
        Errors are those of :meth:`open` and :meth:`done`.
        """
        if any(task.policy == "always" and task.ledgered for task in tasks if task.clustered):
            self.open()
            return False
        self._take(self._connect(looks_only=True))
        if not self.session.only_looks:
            self._connected = True
            return False
        try:
            with self.session.answered_within(SILENT):
                self.found_done = self.done(tasks)
        except Unreachable as error:
            log.warn(f"{error}; connecting again")
            self.open()
        if self.found_done:
            self.close()
        return True

    def has_turn(self) -> bool:
        """Shall the session be replaced by one that can do the work? Not while another node is at it, or about to be.

        Most of what a node loads is for that; one that only waits goes on without. A follower never works.
        """
        return self.session.only_looks and self.settings.role != "follower" and self.session.try_turn()

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Connect and look, on a thread that yields to the app, so that little is left to do when that answers."""

        def look() -> None:
            try:
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
                looked = self.look(tasks)
                if self.is_open:
                    with self.session.answered_within(SILENT):
                        self.found_done = not looked and self.done(tasks)
                        its_turn = not self.found_done and self.has_turn()
                        if self.found_done or self.is_scarce(self.session.crowd()):
                            self.close()
                    if its_turn and self.is_open:
                        self.open()
            except BaseException as error:
                if not (isinstance(error, Unreachable) and self.is_open):  # lost again: whoever waits connects again
                    self._error = error

        self._thread = threading.Thread(target=look, daemon=True, name="prepare")
        self._thread.start()

    def open_prepared(self, tasks: Sequence[Task]) -> bool:
        """Open the session, unless that has been prepared; was everything found done then? A signal may end it.

        One that was prepared, and would have kept others out, is closed again.
        """
        if self._thread is None:
            self.look(tasks)
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.5)
        if self._error is not None:
            raise self._error
        return self.found_done

    def is_scarce(self, crowd: Crowd) -> bool:
        """Is it better to keep no connection while waiting?"""
        return crowd.connected > MOST_CONNECTED or crowd.spare < LEAST_SPARE

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
        """Is there nothing to do for any of *tasks*? Asked with and without the lock; changes nothing.

        An ``always`` task is never done. Raises TaskFailed for an applied migration whose content has changed.
        """
        ledgered = [task for task in tasks if task.clustered and task.ledgered]
        if any(task.policy == "always" for task in ledgered):
            return False
        done = self.ledger.done() if ledgered else set()
        if any((task.name, task.key(self.settings.release)) not in done for task in ledgered):
            return False
        others = [task.builtin for task in tasks if task.builtin is not None and not task.ledgered]
        return all(builtin.is_done(self.session, self.warn_once) for builtin in others)

    def warn_once(self, text: str) -> None:
        """A warning that was not said before."""
        if text not in self._warned:
            self._warned.add(text)
            log.warn(text)
