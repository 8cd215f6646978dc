"""What we start, commands, hooks and ``cmd:`` pings: what they are given, and that no signal leaves one behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from startup.errors import Interrupted
from startup.ping import kinds
from startup.ping import wait as ping
from startup.ping.attempt import App
from startup.process.command import Command
from startup.process.interrupts import Interrupts

ROOT = Path(__file__).parents[2]
SHOW = "grep -e SigIgn -e SigBlk /proc/self/status >signals; ls -l /proc/self/fd >descriptors"
#: How a shell starts what stands before an `&`, with a descriptor that it has opened for itself.
IN_BACKGROUND = 'trap "" INT QUIT; exec 7<handed_in; exec "$@"'


@pytest.fixture(params=["command", "hook", "ping"])
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A command of each sort has run under :data:`IN_BACKGROUND`; the directory where it has left what it saw."""
    (tmp_path / "handed_in").touch()
    hook = tmp_path / "hooks/post_start.d/10-show.local.sh"
    hook.parent.mkdir(parents=True)
    hook.parent.parent.chmod(0o755)
    hook.parent.chmod(0o755)
    verb, environ = {
        "command": ("init", {"STARTUP_TASKS": "show@local", "STARTUP_TASK_SHOW": SHOW}),
        "hook": ("init", {"STARTUP_HOOKS_DIR": "hooks"}),
        "ping": ("ping", {"STARTUP_PING": f"cmd:{SHOW}"}),
    }[request.param]
    if request.param == "hook":
        hook.write_text(f"#!/bin/sh\n{SHOW}\n")
        hook.chmod(0o755)
    module = (sys.executable, "-I", str(ROOT / "startup"), verb)
    done = subprocess.run(
        ["sh", "-c", IN_BACKGROUND, "sh", *module],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_it_can_be_interrupted_where_a_shell_that_started_us_ignored_it(started: Path) -> None:
    lines = (line.split() for line in (started / "signals").read_text().splitlines())
    masks = {name: int(mask, 16) for name, mask in lines}
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ):
        assert not masks["SigIgn:"] >> (number - 1) & 1, number
    assert masks["SigBlk:"] == 0


def test_no_descriptor_that_was_handed_to_us_reaches_it(started: Path) -> None:
    listed = (started / "descriptors").read_text()
    assert "handed_in" not in listed
    assert {line.split()[8] for line in listed.splitlines() if "->" in line} == {"0", "1", "2", "3"}, "3 is ls's own"


def test_sqlites_lock_reaches_a_command_of_the_clusters(tmp_path: Path) -> None:
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "STARTUP_TASKS": "show@once", "STARTUP_TASK_SHOW": SHOW}
    subprocess.run(
        [sys.executable, "-I", str(ROOT / "startup"), "init"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], **environ},
        check=True,
        timeout=60,
    )
    listed = (tmp_path / "descriptors").read_text()
    assert listed.count(f"{tmp_path}/test.db") == 1 and "lock" in listed, listed
    assert "0 -> /dev/null" in listed


# A signal


class Alarm:
    """A signal at any moment, whose handler raises; one more soon after where that is wanted.

    Another thread runs too, as in the module, and may take the signal for the main thread.
    """

    def __init__(self, seconds: float, again: float = 0) -> None:
        self._seconds, self._again = seconds, again
        self._over = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._over.wait, daemon=True).start()
        self._old = signal.signal(signal.SIGALRM, self._raise)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._old)
        self._over.set()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._again)
        self._again = 0
        raise Interrupted(128 + number)


def children() -> set[int]:
    """The children of this process."""
    found = set()
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            if int(Path(f"/proc/{int(name)}/stat").read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                found.add(int(name))
    return found


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No child is left when the test has ended."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals' handlers run in the main thread alone")
    before = children()
    yield
    left = children() - before
    for pid in left:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not left


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("value", ["tcp://127.0.0.1:1", "file:///nowhere/x", "cmd: sleep 85", "auto"])
def test_a_signals_handler_may_raise_while_the_app_is_waited_for(value: str) -> None:
    started = time.monotonic()
    with subprocess.Popen(["sleep", "90"]) as app:  # not this process: PostgreSQL may listen under it
        with pytest.raises(Interrupted), Alarm(0.3):
            ping.wait(kinds.parse(value, os.environ), app=app.pid, timeout=20, interval=1, report=print, warn=print)
        app.kill()
    assert time.monotonic() - started < 15


def ask(line: str) -> None:
    with App(None) as app:
        kinds.parse(f"cmd: {line}", os.environ).attempt(app)


def run(line: str) -> None:
    Command(("/bin/sh", "-c", line), os.environ, Interrupts(), 60).wait()


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("start", "line", "again"),
    [
        (ask, "sleep 84", 0),
        (ask, "sleep 84 & exit 0", 0),
        (run, "sleep 84", 0),
        (run, "sleep 84", 0.001),  # a time limit, then a signal
    ],
)
def test_a_command_is_not_lost_at_whatever_moment_a_signal_comes(
    start: Callable[[str], None], line: str, again: float
) -> None:
    for number in range(300):
        with contextlib.suppress(Interrupted), Alarm(0.000_05 + number * 0.000_013, again):
            start(line)


@pytest.mark.usefixtures("nothing_left")
def test_a_second_signal_ends_a_command_that_does_not_heed_the_first(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(Interrupted), Alarm(0.3, 0.3):
        run("trap '' TERM; while :; do sleep 0.05; done")
    assert time.monotonic() - started < 30, "STARTUP_STOP_TIMEOUT was waited for"
