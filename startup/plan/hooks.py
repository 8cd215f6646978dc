"""Hook directories: each executable file of ``$STARTUP_HOOKS_DIR/PHASE.d`` is a task (Distillery's boot hooks)."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field

from startup.settings.settings import POLICIES, normal

_LEFTOVER = re.compile(r"^[.#]|~$|\.(swp|swo|bak|orig|rej|tmp|dpkg-\w+|rpmnew|rpmsave)$", re.IGNORECASE)


@dataclass(frozen=True)
class Hook:
    """A hook file: the task's name and policy are in its name (``20-seed_plans.once.sh``)."""

    name: str
    policy: str | None
    path: str

    def description(self) -> str:
        """The comment at the file's head, as Distillery's ``describe`` shows it."""
        lines: list[str] = []
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(file):
                    if number == 0 and line.startswith("#!"):
                        continue
                    if not line.startswith("#"):
                        break
                    lines.append(line.lstrip("# ").strip())
        except OSError:  # a program may be executable and not readable
            return ""
        return " ".join(line for line in lines if line)


@dataclass
class HookScan:
    """What a hook directory holds: hooks in order, warnings for files that are not run, faults for what is refused."""

    hooks: list[Hook] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


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
    for place in (directory, hooks_dir):
        if names and _everybody_may_write(place):
            scan.faults.append(f"STARTUP_HOOKS_DIR: everybody may write {place}: take that right away (chmod o-w)")
            return scan
    for name in names:
        _take(os.path.join(directory, name), scan)
    return scan


def _take(path: str, scan: HookScan) -> None:
    name = os.path.basename(path)
    if os.path.isdir(path):
        return
    why = _why_not(path, name)
    if why:
        scan.warnings.append(f"the hook {path} is not run: {why}")
        return
    if _everybody_may_write(path):
        scan.faults.append(f"STARTUP_HOOKS_DIR: everybody may write {path}: take that right away (chmod o-w)")
        return
    hook = parse_name(path)
    if not re.fullmatch(r"[a-z0-9_]+", hook.name):
        scan.faults.append(f"the hook {path} has no task's name: use letters, digits, - and _, as in 20-seed_plans.sh")
        return
    for other in scan.hooks:
        if other.name == hook.name:
            scan.faults.append(same_name(other, hook))
    scan.hooks.append(hook)


def same_name(one: Hook, other: Hook) -> str:
    """The fault of two files that are one task."""
    return f"the hooks {one.path} and {other.path} have the same name, '{other.name}': rename one"


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


def _everybody_may_write(path: str) -> bool:
    return bool(os.stat(path).st_mode & stat.S_IWOTH)
