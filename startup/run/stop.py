"""The stop phases, and ``failed``: tasks around the app's end, without lock or database, within one time limit."""

from __future__ import annotations

import time

from startup import log
from startup.database.session import Session
from startup.errors import StartupError, TaskFailed
from startup.plan.planner import Plan, resolve
from startup.process.interrupts import Interrupts
from startup.records import replace
from startup.run.runner import Runner
from startup.settings.settings import Settings
from startup.state import State

#: Seconds from TERM to KILL for a stop task that is over its time, or that a second stop signal ends.
GRACE = 0.5


def run_stop_tasks(phase: str, settings: Settings, interrupts: Interrupts) -> int:
    """Run the phase's tasks; 0, or the exit code of the last that failed."""
    return run_within_the_limit(resolve(settings, phase), settings, interrupts)


def run_within_the_limit(plan: Plan, settings: Settings, interrupts: Interrupts) -> int:
    """Run the plan's tasks; STARTUP_HOOK_TIMEOUT seconds (0: no limit) are for all of them together.

    A task that fails is named, and the next one runs: nothing may keep the app from being stopped.
    """
    phase = plan.phase
    for warning in (*plan.warnings, *plan.notes):
        log.warn(warning)
    limit = settings.hook_timeout
    settings = replace(settings, stop_timeout=min(settings.stop_timeout or GRACE, GRACE))
    runner = Runner(settings, plan, State(""), interrupts, _no_database)
    end = time.monotonic() + limit
    failed = 0
    for task in plan.tasks:
        left = end - time.monotonic()
        if limit and left <= 0:
            log.warn(f"{phase} was over its {limit:g} s (STARTUP_HOOK_TIMEOUT): {task.name} did not run")
            continue
        if limit:
            task.timeout = min(task.timeout or left, left)
        try:
            runner.run_one(task)
        except StartupError as error:
            failed = error.code
            log.fail(f"{phase}: {error}")
    return failed


def _no_database() -> Session:
    raise TaskFailed("no task has a database when the app is stopped")
