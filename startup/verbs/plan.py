"""The verb ``plan``: what ``init`` would run now, and why not the rest."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from startup import log
from startup.errors import StartupError
from startup.plan.planner import Plan, Planner
from startup.plan.task import Task
from startup.settings.settings import Settings

if TYPE_CHECKING:
    from startup.database.session import Session


def plan(arguments: argparse.Namespace, settings: Settings) -> int:
    """What ``init`` would run, and why not the rest. Opens the database to look, changes nothing."""
    planner = Planner(settings)
    resolved = planner.plan("post_start")
    planner.check()
    for warning in resolved.warnings:
        log.warn(warning)
    with contextlib.closing(_Outlook(settings, resolved)) as outlook:
        for line in _lines(settings, resolved, outlook):
            print(log.redact(line))
    return 0


def _lines(settings: Settings, resolved: Plan, outlook: _Outlook) -> Iterator[str]:
    for number, task in enumerate(resolved.tasks, 1):
        what, details = outlook.of(task)
        yield f"{number}. {task.name} ({task.how_often}; {task.source}): {what}"
        yield from (f"   {line}" for line in details)
    yield from (f"-  {note}" for note in resolved.notes)
    if settings.role == "follower" and resolved.clustered:
        yield "-  this node only waits until others have done it, all but the local tasks: STARTUP_ROLE is 'follower'"
    if not resolved.tasks:
        yield "nothing would run"


class _Outlook:
    """What would become of each task, as the ledger and the migration tables stand now."""

    def __init__(self, settings: Settings, resolved: Plan) -> None:
        self._release = settings.release
        self._done: set[tuple[str, str]] = set()
        self._session: Session | None = None
        self._why = ""
        if not resolved.clustered:
            return
        from startup.database.connect import connect
        from startup.ledger.ledger import Ledger

        try:
            self._session = connect(settings)
            self._done = Ledger(self._session, settings.namespace).done()
        except StartupError as error:
            self._why = f"cannot be told: {error}"

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def of(self, task: Task) -> tuple[str, list[str]]:
        """In words, and with lines of detail."""
        details = [task.description] if task.description else []
        if not task.clustered:
            return "runs on every boot", details
        if self._session is None or self._why:
            return self._why, details
        if task.builtin is not None and not task.ledgered:
            return task.builtin.preview(self._session)
        if task.policy == "always":
            return "runs on every boot, one node at a time", details
        if (task.name, task.key(self._release)) in self._done:
            return "is done already", details
        return "runs, on one node", details
