"""What a container's first process does to its app: each function here runs one app under it and says what it saw.

The tests hold the entrypoint to it under each shell; bench/pid1.py compares it with other inits by the very same runs.
The containers have this machine's own /usr in them, so that every init and shell starts the same programs.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..terminal import Terminal

if TYPE_CHECKING:
    from .conftest import Container, Docker

ROOT = Path(__file__).parents[2]
IMAGE = "debian:trixie-slim"
RECORDER = ROOT / "tests" / "shell" / "apps" / "recorder.py"
#: All that can be handed on: not KILL and STOP, not CHLD, not a fault's own (4 5 7 8 11), not libc's (32 33).
FORWARDABLE = [n for n in range(1, 65) if n not in (4, 5, 7, 8, 9, 11, 17, 19, 32, 33)]
#: These stop or end a process that does not handle them.
STOPS = (2, 3, 15, 20, 21, 22)
BY_HAND = '"$@" & app=$!; trap "kill -TERM $app" TERM; trap "kill -INT $app" INT; wait $app'

#: Where an image has the bundle.
BUNDLE = "/opt/startup"
#: The words before the app's own.
OURS = {
    "dash": ("dash", str(ROOT / "entrypoint.sh")),
    "busybox": ("busybox", "sh", str(ROOT / "entrypoint.sh")),
    "bash": ("bash", str(ROOT / "entrypoint.sh")),
    "bundle": (f"{BUNDLE}/bin/startup-entrypoint",),
}
OTHERS = {
    "tini": ("tini", "--"),
    "dumb-init": ("dumb-init", "--"),
    "by hand": ("sh", "-c", BY_HAND, "sh"),
    "none": (),
}


@dataclass
class Box:
    """Containers whose first process is *init*; the app's files are in *directory*, in there and here.

    With another *image* than that: the entrypoint which that image brings, and its programs; *python* and *shell* are
    those that the app and ``docker exec`` are to use.
    """

    docker: Docker
    init: Sequence[str]
    directory: Path
    options: Sequence[str] = ()
    image: str = IMAGE
    python: str = sys.executable
    shell: str = "sh"
    name: str = ""
    _count: int = 0
    _terminals: list[Terminal] = field(default_factory=list)

    @property
    def is_ours(self) -> bool:
        return self.image != IMAGE or tuple(self.init) in OURS.values()

    def words(self, *command: str, **env: str) -> list[str]:
        """What follows ``docker run``."""
        settings = {"STARTUP_TASKS": "none", "STARTUP_PING": "none", **env}
        paths = {str(RECORDER.parent)}
        if self.image == IMAGE:
            paths = {"/usr", str(ROOT), sys.prefix, sys.base_prefix}
            if self.init != OURS["bundle"]:
                settings.setdefault("STARTUP_PYTHON", sys.executable)
        volumes = [f"--volume={path}:{path}:ro" for path in sorted(paths)]
        volumes += [f"--volume={self.directory}:{self.directory}", f"--workdir={self.directory}"]
        environ = [f"--env={name}={value}" for name, value in settings.items()] if self.is_ours else []
        return [*volumes, *environ, *self.options, self.image, *self.init, *command]

    def start(self, *command: str, options: Sequence[str] = (), **env: str) -> Container:
        return self.docker.start(*options, *self.words(*command, **env))

    def at_terminal(self, *command: str, **env: str) -> Terminal:
        """``docker run -it``, on a real pseudo-terminal; :attr:`name` is the container's."""
        self.name = self.docker.claim_name()
        return self.terminal("run", "--rm", "-it", "--name", self.name, *self.words(*command, **env))

    def terminal(self, *words: str) -> Terminal:
        self._terminals.append(Terminal("docker", *words, cwd=self.directory))
        return self._terminals[-1]

    def recorder(self, seconds: float = 0) -> tuple[str, ...]:
        """The command of an app that notes every signal; :attr:`got` shows them."""
        self._count += 1
        return (self.python, "-I", "-S", str(RECORDER), str(self._recorded), str(seconds))

    @property
    def _recorded(self) -> Path:
        return self.directory / f"recorded{self._count}"

    @property
    def got(self) -> list[int] | None:
        """None until the app is up."""
        try:
            lines = self._recorded.read_text().split()
        except FileNotFoundError:
            return None
        return [int(line) for line in lines[1:]] if lines else None

    def wait_until_up(self, container: Container | None = None) -> None:
        """The recorder is; with *container* also until the entrypoint has nothing more to do."""
        until(lambda: self.got is not None, "the app is up")
        if container is not None and self.is_ours:
            until(lambda: "python" not in " ".join(helpers(container, self.shell)), "ready")

    def close(self) -> None:
        for terminal in self._terminals:
            terminal.close()


def until(condition: Callable[[], object], what: str = "", timeout: float = 20, fail: bool = True) -> bool:
    """Wait for *condition*; whether it came true, where that is no failure."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            assert not fail, f"not within {timeout} s: {what}"
            return False
        time.sleep(0.02)
    return True


@dataclass
class Process:
    pid: int
    name: str
    state: str


def processes(container: Container) -> list[Process]:
    """All that are in the container, zombies too, without the one that looks."""
    found = []
    for line in container.exec("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null; :").stdout.splitlines():
        match = re.match(r"(\d+) \((.*)\) (\S) (\d+)", line)
        assert match, line
        if match[4] != "0" or match[1] == "1":  # docker exec's own has no parent in there
            found.append(Process(int(match[1]), match[2], match[3]))
    return [one for one in found if one.name != "cat"]


def helpers(container: Container, shell: str = "sh") -> list[str]:
    """Names of the living that are children of the first process, the app's own left out."""
    command = (
        "for p in $(cat /proc/1/task/1/children); do cat /proc/$p/cmdline | tr '\\0' ' '; echo; done 2>/dev/null; :"
    )
    lines = container.exec(shell, "-c", command).stdout.splitlines()
    return [line for line in lines if line.strip() and "recorder.py" not in line]


# --------------------------------------------------------------------------------------------------- signals


def signals_that_arrive(box: Box, numbers: Sequence[int], patience: float = 10) -> list[int]:
    """Each of *numbers* is sent to the container, one after another; those that the app got.

    Where the first process ends or stops at one, the next is sent to a new container.
    """
    arrived: list[int] = []
    container = None
    for number in sorted(numbers, key=lambda one: (one in STOPS, one)):
        if container is None:
            container = box.start(*box.recorder(seconds=3600))
            box.wait_until_up(container)
        box.docker("kill", "--signal", str(number), container.name, check=False)
        until(lambda number=number: number in (box.got or ()), timeout=patience, fail=False)  # type: ignore[misc]
        if number in (box.got or ()):
            arrived.append(number)
        elif number in STOPS or not container.state["Running"]:
            container = None
    return sorted(arrived)


def ignored_signals(box: Box) -> list[int]:
    """Those that the app finds ignored or blocked when it starts."""
    done = box.docker.run(*box.words("cat", "/proc/self/status"))
    masks = [int(line.split()[1], 16) for line in done.stdout.splitlines() if line.startswith(("SigIgn", "SigBlk"))]
    assert len(masks) == 2, done.stderr
    return [number for number in range(1, 65) if (masks[0] | masks[1]) >> (number - 1) & 1]


def who_gets_a_signal(box: Box) -> list[str]:
    """HUP is sent to the container: does it reach "the app", and "its child" in the same process group?"""
    other = box.directory / "child"
    other.unlink(missing_ok=True)
    child = f'{sys.executable} -I -S {RECORDER} {other} 3600 & exec "$@"'
    container = box.start("sh", "-c", child, "sh", *box.recorder(seconds=3600))
    box.wait_until_up(container)
    until(lambda: other.exists() and other.read_text())
    box.docker("kill", "--signal", "HUP", container.name)
    app = until(lambda: box.got, timeout=5, fail=False)
    child_too = until(lambda: len(other.read_text().split()) > 1, timeout=1, fail=False)
    return ["the app"] * app + ["its child"] * child_too


def stdin_is_passed(box: Box) -> bool:
    return box.docker.run("--interactive", *box.words("cat"), input="a line\n").stdout == "a line\n"


def exit_codes(box: Box, codes: Sequence[int]) -> list[int]:
    """Those of *codes* that come out as the app gave them."""
    return [n for n in codes if box.docker.run(*box.words(box.shell, "-c", f"exit {n}")).returncode == n]


def out_of_memory(box: Box) -> tuple[int, str]:
    """The exit code of an app that takes more memory than there is, and the last line on stderr."""
    limits = ("--memory=48m", "--memory-swap=48m")
    hog = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    done = box.docker.run(*limits, *box.words(sys.executable, "-I", "-S", "-c", hog))
    return done.returncode, (done.stderr.splitlines() or [""])[-1]


# ------------------------------------------------------------------------------------- what others leave behind

ORPHANS = 4


def zombies(box: Box) -> int:
    """How many stay of orphans of the app's and of ``docker exec``'s, four each."""
    orphans = "for i in 1 2 3 4; do (sleep 0.1 &); done"
    container = box.start("sh", "-c", f'{orphans}; exec "$@"', "sh", *box.recorder(seconds=3600))
    box.wait_until_up(container)
    container.exec("sh", "-c", orphans)

    def left() -> list[Process]:
        return [one for one in processes(container) if one.name == "sleep"]

    until(lambda: all(one.state == "Z" for one in left()), "the orphans have ended")
    until(lambda: not left(), timeout=3, fail=False)
    return len(left())


@dataclass
class Leftovers:
    """What became of a child that the app left behind: what it could write, the exit code, seconds that it lived on."""

    wrote: str
    code: int
    seconds: float


def leftovers(box: Box, stubborn: bool) -> Leftovers:
    """The app ends with 5; its child needs 0.3 s to clean up after TERM, or with *stubborn* ignores it."""
    note, ended, beats = (box.directory / name for name in ("left", "ended", "beats"))
    for file in (note, ended, beats):
        file.unlink(missing_ok=True)
    on_term = "" if stubborn else "echo got TERM >>left; sleep 0.3; echo cleaned up >>left; exit"
    child = f"trap '{on_term}' TERM; : >left; while :; do date +%s.%N >>beats; sleep 0.02; done"
    app = 'sh -c "$1" & while [ ! -e go ]; do sleep 0.02; done; date +%s.%N >ended; exit 5'
    container = box.start("sh", "-c", app, "sh", child)
    until(note.exists, "the child is up")
    if box.is_ours:
        until(lambda: "python" not in " ".join(helpers(container)), "ready")
    (box.directory / "go").touch()
    code = container.wait()
    (box.directory / "go").unlink()
    last = beats.read_text().rpartition("\n")[0].splitlines()[-1]
    return Leftovers(", ".join(note.read_text().splitlines()), code, float(last) - float(ended.read_text()))


# ------------------------------------------------------------------------------------------------ at a terminal


def key(box: Box, keys: bytes, patience: float = 20) -> tuple[list[int], int]:
    """What the app gets when *keys* are typed once, and the exit code."""
    terminal = box.at_terminal(*box.recorder(seconds=0.7))
    box.wait_until_up()
    if box.is_ours:
        terminal.wait_until_shown("answers")
    terminal.type(keys)
    if not until(lambda: terminal.process.poll() is not None, timeout=patience, fail=False):
        terminal.close()
        return box.got or [], -1
    return box.got or [], terminal.wait()


TICKS = "while :; do sleep 0.05; echo tick; done"


def goes_on_after_ctrl_z(box: Box) -> bool:
    terminal = box.at_terminal("sh", "-c", TICKS)
    terminal.wait_until_shown("tick", 5)
    if box.is_ours:  # bash looks at its children only when one of them ends: none of ours may be left to do so
        until(lambda: "python" not in " ".join(helpers(box.docker.container(box.name))), "ready")
    terminal.type(b"\x1a")
    terminal.wait_until_shown("^Z")
    before = terminal.shown.count("tick")
    return until(lambda: terminal.shown.count("tick") > before + 10, timeout=10, fail=False)


def shell_has_job_control(box: Box) -> bool:
    """A shell at the terminal: Ctrl-Z stops what it runs, fg goes on, Ctrl-C ends it and not the shell."""
    terminal = box.at_terminal("env", "PS1=$ ", "TERM=dumb", "bash", "--norc", "-i")
    terminal.wait_until_shown("$ ")
    terminal.type(b"sh -c 'while :; do sleep 0.05; echo tick; done'\n")
    if not until(lambda: terminal.shown.count("\ntick") > 1, timeout=10, fail=False):
        return False
    terminal.type(b"\x1a")
    if not until(lambda: "Stopped" in terminal.shown, timeout=10, fail=False):
        return False
    terminal.type(b"fg\n")
    before = terminal.shown.count("\ntick")
    terminal.wait_until_shown("\ntick", before + 3)
    terminal.type(b"\x03")
    terminal.type(b"echo code=$?; exit 9\n")
    terminal.wait_until_shown("code=130")
    return terminal.wait() == 9 and "no job control" not in terminal.shown


def window_sizes(box: Box) -> list[str]:
    """What the app sees when it starts at 80x24 and the window is pulled to 132x50."""
    code = (
        "import os, signal\n"
        "show = lambda *_: print('size', *os.get_terminal_size(), flush=True)\n"
        "signal.signal(signal.SIGWINCH, show); print('up'); show()\n"
        "while True: signal.pause()"
    )
    terminal = box.at_terminal(sys.executable, "-I", "-S", "-c", code)
    until(lambda: "size 80 24" in terminal.shown, timeout=10, fail=False)

    def pulled() -> bool:
        terminal.resize(49, 131)  # nothing shows that docker watches by now; it is told of changes alone
        terminal.resize(50, 132)
        return until(lambda: "size 132 50" in terminal.shown, timeout=0.5, fail=False)

    until(pulled, timeout=10, fail=False)
    sizes = re.findall(r"size (\d+ \d+)", terminal.shown)
    return [size for size in dict.fromkeys(sizes) if size in ("80 24", "132 50")]


def attach(box: Box) -> tuple[str, list[int], int]:
    """docker attach, its keys to detach, attach again, Ctrl-C: its state in between, what the app got, its code."""
    name = box.docker.claim_name()
    box.docker("run", "-dit", "--name", name, *box.words(*box.recorder(seconds=0.7)))
    box.wait_until_up(box.docker.container(name))
    terminal = box.terminal("attach", name)
    until(lambda: terminal.is_raw, "attached")
    terminal.type(b"\x10\x11")
    terminal.wait()
    running = "running" if box.docker.container(name).state["Running"] else "ended"
    terminal = box.terminal("attach", name)
    until(lambda: terminal.is_raw, "attached")
    terminal.type(b"\x03")
    terminal.wait()
    got = [number for number in box.got or [] if number != signal.SIGWINCH]  # docker's own, when it attaches
    return running, got, int(box.docker.container(name).state["ExitCode"])


def stop(box: Box, *options: str, command: Sequence[str]) -> tuple[int, float]:
    """docker stop of ``docker run OPTIONS -d``: the exit code, and seconds."""
    container = box.start(*command, options=options)
    if box.is_ours:
        until(lambda: "answers" in container.logs or not helpers(container), "ready")
    until(lambda: "up" in container.logs, "the app is up")
    return container.stop()


# ---------------------------------------------------------------------------------------------- what it costs


@dataclass
class Cost:
    """Of the first process while the app runs: kB that it shares with nobody, kB in all, wake-ups a minute."""

    private: int
    resident: int
    wakeups: float
    others: list[str]


def cost(box: Box, seconds: float = 3) -> Cost:
    container = box.start(*box.recorder(seconds=3600))
    box.wait_until_up(container)

    def switches() -> int:
        status = container.exec("cat", "/proc/1/status").stdout
        return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)

    def asleep() -> bool:
        return "S (sleeping)" in container.exec("cat", "/proc/1/status").stdout

    until(asleep, "it sleeps")
    before = switches()
    time.sleep(seconds)
    woken = switches() - before
    rollup = container.exec("cat", "/proc/1/smaps_rollup").stdout
    sizes = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    private = sum(size for name, size in sizes.items() if name.startswith("Private_"))
    return Cost(private, sizes["Rss:"], woken * 60 / seconds, helpers(container))


def missing(init: Sequence[str]) -> str:
    """The program that is not installed here; empty: all there."""
    return next((word for word in init[:1] if shutil.which(word) is None and not word.startswith(BUNDLE)), "")
