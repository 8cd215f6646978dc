"""The verbs that explain: ``plan``, what would run and why not the rest; ``describe``, everything as resolved."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import TYPE_CHECKING

from startup import log
from startup.errors import StartupError
from startup.plan.planner import START_PHASES, STOP_PHASES, Plan, Planner
from startup.plan.task import Task
from startup.process.interrupts import Interrupts
from startup.settings.settings import Settings
from startup.verbs import common

if TYPE_CHECKING:
    from startup.database.session import Session
    from startup.migrations import tables
    from startup.run.runner import Runner


def plan(arguments: argparse.Namespace, interrupts: Interrupts) -> int:
    """What ``init`` would run, and why not the rest. Opens the database to look, changes nothing."""
    settings = common.load(warn=True)
    planner = Planner(settings)
    resolved = planner.plan("post_start")
    planner.check()
    for warning in resolved.warnings:
        log.warn(warning)
    with contextlib.closing(_Outlook(settings, resolved)) as outlook:
        _print_plan(settings, resolved, outlook)
    return 0


def _print_plan(settings: Settings, resolved: Plan, outlook: _Outlook) -> None:
    for number, task in enumerate(resolved.tasks, 1):
        _print(f"{number}. {task.name} ({_how_often(task)}; {task.source}): {outlook.of(task)}")
        for line in outlook.details(task):
            _print(f"   {line}")
    for note in resolved.notes:
        _print(f"-  {note}")
    if settings.role == "follower" and resolved.clustered:
        _print("-  this node only waits until others have done it, all but the local tasks: STARTUP_ROLE is 'follower'")
    if not resolved.tasks:
        _print("nothing would run")


class _Outlook:
    """What would become of each task, as the ledger and the migration tables stand now."""

    def __init__(self, settings: Settings, resolved: Plan) -> None:
        self._settings = settings
        self._done: set[tuple[str, str]] = set()
        self._session: Session | None = None
        self._why = ""
        self._runner: Runner | None = None
        if resolved.clustered:
            self._open(resolved)

    def _open(self, resolved: Plan) -> None:
        from startup.database.connect import connect
        from startup.ledger.ledger import Ledger
        from startup.run.runner import Runner
        from startup.state import State

        self._runner = Runner(self._settings, resolved, State(""), Interrupts(), lambda: connect(self._settings))
        try:
            self._session = connect(self._settings)
            self._done = Ledger(self._session, self._settings.namespace).done()
        except StartupError as error:
            self._why = f"cannot be told: {error}"

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def of(self, task: Task) -> str:
        if not task.clustered:
            return "runs on every boot"
        if self._session is None or self._runner is None:
            return self._why
        if task.kind == "migrate":
            state = self._pending(task)
            if state.pending:
                return f"{len(state.pending)} of {len(task.data.migrations)} migrations are pending"
            return f"nothing is pending ({len(task.data.migrations)} migrations are applied)"
        if task.policy == "always":
            return "runs on every boot, one node at a time"
        if (task.name, self._runner.key(task)) in self._done:
            return "is done already"
        return "runs, on one node"

    def details(self, task: Task) -> list[str]:
        if task.description:
            return [task.description]
        if task.kind == "command":
            return [task.command]
        if task.kind != "migrate" or self._session is None:
            return []
        from startup.migrations import rollback

        state = self._pending(task)
        lines: list[str] = []
        for migration in [*state.pending, *(task.data.post_apply if state.pending else state.owed)]:
            lines.append(f"{migration.id}  ({migration.path})")
            lines += [f"    {line}" for line in rollback.sql(migration).splitlines()]
        lines += [f"interrupted: {record}" for record in state.interrupted]
        lines += [f"{name}: the database has it, this image does not" for name in state.unknown]
        lines += [f"{migration.id}: its content changed after it was applied" for migration in state.drifted]
        return lines

    def _pending(self, task: Task) -> tables.State:
        from startup.migrations import tables

        assert self._session is not None
        return tables.pending(self._session, task.data)


def describe(arguments: argparse.Namespace, interrupts: Interrupts) -> int:
    """Tasks, hooks and settings as resolved, with where each came from; secrets are masked."""
    settings = common.load(warn=True)
    planner = Planner(settings)
    plans = {phase: planner.plan(phase) for phase in (*START_PHASES, *STOP_PHASES)}
    shown = dict(sorted(settings.values.items()))
    if arguments.json:
        found = {
            "settings": {
                name: {"value": value, "from": settings.origins.get(name, "default")} for name, value in shown.items()
            },
            "tasks": {
                phase: [
                    {
                        "name": task.name,
                        "policy": task.policy,
                        "kind": task.kind,
                        "source": task.source,
                        "description": _what(task),
                    }
                    for task in resolved.tasks
                ]
                for phase, resolved in plans.items()
            },
            "notes": [note for resolved in plans.values() for note in resolved.notes],
            "warnings": [*settings.warnings, *(one for resolved in plans.values() for one in resolved.warnings)],
            "faults": list(dict.fromkeys(planner.faults)),
        }
        json.dump(log.redact_all(found), sys.stdout, indent=2)
        print()
    else:
        for phase, resolved in plans.items():
            _print(f"{phase}:" if resolved.tasks or resolved.notes else f"{phase}: nothing")
            for task in resolved.tasks:
                _print(
                    f"  {task.name} ({_how_often(task)}; {task.source})" + (f": {_what(task)}" if _what(task) else "")
                )
            for note in resolved.notes:
                _print(f"  -  {note}")
        _print("settings:")
        for name, value in shown.items():
            _print(f"  {name}={value}  ({settings.origins.get(name, 'default')})")
    if arguments.json and planner.faults:
        return 78
    planner.check()
    return 0


def _what(task: Task) -> str:
    return task.description or (task.command if task.kind == "command" else "")


def _how_often(task: Task) -> str:
    return "what is pending" if task.kind == "migrate" else task.policy


def _print(line: str) -> None:
    print(log.redact(line))
