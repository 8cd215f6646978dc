"""Hook directories: each executable file of ``$STARTUP_HOOKS_DIR/PHASE.d`` is a task (Distillery's boot hooks)."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from itertools import takewhile

from startup.settings.parsers import POLICIES, normal

_LEFTOVER = re.compile(r"^[.#]|~$|\.(swp|swo|bak|orig|rej|tmp|dpkg-\w+|rpmnew|rpmsave)$", re.IGNORECASE)


@dataclass(frozen=True)
class Hook:
    """A hook file: the task's name and policy are in its name (``20-seed_plans.once.sh``)."""

    name: str
    policy: str | None
    path: str

    def description(self) -> str:
        """The comment at the file's head, as Distillery's ``describe`` shows it."""
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                lines = list(takewhile(lambda line: line.startswith("#"), file))
        except OSError:  # a program may be executable and not readable
            return ""
        words = [line.lstrip("# ").strip() for line in lines if not line.startswith("#!")]
        return " ".join(filter(None, words))


@dataclass
class HookScan:
    """What a hook directory holds: hooks in order, warnings for files that are not run, faults for what is refused."""

    hooks: list[Hook] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def same_name(self, hook: Hook) -> list[str]:
        """The faults of files that are the same task as *hook*."""
        return [
            f"the hooks {other.path} and {hook.path} have the same name, '{hook.name}': rename one"
            for other in self.hooks
            if other.name == hook.name
        ]


def find(hooks_dir: str, phase: str) -> HookScan:
    """The hooks of *phase*, in LC_ALL=C order."""
    scan = HookScan()
    directory = os.path.join(hooks_dir, f"{phase}.d")
    try:
        names = sorted(os.listdir(directory), key=os.fsencode)
    except (FileNotFoundError, NotADirectoryError):
        return scan
    except OSError as error:
        scan.faults.append(f"STARTUP_HOOKS_DIR: {directory} cannot be read: {error.strerror}")
        return scan
    if names and (_is_open(directory, scan) or _is_open(hooks_dir, scan)):
        return scan
    for name in names:
        path = os.path.join(directory, name)
        if os.path.isdir(path):
            continue
        if why := _why_not(path, name):
            scan.warnings.append(f"the hook {path} is not run: {why}")
            continue
        if _is_open(path, scan):
            continue
        hook = parse_name(path)
        if not re.fullmatch(r"[a-z0-9_]+", hook.name):
            form = "use letters, digits, - and _, as in 20-seed_plans.sh"
            scan.faults.append(f"the hook {path} has no task's name: {form}")
            continue
        scan.faults += scan.same_name(hook)
        scan.hooks.append(hook)
    return scan


def parse_name(path: str) -> Hook:
    """``20-seed_plans.once.sh`` is the task ``seed_plans``, policy ``once``: neither number nor ending count."""
    stem = re.sub(r"^\d+[-_.]?", "", os.path.basename(path)) or os.path.basename(path)
    parts = stem.split(".")
    if len(parts) > 1 and parts[-1] not in POLICIES:
        parts.pop()
    policy = parts.pop() if len(parts) > 1 and parts[-1] in POLICIES else None
    return Hook(normal(".".join(parts)), policy, path)


def _why_not(path: str, name: str) -> str:
    if _LEFTOVER.search(name):
        return "it looks like an editor's or a package manager's leftover"
    try:
        with open(path, "rb") as file:
            first = file.readline(256)
    except FileNotFoundError:
        return "it is a link to nothing"
    except OSError:
        first = b""
    if not os.access(path, os.X_OK):
        return "it is not executable (chmod +x)"
    if first.startswith(b"#!") and first.endswith(b"\r\n"):
        return "its lines end in CRLF, so the system looks for an interpreter that is not there"
    return ""


def _is_open(path: str, scan: HookScan) -> bool:
    if not os.stat(path).st_mode & stat.S_IWOTH:
        return False
    scan.faults.append(f"STARTUP_HOOKS_DIR: everybody may write {path}: take that right away (chmod o-w)")
    return True
