"""Ready is only what has proved it, and nothing that a task does to its process keeps a container from ending."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

import pytest

from .conftest import Entrypoint

TASKS = """
import os, signal, sys, threading, time

def ends(context): {body}

def after(context):
    open("after", "w").close()
"""
ENDS = {
    "os._exit(0)": "os._exit(0)",
    "os._exit(3)": "os._exit(3)",
    "os._exit(4)": "os._exit(4)",
    "os._exit(70)": "os._exit(70)",
    "exec": 'os.execvp("true", ["true"])',
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
}
LIST = {"STARTUP_TASK_ENDS": "tasks:ends", "STARTUP_TASK_AFTER": "tasks:after"}
every_end = pytest.mark.parametrize("body", ENDS.values(), ids=ENDS.keys())


def write(entrypoint: Any, body: str) -> None:
    (entrypoint.directory / "tasks.py").write_text(TASKS.format(body=body))


@every_end
def test_a_task_that_ends_the_process_is_a_failure_whatever_its_code(entrypoint: Entrypoint, body: str) -> None:
    write(entrypoint, body)
    done = entrypoint.run("sleep", "60", env={**LIST, "STARTUP_TASKS": "ends@local after@local"})
    assert done.returncode == 70, done.stderr
    assert not (entrypoint.state / "ready").exists()
    assert not (entrypoint.directory / "after").exists()
    if "kill" not in body:
        assert "while running task 1 of 2, ends" in done.stderr.splitlines()[-1]


@every_end
def test_in_pre_start_the_app_is_never_started(entrypoint: Entrypoint, body: str) -> None:
    write(entrypoint, body)
    done = entrypoint.run("touch", "started", env={**LIST, "STARTUP_PRE_START": "ends@local after@local"})
    assert done.returncode == 70, done.stderr
    assert "the app was not started" in done.stderr
    assert not (entrypoint.directory / "started").exists()


@every_end
def test_outside_of_the_flow_it_is_a_failure_too(startup: Any, body: str) -> None:
    write(startup, body)
    for verb, address in ((["init"], ""), (["run", "ends", "after"], "sqlite:///here.db")):
        done = startup(*verb, **LIST, STARTUP_TASKS="ends@local after@local", DATABASE_URL=address)
        assert done.returncode == 70, done.stderr
        assert "was ended" in done.stderr.splitlines()[-1]
    assert not (startup.directory / "after").exists()


def test_a_thread_that_a_task_leaves_is_named_and_holds_up_nothing(startup: Any, entrypoint: Entrypoint) -> None:
    body = 'threading.Thread(target=time.sleep, args=(600,), name="poller").start()'
    write(startup, body)
    done = startup("init", **LIST, STARTUP_TASKS="ends@local after@local")
    assert done.returncode == 0, done.stderr
    assert "threads that a task has left end with this process: poller" in done.stderr
    write(entrypoint, body)
    running = entrypoint.start("sleep", "60", env={**LIST, "STARTUP_TASKS": "ends@local"})
    running.wait_until_ready()
    running.send(signal.SIGTERM)
    assert running.wait(10) == 143


def test_a_thread_that_is_left_does_not_keep_a_crashed_apps_container(entrypoint: Entrypoint) -> None:
    """The app dies while the next task runs."""
    write(entrypoint, 'threading.Thread(target=time.sleep, args=(600,), name="poller").start()')
    env = {**LIST, "STARTUP_TASKS": "ends@local long@local", "STARTUP_TASK_LONG": "touch long; sleep 600"}
    started = time.monotonic()
    done = entrypoint.run("sh", "-c", "until [ -e long ]; do sleep 0.05; done; exit 9", env=env)
    assert done.returncode == 9, done.stderr
    assert time.monotonic() - started < 25


def test_a_stop_signal_that_a_task_swallows_is_heeded_at_its_end(startup: Any, wait_until: Any) -> None:
    write(
        startup,
        "\n    open('here', 'w').close()\n    try:\n        time.sleep(60)\n    except:\n        pass",
    )
    process = startup.start("init", **LIST, STARTUP_TASKS="ends@local after@local")
    wait_until((startup.directory / "here").exists)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143, said
    assert not (startup.directory / "after").exists()


@pytest.mark.parametrize("module", ["", "tasks"], ids=["in a task", "while a module is imported"])
def test_a_stop_signal_that_comes_while_a_class_is_made_is_no_failure(
    startup: Any, wait_until: Any, module: str
) -> None:
    """Before Python 3.12 what is raised in __set_name__, as in that of a dataclass' fields, comes as a RuntimeError."""
    made = (
        "class Waits:\n"
        "    def __set_name__(self, owner, name):\n"
        "        open('here', 'w').close()\n"
        "        import time; time.sleep(60)\n"
        "class Owner:\n    field = Waits()\n"
    )
    if module:
        startup.write("tasks.py", made)
    else:
        startup.write("made.py", made)
        write(startup, "import made")
    process = startup.start("init", **LIST, STARTUP_TASKS="ends@local", STARTUP_MODULE=module)
    wait_until((startup.directory / "here").exists)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143, said


def test_a_time_limit_that_a_task_swallows_is_a_failure(startup: Any) -> None:
    write(startup, "\n    try:\n        time.sleep(60)\n    except:\n        pass")
    done = startup("init", **LIST, STARTUP_TASKS="ends@local after@local", STARTUP_TIMEOUT="0.5")
    assert done.returncode == 70 and "was not done within 0.5 s" in done.stderr
    assert not (startup.directory / "after").exists()


@pytest.mark.parametrize("then", ["return", "raise ValueError", "sys.exit(5)"])
def test_a_child_that_a_task_forks_ends_with_it_and_the_parent_goes_on(
    startup: Any, database_url: str, query: Any, then: str
) -> None:
    forks = f"\n    if os.fork() == 0:\n        {then}\n    os.wait()"
    write(startup, f"\n    context.connection.execute('CREATE TABLE t (x int)'){forks}")
    done = startup("init", **LIST, STARTUP_TASKS="ends@once after@once", DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    assert query(database_url, "SELECT to_regclass('t')::text") == [("t",)]
    assert done.stderr.count("after, is done") == 1


@pytest.mark.parametrize("stream", ["sys.stderr.close()", "sys.stdout.close()", "sys.__stdout__.close()"])
def test_a_stream_that_a_task_closes_is_no_failure(startup: Any, entrypoint: Entrypoint, stream: str) -> None:
    for where in (startup, entrypoint):
        write(where, stream)
    done = startup("init", **LIST, STARTUP_TASKS="ends@local after@local")
    assert done.returncode == 0, done.stderr
    assert "after, is done" in done.stderr
    running = entrypoint.start("sleep", "60", env={**LIST, "STARTUP_TASKS": "ends@local after@local"})
    running.wait_until_ready()
    assert "after, is done" in running.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_the_parent_of_init_passes_signals_on_and_ends_with_its_code(
    startup: Any, wait_until: Any, number: int
) -> None:
    write(startup, "\n    open('here', 'w').close()\n    time.sleep(60)")
    process = startup.start("init", **LIST, STARTUP_TASKS="ends@local")
    wait_until((startup.directory / "here").exists)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number, said


def test_a_stop_signal_is_no_failure_at_whatever_moment_it_comes(startup: Any) -> None:
    write(startup, "time.sleep(60)")
    for moment in range(0, 100, 5):
        process = startup.start("init", **LIST, STARTUP_TASKS="ends@local")
        time.sleep(moment / 1000)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
        assert process.returncode in (143, -15), (moment, said)


def test_when_the_parent_of_init_is_killed_its_child_is_too(startup: Any, wait_until: Any) -> None:
    write(startup, "\n    open('here', 'w').write(str(os.getpid()))\n    time.sleep(60)")
    process: subprocess.Popen[str] = startup.start("init", **LIST, STARTUP_TASKS="ends@local")
    here = startup.directory / "here"
    wait_until(lambda: here.exists() and here.read_text())
    child = int(here.read_text())
    assert child != process.pid
    process.kill()
    process.wait()
    wait_until(lambda: not os.path.exists(f"/proc/{child}") or _is_zombie(child))


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"
