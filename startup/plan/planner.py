"""Which tasks a phase runs, in order, and with which policy. Knows the settings and the registry, not the lock."""

from __future__ import annotations

from collections.abc import Iterable

from startup.builtin.registry import BUILT_IN, make
from startup.errors import SettingError
from startup.plan import hooks, modules
from startup.plan.task import BEFORE_MIGRATE, Task, not_callable, registry
from startup.records import dataclass, field, replace
from startup.settings.parsers import REFERENCE, Item, items
from startup.settings.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

START_PHASES = ("pre_start", "post_start")
STOP_PHASES = ("pre_stop", "post_stop")
FAILED = "failed"
#: Without lock and database, and all their tasks within STARTUP_HOOK_TIMEOUT.
LOCKLESS_PHASES = (*STOP_PHASES, FAILED)
PHASES = (*START_PHASES, *LOCKLESS_PHASES)


@dataclass
class Plan:
    """The tasks of one phase; ``notes`` says why others are left out."""

    phase: str
    tasks: list[Task] = field(default_factory=list)
    #: What runs before ``migrate``, where that is one of the tasks, and if a migration is pending.
    before_migrate: list[Task] = field(default_factory=list)
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
        self._hooks = {phase: hooks.find(settings.hooks_dir, phase) for phase in PHASES}
        whole = hooks.survey(settings.hooks_dir, PHASES, settings.given("STARTUP_HOOKS_DIR"))
        self._hooks["post_start"].warnings[:0] = whole.warnings
        for scan in (whole, *self._hooks.values()):
            self.faults += scan.faults
        for hook in self._hooks["post_start"].hooks:  # the ledger, too, knows a task by its name
            self.faults += self._hooks["pre_start"].same_name(hook)
        if settings.module:
            self._import(settings.module, f"STARTUP_MODULE is '{settings.module}'")
        self._check_skipped()

    def plan(self, phase: str, named: Iterable[Item] | None = None) -> Plan:
        """The plan of *phase*: what its list names, then its hook directory; or *named* instead, nothing skipped."""
        plan = Plan(phase, warnings=list(self._hooks[phase].warnings))
        listed = self._listed(phase) if named is None else list(named)
        self._variable = _variable(phase) if named is None else "the command line"
        for item in listed:
            self._add(plan, item, asked_for=named is not None or self.settings.given(self._variable))
        if named is None:
            names = {item.name for item in listed}
            for hook in self._hooks[phase].hooks:
                if hook.name not in names:
                    self._add(plan, Item(hook.name), asked_for=True)
            if phase == "post_start" and self.settings.before_migrate and not self._migrates():
                plan.warnings.append(
                    "STARTUP_BEFORE_MIGRATE is set, but the built-in migrate is on no list: nothing runs before what "
                    "else may migrate"
                )
            if phase == "post_start" and (unlisted := self._unlisted()):
                plan.notes.append(f"on no list, so not run: {', '.join(unlisted)}")
        if any(task.builtin is not None and not task.ledgered for task in plan.tasks):
            self._variable = "STARTUP_BEFORE_MIGRATE"
            for item in self.settings.before_migrate:
                self._add_before_migrate(plan, item)
        return plan

    def _migrates(self) -> bool:
        listed = {item.name for phase in START_PHASES for item in self._listed(phase)}
        return "migrate" in listed - {*self.settings.definitions, *registry, *self.settings.skip}

    def _add_before_migrate(self, plan: Plan, item: Item) -> None:
        """It has a rule of its own: under the lock, once for the same pending migrations."""
        if item.name in self.settings.skip:
            plan.notes.append(f"{item.name} is left out: STARTUP_SKIP_TASKS names it")
            return
        if item.policy:
            self.faults.append(
                f"{self._variable} has {item.name}@{item.policy}: what runs before migrations takes no policy, it runs "
                "once for the same pending ones"
            )
        task = self._resolve(item, plan.phase)
        if task is None:
            return
        if task.builtin is not None:
            self.faults.append(
                f"{self._variable} has {item.name}, which is built in and needs what migrations make: name a task of "
                "your own, such as a backup"
            )
            return
        task.policy = BEFORE_MIGRATE
        task.timeout = self.settings.timeout if task.timeout is None else task.timeout
        task.retries = self._retries(task, plan.phase)
        plan.before_migrate.append(task)

    def _unlisted(self) -> list[str]:
        """The tasks that are defined and that no phase runs, with the name that may have been meant."""
        run = {item.name for phase in PHASES for item in self._listed(phase)}
        run |= {item.name for item in self.settings.before_migrate}
        run |= {hook.name for scan in self._hooks.values() for hook in scan.hooks}
        unlisted = sorted({*self.settings.definitions, *registry} - run - self.settings.skip)
        if not unlisted:
            return []
        from difflib import get_close_matches

        near = {name: get_close_matches(name, sorted({*run, *BUILT_IN}), 1, 0.75) for name in unlisted}
        return [f"{name} (did you mean {near[name][0]}?)" if near[name] else name for name in unlisted]

    def check(self, others: bool = True) -> None:
        """Raise SettingError with every fault, when one was found: with those of the *others*, phases not planned yet.

        By itself a later phase's fault ends no earlier one, which may make what is missing.
        """
        if not self.faults:
            return
        for phase in PHASES if others else ():
            self.plan(phase)
        raise SettingError(*dict.fromkeys(self.faults))

    def _listed(self, phase: str) -> list[Item]:
        listed: list[Item] = getattr(self.settings, _variable(phase).removeprefix("STARTUP_").lower())
        return listed

    def _add(self, plan: Plan, item: Item, asked_for: bool) -> None:
        if item.name in self.settings.skip and self._variable != "the command line":
            plan.notes.append(f"{item.name} is left out: STARTUP_SKIP_TASKS names it")
            return
        task = self._resolve(item, plan.phase)
        if task is None:
            return
        task.policy = item.policy or task.policy
        task.timeout = self.settings.timeout if task.timeout is None else task.timeout
        if plan.phase in LOCKLESS_PHASES and not self._may_do_without_lock(task, item, plan.phase):
            return
        task.retries = self._retries(task, plan.phase)
        self._check_policy(task, item)
        note = self._prepare(task, asked_for)
        plan.warnings += task.builtin.warnings if task.builtin else ()
        if note:
            plan.notes.append(note)
            return
        self._check_needs(task)
        plan.tasks.append(task)

    def _resolve(self, item: Item, phase: str) -> Task | None:
        settings, name = self.settings, item.name
        if name in settings.definitions:
            import re

            variable, line = f"STARTUP_TASK_{name.upper()}", settings.definitions[name]
            if re.fullmatch(REFERENCE, line):
                return self._reference(name, line, f"{variable}={line}")
            argv = ("/bin/sh", "-c", line)
            return Task(name, "command", variable, argv=argv, definition=line, description=line)
        if name in registry:
            return replace(registry[name])
        hook = self._hook(name, phase)
        if hook is not None:
            path, text = hook.path, hook.description()
            return Task(
                name, "hook", path, hook.policy or "always", argv=hook.command(), files=(path,), description=text
            )
        if built_in := make(name, settings):
            return Task(name, built_in.kind, "built in", built_in.policy, builtin=built_in)
        if ":" in name:
            return self._reference(name, name, name)
        self.faults.append(f"{self._variable} names '{name}', which is no task: {self._hint(name)}")
        return None

    def _hook(self, name: str, phase: str) -> hooks.Hook | None:
        phases = (phase, *(other for other in self._hooks if other != phase))
        return next((hook for other in phases for hook in self._hooks[other].hooks if hook.name == name), None)

    def _known(self) -> set[str]:
        in_files = {hook.name for scan in self._hooks.values() for hook in scan.hooks}
        return {*self.settings.definitions, *registry, *BUILT_IN, *in_files}

    def _hint(self, name: str) -> str:
        from difflib import get_close_matches

        known = self._known()
        near = get_close_matches(name, sorted(known), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{hint}known are {', '.join(sorted(known))}, and a STARTUP_TASK_{name.upper()} or module:function"

    def _reference(self, name: str, reference: str, source: str) -> Task | None:
        module, _, path = reference.partition(":")
        target: Any = self._import(module, source)
        if target is None:
            return None
        for part in path.split("."):
            target = getattr(target, part, None)
        why = not_callable(target) if callable(target) else f"the module '{module}' has no function '{path}'"
        if why:
            self.faults.append(f"{source}: {why}")
            return None
        marked = (task for task in registry.values() if task.function is target)
        return replace(next(marked, Task(name, "function", source, function=target)), name=name, source=source)

    def _import(self, module: str, source: str) -> Any:
        try:
            return modules.load(module, self.settings.environ)
        except ImportError as error:
            self.faults.append(f"{source}: {error}")
            return None

    def _prepare(self, task: Task, asked_for: bool) -> str:
        """Load what a built-in works on; the note says why there is nothing to do for it."""
        if task.builtin is None:
            return ""
        try:
            note = task.builtin.prepare(asked_for)
        except SettingError as error:
            self.faults += error.faults
            return ""
        task.definition, task.files = task.builtin.definition, task.builtin.files
        return note

    def _check_policy(self, task: Task, item: Item) -> None:
        """What is wrong whether or not there is anything to do for the task."""
        if task.builtin and item.policy and item.policy not in task.builtin.policies:
            self.faults.append(f"{self._variable} has {task.name}@{item.policy}: {task.builtin.refusal}")
        if task.batched and (task.policy == "local" or not task.transaction):
            why = "transaction=False" if not task.transaction else f"the policy local ({self._variable})"
            self.faults.append(
                f"task {task.name} yields, so each of its batches commits with a cursor in the ledger: it cannot have "
                f"{why}; right would be without, or a function that does not yield"
            )
        if task.policy == "release" and not self.settings.release:
            self.faults.append(
                f"task {task.name} has the policy release, but STARTUP_RELEASE is not set: "
                "set it to this image's version"
            )

    def _retries(self, task: Task, phase: str) -> int:
        """None while time is short, around the app's end; nor for what has a rule of its own (``migrate``)."""
        if phase not in START_PHASES or not task.ledgered:
            return 0
        return self.settings.retries if task.retries is None else task.retries

    def _check_needs(self, task: Task) -> None:
        settings = self.settings
        if task.clustered and settings.address_faults:
            self.faults += settings.address_faults
        elif task.clustered and not settings.database_url and not any("DATABASE_URL" in one for one in settings.faults):
            if task.builtin:
                why, way_out = "works on the database", ""
            else:
                why, way_out = f"(policy {task.policy}) runs under the cluster lock", f", or say {task.name}@local"
            self.faults.append(f"task {task.name} {why} and so needs a database: set DATABASE_URL{way_out}")
        try:
            task.key(settings.release)
        except SettingError as error:
            self.faults += error.faults
        if settings.role == "follower" and task.clustered and task.policy == "always" and task.ledgered:
            self.faults.append(
                f"STARTUP_ROLE is 'follower', but task {task.name} has the policy always, for which nobody else can do "
                f"the work: say {task.name}@local, another policy, or leave it out (STARTUP_SKIP_TASKS)"
            )

    def _may_do_without_lock(self, task: Task, item: Item, phase: str) -> bool:
        explicit = item.policy or (task.policy if task.policy != "always" else None)
        task.policy = "local"
        if not task.builtin and explicit in (None, "local"):
            return True
        what = task.name if explicit is None else f"{task.name} (policy {explicit})"
        when = "when the startup has failed" if phase == FAILED else "while the app is being stopped"
        self.faults.append(f"{self._variable} has {what}: no task takes the lock {when}")
        return False

    def _check_skipped(self) -> None:
        """A misspelt name would let the very task run that somebody wanted left out."""
        listed = {item.name for phase in PHASES for item in self._listed(phase)}
        listed |= {item.name for item in self.settings.before_migrate}
        for name in sorted(self.settings.skip - listed - self._known()):
            self.faults.append(f"STARTUP_SKIP_TASKS names '{name}', which is no task: {self._hint(name)}")


def _variable(phase: str) -> str:
    return "STARTUP_TASKS" if phase == "post_start" else f"STARTUP_{phase.upper()}"


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
    if phase == "post_start":  # of init and run, whose failure these tell of
        planner.plan(FAILED)
    planner.check(others=named is None)
    return plan
