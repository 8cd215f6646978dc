"""Waiting for the node that runs the tasks: done when all is, failed when it has failed, next when it is gone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone

from startup import log
from startup.database.session import Holder
from startup.errors import Busy, LockUnavailable, TaskFailed, Unreachable
from startup.ledger import ledger as book
from startup.ledger.ledger import Run
from startup.plan.task import Task
from startup.run.cluster import Cluster

#: Seconds between two looks: short at first, for a run that is over soon, then easy on the server.
FIRST_PAUSE, LONGEST_PAUSE = 0.025, 1.0
#: Seconds until a wait that goes on unchanged is mentioned again.
LINE_EVERY = 10.0
#: Seconds until "all done?" is asked again while the run has not moved: somebody may migrate by hand.
ASK_AGAIN = 5.0


def looks() -> Iterator[float]:
    """The seconds waited so far, again and again, with a pause in between that nobody else has, too."""
    started, pause = time.monotonic(), FIRST_PAUSE
    while True:
        yield time.monotonic() - started
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 2, LONGEST_PAUSE)


class Telling:
    """Says why there is a wait: when the reason changes, and every 10 s."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._reason: object = None
        self._since = self._said = 0.0

    def due(self, reason: object) -> bool:
        """Is it time for a line?"""
        return reason != self._reason or time.monotonic() - self._said >= LINE_EVERY

    def say(self, reason: object, text: str) -> None:
        """The line, if it is time for one."""
        if not self.due(reason):
            return
        now = time.monotonic()
        if reason != self._reason:
            self._reason, self._since = reason, now
        waited = round(now - self._since)
        self._said = now
        self._say(f"{text} (waiting for {waited} s)" if waited else text)


class Waiting:
    """A node's wait for its turn at *tasks*, or for somebody else to have done them."""

    def __init__(self, cluster: Cluster, tasks: Sequence[Task], say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._settings = cluster.settings
        self._tasks = tasks
        self._telling = Telling(say)
        self._before: Run | None = None
        self._seen: Run | None = None
        self._asked = 0.0
        self._idle_since: float | None = None
        self._busy_since: float | None = None
        self._read_only_since: float | None = None

    def until_locked(self) -> bool:
        """True with the lock; False when all is done. A session that is lost meanwhile is replaced.

        Raises TaskFailed when the node that was waited for has failed, LockUnavailable after STARTUP_LOCK_TIMEOUT or
        STARTUP_FOLLOW_TIMEOUT, Unreachable when nothing can be written for STARTUP_DATABASE_TIMEOUT.
        """
        for waited in looks():
            try:
                locked = self._look(waited)
                if locked is not None:
                    return locked
                read_only = self._cluster.session.read_only if self._read_only_since else ""
            except Busy as error:
                self._wait_in_the_dark(error, waited)
                continue
            except Unreachable as error:
                log.warn(f"{error}; connecting again")
                self._reconnect()
                continue
            if read_only:
                self._be_patient_with(read_only)
            else:
                self._read_only_since = None
        raise AssertionError("looks() has no end")

    def _look(self, waited: float) -> bool | None:
        session, ledger = self._cluster.session, self._cluster.ledger
        run = ledger.run()
        self._busy_since = None
        self._before = self._before or run
        if self._all_done(run):
            return False
        self._fail_with(run)
        if self._settings.role == "follower":
            self._follow(run)
        elif session.try_lock():
            self._fail_with(ledger.run())
            return True
        else:
            self._wait_for_lock(run, waited)
        return None

    def _all_done(self, run: Run) -> bool:
        """Asked when the run has moved on, and every now and then: waiting nodes are to be easy on the server."""
        every = LONGEST_PAUSE if self._settings.role == "follower" else ASK_AGAIN
        if run == self._seen and time.monotonic() - self._asked < every:
            return False
        self._seen, self._asked = run, time.monotonic()
        return self._cluster.done(self._tasks)

    def _fail_with(self, run: Run) -> None:
        """A run that was waited for has failed: so has this node."""
        assert self._before is not None
        if failure := run.failed_since(self._before):
            raise TaskFailed(f"{failure}, which this node was waiting for")

    def _wait_for_lock(self, run: Run, waited: float) -> None:
        reason = (run.epoch, run.state, run.task)
        limit = self._settings.lock_timeout
        over = limit and waited >= limit
        if not over and not self._telling.due(reason):
            return
        holder = self._cluster.session.holder()
        if holder is not None:
            self._telling.say(reason, f"waiting for the lock: {_whom(holder, run)}")
        elif self._read_only_since is None and self._cluster.session.read_only:
            self._read_only_since = time.monotonic()
        if over:
            raise LockUnavailable(
                f"the lock was not free within {limit:g} s (STARTUP_LOCK_TIMEOUT): "
                f"{_whom(holder, run) if holder else 'others were faster'}; look at that node, or wait longer"
            )

    def _follow(self, run: Run) -> None:
        """Others do the work: wait as long as somebody is at it, or STARTUP_FOLLOW_TIMEOUT lasts."""
        holder = self._cluster.session.holder()
        now = time.monotonic()
        if holder is not None:
            self._idle_since = None
            self._telling.say((run.epoch, run.state, run.task), f"following: {_whom(holder, run)}")
            return
        self._idle_since = self._idle_since or now
        self._telling.say(
            "", "following: nobody runs the tasks now, and this node must not (STARTUP_ROLE is 'follower')"
        )
        limit = self._settings.follow_timeout
        if limit and now - self._idle_since >= limit:
            names = ", ".join(task.name for task in self._tasks if task.clustered)
            raise LockUnavailable(
                f"nobody has run {names} for {limit:g} s (STARTUP_FOLLOW_TIMEOUT): start the job that does "
                "(startup init), or leave STARTUP_ROLE at auto"
            )

    def _wait_in_the_dark(self, error: Busy, waited: float) -> None:
        """Nobody can look how far the run is while its transaction keeps readers out; only who holds the lock."""
        run = self._seen or Run()
        if self._cluster.session.holder() is not None:
            self._busy_since = None
            if self._settings.role == "follower":
                self._follow(run)
            else:
                self._wait_for_lock(run, waited)
            return
        now = time.monotonic()
        self._busy_since = self._busy_since or now
        self._telling.say("busy", f"waiting for another program's transaction: {error}")
        limit = self._settings.database_timeout
        if limit and now - self._busy_since >= limit:
            raise error

    def _be_patient_with(self, read_only: str) -> None:
        """A server that only reads may be about to be promoted, or the address may soon lead to another one."""
        self._telling.say(read_only, f"waiting for a server that can be written to: {read_only}")
        limit = self._settings.database_timeout
        if limit and time.monotonic() - (self._read_only_since or 0.0) >= limit:
            raise Unreachable(
                f"there is work to do, but nothing could be written for {limit:g} s (STARTUP_DATABASE_TIMEOUT): "
                f"{read_only}; right would be STARTUP_DATABASE_URL with the primary's address and a role that may write"
            )
        self._reconnect()

    def _reconnect(self) -> None:
        self._seen = None
        self._cluster.open()


def for_vanished(cluster: Cluster, say: Callable[[str], None]) -> None:
    """With the lock: a node that vanished may still run a command, until it notices that its session is gone."""
    session, run = cluster.session, cluster.ledger.run()
    running = [e for e in cluster.ledger.entries() if e.state == book.RUNNING and e.epoch == run.epoch]
    if run.state != book.RUNNING or not running or not session.dead_peer_seconds:
        return
    limit = session.dead_peer_seconds + cluster.settings.stop_timeout
    telling = Telling(say)
    for waited in looks():
        if waited >= limit:
            return
        telling.say(
            run.epoch,
            f"{run.node} vanished while it ran the task {running[0].task}: waiting {limit:.0f} s, until it must have "
            "noticed that and stopped it",
        )
        session.require_lock()


def _whom(holder: Holder, run: Run) -> str:
    running = run.state == book.RUNNING and holder.may_be(run.node)
    place = f", {run.place()}, since {_clock(run.started_at)}" if running else ""
    return f"{holder.name(run.node if running else '') or 'another program'} holds it{place} ({holder.detail})"


def _clock(moment: object) -> str:
    """The time of day, in UTC, of a ledger's time stamp: psycopg gives a datetime, SQLite text in UTC."""
    if isinstance(moment, datetime):
        moment = moment.astimezone(timezone.utc)
    return f"{str(moment)[11:19]} UTC"
