"""Odd surroundings of the first process: no output, no package, limits of 0, others' control characters."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT, Entrypoint, Recorder
from .test_state import needs_root

FORGED = "x\nstartup: error: forged\x1b[2K\ry"


@pytest.fixture(params=["/dev/full", "a full pipe"])
def unwritable(request: pytest.FixtureRequest) -> Iterator[int]:
    """A stderr that takes nothing."""
    full, (reader, writer) = os.open("/dev/full", os.O_WRONLY), os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    yield writer if request.param == "a full pipe" else full
    for descriptor in (full, reader, writer):
        os.close(descriptor)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_stderr_that_cannot_be_written_is_given_up_and_not_the_app(
    entrypoint: Entrypoint, unwritable: int, form: str
) -> None:
    (entrypoint.directory / "tasks.py").write_text(
        "import sys\ndef talk(context):\n    print('much ' * 9999)\n    sys.stderr.flush()\n"
    )
    env = {"STARTUP_TASKS": "tasks:talk@local", "STARTUP_LOG_FORMAT": form, "STARTUP_LOG_LEVEL": "debug"}
    until_ready = f"until [ -s {entrypoint.state}/ready ] || [ -s {entrypoint.state}/result ]; do sleep 0.1; done"
    app = ("sh", "-c", f"trap 'exit 9' TERM; {until_ready}; exit 5")
    done = entrypoint.run(*app, env=env, stderr=unwritable, stdout=subprocess.PIPE)
    assert done.returncode == 5, (entrypoint.state / "result").read_text()


@pytest.mark.parametrize(
    ("before", "after", "code"), [("", ":", 5), (":", "", 5), ("", "::/nowhere", 5), ("", "", 127)]
)
def test_an_empty_element_of_path_is_the_working_directory_wherever_it_stands(
    entrypoint: Entrypoint, before: str, after: str, code: int
) -> None:
    """execvp(3); POSIX XBD 8.3."""
    app = entrypoint.directory / "app"
    app.write_text("#!/bin/sh\nexit 5\n")
    app.chmod(0o755)
    done = entrypoint.run("app", env={"PATH": f"{before}{entrypoint.environ['PATH']}{after}"})
    assert done.returncode == code


@pytest.mark.parametrize("enabled", ["false", "true"])
def test_the_tasks_own_address_never_reaches_an_app_that_is_executed_directly(
    entrypoint: Entrypoint, enabled: str
) -> None:
    env = {"STARTUP_ENABLED": enabled, "STARTUP_DATABASE_URL": "sqlite:///own.db", "DATABASE_URL": "sqlite:///app.db"}
    shown = entrypoint.run("env", env=env).stdout
    assert "own.db" not in shown and "DATABASE_URL=sqlite:///app.db" in shown


def test_health_of_a_disabled_entrypoint_is_good(entrypoint: Entrypoint) -> None:
    for off in ("false", "0", "no", "off"):
        done = entrypoint.run("startup", "health", env={"STARTUP_ENABLED": off})
        assert (done.returncode, done.stdout, done.stderr) == (0, "disabled\n", "")
    own = entrypoint.run("echo", "startup", "health", env={"STARTUP_ENABLED": "false"})
    assert own.stdout == "startup health\n"


@pytest.mark.parametrize("to", [">/dev/full", ">&-", "| :"])
@pytest.mark.parametrize("enabled", ["false", "true"])
def test_health_that_cannot_be_written_ends_as_if_it_were(entrypoint: Entrypoint, to: str, enabled: str) -> None:
    """Once it asked the module, which asked the script, and so on."""
    answered = entrypoint.directory / "code"
    sh = f'{{ "$@"; echo $? >{answered}; }} {to}'
    words = entrypoint.words("startup", "health")
    env = entrypoint.environment({"STARTUP_ENABLED": enabled})
    subprocess.run(["sh", "-c", sh, "sh", *words], env=env, timeout=20, stdin=subprocess.DEVNULL)
    assert answered.read_text() == ("0\n" if enabled == "false" else "1\n")


def test_a_command_that_succeeds_before_the_tasks_is_told_of_in_calm_words(entrypoint: Entrypoint) -> None:
    """`docker run IMAGE flask shell`: nothing has failed."""
    env = {"STARTUP_TASKS": "seed@local", "STARTUP_TASK_SEED": "true", "STARTUP_PING": "auto"}
    done = entrypoint.run("sh", "-c", "exit 0", env=env)
    assert done.returncode == 0
    last = done.stderr.splitlines()[-1]
    assert last == "startup: the app ended by itself with exit code 0; these tasks did not run: seed"
    failed = entrypoint.run("sh", "-c", "exit 3", env=env)
    assert failed.returncode == 3 and "says why" in failed.stderr.splitlines()[-1]


def test_a_python_without_the_package_is_named_with_what_it_must_have(entrypoint: Entrypoint, tmp_path: Path) -> None:
    copy = tmp_path / "startup-entrypoint"
    copy.write_bytes((ROOT / "entrypoint.sh").read_bytes())
    bare = tmp_path / "python3"
    bare.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    env = entrypoint.environment({"STARTUP_PYTHON": str(bare)})
    words = [*entrypoint.shell, str(copy), "sleep", "30"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == 78
    last = done.stderr.splitlines()[-1]
    assert f"'{bare}' (STARTUP_PYTHON)" in last and "3.10" in last and "has startup-tasks" in last


@pytest.mark.parametrize("zero", ["0", "0.0", "00"])
def test_a_stop_timeout_of_zero_however_it_is_written_is_no_limit(
    entrypoint: Entrypoint, recorder: Recorder, zero: str
) -> None:
    """The app takes its time over TERM, and ends by itself."""
    env = {"STARTUP_TASKS": "break@local", "STARTUP_TASK_BREAK": "sleep 0.3; exit 3", "STARTUP_STOP_TIMEOUT": zero}
    running = entrypoint.start(*recorder.command, "0.5", env=env)
    assert running.wait() == 70
    assert recorder.got == [signal.SIGTERM]
    assert "SIGKILL" not in running.log


def test_with_signal_group_what_is_killed_is_the_group_too(entrypoint: Entrypoint) -> None:
    pid = entrypoint.directory / "child"
    app = f"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >{pid}; while :; do sleep 0.1; done' & wait; wait"
    env = {
        "STARTUP_TASKS": "break@local",
        "STARTUP_TASK_BREAK": f"until [ -s {pid} ]; do sleep 0.1; done; exit 3",
        "STARTUP_SIGNAL_GROUP": "true",
        "STARTUP_STOP_TIMEOUT": "0.3",
    }
    if entrypoint.place != "outside":
        pytest.skip("the first process of a container takes all others with it")
    running = entrypoint.start("sh", "-c", app, env=env)
    assert running.wait() == 70
    running.process.wait()
    child = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_can_be_forged_by_what_others_are_called(entrypoint: Entrypoint, form: str) -> None:
    env = {"STARTUP_LOG_FORMAT": form, "STARTUP_NODE": FORGED, "STARTUP_TASK_BAD": f"echo '{FORGED}'; exit 3"}
    for command, more in (
        ((FORGED,), {}),
        (("sleep", "30"), {"STARTUP_TASKS": f"bad@local {FORGED.split()[0]}", "STARTUP_DRIFT": FORGED}),
        (("sleep", "30"), {"STARTUP_TASKS": "bad@local", "STARTUP_MODULE": FORGED}),
    ):
        said = entrypoint.run(*command, env={**env, **more}).stderr
        lines = said.split("\n")[:-1]
        assert not [line for line in lines if line.startswith("startup: error: forged")], said
        assert not {"\x1b", "\r"} & set(said), said
        if form == "json":
            assert all(isinstance(json.loads(line), dict) for line in lines), said


@needs_root
@pytest.mark.parametrize("ping", ["none", "auto", "cmd:true"])
def test_without_proc_the_app_runs_and_so_do_the_tasks(entrypoint: Entrypoint, ping: str) -> None:
    if entrypoint.place != "outside":
        pytest.skip("that place has a /proc of its own")
    env = {"STARTUP_TASKS": "seed@local", "STARTUP_TASK_SEED": "echo seeded", "STARTUP_PING": ping}
    env |= {"STARTUP_DATABASE_URL": "sqlite:///own.db"}
    words = entrypoint.words("sh", "-c", "sleep 1; env; exit 7")
    bare = ["unshare", "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh", *words]
    environ = entrypoint.environment(env)
    done = subprocess.run(bare, env=environ, capture_output=True, timeout=60, stdin=subprocess.DEVNULL, text=True)
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr and "No such file" not in done.stderr, done.stderr
    assert done.stderr.count("seeded\n") == 1 and "own.db" not in done.stdout


def test_json_of_bytes_that_are_no_utf_8_always_parses(entrypoint: Entrypoint) -> None:
    env = {os.fsencode(name): os.fsencode(value) for name, value in entrypoint.environment({}).items()}
    env |= {b"STARTUP_LOG_FORMAT": b"json", b"STARTUP_NODE": b"n\xff\xc3", b"STARTUP_TASK_X\xfe": b"true"}
    words = [os.fsencode(word) for word in entrypoint.words()]
    for command in (b"app\xc0\xaf \xed\xa0\x80 caf\xc3\xa9", b"sh"):
        done = subprocess.run([*words, command], env=env, capture_output=True, timeout=30, stdin=subprocess.DEVNULL)
        for line in done.stderr.decode().splitlines():
            assert isinstance(json.loads(line), dict), line
        assert command == b"sh" or "café" in done.stderr.decode()


def test_the_apps_end_is_noticed_while_the_tasks_module_is_being_imported(
    entrypoint: Entrypoint, recorder: Recorder
) -> None:
    mark = entrypoint.directory / "importing"
    (entrypoint.directory / "slow.py").write_text(f"import time\nopen({str(mark)!r}, 'w').close()\ntime.sleep(600)\n")
    env = {"STARTUP_MODULE": "slow", "STARTUP_TASKS": "later@local", "STARTUP_TASK_LATER": "true"}
    running = entrypoint.start("sh", "-c", f"until [ -e {mark} ]; do sleep 0.05; done; exit 7", env=env)
    assert running.wait() == 7
    assert "these tasks did not run: later" in running.last_line


def test_an_app_that_ends_in_the_pause_before_a_tasks_next_try_ends_it(entrypoint: Entrypoint) -> None:
    line = "echo try >>ran; [ $(wc -l <ran) -lt 3 ] || : >third; exit 5"  # the pause after the third has 4 s
    env = {"STARTUP_TASKS": "never@local", "STARTUP_TASK_NEVER": line, "STARTUP_RETRIES": "20", "STARTUP_PING": "none"}
    done = entrypoint.run("sh", "-c", "until [ -e third ]; do sleep 0.1; done; sleep 0.5; exit 4", env=env)
    assert done.returncode == 4, done.stderr
    assert (entrypoint.directory / "ran").read_text() == "try\n" * 3
    assert "these tasks did not run: never" in done.stderr
