"""The entrypoint as a process, under each shell, outside a container.

``shell``       dash, busybox sh and bash, one after another; one that is not installed is skipped by name
``entrypoint``  ``entrypoint.run(COMMAND...)`` until its end; ``entrypoint.start(COMMAND...)`` to look at it meanwhile
``recorder``    the command of an app that notes every signal that it gets, see apps/recorder.py
``FULL``        STARTUP_TEST_FULL=1: all combinations and repetitions, where CI takes a part
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "apps"
SHELLS = {"dash": ("dash",), "busybox": ("busybox", "sh"), "bash": ("bash",)}
FULL = os.environ.get("STARTUP_TEST_FULL", "") not in ("", "0")
Done = subprocess.CompletedProcess[str]


class Running:
    """An entrypoint that runs. ``app`` is its app's pid, once there is one."""

    def __init__(self, process: subprocess.Popen[bytes], state: Path, log: Path) -> None:
        self.process = process
        self.state = state
        self._log = log

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

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def until_it_has_seen(self) -> None:
        """Until no signal is pending and it sleeps again.

        For bash: while it waits, its trap_handler jumps out of the first handler that runs, so that of the signals
        that it finds in the same moment all but the one with the highest number are lost.
        """

        def asleep() -> bool:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return "S (sleeping)" in status and f"ShdPnd:\t{0:016x}" in status

        self.wait_for(asleep)

    def wait(self, timeout: float = 20) -> int:
        """Its exit code, 128 + n for a signal, as Docker counts."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it has not ended within {timeout} s:\n{self.log}")
        return 128 - code if code < 0 else code


class Entrypoint:
    """Starts entrypoint.sh under one shell; everything is killed when the test ends."""

    def __init__(self, shell: Sequence[str], directory: Path) -> None:
        self.shell = tuple(shell)
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
        self._started: list[Running] = []

    def words(self, *command: str) -> list[str]:
        return [*self.shell, str(ROOT / "entrypoint.sh"), *command]

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
        running = Running(process, self.state, log)
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


@pytest.fixture
def entrypoint(shell: Sequence[str], tmp_path: Path) -> Iterator[Entrypoint]:
    one = Entrypoint(shell, tmp_path)
    yield one
    one.clean()


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)
