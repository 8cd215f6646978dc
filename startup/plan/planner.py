"""Which tasks a phase runs, in order, and with which policy. Knows the settings and the registry, not the lock."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from startup.errors import Interrupted, SettingError
from startup.plan import hooks
from startup.plan.task import Policy, Task, not_callable, registry
from startup.settings.settings import REFERENCE, Item, Settings, items

START_PHASES = ("pre_start", "post_start")
STOP_PHASES = ("pre_stop", "post_stop")
BUILT_IN = ("migrate", "insert_users")


@dataclass
class Plan:
    """The tasks of one phase; ``notes`` says why others are left out."""

    phase: str
    tasks: list[Task] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def clustered(self) -> list[Task]:
        """The tasks that need the lock."""
        return [task for task in self.tasks if task.clustered]


class Planner:
    """Resolves names to tasks; every fault is collected, so that all are told at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults = list(settings.faults)
        self.found = {phase: hooks.find(settings.hooks_dir, phase) for phase in (*START_PHASES, *STOP_PHASES)}
        for found in self.found.values():
            self.faults += found.faults
        self._refuse_names_given_twice()
        self._import_module()
        self._check_skipped()

    def plan(self, phase: str, named: Iterable[Item] | None = None) -> Plan:
        """The plan of *phase*: what its list names, then its hook directory; or *named* instead, nothing skipped."""
        plan = Plan(phase, warnings=list(self.found[phase].warnings))
        listed: list[Item] = list(getattr(self.settings, _list_of(phase)) if named is None else named)
        self._variable = _variable(phase) if named is None else "the command line"
        for item in listed:
            self._add(plan, item, asked_for=named is not None or self.settings.given(self._variable))
        if named is None:
            names = {item.name for item in listed}
            for hook in self.found[phase].hooks:
                if hook.name not in names:
                    self._add(plan, Item(hook.name), asked_for=True)
        return plan

    def check(self, others: bool = True) -> None:
        """Raise SettingError with every fault, when one was found: with those of the *others*, phases not planned yet.

        By itself a later phase's fault ends no earlier one, which may make what is missing.
        """
        if not self.faults:
            return
        for phase in (*START_PHASES, *STOP_PHASES) if others else ():
            self.plan(phase)
        raise SettingError(*dict.fromkeys(self.faults))

    def _add(self, plan: Plan, item: Item, asked_for: bool) -> None:
        if item.name in self.settings.skip and self._variable != "the command line":
            plan.notes.append(f"{item.name} is left out: STARTUP_SKIP_TASKS names it")
            return
        task = self._resolve(item, plan.phase)
        if task is None:
            return
        if item.policy is not None:
            task.policy = cast("Policy", item.policy)
        if plan.phase in STOP_PHASES:
            self._check_stop_task(task, item)
        self._check_policy(task, item)
        note = self._prepare(task, asked_for)
        if note:
            plan.notes.append(note)
            return
        self._check_needs(task)
        plan.tasks.append(task)

    def _resolve(self, item: Item, phase: str) -> Task | None:
        settings, name = self.settings, item.name
        if name in settings.definitions:
            variable = f"STARTUP_TASK_{name.upper()}"
            value = settings.definitions[name]
            if REFERENCE.fullmatch(value):
                return self._function(name, value, f"{variable}={value}")
            return Task(name, "command", "always", variable, command=value, timeout=settings.timeout)
        if name in registry:
            entry = registry[name]
            return Task(
                name,
                "function",
                entry.policy,
                f"@task in {entry.function.__module__}",
                function=entry.function,
                timeout=settings.timeout if entry.timeout is None else entry.timeout,
                transaction=entry.transaction,
                files=entry.files,
                description=(entry.function.__doc__ or "").strip().partition("\n")[0],
            )
        hook = self._hook(name, phase)
        if hook is not None:
            policy = cast("Policy", hook.policy or "always")
            return Task(
                name,
                "hook",
                policy,
                hook.path,
                command=hook.path,
                timeout=settings.timeout,
                description=hook.description(),
            )
        if name == "migrate":
            return Task(name, "migrate", "always", "built in", timeout=settings.timeout)
        if name == "insert_users":
            table = settings.users_table
            return Task(name, "users", "change", "built in", command=table, timeout=settings.timeout)
        if ":" in name:
            return self._function(name, name, name)
        self.faults.append(f"{self._variable} names '{name}', which is no task: {self._hint(name)}")
        return None

    def _hook(self, name: str, phase: str) -> hooks.Hook | None:
        phases = (phase, *(other for other in self.found if other != phase))
        return next((hook for other in phases for hook in self.found[other].hooks if hook.name == name), None)

    def _known(self) -> set[str]:
        in_files = {hook.name for found in self.found.values() for hook in found.hooks}
        return {*self.settings.definitions, *registry, *BUILT_IN, *in_files}

    def _hint(self, name: str) -> str:
        from difflib import get_close_matches

        known = self._known()
        near = get_close_matches(name, sorted(known), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{hint}known are {', '.join(sorted(known))}, and a STARTUP_TASK_{name.upper()} or module:function"

    def _function(self, name: str, reference: str, source: str) -> Task | None:
        module, _, path = reference.partition(":")
        target: Any = self._import(module, source)
        if target is None:
            return None
        for part in path.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            self.faults.append(f"{source}: the module '{module}' has no function '{path}'")
            return None
        if why := not_callable(target):
            self.faults.append(f"{source}: {why}")
            return None
        entry = next((entry for entry in registry.values() if entry.function is target), None)
        task = Task(name, "function", "always", source, function=target, timeout=self.settings.timeout)
        task.description = (target.__doc__ or "").strip().partition("\n")[0]
        if entry is not None:
            task.policy, task.transaction, task.files = entry.policy, entry.transaction, entry.files
            task.timeout = task.timeout if entry.timeout is None else entry.timeout
        return task

    def _import_module(self) -> None:
        if self.settings.module:
            self._import(self.settings.module, f"STARTUP_MODULE is '{self.settings.module}'")

    def _import(self, module: str, source: str) -> Any:
        if module.partition(".")[0] == "startup" and module != "startup.demo":
            self.faults.append(f"{source}: 'startup' is this tool's own package: give the module another name")
            return None
        see_the_apps_modules(self.settings.environ)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is the app's, or a verb's
                return importlib.import_module(module)
        except Interrupted:
            raise
        except (Exception, SystemExit) as error:
            self.faults.append(f"{source}: it cannot be imported: {type(error).__name__}: {error}{_where(error)}")
        return None

    def _prepare(self, task: Task, asked_for: bool) -> str:
        """Load what a built-in works on; the note says why there is nothing to do for it."""
        settings = self.settings
        try:
            if task.kind == "migrate":
                from startup.migrations import files

                task.data = files.load(settings.migrations, given=settings.given("STARTUP_MIGRATIONS"))
                return str(task.data.note or "")
            if task.kind == "users":
                from startup.builtin import users

                if not os.path.exists(settings.users) and not asked_for and not settings.given("STARTUP_USERS"):
                    return f"insert_users has nothing to do: there is no {settings.users}"
                task.data = users.read(settings.users)
                task.files = (settings.users,)
        except SettingError as error:
            self.faults += error.faults
        return ""

    def _check_policy(self, task: Task, item: Item) -> None:
        """What is wrong whether or not there is anything to do for the task."""
        if task.kind == "migrate" and item.policy is not None:
            self.faults.append(
                f"{self._variable} has migrate@{item.policy}: migrate takes no policy, it applies what is pending"
            )
        if task.kind == "users" and item.policy == "local":
            self.faults.append(
                f"{self._variable} has {task.name}@local: it works on the database, and the policy local does without; "
                "say always, change, release or once"
            )
        if task.policy == "release" and not self.settings.release:
            self.faults.append(
                f"task {task.name} has the policy release, but STARTUP_RELEASE is not set: "
                "set it to this image's version"
            )

    def _check_needs(self, task: Task) -> None:
        settings = self.settings
        if task.clustered and settings.address_faults:
            self.faults += settings.address_faults
        elif task.clustered and not settings.database_url and not any("DATABASE_URL" in one for one in settings.faults):
            if task.kind in ("migrate", "users"):
                why, way_out = "works on the database", ""
            else:
                why, way_out = f"(policy {task.policy}) runs under the cluster lock", f", or say {task.name}@local"
            self.faults.append(f"task {task.name} {why} and so needs a database: set DATABASE_URL{way_out}")
        if task.policy == "change":
            try:
                task.content()
            except OSError as error:
                self.faults.append(f"task {task.name}: {error.filename} cannot be read: {error.strerror}")
        if settings.role == "follower" and task.clustered and task.policy == "always" and task.kind != "migrate":
            self.faults.append(
                f"STARTUP_ROLE is 'follower', but task {task.name} has the policy always, for which nobody else can do "
                f"the work: say {task.name}@local, another policy, or leave it out (STARTUP_SKIP_TASKS)"
            )

    def _check_stop_task(self, task: Task, item: Item) -> None:
        explicit = item.policy or (task.policy if task.policy != "always" else None)
        if task.kind in ("migrate", "users") or explicit not in (None, "local"):
            what = task.name if explicit is None else f"{task.name} (policy {explicit})"
            self.faults.append(f"{self._variable} has {what}: no task takes the lock while the app is being stopped")
        task.policy = "local"

    def _refuse_names_given_twice(self) -> None:
        """Both start phases write to the one ledger, where a task is known by its name."""
        before = {hook.name: hook for hook in self.found["pre_start"].hooks}
        for hook in self.found["post_start"].hooks:
            if hook.name in before:
                self.faults.append(hooks.same_name(before[hook.name], hook))

    def _check_skipped(self) -> None:
        """A misspelt name would let the very task run that somebody wanted left out."""
        settings = self.settings
        listed = {item.name for phase in (*START_PHASES, *STOP_PHASES) for item in getattr(settings, _list_of(phase))}
        for name in sorted(settings.skip - listed - self._known()):
            self.faults.append(f"STARTUP_SKIP_TASKS names '{name}', which is no task: {self._hint(name)}")


def _list_of(phase: str) -> str:
    return "tasks" if phase == "post_start" else phase


def _variable(phase: str) -> str:
    return "STARTUP_TASKS" if phase == "post_start" else f"STARTUP_{phase.upper()}"


def _where(error: BaseException) -> str:
    """File and line of the innermost frame that is the user's: not ours, nor a library's where there is another."""
    import sysconfig
    import traceback

    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(("<frozen", own))]
    frames = [frame for frame in frames if f"{os.sep}importlib{os.sep}" not in frame.filename]
    library = re.compile(rf"{re.escape(sysconfig.get_path('stdlib'))}/|.*/(site|dist)-packages/")
    frames = [frame for frame in frames if not library.match(frame.filename)] or frames
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def see_the_apps_modules(environ: dict[str, str]) -> None:
    """Append the working directory and PYTHONPATH: after our own, so that an app's ``dotenv.py`` shadows nothing."""
    for path in (os.getcwd(), *environ.get("PYTHONPATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.append(path)


def resolve(settings: Settings, phase: str, named: Iterable[str] | None = None) -> Plan:
    """The plan of one phase; SettingError with all faults at once."""
    planner = Planner(settings)
    chosen = None
    if named is not None:
        try:
            chosen = items(" ".join(named))
        except ValueError as error:
            planner.faults.append(f"the command line: {error}")
    plan = planner.plan(phase, chosen)
    planner.check(others=named is None)
    return plan
