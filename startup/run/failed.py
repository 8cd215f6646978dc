"""A startup has failed: its metrics are written, then the ``failed`` tasks run. Nothing comes of their own failure."""

from __future__ import annotations

import os
import re

from startup import log
from startup.plan.planner import FAILED, Planner
from startup.process.interrupts import Interrupts
from startup.records import dataclass, replace
from startup.run.stop import run_within_the_limit
from startup.settings.parsers import REFERENCE
from startup.settings.settings import Settings

#: Characters of the reason: the kernel takes no variable of more than 128 KiB (execve(2)).
_LONGEST = 4000


@dataclass(frozen=True)
class Failure:
    """How the startup failed.

    ``code`` is the exit code that came of it. ``here``: was it this node's own work? ``measured`` is what
    :mod:`startup.run.metrics` has handed on, ``phase`` where nothing is, and ``since`` the pid of what began it all.
    """

    code: int
    reason: str = ""
    here: bool = True
    phase: str = "post_start"
    measured: str = ""
    since: str = "self"

    @property
    def why(self) -> str:
        """The reason, on one line."""
        return log.plain(log.redact(" ".join(self.reason.split()))) or f"the startup ended with exit code {self.code}"

    def environ(self) -> dict[str, str]:
        """What the failed tasks are told of it."""
        return {
            "STARTUP_FAILURE": self.why[:_LONGEST],
            "STARTUP_EXIT_CODE": str(self.code),
            "STARTUP_FAILED_HERE": "true" if self.here else "false",
        }


def tell(failure: Failure, settings: Settings, interrupts: Interrupts) -> bool:
    """Write the metrics, and run the tasks as far as the settings, which may be what is wrong, tell them; did any?"""
    if settings.metrics_file:
        from startup.run.metrics import Measured, publish

        measured = Measured.from_text(failure.measured)
        measured.phase = measured.phase or failure.phase
        publish(settings, measured, failure.since, failure.code, failure.here)
    if not _needs_module(settings):
        settings = replace(settings, module="")
    planner = Planner(settings)
    known = len(planner.faults)
    plan = planner.plan(FAILED)
    for fault in planner.faults[known:]:
        log.warn(f"a failed task does not run: {fault}")
    told = failure.environ()
    settings.environ.update(told)
    os.environ.update(told)
    run_within_the_limit(plan, settings, interrupts)
    return bool(plan.tasks)


def _needs_module(settings: Settings) -> bool:
    """Can a task be in STARTUP_MODULE alone? To import that may be what has ended the startup, or take long."""
    return any(
        item.name not in settings.definitions or re.fullmatch(REFERENCE, settings.definitions[item.name])
        for item in settings.failed
    )
