"""The verbs that look into the database: ``status``, ``forget``, ``rollback``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from datetime import datetime, timezone
from typing import Any

from startup import log
from startup.database.connect import connect
from startup.database.session import Session
from startup.errors import LockUnavailable, SettingError, Unreachable
from startup.ledger import journal
from startup.ledger import ledger as book
from startup.ledger.journal import Node
from startup.ledger.ledger import Ledger
from startup.settings.settings import Settings, normal, require
from startup.verbs import timeline

#: The width of the first column, and how many names of a kind are listed.
MARGIN, SHOWN = 12, 10
#: What PostgreSQL keeps of a node's name: NAMEDATALEN - 1 bytes, without "startup/".
NODE_BYTES = 55


def status(arguments: argparse.Namespace, settings: Settings) -> int:
    """Migrations, ledger, who holds the lock, what it is doing and what blocks it; the last run as a timeline."""
    require(settings, database=True)
    session = connect(settings)
    try:
        found, nodes, now = _look(session, settings)
    finally:
        session.close()
    if arguments.json:
        json.dump(log.redact_all(found), sys.stdout, indent=2, default=str)
        print()
        return 0
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    terminal = sys.stdout.isatty()
    look = timeline.style(sys.stdout.encoding, terminal and not os.environ.get("NO_COLOR"))
    width = shutil.get_terminal_size((100, 24)).columns
    lines = [*_lines(found, _Paint(look.colours)), *_timeline(timeline.draw(nodes, now, width - MARGIN, look))]
    for line in lines:
        print(log.redact(line).rstrip())
    return 0


def _look(session: Session, settings: Settings) -> tuple[dict[str, Any], list[Node], float]:
    from startup.migrations import files, tables

    ledger = Ledger(session, settings.namespace)
    catalog = files.load(settings.migrations, given=settings.given("STARTUP_MIGRATIONS"))
    state = tables.pending(session, catalog)
    holder, run = session.holder(), ledger.run()
    now = journal.seconds(ledger.now()) if ledger.exists() else 0.0  # to ask would make SQLite's file
    nodes = _nodes(session, settings.namespace, now)
    vanished = run.state == book.RUNNING and not (holder and holder.may_be(run.node))
    found = {
        "database": log.redact(settings.address.masked if settings.address else ""),
        "namespace": settings.namespace,
        "migrations": {
            "applied": sorted(state.applied),
            "pending": [migration.id for migration in state.pending],
            "drifted": [migration.id for migration in state.drifted],
            "unknown": list(state.unknown),
            "interrupted": [str(one) for one in state.interrupted],
        },
        "lock": None
        if holder is None
        else {
            "node": holder.name(run.node if run.state == book.RUNNING else ""),
            "detail": holder.detail,
            "doing": holder.doing,
            "blocked_by": session.blockers(holder.pid),
        },
        "run": None
        if run.epoch == 0
        else {
            "number": run.epoch,
            "state": "vanished" if vanished else run.state,
            "node": run.node,
            "phase": run.phase,
            "task": run.task,
            "position": run.position,
            "total": run.total,
            "started_at": _in_utc(run.started_at),
            "changed_at": _in_utc(run.changed_at),
            "seconds_ago": round(now - journal.seconds(run.changed_at), 3),
            "error": run.error,
        },
        "nodes": [
            {
                "node": node.node,
                "phase": node.phase,
                "state": node.state,
                "spans": [
                    {
                        "kind": span.kind,
                        "name": span.name,
                        "started_at": _moment(span.start),
                        "seconds": round((span.end or (now if node.live else node.changed_at)) - span.start, 3),
                        "ended": span.end is not None,
                        "failed": span.failed,
                    }
                    for span in node.spans
                ],
            }
            for node in nodes
        ],
        "ledger": [
            {
                "task": entry.task,
                "key": entry.key,
                "policy": entry.policy,
                "state": entry.state,
                "node": entry.node,
                "release": entry.release,
                "finished_at": _in_utc(entry.finished_at),
                "seconds": entry.seconds,
                "error": entry.error,
            }
            for entry in ledger.entries()
        ],
    }
    return found, nodes, now


def _nodes(session: Session, namespace: str, now: float) -> list[Node]:
    """The nodes of the last run; one that says it is at work, but has no session any more, has vanished."""
    nodes, connected = journal.read(session, namespace), session.connected()
    for node in nodes:
        name = node.node.encode()[:NODE_BYTES].decode(errors="ignore")
        if node.live and connected is not None and name not in connected and name.isascii():
            node.state = "vanished"
    return journal.last_run(nodes, now)


def _in_utc(moment: object) -> object:
    """psycopg tells a time in the server's time zone; the timeline, and every log, is in UTC."""
    return moment.astimezone(timezone.utc) if isinstance(moment, datetime) else moment


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(sep=" ", timespec="milliseconds")


class _Paint:
    """Colours for a state, on a terminal."""

    _codes = {"pending": "33", "drifted": "31", "interrupted": "31", "failed": "31", "vanished": "31", "running": "33"}
    _codes |= {"unknown": "33", "done": "32", "stopped": "33"}

    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, text: str, state: str) -> str:
        code = self._codes.get(state)
        return f"\033[{code}m{text}\033[0m" if self._on and code else text


def _lines(found: dict[str, Any], paint: _Paint) -> list[str]:
    migrations, lock, run = found["migrations"], found["lock"], found["run"]
    counts = ", ".join(
        paint(f"{len(migrations[kind])} {kind}", kind if migrations[kind] else "")
        for kind in ("applied", "pending", "drifted", "unknown", "interrupted")
        if migrations[kind] or kind in ("applied", "pending", "drifted")
    )
    lines = [*_part("database", f"{found['database']}, namespace {found['namespace']}"), *_part("migrations", counts)]
    for kind in ("pending", "drifted", "unknown", "interrupted"):
        lines += [f"{'':<{MARGIN}}{kind}: {name}" for name in migrations[kind][:SHOWN]]
        if len(migrations[kind]) > SHOWN:
            lines.append(f"{'':<{MARGIN}}{kind}: {len(migrations[kind]) - SHOWN} more")
    lines += _holder(lock, run)
    if run is not None:
        place = f", task {run['position']} of {run['total']}, {run['task']}" if run["task"] else ""
        lines += _part(
            "last run",
            f"number {run['number']}: {paint(run['state'], run['state'])} on {run['node']}{place}, "
            f"{str(run['changed_at'])[:19]}",
            *str(run["error"] or "").splitlines(),
        )
    return lines + _ledger(found["ledger"], paint)


def _part(title: str, *lines: str) -> list[str]:
    return [f"{title if number == 0 else '':<{MARGIN}}{line}" for number, line in enumerate(lines)]


def _holder(lock: dict[str, Any] | None, run: dict[str, Any] | None) -> list[str]:
    if lock is None:
        return _part("lock", "free")
    lines = [f"{lock['node'] or 'a process'} holds it ({lock['detail']})"]
    if run is not None and run["state"] == book.RUNNING and run["task"]:
        lines.append(
            f"it runs task {run['position']} of {run['total']}, {run['task']}, for {run['seconds_ago']:.0f} s now"
        )
    if lock["doing"]:
        lines.append(f"its session: {lock['doing']}")
    lines += [f"it is blocked by {one}" for one in lock["blocked_by"]]
    return _part("lock", *lines)


def _ledger(entries: list[dict[str, Any]], paint: _Paint) -> list[str]:
    """One row a task and key, the columns as wide as they must be."""
    if not entries:
        return _part("ledger", "empty")
    table = [("task", "policy", "state", "finished", "took", "node", "release")]
    for entry in entries:
        took = f"{entry['seconds']:.2f} s" if entry["seconds"] is not None else ""
        when = str(entry["finished_at"] or "")[:19]
        table.append(
            (entry["task"], entry["policy"], entry["state"], when, took, entry["node"] or "", entry["release"] or "")
        )
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    rows = []
    for number, row in enumerate(table):
        cells = [f"{cell:>{widths[4]}}" if n == 4 else f"{cell:<{widths[n]}}" for n, cell in enumerate(row)]
        cells[2] = paint(cells[2], row[2])
        rows.append("  ".join(cells).rstrip())
        if number and entries[number - 1]["error"]:
            rows.append("  " + " ".join(str(entries[number - 1]["error"]).split()))
    return _part("ledger", *rows)


def _timeline(lines: list[str]) -> list[str]:
    return _part("timeline", *lines) if lines else []


def forget(arguments: argparse.Namespace, settings: Settings) -> int:
    """Take a task out of the ledger, so that it runs again."""
    require(settings, database=True)
    session = connect(settings)
    try:
        _lock(session)
        ledger = Ledger(session, settings.namespace)
        name = normal(arguments.name)
        if name == "migrate":
            raise SettingError("migrate has no row in the ledger: take migrations back with 'startup rollback'")
        if ledger.forget(name) == 0:
            known = sorted({entry.task for entry in ledger.entries()})
            raise SettingError(f"the ledger has no task '{name}': it has {', '.join(known) or 'none'}")
        log.say(f"{name} is taken out of the ledger: it runs again at the next boot")
        session.unlock()
    finally:
        session.close()
    return 0


def rollback(arguments: argparse.Namespace, settings: Settings) -> int:
    """Take back the newest migrations, under the lock."""
    from startup.migrations import files, rollback

    require(settings, database=True)
    catalog = files.load(settings.migrations, given=settings.given("STARTUP_MIGRATIONS"))
    session = connect(settings)
    try:
        _lock(session)
        limit = settings.table_lock_timeout
        for name in rollback.rollback(
            session, catalog, arguments.count, node=settings.node, table_lock_timeout=limit, report=log.say
        ):
            log.say(f"{name} is taken back")
        session.unlock()
    finally:
        session.close()
    return 0


def _lock(session: Session) -> None:
    """One try: a person is waiting, and can see who has it."""
    if session.try_lock():
        return
    if why := session.read_only:
        raise Unreachable(
            f"nothing can be written: {why}; right would be STARTUP_DATABASE_URL with the primary's address"
        )
    holder = session.holder()
    whom = f"{holder.node or 'another program'} holds it ({holder.detail})" if holder else "another node holds it"
    raise LockUnavailable(f"the lock is not free: {whom}; try again when it is done")
