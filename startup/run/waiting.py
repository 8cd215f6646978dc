"""Waiting for the node that runs the tasks: done when all is, failed when it has failed, next when it is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from startup import log
from startup.database.session import SILENT, Holder
from startup.errors import AwaitedFailed, Busy, LockUnavailable, Unreachable
from startup.ledger import journal
from startup.ledger.ledger import RUNNING, Run
from startup.patience import LONGEST_PAUSE, Announcer, Stopwatch, poll
from startup.plan.task import Task
from startup.records import replace
from startup.run.cluster import MOST_CONNECTED, Cluster

#: How many looks a second waiting nodes make all together, whatever their number: those that keep their connection,
#: and those that connect for each, which costs the server more.
LOOKS_KEPT, LOOKS_ANEW = 50.0, 16.0
#: Seconds until "all done?" is asked again while the run has not moved: somebody may migrate by hand.
ASK_AGAIN = 5.0


class Waiting:
    """A node's wait for its turn at *tasks*, or for somebody else to have done them."""

    def __init__(self, cluster: Cluster, tasks: Sequence[Task], say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._settings = cluster.settings
        self._tasks = tasks
        self._announcer = Announcer(say)
        self._first: Run | None = None  # the run that was found, and the one that was looked at last
        self._last: Run | None = None
        self._asked = Stopwatch()  # since "all done?"
        self._waited = Stopwatch(running=True)
        self._idle = Stopwatch()  # nobody has the lock
        self._kept_out = Stopwatch()  # by a transaction of another program's (SQLite)
        self._read_only = Stopwatch()
        self._told = journal.Told(self._settings.namespace)
        self._counted = Stopwatch()  # since the crowd was counted
        self._pause = 0.0
        self._its_turn = False  # to open a session that can take the lock

    def until_locked(self) -> bool:
        """True with the lock; False when all is done. A session that is lost meanwhile is replaced.

        Raises AwaitedFailed when the node that was waited for has failed, LockUnavailable after STARTUP_LOCK_TIMEOUT or
        STARTUP_FOLLOW_TIMEOUT, Unreachable when nothing can be written for STARTUP_DATABASE_TIMEOUT.
        """
        for _ in poll(lambda: min(self._pause, self._left or self._pause)):
            locked = self._try()
            if self._its_turn:
                self._its_turn = False
                self._cluster.open()
                locked = self._try()
            if locked is not None:
                self._cluster.away = False
                return locked
        raise AssertionError("poll() has no end")

    def _try(self) -> bool | None:
        """One look, on a session that is there, or is replaced; None to go on waiting."""
        if not self._cluster.is_open:
            self._reconnect()
        try:
            with self._cluster.session.answered_within(min(SILENT, self._left or SILENT)):
                locked = self._poll()
                if locked is not None or self._its_turn:
                    return locked
                read_only = self._cluster.session.read_only if self._read_only.running else ""
        except Busy as error:
            self._wait_in_the_dark(error)
            return None
        except Unreachable as error:
            log.warn(f"{error}; connecting again")
            self._reconnect()
            return None
        self._read_only.run(bool(read_only))
        if read_only:
            self._be_patient_with(read_only)
        elif self._cluster.away:
            self._cluster.close()
        return None

    def _poll(self) -> bool | None:
        session, ledger = self._cluster.session, self._cluster.ledger
        run = ledger.run()
        self._kept_out.run(False)
        self._first = self._first or run
        if self._all_done(run):
            return False
        self._fail_with(run)
        if self._settings.role == "follower":
            self._follow(run)
        elif self._cluster.has_turn():
            self._its_turn = True
        elif not session.only_looks and session.try_lock():
            self._fail_with(ledger.run())
            return True
        else:
            self._wait_for_lock(run)
        return None

    @property
    def _left(self) -> float:
        """Of STARTUP_LOCK_TIMEOUT, in seconds, and enough for a look; 0 where there is no limit."""
        limit = self._settings.lock_timeout
        return max(0.5, limit - self._waited.seconds) if limit and self._settings.role != "follower" else 0.0

    def _make_room(self) -> None:
        """The more nodes wait, the less often each looks; where connections are scarce, it keeps none meanwhile."""
        if self._counted.running and not self._counted.over(ASK_AGAIN):
            return
        self._counted = Stopwatch(running=True)
        cluster, nodes = self._cluster, 0
        if cluster.away:
            nodes = self._told.waiting(cluster.session)
        if nodes <= MOST_CONNECTED:
            crowd = cluster.session.crowd()
            if not cluster.away and crowd.connected > MOST_CONNECTED // 2:  # others may be away
                nodes = self._told.waiting(cluster.session)
            nodes = max(nodes, crowd.connected)
            cluster.away = cluster.is_scarce(replace(crowd, connected=nodes))
        self._pause = nodes / (LOOKS_ANEW if cluster.away else LOOKS_KEPT)

    def _all_done(self, run: Run) -> bool:
        """Asked when the run has moved on, and every now and then: waiting nodes are to be easy on the server."""
        every = max(3 * self._pause, LONGEST_PAUSE if self._settings.role == "follower" else ASK_AGAIN)
        if run == self._last and not self._asked.over(every):
            return False
        self._last, self._asked = run, Stopwatch(running=True)
        return self._cluster.done(self._tasks)

    def _fail_with(self, run: Run) -> None:
        """A run that was waited for has failed: so has this node."""
        assert self._first is not None
        if failure := run.failed_since(self._first):
            raise AwaitedFailed(f"{failure}, which this node was waiting for")

    def _wait_for_lock(self, run: Run) -> None:
        self._make_room()
        reason = (run.epoch, run.state, run.task)
        limit = self._settings.lock_timeout
        over = self._waited.over(limit)
        if not over and not self._announcer.due(reason):
            return
        holder = self._cluster.session.holder()
        if holder is not None:
            self._announcer.say(reason, f"waiting for the lock: {_whom(holder, run)}")
        elif self._cluster.session.read_only:
            self._read_only.run(True)
        if over:
            raise LockUnavailable(
                f"the lock was not free within {limit:g} s (STARTUP_LOCK_TIMEOUT): "
                f"{_whom(holder, run) if holder else 'others were faster'}; look at that node, or wait longer"
            )

    def _follow(self, run: Run) -> None:
        """Others do the work: wait as long as somebody is at it, or STARTUP_FOLLOW_TIMEOUT lasts."""
        self._make_room()
        holder = self._cluster.session.holder()
        self._idle.run(holder is None)
        if holder is not None:
            self._announcer.say((run.epoch, run.state, run.task), f"following: {_whom(holder, run)}")
            return
        self._announcer.say(
            "", "following: nobody runs the tasks now, and this node must not (STARTUP_ROLE is 'follower')"
        )
        limit = self._settings.follow_timeout
        if self._idle.over(limit):
            names = ", ".join(task.name for task in self._tasks if task.clustered)
            raise LockUnavailable(
                f"nobody has run {names} for {limit:g} s (STARTUP_FOLLOW_TIMEOUT): start the job that does "
                "(startup init), or leave STARTUP_ROLE at auto"
            )

    def _wait_in_the_dark(self, error: Busy) -> None:
        """Nobody can look how far the run is while its transaction keeps readers out; only who holds the lock."""
        run = self._last or Run()
        somebody = self._cluster.session.holder() is not None
        self._kept_out.run(not somebody)
        if not somebody:
            self._announcer.say("busy", f"waiting for another program's transaction: {error}")
            if self._kept_out.over(self._settings.database_timeout):
                raise error
        elif self._settings.role == "follower":
            self._follow(run)
        else:
            self._wait_for_lock(run)

    def _be_patient_with(self, read_only: str) -> None:
        """A server that only reads may be about to be promoted, or the address may soon lead to another one."""
        self._announcer.say(read_only, f"waiting for a server that can be written to: {read_only}")
        limit = self._settings.database_timeout
        if self._read_only.over(limit):
            raise unwritable(f"nothing could be written for {limit:g} s (STARTUP_DATABASE_TIMEOUT)", read_only)
        self._reconnect()

    def _reconnect(self) -> None:
        limit = self._settings.lock_timeout
        if self._left and self._waited.over(limit) and not self._cluster.away:
            raise LockUnavailable(
                f"the lock was not free within {limit:g} s (STARTUP_LOCK_TIMEOUT), and the database does not answer"
            )
        if not self._cluster.away:
            self._last = None
        self._cluster.open(self._left)


def for_vanished(cluster: Cluster, say: Callable[[str], None]) -> None:
    """With the lock: a node that vanished may still run a command, until it notices that its session is gone."""
    session, run = cluster.session, cluster.ledger.run()
    running = [e for e in cluster.ledger.entries() if e.state == RUNNING and e.epoch == run.epoch]
    if run.state != RUNNING or not running or not session.dead_peer_seconds:
        return
    limit = session.dead_peer_seconds + cluster.settings.stop_timeout
    announcer, waited = Announcer(say), Stopwatch(running=True)
    for _ in poll():
        if waited.over(limit):
            return
        announcer.say(
            run.epoch,
            f"{run.node} vanished while it ran the task {running[0].task}: waiting {limit:.0f} s, until it must have "
            "noticed that and stopped it",
        )
        session.require_lock()


def unwritable(what: str, why: str) -> Unreachable:
    """The error of a node that has work to do on a database that it may only read."""
    return Unreachable(
        f"there is work to do, but {what}: {why}; right would be STARTUP_DATABASE_URL with the primary's address and a "
        "role that may write"
    )


def _whom(holder: Holder, run: Run) -> str:
    running = run.state == RUNNING and holder.may_be(run.node)
    place = f", {run.place()}" if running else ""
    if running and run.started_at is not None:
        place += time.strftime(", since %H:%M:%S UTC", time.gmtime(journal.seconds(run.started_at)))
    return f"{holder.name(run.node if running else '') or 'another program'} holds it{place} ({holder.detail})"
