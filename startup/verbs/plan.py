"""The verb ``plan``: what ``init`` would run now, and why not the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from types import SimpleNamespace as Arguments

from startup import log
from startup.database.connect import connect
from startup.errors import StartupError
from startup.plan.planner import FAILED, Plan, Planner
from startup.plan.task import BEFORE_MIGRATE, Task
from startup.process.interrupts import Interrupts
from startup.records import dataclass
from startup.run.before_migrate import due, pending_for
from startup.run.cluster import Cluster
from startup.settings.settings import DATABASE, Settings
from startup.verbs import common

#: What ``plan --check`` ends with when something is to do.
TO_DO = 1


@dataclass(frozen=True)
class Outlook:
    """What would become of a task, as the database stands now; does it count as something *to_do*, for ``--check``?"""

    text: str
    details: Sequence[str]
    to_do: bool = False


def plan(arguments: Arguments, interrupts: Interrupts) -> int:
    """What ``init`` would run, and why not the rest. Opens the database to look, changes nothing.

    Ends with the error, and so the code, with which ``init`` would be refused; with ``--check`` 1 when something is to
    do, ``always`` and ``local`` tasks aside.
    """
    settings = common.load(warn=True)
    planner = Planner(settings)
    resolved = planner.plan("post_start")
    planner.plan(FAILED)
    planner.check()
    for warning in resolved.warnings:
        log.warn(warning)
    cluster, refused = Cluster(settings, interrupts, partial(connect, settings)), list[StartupError]()
    with closing(cluster):
        try:
            if resolved.clustered or DATABASE in settings.wait_for:
                cluster.open()
        except StartupError as error:
            refused.append(error)
        why = "".join(f"cannot be told: {error}" for error in refused)
        outlooks = [_outlook(task, cluster, why) for task in resolved.tasks]
        for line in _lines(settings, resolved, outlooks, cluster):
            print(log.plain(log.redact(line)))
        if refused:
            raise refused[0]
        for task in resolved.tasks:
            if task.builtin is not None and task.clustered:
                task.builtin.examine(cluster.session, log.warn)
    return TO_DO if arguments.check and any(outlook.to_do for outlook in outlooks) else 0


def _lines(settings: Settings, resolved: Plan, outlooks: Sequence[Outlook], cluster: Cluster) -> Iterator[str]:
    if settings.wait_for:
        yield f"0. waits for {', '.join(map(str, settings.wait_for))} (STARTUP_WAIT_FOR)"
    for number, (task, outlook) in enumerate(zip(resolved.tasks, outlooks, strict=True), 1):
        yield from _before(resolved, task, cluster)
        yield f"{number}. {task.name} ({task.how_often}; {task.source}): {outlook.text}"
        yield from (f"   {line}" for line in outlook.details)
    yield from (f"-  {note}" for note in resolved.notes)
    if settings.role == "follower" and resolved.clustered:
        yield "-  this node only waits until others have done it, all but the local tasks: STARTUP_ROLE is 'follower'"
    if not resolved.tasks:
        yield "nothing would run"


def _before(resolved: Plan, task: Task, cluster: Cluster) -> Iterator[str]:
    """The tasks that would run first, since *task* has something pending."""
    pending = pending_for(task, cluster.session) if resolved.before_migrate and cluster.is_open else []
    for one in due(resolved, task, cluster.session) if pending else []:
        done = "is done already for the same " if cluster.done([one]) else ""
        yield f"   {BEFORE_MIGRATE}: {one.name} ({done}{len(pending)} pending)"


def _outlook(task: Task, cluster: Cluster, why: str) -> Outlook:
    """*why* it cannot be told, where no database is open."""
    details = [task.description] if task.description else []
    if not task.clustered:
        return Outlook("runs on every boot", details)
    if not cluster.is_open:
        return Outlook(why, details)
    if task.builtin is not None and not task.ledgered:
        to_do, text, details = task.builtin.preview(cluster.session)
        return Outlook(text, details, to_do)
    if task.policy == "always":
        return Outlook("runs on every boot, one node at a time", details)
    if cluster.done([task]):
        return Outlook("is done already", details)
    return Outlook("runs, on one node", details, to_do=True)
