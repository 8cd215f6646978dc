"""A signal ends what runs, wherever in Python it strikes."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEAK_REFERENCE = "thing = Thing(); reference = weakref.ref(thing, struck); del thing"
DEL = "Thing.__del__ = struck; Thing()"


@pytest.mark.parametrize("where", [WEAK_REFERENCE, DEL])
def test_a_signal_that_strikes_where_exceptions_are_swallowed_is_not_lost(where: str) -> None:
    script = f"""
import os, sys, time, weakref
sys.path.insert(0, {str(ROOT)!r})
from startup.process.interrupts import Interrupts

class Thing: pass

def struck(_):
    os.kill(os.getpid(), 15)
    for _ in range(1000):
        pass

Interrupts().install()
{where}
print("swallowed", flush=True)
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout == "swallowed\n", "else the test does not test it"
    assert done.returncode == 143
    assert done.stderr == ""


def test_a_signal_that_an_sqlite_callback_swallows_ends_the_run_and_fails_no_task(tmp_path: Path) -> None:
    """sqlite3 clears what is raised in a callback (ours is the authorizer), and the statement fails instead."""
    (tmp_path / "struck.py").write_text(
        "import signal\nfrom startup import task\n\n@task(policy='once')\ndef strike(context):\n"
        "    context.connection.create_function('strike', 0, lambda: signal.raise_signal(signal.SIGTERM))\n"
        "    context.connection.execute('SELECT strike()')\n"
    )
    settings = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/app.db",
        "STARTUP_MODULE": "struck",
        "STARTUP_TASKS": "strike",
        "PYTHONPATH": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-I", str(ROOT / "startup"), "init"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "stopped by SIGTERM" in done.stderr
    assert done.returncode == 143
    with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as database:
        assert database.execute("SELECT task FROM startup_ledger").fetchall() == [], "a stopped task has not failed"


def test_a_time_limit_cancels_once_and_after_it_no_cancel_is_under_way_any_more() -> None:
    """A late one would strike the next statement, which writes down that the task has failed."""
    script = f"""
import sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
from startup.errors import TimedOut
from startup.process.interrupts import Interrupts

def cancel():
    print("begins in", threading.current_thread().name, flush=True)
    time.sleep(0.5)
    print("ends", flush=True)

interrupts = Interrupts()
interrupts.install()
interrupts.cancel = cancel
try:
    with interrupts.limit(0.05, 0, "it"):
        time.sleep(60)
except TimedOut:
    interrupts.settle()
print("goes on", flush=True)
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout.split("\n") == ["begins in signals", "ends", "goes on", ""], done.stderr


def test_an_alarm_at_the_very_end_of_a_time_limit_leaves_no_timer_behind_that_kills_the_next_task() -> None:
    script = f"""
import os, signal, sys, threading
sys.path.insert(0, {str(ROOT)!r})
from startup.errors import TimedOut
from startup.process.interrupts import Interrupts

interrupts = Interrupts()
interrupts.install()
real = signal.setitimer

def setitimer(which, seconds):
    if not seconds:
        signal.raise_signal(signal.SIGALRM)  # it strikes where the limit is being taken back
    return real(which, seconds)

signal.setitimer = setitimer
try:
    with interrupts.limit(60, 60, "it"):
        pass
except TimedOut:
    timers = [one for one in threading.enumerate() if isinstance(one, threading.Timer)]
    print("told", [one.name for one in timers if not one.finished.is_set()])
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout == "told []\n", done.stderr


def test_a_second_stop_signal_ends_at_once_and_kills_what_was_started() -> None:
    """Also a command that does not heed TERM, while the first signal's ending of it is still waited for."""
    script = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from startup.process.command import Command
from startup.process.interrupts import Interrupts

interrupts = Interrupts()
interrupts.install()
line = "trap 'echo told' TERM; echo there; while :; do sleep 0.05; done"
Command(("/bin/sh", "-c", line), os.environ, interrupts, 60).wait()
"""
    process = subprocess.Popen([sys.executable, "-I", "-c", script], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "there\n"
    process.send_signal(signal.SIGTERM)
    assert "told\n" in iter(process.stderr.readline, "")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.stderr.read()  # it ends when nobody of the group lives
