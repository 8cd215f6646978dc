"""The verb ``plan``: what ``init`` would run now, and why not the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from types import SimpleNamespace as Arguments

from startup import log
from startup.database.connect import connect
from startup.errors import StartupError
from startup.plan.planner import Plan, Planner
from startup.plan.task import BEFORE_MIGRATE, Task
from startup.process.interrupts import Interrupts
from startup.run.before_migrate import due, pending_for
from startup.run.cluster import Cluster
from startup.settings.settings import Settings
from startup.verbs import common


def plan(arguments: Arguments, interrupts: Interrupts) -> int:
    """What ``init`` would run, and why not the rest. Opens the database to look, changes nothing.

    Ends with the error, and so the code, with which ``init`` would be refused.
    """
    settings = common.load(warn=True)
    planner = Planner(settings)
    resolved = planner.plan("post_start")
    planner.check()
    for warning in resolved.warnings:
        log.warn(warning)
    cluster, refused = Cluster(settings, interrupts, partial(connect, settings)), list[StartupError]()
    with closing(cluster):
        try:
            if resolved.clustered:
                cluster.open()
        except StartupError as error:
            refused.append(error)
        for line in _lines(settings, resolved, cluster, "".join(f"cannot be told: {error}" for error in refused)):
            print(log.plain(log.redact(line)))
        if refused:
            raise refused[0]
        for task in resolved.tasks:
            if task.builtin is not None and task.clustered:
                task.builtin.examine(cluster.session, log.warn)
    return 0


def _lines(settings: Settings, resolved: Plan, cluster: Cluster, why: str) -> Iterator[str]:
    for number, task in enumerate(resolved.tasks, 1):
        outlook, details = _outlook(task, cluster, why)
        pending = pending_for(task, cluster.session) if resolved.before_migrate and cluster.is_open else []
        for one in due(resolved, task, cluster.session) if pending else []:
            done = "is done already for the same " if cluster.done([one]) else ""
            yield f"   {BEFORE_MIGRATE}: {one.name} ({done}{len(pending)} pending)"
        yield f"{number}. {task.name} ({task.how_often}; {task.source}): {outlook}"
        yield from (f"   {line}" for line in details)
    yield from (f"-  {note}" for note in resolved.notes)
    if settings.role == "follower" and resolved.clustered:
        yield "-  this node only waits until others have done it, all but the local tasks: STARTUP_ROLE is 'follower'"
    if not resolved.tasks:
        yield "nothing would run"


def _outlook(task: Task, cluster: Cluster, why: str) -> tuple[str, list[str]]:
    """What would become of the task, as the database stands now, and details; *why* that cannot be told."""
    details = [task.description] if task.description else []
    if not task.clustered:
        return "runs on every boot", details
    if not cluster.is_open:
        return why, details
    if task.builtin is not None and not task.ledgered:
        return task.builtin.preview(cluster.session)
    if task.policy == "always":
        return "runs on every boot, one node at a time", details
    return "is done already" if cluster.done([task]) else "runs, on one node", details
