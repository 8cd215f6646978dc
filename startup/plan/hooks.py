"""Hook directories: each executable file of ``$STARTUP_HOOKS_DIR/PHASE.d`` is a task (Distillery's boot hooks)."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from itertools import takewhile

from startup.records import dataclass, field
from startup.settings.parsers import POLICIES, normal
from startup.spawn import shell

#: No hook, whatever it is: what somebody took out, and what editors and package managers leave.
_NEVER = ("_", ".")
_LEFTOVER = r"(?i)^#|~$|\.(swp|swo|bak|orig|rej|tmp|dpkg-\w+|rpmnew|rpmsave)$"


_ELF = b"\x7fELF"


@dataclass(frozen=True)
class Hook:
    """A hook file: the task's name and policy are in its name (``20-seed_plans.once.sh``)."""

    name: str
    policy: str | None
    path: str

    def command(self) -> tuple[str, ...]:
        """What executes it: the system, or where ``#!/bin/sh`` names no file of this image the bundle's shell."""
        words = os.fsdecode(_first_line(self.path)[2:]).split()
        return (*words, self.path) if words[:1] == ["/bin/sh"] and shell() != "/bin/sh" else (self.path,)

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
    import re

    others = []
    for name in names:
        path = os.path.join(directory, name)
        if name.startswith(_NEVER) or os.path.isdir(path):
            continue
        first = _first_line(path)
        if re.search(_LEFTOVER, name) or not (first.startswith((b"#!", _ELF)) or re.match(r"\d|.*\.sh$", name)):
            others.append(name)
        elif why := _why_not(path, first):
            scan.faults.append(f"the hook {path} cannot run: {why}; or begin its name with _, if it is none")
        elif not _is_open(path, scan):
            _add(scan, parse_name(path))
    if others:
        scan.warnings.append(f"in {directory} these files are no hooks, and are not run: {', '.join(others)}")
    return scan


def survey(hooks_dir: str, phases: Collection[str], given: bool) -> HookScan:
    """What is wrong with the directory as a whole: *given* (set) and not there, or holding what no phase reads."""
    scan = HookScan()
    try:
        entries = sorted(os.scandir(hooks_dir), key=lambda one: one.name)
    except OSError as error:
        if given:
            scan.faults.append(f"STARTUP_HOOKS_DIR is '{hooks_dir}': it cannot be read: {error.strerror}")
        return scan
    known = [f"{phase}.d" for phase in phases]
    for entry in entries:
        if entry.name.startswith(_NEVER) or entry.name in known:
            continue
        if entry.is_dir():
            from difflib import get_close_matches

            near = get_close_matches(entry.name, known, 1) or [", ".join(known)]
            scan.warnings.append(f"{entry.path} is no phase's directory, nothing in it runs: right would be {near[0]}")
        elif entry.name.endswith(".sh") or entry.name[0].isdigit():
            scan.warnings.append(f"{entry.path} is in no phase's directory, so it is not run: move it to {known[1]}")
    return scan


def _add(scan: HookScan, hook: Hook) -> None:
    import re

    if not re.fullmatch(r"[a-z0-9_]+", hook.name):
        form = "use letters, digits, - and _, as in 20-seed_plans.sh"
        scan.faults.append(f"the hook {hook.path} has no task's name: {form}")
        return
    scan.faults += scan.same_name(hook)
    scan.hooks.append(hook)


def parse_name(path: str) -> Hook:
    """``20-seed_plans.once.sh`` is the task ``seed_plans``, policy ``once``: neither number nor ending count."""
    import re

    stem = re.sub(r"^\d+[-_.]?", "", os.path.basename(path)) or os.path.basename(path)
    parts = stem.split(".")
    if len(parts) > 1 and parts[-1] not in POLICIES:
        parts.pop()
    policy = parts.pop() if len(parts) > 1 and parts[-1] in POLICIES else None
    return Hook(normal(".".join(parts)), policy, path)


def _first_line(path: str) -> bytes:
    if not os.path.isfile(path):  # a FIFO would be waited for
        return b""
    try:
        with open(path, "rb") as file:
            return file.readline(256)
    except OSError:  # a program may be executable and not readable
        return b""


def _why_not(path: str, first: bytes) -> str:
    """Why the system would not execute it, and the cure."""
    if not os.path.exists(path):
        return "it is a link to nothing: make its target, or remove it"
    if not os.path.isfile(path):
        return "it is no file"
    if not os.access(path, os.X_OK):
        return "it is not executable: chmod +x (git update-index --chmod=+x, COPY --chmod=755, a volume's defaultMode)"
    if first.startswith(_ELF) or (not first and os.path.getsize(path)):  # a program may be executable and not readable
        return ""
    if not first.startswith(b"#!"):
        return "it has no first line that names its interpreter: right would be #!/bin/sh"
    if first.endswith(b"\r\n"):
        return "its lines end in CRLF, so the system looks for an interpreter that is not there: dos2unix, or eol=lf"
    words = os.fsdecode(first[2:]).split()
    interpreter = shell() if words[:1] == ["/bin/sh"] else "".join(words[:1])
    if not os.path.isfile(interpreter) or not os.access(interpreter, os.X_OK):
        right = "" if shell() == "/bin/sh" else ": #!/bin/sh is run by the bundle's shell, as this image has none"
        return f"its interpreter, '{''.join(words[:1])}', is not there: install it, or correct the first line{right}"
    return _why_not_by_env(words[0], words[1:]) if os.path.basename(words[0]) == "env" else ""


def _why_not_by_env(env: str, words: list[str]) -> str:
    """The kernel gives it all words as a single one (execve(2)); of an assignment alone it would run the hook anew."""
    import re
    from shutil import which

    whole = " ".join(words)
    split = re.sub(r"^(-\w*?S|--split-string=?)", "", whole)
    if split == whole and len(words) > 1:
        return f"its first line makes '{whole}' one word, as which env looks for it: right would be #!{env} -S {whole}"
    words = split.split()
    if {"-u", "-C", "--"} & {*words}:  # with a word of its own behind it
        return ""
    program = next((word for word in words if not word.startswith("-") and "=" not in word), "")
    if not program or not which(program):
        return f"its interpreter, '{program}', is not on PATH: install it, or correct the first line"
    return ""


def _is_open(path: str, scan: HookScan) -> bool:
    """May everybody write it? Not where nobody can, as in a ConfigMap that is mounted read-only."""
    if not os.stat(path).st_mode & stat.S_IWOTH or os.statvfs(path).f_flag & os.ST_RDONLY:
        return False
    scan.faults.append(f"STARTUP_HOOKS_DIR: everybody may write {path}: take that right away (chmod o-w)")
    return True
