"""The entrypoint as a process, under each shell, as a child of ours and as PID 1. In a container: tests/docker.

``shell``       dash, busybox sh and bash, one after another; one that is not installed is skipped by name
``place``       "outside", or "pid1": PID 1 of a namespace of its own, as a container's first process is; needs root
``entrypoint``  ``entrypoint.run(COMMAND...)`` until its end; ``entrypoint.start(COMMAND...)`` to look at it meanwhile
``recorder``    the command of an app that notes every signal that it gets, see apps/recorder.py
``FULL``        STARTUP_TEST_FULL=1: all combinations and repetitions, where CI takes a part
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.schemas import check_lines

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "apps"
SHELLS = {"dash": ("dash",), "busybox": ("busybox", "sh"), "bash": ("bash",)}
#: What an entrypoint is started through. A container is such a namespace, and more: tests/docker has that.
PLACES = {"outside": (), "pid1": ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")}
FULL = os.environ.get("STARTUP_TEST_FULL", "") not in ("", "0")
Done = subprocess.CompletedProcess[str]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of what is the same for all shells as PID 1, CI takes one shell a test, each as often as the others."""
    left_out = [] if FULL else [item for item in items if not in_ci(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def in_ci(item: pytest.Item) -> bool:
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if item.path.name not in ("test_unchanged.py", "test_exit_codes.py") or params.get("place") != "pid1":
        return True
    shells = list(SHELLS)
    chosen = shells[zlib.crc32(item.nodeid.replace(str(params["shell"]), "").encode()) % len(shells)]
    return bool(params["shell"] == chosen)


class Running:
    """An entrypoint that runs. ``app`` is its app's pid, once there is one."""

    def __init__(self, process: subprocess.Popen[bytes], state: Path, log: Path, through: Sequence[str] = ()) -> None:
        self.process = process
        self.as_pid_1 = bool(through)
        self.state = state
        self._log = log

    @cached_property
    def pid(self) -> int:
        """The entrypoint's own, as we see it; as PID 1 it is the only child of what it was started through."""
        if not self.as_pid_1:
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.wait_for(lambda: children.read_text().strip())
        pid = int(children.read_text())
        # What comes before the traps are set is lost: the kernel drops it, as for every first process.
        status = Path(f"/proc/{pid}/status")
        self.wait_for(lambda: signal.SIGTERM in caught(status.read_text()))
        return pid

    @property
    def status(self) -> str:
        return Path(f"/proc/{self.pid}/status").read_text()

    @property
    def log(self) -> str:
        """stderr so far, the app's and the entrypoint's."""
        return self._log.read_text(errors="replace")

    @property
    def last_line(self) -> str:
        return self.log.splitlines()[-1]

    def told(self, name: str) -> str:
        """A file of the state directory; empty while it is not there."""
        try:
            return (self.state / name).read_text().strip()
        except FileNotFoundError:
            return ""

    def wait_for(self, condition: Callable[[], object], timeout: float = 20) -> None:
        """Until *condition* is true; fails at the time limit, and when the entrypoint ends before it."""
        deadline = time.monotonic() + timeout
        while not condition():
            code = self.process.poll()
            if code is not None and not condition():
                pytest.fail(f"it has ended with {code}:\n{self.log}")
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout} s; it says:\n{self.log}")
            time.sleep(0.01)

    def wait_until_ready(self) -> None:
        self.wait_for(lambda: (self.state / "ready").exists())

    def has_taken_all_signals(self) -> bool:
        """None is pending, and it waits again."""
        status = dict(line.split(":\t", 1) for line in self.status.splitlines())
        return status["State"].startswith("S") and not int(status["ShdPnd"], 16)

    def send(self, number: int) -> None:
        if not self.as_pid_1:
            self.process.send_signal(number)
        elif self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ends before what it was started through
                os.kill(self.pid, number)

    def wait(self, timeout: float = 20) -> int:
        """Its exit code, 128 + n for a signal, as Docker counts."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it has not ended within {timeout} s:\n{self.log}")
        return 128 - code if code < 0 else code


class Entrypoint:
    """Starts entrypoint.sh under one shell; everything is killed when the test ends."""

    def __init__(self, shell: Sequence[str], directory: Path, place: str = "outside") -> None:
        self.shell = tuple(shell)
        self.place = place
        self.directory = directory
        self.state = directory / "state"
        self.environ = {
            "PATH": os.environ["PATH"],
            "STARTUP_PYTHON": sys.executable,
            "STARTUP_STATE_DIR": str(self.state),
            "STARTUP_HOOKS_DIR": str(directory / "hooks"),
            "STARTUP_TASKS": "none",
            "STARTUP_PING": "none",
        }
        (directory / "hooks").mkdir(exist_ok=True)
        self._started: list[Running] = []

    def words(self, *command: str) -> list[str]:
        return [*PLACES[self.place], *self.shell, str(ROOT / "entrypoint.sh"), *command]

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in {**self.environ, **extra}.items() if value != "unset"}

    def run(self, *command: str, env: Mapping[str, str] | None = None, **options: Any) -> Done:
        """Until its end; *options* as for subprocess.run. A value "unset" in *env* leaves a name out."""
        options.setdefault("timeout", 30)
        if "stdout" not in options and "stderr" not in options:
            options["capture_output"] = True
        options.setdefault("cwd", self.directory)
        done = subprocess.run(self.words(*command), env=self.environment(env or {}), text=True, check=False, **options)
        if done.returncode < 0:
            done.returncode = 128 - done.returncode
        check_lines(done.stderr or "")
        return done

    def start(self, *command: str, env: Mapping[str, str] | None = None, **options: Any) -> Running:
        """In the background, in a session of its own; *options* as for subprocess.Popen."""
        log = self.directory / f"log{len(self._started)}"
        if self.state.is_dir():
            shutil.rmtree(self.state)  # so that the ready mark is never an earlier run's
        options.setdefault("cwd", self.directory)
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("start_new_session", True)
        with log.open("ab") as file:
            options.setdefault("stderr", file)
            options.setdefault("stdout", file)
            process = subprocess.Popen(self.words(*command), env=self.environment(env or {}), **options)
        running = Running(process, self.state, log, PLACES[self.place])
        self._started.append(running)
        return running

    def hook(self, phase: str, script: str, name: str = "10-hook.sh") -> None:
        """Write an executable hook file for *phase*."""
        path = self.directory / "hooks" / f"{phase}.d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def also_clean(self, other: Entrypoint) -> None:
        self._started += other._started

    def clean(self) -> None:
        kill_sessions({running.process.pid for running in self._started})
        for running in self._started:
            running.process.kill()
            running.process.wait()
            for stream in (running.process.stdin, running.process.stdout, running.process.stderr):
                if stream is not None:
                    stream.close()


def kill_sessions(sessions: Set[int]) -> None:
    """KILL for every process of these sessions, whatever group it is in."""
    for pid in session_members(*sessions):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def session_members(*sessions: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[3]) in sessions:
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def seen_from_outside(pid: int, running: Running) -> int:
    """Our number of the process that is *pid* where the entrypoint runs."""
    for member in session_members(running.process.pid):
        status = Path(f"/proc/{member}/status").read_text()
        if next(line for line in status.splitlines() if line.startswith("NSpid")).split()[-1] == str(pid):
            return member
    raise ProcessLookupError(pid)


class Recorder:
    """An app that notes what it gets: ``command`` is its command line, ``got`` the signals so far."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "recorded"
        self.command = (sys.executable, "-I", "-S", str(APPS / "recorder.py"), str(self._file))

    def clear(self) -> None:
        self._file.unlink(missing_ok=True)

    @property
    def lines(self) -> list[str]:
        try:
            return self._file.read_text().split()
        except FileNotFoundError:
            return []

    @property
    def up(self) -> bool:
        return self.lines[:1] != []

    @property
    def pid(self) -> int:
        return int(self.lines[0])

    @property
    def got(self) -> list[int]:
        """The numbers of the signals that arrived, in order."""
        return [int(line) for line in self.lines[1:]]


@pytest.fixture(params=list(SHELLS))
def shell(request: pytest.FixtureRequest) -> Sequence[str]:
    words = SHELLS[request.param]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    return words


def caught(status: str) -> set[int]:
    """The signals that a process has a handler for, by its /proc/PID/status."""
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


@functools.cache
def can_be_pid_1() -> bool:
    try:
        return subprocess.run([*PLACES["pid1"], "true"], capture_output=True, timeout=30).returncode == 0
    except OSError:
        return False


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name == "pid1" and not can_be_pid_1():
        pytest.skip("unshare(1) cannot make a PID namespace here: not root?")
    return name


@pytest.fixture
def entrypoint(shell: Sequence[str], place: str, tmp_path: Path) -> Iterator[Entrypoint]:
    one = Entrypoint(shell, tmp_path, place)
    yield one
    one.clean()


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)
