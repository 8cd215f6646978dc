"""``startup status [--json]``: migrations, ledger, lock and the last run, as the database tells them now."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import closing
from datetime import datetime, timezone
from types import SimpleNamespace as Arguments
from typing import Any

from startup import log
from startup.database.connect import connect
from startup.database.session import Session
from startup.ledger import journal
from startup.ledger.journal import Node
from startup.ledger.ledger import RUNNING, Ledger, progress
from startup.migrations import files, tables
from startup.process.interrupts import Interrupts
from startup.settings.settings import Settings
from startup.verbs import common
from startup.verbs.timeline import Style, draw, style_for

#: The width of the first column, and how many names of a kind are listed.
MARGIN, SHOWN = 12, 10
#: What PostgreSQL keeps of a node's name: NAMEDATALEN - 1 bytes, without "startup/".
NODE_BYTES = 55
#: What the ledger says of a backfill.
_OF_BATCHES = ("cursor", "batches", "rate")
Report = dict[str, Any]


def status(arguments: Arguments, interrupts: Interrupts) -> int:
    """Migrations, ledger, who holds the lock, what it is doing and what blocks it; the last run as a timeline."""
    settings = common.load(for_database=True)
    with closing(connect(settings, reads_only=True)) as session:
        report, nodes, now = _look(session, settings)
    if arguments.json:
        json.dump(log.redact_all(report), sys.stdout, indent=2, default=str)
        print()
        return 0
    report = log.each_text(report, log.plain_lines)
    for node in nodes:
        node.node = log.plain(node.node)
        for span in node.spans:
            span.name = log.plain(span.name)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    style = style_for(sys.stdout.encoding, coloured=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    width = shutil.get_terminal_size((100, 24)).columns - MARGIN
    sections = {
        "database": [f"{report['database']}, namespace {report['namespace']}"],
        "migrations": _migrations(report["migrations"], style),
        "lock": _lock(report["lock"], report["run"]),
        "last run": _run(report["run"], style),
        "ledger": _ledger(report["ledger"], style),
        "timeline": draw(nodes, now, width, style),
    }
    for title, lines in sections.items():
        for number, line in enumerate(lines):
            print(log.redact(f"{'' if number else title:<{MARGIN}}{line}").rstrip())
    return 0


def _look(session: Session, settings: Settings) -> tuple[Report, list[Node], float]:
    """What --json prints, the nodes of the last run, and the time by the database's clock."""
    ledger = Ledger(session, settings.namespace)
    catalog = files.load(settings.migrations, given=settings.given("STARTUP_MIGRATIONS"))
    state = tables.pending(session, catalog)
    holder, run = session.holder(), ledger.run()
    now = journal.seconds(ledger.now()) if ledger.exists() else 0.0  # to ask would make SQLite's file
    nodes = _nodes(session, settings.namespace, now)
    vanished = run.state == RUNNING and not (holder and holder.may_be(run.node))
    begun = [str(one) for one in state.interrupted]
    at_work = bool(begun) and session.holder(migrations=True) is not None
    report: Report = {
        "database": settings.address.masked if settings.address else "",
        "namespace": settings.namespace,
        "migrations": {
            "applied": sorted(state.applied),
            "pending": [migration.id for migration in state.pending],
            "drifted": [migration.id for migration in state.drifted],
            "unknown": list(state.unknown),
            "interrupted": [] if at_work else begun,
            "running": begun if at_work else [],
        },
        "lock": None,
        "run": None,
        "nodes": [
            {
                **_fields(node, "node", "phase", "state"),
                "spans": [
                    {
                        **_fields(span, "kind", "name", "failed"),
                        "started_at": datetime.fromtimestamp(span.start, timezone.utc).isoformat(" ", "milliseconds"),
                        "seconds": round((span.end or (now if node.live else node.changed_at)) - span.start, 3),
                        "ended": span.end is not None,
                    }
                    for span in node.spans
                ],
            }
            for node in nodes
        ],
        "ledger": [
            _fields(
                entry,
                "task",
                "key",
                "policy",
                "state",
                "node",
                "release",
                "finished_at",
                "seconds",
                "error",
                *_OF_BATCHES,
            )
            for entry in ledger.entries()
        ],
    }
    if holder:
        report["lock"] = {
            "node": holder.name(run.node if run.state == RUNNING else ""),
            **_fields(holder, "detail", "doing"),
            "blocked_by": session.blockers(holder.pid),
        }
    if run.epoch:
        report["run"] = {
            "number": run.epoch,
            "state": "vanished" if vanished else run.state,
            **_fields(run, "node", "phase", "task", "position", "total", "started_at", "changed_at", "error"),
            "seconds_ago": round(now - journal.seconds(run.changed_at), 3),
        }
    return report, nodes, now


def _nodes(session: Session, namespace: str, now: float) -> list[Node]:
    """The nodes of the last run; one that says it is at work, but has no session any more, has vanished."""
    nodes, connected = journal.read(session, namespace), session.connected()
    for node in nodes:
        name = node.node.encode()[:NODE_BYTES].decode(errors="ignore")
        away = node.state == journal.AWAY and now - node.changed_at < journal.STALE
        if node.live and not away and connected is not None and name not in connected and name.isascii():
            node.state = "vanished"
    return journal.last_run(nodes, now)


def _fields(record: object, *names: str) -> Report:
    """These of its fields. psycopg tells a time in the server's time zone; the timeline, and every log, is in UTC."""
    found = {name: getattr(record, name) for name in names}
    return {n: v.astimezone(timezone.utc) if isinstance(v, datetime) else v for n, v in found.items()}


def _migrations(found: Report, style: Style) -> list[str]:
    shown = [kind for kind in found if found[kind] or kind in ("applied", "pending", "drifted")]
    lines = [", ".join(style.paint(f"{len(found[kind])} {kind}", kind if found[kind] else "") for kind in shown)]
    for kind in shown[1:]:
        lines += [f"{kind}: {name}" for name in found[kind][:SHOWN]]
        if len(found[kind]) > SHOWN:
            lines.append(f"{kind}: {len(found[kind]) - SHOWN} more")
    return lines


def _lock(lock: Report | None, run: Report | None) -> list[str]:
    if lock is None:
        return ["free"]
    lines = [f"{lock['node'] or 'a process'} holds it ({lock['detail']})"]
    if run and run["state"] == RUNNING and run["task"]:
        lines.append(f"it runs{_place(run)}, for {run['seconds_ago']:.0f} s now")
    if lock["doing"]:
        lines.append(f"its session: {lock['doing']}")
    return lines + [f"it is blocked by {one}" for one in lock["blocked_by"]]


def _run(run: Report | None, style: Style) -> list[str]:
    if run is None:
        return []
    place = f",{_place(run)}" if run["task"] else ""
    where = f"{style.paint(run['state'], run['state'])} on {run['node']}{place}, {str(run['changed_at'])[:19]}"
    return [f"number {run['number']}: {where}", *str(run["error"] or "").splitlines()]


def _place(run: Report) -> str:
    return f" task {run['position']} of {run['total']}, {run['task']}"


def _ledger(entries: list[Report], style: Style) -> list[str]:
    """One row a task and key, the columns as wide as they must be."""
    if not entries:
        return ["empty"]
    table = [("task", "policy", "state", "finished", "took", "node", "release")]
    for entry in entries:
        took = f"{entry['seconds']:.2f} s" if entry["seconds"] is not None else ""
        when = str(entry["finished_at"] or "")[:19]
        node, release = entry["node"] or "", entry["release"] or ""
        table.append((entry["task"], entry["policy"], entry["state"], when, took, node, release))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row, entry in zip(table, [{}, *entries], strict=True):
        cells = [f"{cell:{'>' if n == 4 else '<'}{widths[n]}}" for n, cell in enumerate(row)]
        cells[2] = style.paint(cells[2], row[2])
        lines.append("  ".join(cells).rstrip())
        if entry.get("cursor"):
            lines.append("  " + progress(*(entry[one] for one in _OF_BATCHES)))
        if entry.get("error"):
            lines.append("  " + " ".join(entry["error"].split()))
    return lines
