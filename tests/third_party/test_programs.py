"""Third-party software, unchanged, behind the entrypoint and without it: what each signal does, output and exit code.

One shell a scene, in turn; with STARTUP_TEST_FULL=1 each scene under all of them. A program that is not installed is
skipped by name.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shell.conftest import FULL, SHELLS, Entrypoint

from .programs import LIMIT, PROGRAMS, Program, Scene

NAMES = list(SHELLS)


class Alone(Entrypoint):
    """The same command, in the same environment, without us."""

    def words(self, *command: str) -> list[str]:
        return list(command)


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every user may enter: pytest's own may not."""
    path = Path(tempfile.mkdtemp(prefix="startup-programs-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def in_turn(count: int) -> list[str]:
    """The shells for the case number *count*."""
    return NAMES if FULL else [NAMES[count % len(NAMES)]]


def shell_or_skip(name: str) -> tuple[str, ...]:
    if shutil.which(SHELLS[name][0]) is None:
        pytest.skip(f"{name} is not installed")
    return SHELLS[name]


CASES = [
    pytest.param(kind, scene, name, id="-".join([kind.__name__, *(one.name[3:] for one, *_ in scene), name]))
    for row, kind in enumerate(PROGRAMS)
    for column, scene in enumerate(kind.scenes)
    for name in in_turn(row + column)
]


@pytest.mark.parametrize(("kind", "scene", "name"), CASES)
def test_a_program_does_the_same_on_each_signal(kind: type[Program], scene: Scene, name: str, directory: Path) -> None:
    shell = shell_or_skip(name)
    if not kind.is_installed():
        pytest.skip(f"{kind.__name__} is not installed")
    alone = play(Alone((), directory), kind, scene)
    behind = play(Entrypoint(shell, directory), kind, scene)
    assert alone[0] == [seen for *_, seen in scene]
    assert behind[:2] == alone[:2]
    assert "\n".join(behind[2]) == "\n".join(alone[2])


def play(entrypoint: Entrypoint, kind: type[Program], scene: Scene) -> tuple[list[str], int, list[str]]:
    """What became of each signal, in words; the exit code; the output."""
    own = entrypoint.directory = entrypoint.directory / ("1" if isinstance(entrypoint, Alone) else "2")
    own.mkdir()
    program = kind(own)
    try:
        running = program.running = entrypoint.start(*program.command())
        if not isinstance(entrypoint, Alone):
            running.wait_for(lambda: (running.state / "ready").exists(), LIMIT)
        running.wait_for(program.is_up, LIMIT)
        words = [getattr(program, effect)(functools.partial(running.send, number)) for number, effect, _ in scene]
        return words, running.wait(LIMIT), program.output()
    finally:
        entrypoint.clean()


STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


@pytest.mark.parametrize("number", [None, *STOPS], ids=lambda one: one.name if one else "end-of-input")
@pytest.mark.parametrize("name", NAMES)
def test_cat_in_a_pipe_passes_on_what_it_is_given(name: str, number: signal.Signals | None, tmp_path: Path) -> None:
    outcomes = []
    for entrypoint in (Alone((), tmp_path), Entrypoint(shell_or_skip(name), tmp_path)):
        running = entrypoint.start("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stdin, stdout = running.process.stdin, running.process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(b"one\ntwo")
            stdin.flush()
            output = os.read(stdout.fileno(), 99)
            if number is None:
                stdin.close()
            else:
                running.send(number)
            outcomes.append((output + stdout.read(), running.wait()))
        finally:
            entrypoint.clean()
    assert outcomes[0] == outcomes[1] == (b"one\ntwo", 128 + number if number else 0)


#: What is typed at bash's prompt, and what then appears; "" for a command that takes the terminal.
TYPED = [
    ("echo $((6 * 7))\n", "42"),
    ("stty size\n", "33 123"),
    ("sleep 100\n", ""),
    ("\x1a", "Stopped"),
    ("jobs\n", "Stopped +sleep 100"),
    ("fg\n", ""),
    ("\x03", ""),
    ("echo $?\n", "130"),
    ("kill -TERM $$; echo stays\n", "stays"),
    ("\x03", r"\^C"),
    ("exit 5\n", ""),
]


@pytest.mark.parametrize("command", [("bash", "-i"), ("env", "bash", "-i")], ids=["exec", "flow"])
@pytest.mark.parametrize("name", NAMES)
def test_bash_at_a_terminal_has_its_job_control(name: str, command: tuple[str, ...], tmp_path: Path) -> None:
    """A bare shell is exec'ed; behind another word it goes through the flow."""
    shell = shell_or_skip(name)
    alone = type_at(Alone((), tmp_path), command)
    behind = type_at(Entrypoint(shell, tmp_path), command)
    assert behind == alone
    assert behind[0] == 5


def type_at(entrypoint: Entrypoint, command: tuple[str, ...]) -> tuple[int, str]:
    """The exit code, and all that stood on the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 123, 0, 0))
    running = entrypoint.start(
        *command,
        env={"TERM": "dumb", "HOME": str(entrypoint.directory), "STARTUP_LOG_LEVEL": "error"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    screen, seen, typed_at = "", 0, 0.0

    def shows(pattern: str) -> bool:
        nonlocal screen
        with contextlib.suppress(BlockingIOError, OSError):
            screen += os.read(ours, 9999).decode()
        return re.search(pattern, screen) is not None

    def answers(text: str, pattern: str) -> bool:
        """What is typed while bash changes the terminal's modes may be thrown away (TCSAFLUSH): so once more."""
        nonlocal typed_at
        if shows(pattern):
            return True
        if len(screen) == seen and time.monotonic() - typed_at > 5:
            typed_at = time.monotonic()
            os.write(ours, text.encode())
        return False

    try:
        running.wait_for(lambda: shows("[#$] $"))
        for text, expected in TYPED:
            seen, typed_at = len(screen), time.monotonic()
            os.write(ours, text.encode())
            if text.startswith(("sleep", "fg")):
                running.wait_for(lambda: shows("") and "(sleep) S" in stat_of(os.tcgetpgrp(ours)))
            elif text.startswith("exit"):
                code = running.wait()
            else:
                running.wait_for(lambda: answers(text, rf"(?s)^.{{{seen}}}.*{expected}.*[#$] $"))  # noqa: B023
        shows("")
        return code, re.sub(r"\d+", "N", screen)
    finally:
        os.close(ours)
        entrypoint.clean()


def stat_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return ""
