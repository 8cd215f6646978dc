"""The verb ``describe``: tasks, hooks and settings as resolved."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace as Arguments

from startup import log
from startup.errors import SettingError
from startup.plan.planner import PHASES, Plan, Planner
from startup.plan.task import BEFORE_MIGRATE
from startup.process.interrupts import Interrupts
from startup.settings.settings import Settings
from startup.verbs import common


def describe(arguments: Arguments, interrupts: Interrupts) -> int:
    """Tasks, hooks and settings as resolved, with where each came from; secrets are masked."""
    settings = common.load(warn=True)
    planner = Planner(settings)
    plans = {phase: planner.plan(phase) for phase in PHASES}
    if not arguments.json:
        for line in _lines(settings, plans):
            print(log.plain(log.redact(line)))
    else:
        found = {**_as_json(settings, plans), "faults": list(dict.fromkeys(planner.faults))}
        json.dump(log.redact_all(found), sys.stdout, indent=2)
        print()
        if planner.faults:
            return SettingError.code
    planner.check()
    return 0


def _as_json(settings: Settings, plans: dict[str, Plan]) -> dict[str, object]:
    fields = ("name", "policy", "kind", "source", "description", "retries")
    return {
        "settings": {
            name: {"value": value, "from": settings.origins.get(name, "default")}
            for name, value in sorted(settings.values.items())
        },
        "tasks": {
            phase: [{field: getattr(task, field) for field in fields} for task in resolved.tasks]
            for phase, resolved in plans.items()
        },
        "before_migrate": [
            {field: getattr(task, field) for field in fields}
            for resolved in plans.values()
            for task in resolved.before_migrate
        ],
        "notes": [note for resolved in plans.values() for note in resolved.notes],
        "warnings": [*settings.warnings, *(one for resolved in plans.values() for one in resolved.warnings)],
    }


def _lines(settings: Settings, plans: dict[str, Plan]) -> Iterator[str]:
    for phase, resolved in plans.items():
        yield f"{phase}:" if resolved.tasks or resolved.notes else f"{phase}: nothing"
        for task in resolved.tasks:
            often = f"{task.how_often}; {task.retries} retries" if task.retries else task.how_often
            yield f"  {task.name} ({often}; {task.source}): {task.description}".removesuffix(": ")
        yield from (f"  {BEFORE_MIGRATE}: {task.name} ({task.source})" for task in resolved.before_migrate)
        yield from (f"  -  {note}" for note in resolved.notes)
    yield "settings:"
    for name, value in sorted(settings.values.items()):
        yield f"  {name}={value}  ({settings.origins.get(name, 'default')})"
