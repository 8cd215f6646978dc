"""What each node did, and when, for the timeline of ``status``: one row a node and phase, replaced at its next boot.

Written by nodes that run something or wait for one that does, on the connection that they have anyway. One that finds
nothing to do writes nothing. Nothing rests on these rows: what keeps one from being written (no rights, a standby, a
busy file) is no failure, but a session that is gone is. Times are seconds before the row was written, so that no node's
clock counts but the server's.
"""

from __future__ import annotations

import time

from startup import log
from startup.database.session import Session
from startup.database.tables import Table, make
from startup.errors import StartupError
from startup.records import dataclass

_TEXT = dict.fromkeys(("namespace", "node", "phase", "state", "spans"), "text")
NODES = Table("startup_node", {**_TEXT, "changed_at": "{time}"}, key="namespace, node, phase")
PING, WAIT, TASK = "ping", "wait", "task"
WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
#: Waiting, without a connection between two looks; it tells that it is still there every REFRESH seconds at the least,
#: and counts for STALE seconds.
AWAY, REFRESH, STALE = "away", 60.0, 300.0  # Dialect.some_minutes_ago
#: Seconds that connecting may take.
SHORT = 0.5


@dataclass
class Span:
    """What a node did from ``start`` to ``end`` (None: it is still at it)."""

    kind: str
    name: str
    start: float
    end: float | None = None
    failed: bool = False


class Journal:
    """This node's own spans, kept in memory, and written when there is something to tell."""

    def __init__(self, namespace: str, node: str, phase: str) -> None:
        self._key = (namespace, node, phase)
        self.spans: list[Span] = []
        self._works: bool | None = None
        self._told = False
        self._written: tuple[str, float] = ("", 0.0)

    def passed(self, kind: str, seconds: float) -> None:
        """It has just done this, for so long."""
        now = time.monotonic()
        self.spans.append(Span(kind, "", now - seconds, now))

    def begin(self, kind: str, name: str = "") -> None:
        """It does this from now on, and no longer what it did before."""
        last = self.spans[-1] if self.spans else None
        if last is not None and last.end is None and (last.kind, last.name) == (kind, name):
            return
        self.end()
        self.spans.append(Span(kind, name, time.monotonic()))

    def end(self, failed: bool = False) -> None:
        """It does nothing more. To connect takes a moment: what is no longer than that was no wait for the database."""
        last = self.spans[-1] if self.spans else None
        if last is not None and last.end is None:
            last.end, last.failed = time.monotonic(), failed
            if (last.kind, last.name) == (WAIT, "database") and last.end - last.start < SHORT:
                self.spans.pop()

    def wait(self, session: Session, away: bool = False) -> None:
        """It waits: told at once, unless the one who is waited for is the only one who can write."""
        self.begin(WAIT, "lock")
        self._told = True
        state = AWAY if away else WAITING
        written, at = self._written
        if not session.dialect.single_writer and (state != written or time.monotonic() - at >= REFRESH):
            self.write(session, state)

    def close(self, session: Session, state: str) -> None:
        """How it ended, of a node that has waited or run; the first word counts."""
        self.end(failed=state == FAILED)
        if self._told:
            self.write(session, state)
            self._told = False

    def write(self, session: Session, state: str) -> None:
        """Replace this node's row. Fails only as the session does: LockLost, Unreachable."""
        self._told = True
        if self._works is False:
            return
        try:
            if self._may(session):
                self._write(session, state)
        except StartupError:
            raise
        except Exception as error:
            self._works = False
            log.debug(f"this node's row for the timeline could not be written: {error}")

    def _may(self, session: Session) -> bool:
        """Is the table there (the first run has yet to make it), and may this role write in it?"""
        if self._works is None and session.tables(NODES.name):
            self._works = session.may_write(NODES.name)
        return bool(self._works)

    def _write(self, session: Session, state: str) -> None:
        import json

        now = time.monotonic()
        spans = [
            (one.kind, one.name, round(now - one.start, 3), None if one.end is None else round(now - one.end, 3))
            + ((True,) if one.failed else ())
            for one in self.spans
        ]
        values = dict.fromkeys(("namespace", "node", "phase", "state", "spans"), "%s")
        session.execute_if_free(
            session.dialect.upsert(
                session.qualify(NODES.name), {**values, "changed_at": session.dialect.now}, NODES.key
            ),
            (*self._key, state, log.redact(json.dumps(spans, ensure_ascii=False))),
        )
        self._written = state, now

    def create(self, session: Session) -> None:
        """Make the table and take old rows out of it. Only under the lock; a role that may not goes without."""
        try:
            if not NODES.stands_in(session.tables(NODES.name)):
                with session.transaction():
                    make(session, NODES)
            if self._may(session):
                session.execute(
                    f"DELETE FROM {session.qualify(NODES.name)} WHERE namespace = %s AND changed_at < "
                    + session.dialect.a_day_ago,
                    self._key[:1],
                )
        except StartupError:
            raise
        except Exception as error:
            self._works = False
            log.debug(f"there will be no timeline: {error}")


@dataclass
class Node:
    """A node's row as it was read; times are seconds since the epoch, by the database's clock."""

    node: str
    phase: str
    state: str
    changed_at: float
    spans: list[Span]

    @property
    def start(self) -> float:
        """When it began."""
        return min((span.start for span in self.spans), default=self.changed_at)

    @property
    def live(self) -> bool:
        """Is it at work, or waiting?"""
        return self.state in (WAITING, AWAY, RUNNING)


class Told:
    """How many nodes of a namespace have told that they wait, with and without a connection."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._there = False

    def waiting(self, session: Session) -> int:
        """So many, as far as they may write that down."""
        self._there = self._there or NODES.stands_in(session.tables(NODES.name))
        if not self._there:
            return 0
        rows = session.execute(
            f"SELECT {session.dialect.count} FROM {session.qualify(NODES.name)}"
            f" WHERE namespace = %s AND state IN (%s, %s) AND changed_at > {session.dialect.some_minutes_ago}",
            (self._namespace, WAITING, AWAY),
        )
        return int(rows[0][0])


def read(session: Session, namespace: str) -> list[Node]:
    """Every node's row of the namespace; none where there is no table, or it is of another making."""
    if not NODES.stands_in(session.tables(NODES.name)):
        return []
    rows = session.execute(
        f"SELECT node, phase, state, changed_at, spans FROM {session.qualify(NODES.name)} WHERE namespace = %s",
        (namespace,),
    )
    return [
        Node(node, phase, state or "", seconds(changed_at), _spans(spans, seconds(changed_at)))
        for node, phase, state, changed_at, spans in rows
        if changed_at is not None
    ]


def _spans(text: str, written: float) -> list[Span]:
    import json

    try:
        return [
            Span(kind, name, written - start, None if end is None else written - end, bool(failed))
            for kind, name, start, end, *failed in json.loads(text)
        ]
    except (TypeError, ValueError):  # a newer image's
        return []


def seconds(moment: object) -> float:
    """A time stamp of the ledger's as seconds since the epoch: psycopg gives a datetime, SQLite text in UTC."""
    from datetime import datetime, timedelta, timezone

    when = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment))
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return (when - datetime(1970, 1, 1, tzinfo=timezone.utc)) / timedelta(seconds=1)


def last_run(nodes: list[Node], now: float, near: float = 2.0) -> list[Node]:
    """Those of the last run: the one that changed last, and all whose times meet, one by way of another."""
    if not nodes:
        return []
    left = sorted(nodes, key=lambda one: now if one.live else one.changed_at, reverse=True)
    chosen = [left.pop(0)]
    first = chosen[0].start
    while left and (now if left[0].live else left[0].changed_at) >= first - near:
        chosen.append(left.pop(0))
        first = min(first, chosen[-1].start)
    return sorted(chosen, key=lambda one: (one.start, one.node))
