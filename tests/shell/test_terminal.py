"""At a terminal, through a real pseudo-terminal: as its session's leader, as PID 1 there, and as a shell's job."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..terminal import CTRL_BACKSLASH, CTRL_C, CTRL_Z, Terminal
from .conftest import Entrypoint, Recorder, kill_sessions, session_members

#: An app with a hand on every key: each is shown once for each time that it arrives.
TICKS = "trap 'echo INT' INT; trap 'echo QUIT' QUIT; echo up; while :; do sleep 0.05; echo tick; done"

Open = Callable[..., Terminal]


@pytest.fixture
def at_terminal(entrypoint: Entrypoint) -> Iterator[Open]:
    """``at_terminal(COMMAND...)`` starts the entrypoint there; ``job=True``: as the job of an interactive shell."""
    opened = []

    def start(*command: str, job: bool = False) -> Terminal:
        words = entrypoint.words(*command)
        if entrypoint.place == "pid1":
            shell = words.index(entrypoint.shell[0])
            words[shell:shell] = ["setsid", "--ctty"]
        environ = entrypoint.environment({"PS1": "prompt> ", "TERM": "dumb"})
        one = Terminal(*(["bash", "--norc", "-i"] if job else words), cwd=entrypoint.directory, env=environ)
        opened.append(one)
        if job:
            one.wait_until_shown("prompt> ")
            one.type(shlex.join(words).encode() + b"; echo code=$?\n")
        return one

    yield start
    for one in opened:
        kill_sessions({one.process.pid})
        one.close()


@pytest.fixture
def outside(entrypoint: Entrypoint) -> None:
    if entrypoint.place != "outside":
        pytest.skip("a container's first process is nobody's job")


@pytest.mark.parametrize(("key", "number"), [(CTRL_C, signal.SIGINT), (CTRL_BACKSLASH, signal.SIGQUIT)])
def test_a_key_reaches_the_app_once(
    entrypoint: Entrypoint, recorder: Recorder, at_terminal: Open, key: bytes, number: int
) -> None:
    terminal = at_terminal(*recorder.command, "0.5")
    terminal.wait_for(lambda: recorder.up and (entrypoint.state / "ready").exists(), "ready")
    terminal.type(key)
    assert terminal.wait() == 40 + number
    assert recorder.got == [number]


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(("key", "number"), [(CTRL_C, signal.SIGINT), (CTRL_BACKSLASH, signal.SIGQUIT)])
def test_a_key_reaches_the_app_of_a_shells_job_once(
    entrypoint: Entrypoint, recorder: Recorder, at_terminal: Open, key: bytes, number: int
) -> None:
    terminal = at_terminal(*recorder.command, "0.5", job=True)
    terminal.wait_for(lambda: recorder.up and (entrypoint.state / "ready").exists(), "ready")
    terminal.type(key)
    terminal.wait_until_shown(f"code={40 + number}")
    assert recorder.got == [number]


def test_ctrl_z_stops_nothing_as_it_does_not_in_a_container(entrypoint: Entrypoint, at_terminal: Open) -> None:
    # No shell that starts commands: the key may stop a child within vfork(2), and of that nobody is told.
    code = (
        "import os, time; name = 'tick' if os.fork() else 'tock'\nwhile True: print(name, flush=True); time.sleep(0.05)"
    )
    terminal = at_terminal(sys.executable, "-I", "-S", "-c", code)
    terminal.wait_for((entrypoint.state / "ready").exists, "ready")
    terminal.wait_until_shown("tick")
    terminal.wait_until_shown("tock")
    terminal.type(CTRL_Z)
    terminal.wait_until_shown("^Z")
    shown = {name: terminal.shown.count(name) for name in ("tick", "tock")}
    for name, times in shown.items():
        terminal.wait_until_shown(name, times + 5)


@pytest.mark.usefixtures("outside")
def test_a_stop_just_after_ctrl_z_ends_an_app_that_waits_for_its_stopped_child(
    entrypoint: Entrypoint, at_terminal: Open
) -> None:
    """Its shell handles TERM once the child goes on."""
    terminal = at_terminal("sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done")
    terminal.wait_for((entrypoint.state / "ready").exists, "ready")
    terminal.wait_until_shown("up")
    terminal.type(CTRL_Z)
    terminal.wait_until_shown("^Z")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait() == 3


@pytest.mark.usefixtures("outside")
def test_ctrl_z_stops_a_shells_job_and_fg_goes_on(entrypoint: Entrypoint, at_terminal: Open) -> None:
    terminal = at_terminal("sh", "-c", TICKS, job=True)
    terminal.wait_for((entrypoint.state / "ready").exists, "ready")
    terminal.wait_until_shown("tick")
    terminal.type(CTRL_Z)
    terminal.wait_until_shown("Stopped")
    terminal.type(b"fg\n")
    ticks = terminal.shown.count("tick")
    terminal.wait_until_shown("tick", ticks + 5)


def test_a_shell_has_job_control(at_terminal: Open) -> None:
    terminal = at_terminal("env", "PS1=$ ", "bash", "--norc", "-i")
    terminal.wait_until_shown("$ ")
    terminal.type(b"sleep 100\n")
    terminal.wait_until_shown("sleep 100")
    terminal.wait_for(lambda: "\nsleep 100 " in on_the_terminal(terminal), "sleep in the foreground")
    terminal.type(CTRL_Z)
    terminal.wait_until_shown("Stopped")
    terminal.type(b"fg\n")
    terminal.wait_until_shown("sleep 100", 3)
    terminal.type(CTRL_C)
    terminal.type(b"echo code=$?; exit 9\n")
    terminal.wait_until_shown("code=130")
    assert terminal.wait() == 9
    assert "no job control" not in terminal.shown


def on_the_terminal(terminal: Terminal) -> str:
    """The command lines of all that run there; as PID 1 the entrypoint has a session of its own."""
    leader = terminal.process.pid
    leaders = [leader, *map(int, Path(f"/proc/{leader}/task/{leader}/children").read_text().split())]
    members = [pid for one in leaders for pid in session_members(one)]
    return "\n".join(filter(None, map(command_line, members)))


def command_line(pid: int) -> str:
    """With a space after each word; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_the_window_size_and_its_changes_reach_the_app(entrypoint: Entrypoint, at_terminal: Open) -> None:
    code = (
        "import os, signal\n"
        "show = lambda *_: print('size', *os.get_terminal_size(), flush=True)\n"
        "signal.signal(signal.SIGWINCH, show); show()\n"
        "while True: signal.pause()"
    )
    terminal = at_terminal(sys.executable, "-I", "-S", "-c", code)
    terminal.wait_until_shown("size 80 24")
    terminal.wait_for((entrypoint.state / "ready").exists, "ready")
    terminal.resize(50, 132)
    terminal.wait_until_shown("size 132 50")


def test_the_app_reads_what_is_typed_and_sees_its_end(at_terminal: Open) -> None:
    terminal = at_terminal("sh", "-c", "echo up; cat; echo over; exit 4")
    terminal.wait_until_shown("up")
    terminal.type(b"hello\n")
    terminal.wait_until_shown("hello", 2)  # the terminal's echo, and cat's
    terminal.type(b"\x04")
    assert terminal.wait() == 4
    terminal.wait_until_shown("over")


def test_a_hook_before_the_stop_does_not_run_for_ctrl_c(
    entrypoint: Entrypoint, recorder: Recorder, at_terminal: Open
) -> None:
    """The app has got it already."""
    entrypoint.hook("pre_stop", ": >ran")
    terminal = at_terminal(*recorder.command)
    terminal.wait_for(lambda: recorder.up and (entrypoint.state / "ready").exists(), "ready")
    terminal.type(CTRL_C)
    assert terminal.wait() == 40 + signal.SIGINT
    assert not (entrypoint.directory / "ran").exists()


def test_a_hook_before_the_stop_runs_for_an_int_that_no_key_sent(entrypoint: Entrypoint, recorder: Recorder) -> None:
    """Fly.io stops with INT."""
    entrypoint.hook("pre_stop", ": >ran")
    running = entrypoint.start(*recorder.command)
    running.wait_until_ready()
    running.wait_for(lambda: recorder.up)
    running.send(signal.SIGINT)
    assert running.wait() == 40 + signal.SIGINT
    assert (entrypoint.directory / "ran").exists()
