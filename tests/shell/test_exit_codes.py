"""Whose exit code it is, and who says so: the last line, the file ``result``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import FULL, Entrypoint, Recorder, seen_from_outside

#: Those that mean something to us, to shells, to Docker; all 256 of them under STARTUP_TEST_FULL.
CODES = range(256) if FULL else (0, 1, 2, 3, 4, 69, 70, 75, 78, 124, 125, 126, 127, 128, 129, 130, 137, 143, 200, 255)


def test_the_exit_code_is_the_apps(entrypoint: Entrypoint) -> None:
    def code_of(code: int) -> int:
        state = str(entrypoint.directory / f"state{code}")
        return entrypoint.run("sh", "-c", f"exit {code}", env={"STARTUP_STATE_DIR": state}).returncode

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(code_of, CODES)) == list(CODES)


@pytest.mark.parametrize("number", [*range(1, 17), *range(24, 32), 34, 64])
def test_an_app_that_a_signal_ends_gives_128_and_its_number(entrypoint: Entrypoint, number: int) -> None:
    if number not in (1, 2, 3, 6, 9, 11, 13, 15, 64) and not FULL:
        pytest.skip("STARTUP_TEST_FULL=1 tests them all")
    done = entrypoint.run("sh", "-c", f"ulimit -c 0; kill -{number} $$; sleep 5")
    assert done.returncode == 128 + number, done.stderr
    assert "by itself" in done.stderr.splitlines()[-1]


def test_a_kill_from_outside_is_137_and_named(entrypoint: Entrypoint, recorder: Recorder) -> None:
    """As the OOM killer does it."""
    running = entrypoint.start(*recorder.command)
    running.wait_until_ready()
    running.wait_for(lambda: recorder.up)
    os.kill(seen_from_outside(recorder.pid, running), signal.SIGKILL)
    assert running.wait() == 137
    assert "SIGKILL" in running.last_line
    assert "out of memory" in running.told("result")


@pytest.mark.parametrize("command", ["no-such-command", "./no-such-file", "/no/such/file", ""])
def test_what_is_not_there_is_127_and_named(entrypoint: Entrypoint, command: str) -> None:
    done = entrypoint.run(command)
    assert done.returncode == 127
    assert f"'{command}'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["./directory", "./plain", "plain"])
def test_what_cannot_be_executed_is_126_and_named(entrypoint: Entrypoint, command: str) -> None:
    (entrypoint.directory / "directory").mkdir()
    (entrypoint.directory / "plain").write_text("echo no\n")
    done = entrypoint.run(command, env={"PATH": f"{entrypoint.environ['PATH']}:{entrypoint.directory}"})
    assert done.returncode == 126
    assert f"'{command}'" in done.stderr.splitlines()[-1]


def test_what_only_fails_when_it_is_executed_is_named_too(entrypoint: Entrypoint) -> None:
    path = entrypoint.directory / "broken"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    done = entrypoint.run("./broken")
    assert done.returncode in (126, 127)
    assert "broken" in done.stderr


def test_path_is_searched_as_exec_does_past_what_is_not_executable(entrypoint: Entrypoint) -> None:
    for name, mode in (("first", 0o644), ("second", 0o755)):
        (entrypoint.directory / name).mkdir()
        (entrypoint.directory / name / "tool").write_text(f"#!/bin/sh\necho {name}\n")
        (entrypoint.directory / name / "tool").chmod(mode)
    path = f"{entrypoint.directory}/first:{entrypoint.directory}/second:{entrypoint.environ['PATH']}"
    assert entrypoint.run("tool", env={"PATH": path}).stdout == "second\n"


def test_no_command_is_78_with_advice(entrypoint: Entrypoint) -> None:
    done = entrypoint.run()
    assert done.returncode == 78
    assert "CMD" in done.stderr


def test_a_failed_task_stops_the_app_and_is_70(entrypoint: Entrypoint, recorder: Recorder) -> None:
    running = entrypoint.start(
        *recorder.command, env={"STARTUP_TASKS": "break@local", "STARTUP_TASK_BREAK": "sleep 0.3; exit 3"}
    )
    assert running.wait() == 70
    assert recorder.got == [signal.SIGTERM]
    assert "break" in running.last_line and "70" in running.last_line
    assert running.told("result") in running.last_line
    assert not (running.state / "ready").exists()


def test_an_app_that_ignores_term_is_killed_after_the_stop_timeout(entrypoint: Entrypoint) -> None:
    running = entrypoint.start(
        *("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"),
        env={"STARTUP_TASKS": "break@local", "STARTUP_TASK_BREAK": "sleep 0.3; exit 3", "STARTUP_STOP_TIMEOUT": "0.5"},
    )
    assert running.wait() == 70


def test_with_on_failure_continue_the_app_stays_up_and_is_never_ready(
    entrypoint: Entrypoint, recorder: Recorder
) -> None:
    env = {"STARTUP_TASKS": "break@local", "STARTUP_TASK_BREAK": "exit 3", "STARTUP_ON_FAILURE": "continue"}
    running = entrypoint.start(*recorder.command, env=env)
    running.wait_for(lambda: (running.state / "failed").exists() and recorder.up)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    running.wait_for(lambda: len(children.read_text().split()) == 1)  # the app alone: the module has ended
    assert not (running.state / "ready").exists()
    running.send(signal.SIGTERM)
    assert running.wait() == 55


def test_a_signal_in_the_moment_when_the_module_ends_reaches_the_app(
    entrypoint: Entrypoint, recorder: Recorder
) -> None:
    """bash forgets a child that ends just then, and would wait for it as long as the app lives."""
    env = {"STARTUP_TASKS": "break@local", "STARTUP_TASK_BREAK": "exit 3", "STARTUP_ON_FAILURE": "continue"}
    for number in range(100 if FULL else 10):
        recorder.clear()
        running = entrypoint.start(*recorder.command, env=env)
        running.wait_for(lambda: (running.state / "failed").exists() and recorder.up)  # noqa: B023
        time.sleep(number % 10 * 0.002)  # the module ends somewhere in here
        running.send(signal.SIGTERM)
        assert running.wait() == 55
        assert recorder.got == [signal.SIGTERM]


def test_an_app_that_ends_before_the_tasks_is_named_with_them(entrypoint: Entrypoint) -> None:
    env = {"STARTUP_TASKS": "one@local two@local", "STARTUP_TASK_ONE": "sleep 9", "STARTUP_TASK_TWO": "true"}
    done = entrypoint.run("sh", "-c", "sleep 0.5; exit 9", env=env)
    assert done.returncode == 9
    assert "one, two" in done.stderr.splitlines()[-1]


def test_an_app_that_ends_with_0_before_its_explicit_ping_is_70(entrypoint: Entrypoint) -> None:
    done = entrypoint.run("sleep", "0.3", env={"STARTUP_PING": "tcp://127.0.0.1:1"})
    assert done.returncode == 70
    assert "before it answered its ping" in done.stderr.splitlines()[-1]


def test_a_ping_that_is_never_answered_is_124(entrypoint: Entrypoint, recorder: Recorder) -> None:
    env = {"STARTUP_PING": "tcp://127.0.0.1:1", "STARTUP_PING_TIMEOUT": "0.5"}
    running = entrypoint.start(*recorder.command, env=env)
    assert running.wait() == 124
    assert recorder.got == [signal.SIGTERM]


def test_a_python_that_is_not_there_is_78_and_the_app_is_not_started(entrypoint: Entrypoint) -> None:
    done = entrypoint.run("touch", "started", env={"STARTUP_PYTHON": "/no/python"})
    assert done.returncode == 78
    assert "STARTUP_PYTHON" in done.stderr
    assert not (entrypoint.directory / "started").exists()


@pytest.mark.parametrize("value", ["false", "0", "no", "off"])
def test_disabled_the_app_is_executed_even_without_a_python(entrypoint: Entrypoint, value: str) -> None:
    env = {"STARTUP_ENABLED": value, "STARTUP_PYTHON": "/no/python"}
    running = entrypoint.start("sh", "-c", "echo $$; env >&2; exit 5", env=env)
    assert running.wait() == 5
    assert running.log.startswith("1\n" if running.as_pid_1 else f"{running.process.pid}\n")
    assert "startup:" not in running.log


def test_disabled_an_app_that_cannot_be_executed_ends_as_in_a_shell(entrypoint: Entrypoint) -> None:
    """Once 0 in dash and busybox, as if it had run."""
    for command, code in (("/no/such", 127), ("/etc", 126)):
        assert entrypoint.run(command, env={"STARTUP_ENABLED": "false"}).returncode == code


@pytest.mark.parametrize("program", ["true", "ls", "env", "false"])
def test_a_program_that_is_no_python_is_78_and_named(entrypoint: Entrypoint, program: str) -> None:
    path = str(shutil.which(program))
    for env, became in (({}, "the app was stopped"), ({"STARTUP_PRE_START": "seed"}, "the app was not started")):
        done = entrypoint.run("sleep", "60", env={**env, "STARTUP_PYTHON": path})
        assert done.returncode == 78, done.stderr
        last = done.stderr.splitlines()[-1]
        assert f"'{path}' (STARTUP_PYTHON) could not run the module" in last and became in last


@pytest.mark.parametrize(
    "env", [{}, {"odd.name": "x"}, {"STARTUP_ENABLED": "false"}], ids=["env", "python", "disabled"]
)
def test_a_script_without_an_interpreter_line_is_run_by_sh_as_execvp_does(
    entrypoint: Entrypoint, env: dict[str, str]
) -> None:
    path = entrypoint.directory / "script"
    path.write_text('echo "$0 $*"; exit 5\n')
    path.chmod(0o755)
    later = entrypoint.directory / "later"
    later.mkdir()
    (later / "script").symlink_to("/bin/true")
    done = entrypoint.run("./script", "a", env=env)
    assert (done.returncode, done.stdout) == (5, "./script a\n"), done.stderr
    on_path = f"{entrypoint.directory}:{later}:{entrypoint.environ['PATH']}"
    done = entrypoint.run("script", "b", env={**env, "PATH": on_path})
    assert (done.returncode, done.stdout) == (5, f"{path} b\n"), done.stderr


def test_why_the_app_could_not_be_executed_is_never_written_into_its_own_output(entrypoint: Entrypoint) -> None:
    (entrypoint.directory / "broken").write_text("#!/no/such/interpreter\n")
    (entrypoint.directory / "broken").chmod(0o755)
    done = entrypoint.run("./broken", env={"odd.name": "x"}, stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2))
    assert (done.returncode, done.stdout) == (127, "")


@pytest.mark.parametrize(("limit", "written"), [("0.00001", "0.00001"), ("1234567.5", "1234567.5"), ("10", "10")])
def test_a_stop_timeout_is_handed_to_the_shell_in_plain_decimals(
    entrypoint: Entrypoint, limit: str, written: str
) -> None:
    app = "trap '' TERM; while :; do sleep 0.05; done" if float(limit) < 1 else "exec sleep 60"
    fails = {"STARTUP_TASKS": "break@local", "STARTUP_TASK_BREAK": "exit 3", "STARTUP_STOP_TIMEOUT": limit}
    running = entrypoint.start("sh", "-c", app, env=fails)
    running.wait_for(lambda: running.told("stop_timeout"))
    assert running.told("stop_timeout") == written
    assert running.wait(10) == 70


def test_a_hook_that_is_a_dangling_link_is_noticed_before_the_app_is_started(entrypoint: Entrypoint) -> None:
    entrypoint.hook("pre_start", "true")
    hook = entrypoint.directory / "hooks" / "pre_start.d" / "10-hook.sh"
    hook.unlink()
    hook.symlink_to("/nowhere")
    done = entrypoint.run("touch", "started")
    assert done.returncode == 78 and "10-hook.sh" in done.stderr, done.stderr
    assert not (entrypoint.directory / "started").exists()


def test_an_asterisk_in_path_is_one(entrypoint: Entrypoint) -> None:
    versions = entrypoint.directory / "versions"
    for name in ("*", "16"):
        (versions / name).mkdir(parents=True)
        (versions / name / f"tool{name}").symlink_to("/bin/true")
    path = f"{versions}/*:{entrypoint.environ['PATH']}"
    assert "the app was not found" in entrypoint.run("tool16", env={"PATH": path}).stderr
    assert entrypoint.run("tool*", env={"PATH": path}).returncode == 0


def test_a_directory_is_no_python(entrypoint: Entrypoint) -> None:
    for command in (("true",), ("startup", "plan")):
        done = entrypoint.run(*command, env={"STARTUP_PYTHON": "/etc"})
        assert done.returncode == 78
        assert "STARTUP_PYTHON is '/etc'" in done.stderr


def test_a_wrong_value_of_enabled_is_78(entrypoint: Entrypoint) -> None:
    done = entrypoint.run("true", env={"STARTUP_ENABLED": "maybe"})
    assert done.returncode == 78
    assert "'maybe'" in done.stderr


def test_a_state_directory_that_cannot_be_written_is_78(entrypoint: Entrypoint) -> None:
    (entrypoint.directory / "file").write_text("")
    done = entrypoint.run("true", env={"STARTUP_STATE_DIR": str(entrypoint.directory / "file" / "state")})
    assert done.returncode == 78
    assert "STARTUP_STATE_DIR" in done.stderr


@pytest.mark.parametrize(
    ("command", "env"),
    [
        pytest.param((), {}, id="no command"),
        pytest.param(("true",), {"STARTUP_ENABLED": "maybe"}, id="STARTUP_ENABLED"),
        pytest.param(("true",), {"STARTUP_PYTHON": "/no/python"}, id="STARTUP_PYTHON"),
    ],
)
def test_what_is_refused_before_all_else_is_in_the_state_directory_too(
    entrypoint: Entrypoint, command: tuple[str, ...], env: dict[str, str]
) -> None:
    done = entrypoint.run(*command, env=env)
    assert done.stderr == f"startup: error: {(entrypoint.state / 'result').read_text()}"


def test_what_an_earlier_run_left_in_the_state_directory_is_gone_before_the_app_starts(entrypoint: Entrypoint) -> None:
    entrypoint.state.mkdir()
    for name in ("ready", "phase", "result", "failed", "reason"):
        (entrypoint.state / name).write_text("old\n")
    assert "old" not in entrypoint.run("sh", "-c", 'cat "$STARTUP_STATE_DIR"/*').stdout


def test_json_lines_are_objects(entrypoint: Entrypoint) -> None:
    import json

    done = entrypoint.run('no"such\\command', env={"STARTUP_LOG_FORMAT": "json"})
    line = json.loads(done.stderr.splitlines()[-1])
    assert line["log.level"] == "error"
    assert 'no"such\\command' in line["message"]


def test_one_wrong_setting_is_told_once_as_the_last_line(entrypoint: Entrypoint, recorder: Recorder) -> None:
    running = entrypoint.start(*recorder.command, env={"STARTUP_TIMEOUT": "soon"})
    assert running.wait() == 78
    assert running.log.count("STARTUP_TIMEOUT is 'soon'") == 1
    assert running.last_line.endswith("(exit code 78)")
