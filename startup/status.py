"""The verbs that look into the database: ``status``, ``forget``, ``rollback``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from startup import ledger as book
from startup import log
from startup.connect import connect
from startup.database import Session
from startup.errors import LockUnavailable, SettingError
from startup.ledger import Ledger
from startup.settings import Settings, normal, require


def status(arguments: argparse.Namespace, settings: Settings) -> int:
    """Migrations, ledger, who holds the lock, what it is doing and what blocks it."""
    require(settings, database=True)
    session = connect(settings)
    try:
        found = _look(session, settings)
    finally:
        session.close()
    if arguments.json:
        json.dump(log.redact_all(found), sys.stdout, indent=2, default=str)
        print()
        return 0
    for line in _lines(found):
        print(log.redact(line))
    return 0


def _look(session: Session, settings: Settings) -> dict[str, Any]:
    from startup import migrations
    from startup.migrations import files

    ledger = Ledger(session, settings.namespace)
    catalog = files.load(settings.migrations, given=settings.given("STARTUP_MIGRATIONS"))
    state = migrations.pending(session, catalog)
    holder, run = session.holder(), ledger.run()
    return {
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
            "blocked_by": session.blockers(holder.pid),
        },
        "run": None
        if run.epoch == 0
        else {
            "number": run.epoch,
            "state": run.state if run.state != book.RUNNING or holder else "vanished",
            "node": run.node,
            "task": run.task,
            "position": run.position,
            "total": run.total,
            "started_at": run.started_at,
            "changed_at": run.changed_at,
            "error": run.error,
        },
        "ledger": [
            {
                "task": entry.task,
                "key": entry.key,
                "policy": entry.policy,
                "state": entry.state,
                "node": entry.node,
                "release": entry.release,
                "finished_at": entry.finished_at,
                "seconds": entry.seconds,
                "error": entry.error,
            }
            for entry in ledger.entries()
        ],
    }


def _lines(found: dict[str, Any]) -> list[str]:
    migrations, lock, run = found["migrations"], found["lock"], found["run"]
    lines = [
        f"database    {found['database']}, namespace {found['namespace']}",
        f"migrations  {len(migrations['applied'])} applied, {len(migrations['pending'])} pending",
    ]
    for kind in ("pending", "drifted", "unknown", "interrupted"):
        lines += [f"            {kind}: {name}" for name in migrations[kind]]
    if lock is None:
        lines.append("lock        free")
    else:
        lines.append(f"lock        {lock['node'] or 'a process'} holds it ({lock['detail']})")
        lines += [f"            it is blocked by {one}" for one in lock["blocked_by"]]
    if run is not None:
        place = f", task {run['position']} of {run['total']}, {run['task']}" if run["task"] else ""
        lines.append(f"last run    {run['state']} on {run['node']}{place}, {str(run['changed_at'])[:19]}")
        if run["error"]:
            lines.append(f"            {run['error']}")
    if found["ledger"]:
        width = max(len(entry["task"]) for entry in found["ledger"])
        for number, entry in enumerate(found["ledger"]):
            took = f"{entry['seconds']:.2f} s" if entry["seconds"] is not None else ""
            when = str(entry["finished_at"] or "")[:19]
            lines.append(
                f"{'ledger' if number == 0 else '':<12}{entry['task']:<{width}}  {entry['policy']:<8}"
                f"{entry['state']:<8}{when:<20} {took:>9}  {entry['node']}"
            )
    return lines


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
    from startup import migrations
    from startup.migrations import files

    require(settings, database=True)
    catalog = files.load(settings.migrations, given=settings.given("STARTUP_MIGRATIONS"))
    session = connect(settings)
    try:
        _lock(session)
        for name in migrations.rollback(session, catalog, arguments.count, node=settings.node, report=log.say):
            log.say(f"{name} is taken back")
        session.unlock()
    finally:
        session.close()
    return 0


def _lock(session: Session) -> None:
    """One try: a person is waiting, and can see who has it."""
    if not session.try_lock():
        holder = session.holder()
        whom = f"{holder.node} holds it ({holder.detail})" if holder else "another node holds it"
        raise LockUnavailable(f"the lock is not free: {whom}; try again when it is done")
