"""The failed tasks: when the startup has failed, once, before the app is stopped; and the metrics file of the flow."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from .conftest import ROOT, Entrypoint, Running

#: Notes what it was given, and whether the app lives; its pid is in `app`.
ALERT = """
alive=no; [ ! -s app ] || ! kill -0 "$(cat app)" || alive=yes
{
    printf '%s\\n' "code $STARTUP_EXIT_CODE" "here $STARTUP_FAILED_HERE" "phase $STARTUP_PHASE" "task $STARTUP_TASK"
    printf '%s\\n' "app $alive" "why $STARTUP_FAILURE"
} >>alerts
"""
#: An app that runs until it is told to stop, and one that ends by itself.
APP = ("sh", "-c", 'echo "$$" >app.new; mv app.new app; trap "exit 55" TERM; while :; do sleep 0.05; done')
UP = "until [ -s app ]; do sleep 0.02; done; "
MODULE = """
import os, signal, time

def wait():
    while not os.path.exists("app"):
        time.sleep(0.02)

def leaves(context):
    wait()
    os._exit(0)

def executes(context):
    wait()
    os.execvp("true", ["true"])

def killed(context):
    wait()
    os.kill(os.getpid(), signal.SIGKILL)

def odd(context):
    raise ValueError("a\\x1b[2K\\tb")

def raises(context):
    wait()
    raise ValueError("no such plan")
"""
BAD = {"STARTUP_TASKS": "bad@local", "STARTUP_TASK_BAD": f"{UP}exit 3"}
FIRST = {"STARTUP_PRE_START": "bad@local", "STARTUP_TASK_BAD": "exit 3"}
TAKEN = {"STARTUP_FAILED": "taken@once", "STARTUP_TASK_TAKEN": "true"}
NOBODY = "postgresql://u:s3cr3t-Pa55@127.0.0.1:1/nobody"


def alerts(entrypoint: Any) -> list[dict[str, str]]:
    """What each run of the hook has noted."""
    file = entrypoint.directory / "alerts"
    lines = file.read_text().splitlines() if file.exists() else []
    return [dict(line.split(" ", 1) for line in lines[at : at + 6]) for at in range(0, len(lines), 6)]


def fails(name: str, code: int, why: str, app: str, command: tuple[str, ...] = APP, /, **env: str) -> object:
    return pytest.param(command, env, code, why, app, id=name)


@pytest.mark.parametrize(
    ("command", "env", "code", "why", "app"),
    [
        fails("pre_start", 70, "task bad failed: it ended with exit code 3", "no", **FIRST),
        fails(
            "pre_start killed", 70, "SIGKILL", "no", STARTUP_PRE_START="kill@local", STARTUP_TASK_KILL="kill -9 $PPID"
        ),
        fails("task", 70, "task bad failed: it ended with exit code 3", "yes", **BAD),
        fails("python task", 70, "no such plan", "yes", STARTUP_TASKS="x:raises@local"),
        fails("os._exit", 70, "ended with exit code 0 by a task", "yes", STARTUP_TASKS="x:leaves@local"),
        fails("exec", 70, "ended with exit code 0 by a task", "yes", STARTUP_TASKS="x:executes@local"),
        fails("killed", 70, "exit code 137 (SIGKILL", "yes", STARTUP_TASKS="x:killed@local"),
        fails(
            "ping",
            124,
            "the app did not answer within 1 s",
            "yes",
            STARTUP_PING="tcp://127.0.0.1:1",
            STARTUP_PING_TIMEOUT="1",
        ),
        fails(
            "0 before its ping",
            70,
            "the app ended with exit code 0, before it answered its ping",
            "no",
            ("sleep", "0.3"),
            STARTUP_PING="tcp://127.0.0.1:1",
        ),
        fails("setting", 78, "STARTUP_TIMEOUT is 'soon'", "yes", STARTUP_TIMEOUT="soon", **BAD),
        fails("unknown task", 78, "'nosuch', which is no task", "yes", STARTUP_TASKS="nosuch"),
        fails("unknown failed task", 78, "'nosuch', which is no task", "yes", STARTUP_FAILED="nosuch alert"),
        fails("one that takes the lock", 78, "STARTUP_FAILED has taken (policy once): no task", "yes", **TAKEN),
        fails(
            "database",
            69,
            "postgresql://u:***@127.0.0.1:1/nobody",
            "yes",
            STARTUP_TASKS="once@once",
            STARTUP_TASK_ONCE="true",
            DATABASE_URL=NOBODY,
            STARTUP_DATABASE_TIMEOUT="1",
        ),
        fails("not found", 127, "there is no 'no-such-app'", "no", ("no-such-app",)),
        fails("not executable", 126, "'/etc' is not an executable file", "no", ("/etc",)),
    ],
)
def test_the_failed_tasks_run_once_before_the_app_is_stopped_and_are_told_why(
    entrypoint: Entrypoint, command: tuple[str, ...], env: dict[str, str], code: int, why: str, app: str
) -> None:
    (entrypoint.directory / "x.py").write_text(MODULE)
    entrypoint.hook("failed", f"# the one that tells\n{ALERT}", "10-alert.sh")
    wait = UP if app == "yes" else ""
    entrypoint.hook("failed", f"{wait}exit 0", "05-wait.sh")  # a wrong setting may be told before the app is up
    done = entrypoint.run(*command, env={"STARTUP_HOOK_TIMEOUT": "20", **env})
    assert done.returncode == code, done.stderr
    (told,) = alerts(entrypoint)
    assert why in told["why"], told
    expected = {"code": str(code), "here": "true", "phase": "failed", "task": "alert", "app": app}
    assert {name: told[name] for name in expected} == expected
    last = done.stderr.splitlines()[-1]
    assert told["why"] in last and f"(exit code {code})" in last
    assert (entrypoint.state / "result").read_text().strip() in last
    assert "s3cr3t-Pa55" not in done.stderr + told["why"]
    assert "taken, starts" not in done.stderr


def started(entrypoint: Entrypoint, command: tuple[str, ...] = APP, /, **env: str) -> Running:
    (entrypoint.directory / "x.py").write_text(MODULE)
    entrypoint.hook("failed", ALERT, "20-alert.sh")
    return entrypoint.start(*command, env=env)


def test_with_on_failure_continue_they_run_once_and_the_app_stays_up(entrypoint: Entrypoint) -> None:
    running = started(entrypoint, STARTUP_ON_FAILURE="continue", **BAD)
    running.wait_for(lambda: len(alerts(entrypoint)) == 1)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    running.wait_for(lambda: len(children.read_text().split()) == 1)  # the app alone
    assert running.told("phase").startswith("failed: task bad failed")
    running.send(signal.SIGTERM)
    assert running.wait() == 55
    (told,) = alerts(entrypoint)
    assert (told["code"], told["app"]) == ("70", "yes")


@pytest.mark.parametrize(
    ("command", "env", "code"),
    [
        pytest.param(("sh", "-c", "exit 0"), {}, 0, id="0"),
        pytest.param(("sh", "-c", "exit 70"), {}, 70, id="after it was ready"),
        pytest.param(("sh", "-c", "sleep 0.2; exit 9"), {"STARTUP_PING": "tcp://127.0.0.1:1"}, 9, id="before its ping"),
        pytest.param(
            ("sh", "-c", "until [ -e begun ]; do sleep 0.02; done; exit 9"),
            {"STARTUP_TASKS": "long@local", "STARTUP_TASK_LONG": ": >begun; sleep 60"},
            9,
            id="while a task runs",
        ),
    ],
)
def test_an_app_that_ends_with_its_own_code_is_no_failure_of_the_startup(
    entrypoint: Entrypoint, command: tuple[str, ...], env: dict[str, str], code: int
) -> None:
    assert started(entrypoint, command, **env).wait() == code
    assert alerts(entrypoint) == []


@pytest.mark.parametrize("where", ["STARTUP_PRE_START", "STARTUP_TASKS"])
def test_a_stop_signal_that_ends_the_startup_is_no_failure(entrypoint: Entrypoint, where: str) -> None:
    running = started(entrypoint, **{where: "long@local", "STARTUP_TASK_LONG": ": >begun; sleep 60"})
    running.wait_for((entrypoint.directory / "begun").exists)
    running.send(signal.SIGTERM)
    assert running.wait() in (55, 143)
    assert alerts(entrypoint) == []


@pytest.mark.parametrize(
    ("command", "env"),
    [
        pytest.param((), {}, id="no command"),
        pytest.param(("true",), {"STARTUP_ENABLED": "maybe"}, id="STARTUP_ENABLED"),
        pytest.param(("true",), {"STARTUP_PYTHON": "/no/python"}, id="STARTUP_PYTHON"),
        pytest.param(("sleep", "9"), {"STARTUP_PYTHON": "/bin/true"}, id="no Python"),
    ],
)
def test_what_the_shell_itself_refuses_runs_none(
    entrypoint: Entrypoint, command: tuple[str, ...], env: dict[str, str]
) -> None:
    """Before anything else is known, or without a Python that could."""
    entrypoint.hook("failed", ALERT)
    done = entrypoint.run(*command, env={**env, "STARTUP_FAILED": "alert", "STARTUP_TASK_ALERT": ALERT})
    assert done.returncode == 78
    assert alerts(entrypoint) == []


def test_one_that_fails_is_named_the_next_one_runs_and_the_exit_code_stays(entrypoint: Entrypoint) -> None:
    entrypoint.hook("failed", "exit 9", "10-broken.sh")
    running = started(entrypoint, STARTUP_FAILED="x:leaves_not x2", STARTUP_TASK_X2="exit 8", **BAD)
    assert running.wait() == 78, "a fault of the list is told"
    (told,) = alerts(entrypoint)
    assert "no function 'leaves_not'" in told["why"]
    assert "failed: task x2 failed: it ended with exit code 8" in running.log
    assert "failed: task broken failed: it ended with exit code 9" in running.log
    assert running.last_line.endswith("(exit code 78)")


@pytest.mark.parametrize("task", ["sleep 60", "trap '' TERM; while :; do sleep 0.1; done", "x:hangs"])
def test_one_that_hangs_is_ended_after_the_hook_timeout_which_is_for_all_of_them(
    entrypoint: Entrypoint, task: str
) -> None:
    env = {"STARTUP_FAILED": "hang", "STARTUP_TASK_HANG": task, "STARTUP_HOOK_TIMEOUT": "0.5", **BAD}
    running = started(entrypoint, **env)
    (entrypoint.directory / "x.py").write_text("import time\ndef hangs(context): time.sleep(60)\n")
    assert running.wait() == 70
    assert "task hang was not done within 0.5 s" in running.log
    assert "STARTUP_HOOK_TIMEOUT): alert did not run" in running.log
    assert alerts(entrypoint) == []
    assert "task bad failed" in running.last_line


def hangs(entrypoint: Entrypoint) -> Running:
    """In a hook that ends when `go` is there, without a time limit."""
    hook = ": >begun; until [ -e go ]; do sleep 0.02; done; : >finished"
    running = started(entrypoint, STARTUP_FAILED="hang", STARTUP_TASK_HANG=hook, STARTUP_HOOK_TIMEOUT="0", **BAD)
    running.wait_for((entrypoint.directory / "begun").exists)
    running.send(signal.SIGTERM)
    running.wait_for(running.has_taken_all_signals)
    return running


def test_the_first_stop_signal_waits_for_them(entrypoint: Entrypoint) -> None:
    running = hangs(entrypoint)
    (entrypoint.directory / "go").touch()
    assert running.wait() == 70
    assert (entrypoint.directory / "finished").exists() and len(alerts(entrypoint)) == 1
    assert "task bad failed" in running.last_line


def test_the_second_stop_signal_ends_them(entrypoint: Entrypoint) -> None:
    running = hangs(entrypoint)
    running.send(signal.SIGINT)
    assert running.wait() == 70
    assert not (entrypoint.directory / "finished").exists() and alerts(entrypoint) == []
    assert "task bad failed" in running.last_line


def test_what_a_dotenv_file_alone_names_runs_too(entrypoint: Entrypoint) -> None:
    (entrypoint.directory / "x.py").write_text(MODULE)
    (entrypoint.directory / "alert.sh").write_text(ALERT)
    (entrypoint.directory / ".env").write_text("STARTUP_FAILED=tell\nSTARTUP_TASK_TELL=sh ./alert.sh\n")
    for env in (BAD, {"STARTUP_TASKS": "x:killed@local"}):
        done = entrypoint.run(*APP, env={**env, "STARTUP_ENV": "dev"})
        assert done.returncode == 70
    assert [told["task"] for told in alerts(entrypoint)] == ["tell", "tell"]


def test_one_that_is_skipped_does_not_run(entrypoint: Entrypoint) -> None:
    assert started(entrypoint, STARTUP_SKIP_TASKS="alert", **BAD).wait() == 70
    assert alerts(entrypoint) == []


def test_the_reason_is_one_line_of_a_bearable_length_without_control_characters(entrypoint: Entrypoint) -> None:
    (entrypoint.directory / "x.py").write_text(MODULE)
    (entrypoint.directory / "y.py").write_text(
        "def fails(context): raise ValueError('a\\x1b[2K\\r\\tb ' + 'long ' * 60000)\n"
    )
    entrypoint.hook("failed", ALERT)
    done = entrypoint.run(*APP, env={"STARTUP_TASKS": "y:fails@local"})
    assert done.returncode == 70
    (told,) = alerts(entrypoint)
    assert "ValueError: a\\x1b[2K" in told["why"] and told["why"].isprintable()
    assert 3000 < len(told["why"]) <= 4000


def test_a_module_whose_import_ends_the_process_does_not_end_them_too(entrypoint: Entrypoint) -> None:
    (entrypoint.directory / "dies.py").write_text("import os\nos._exit(0)\n")
    running = started(entrypoint, STARTUP_MODULE="dies", STARTUP_FAILED="own", STARTUP_TASK_OWN="echo own >own", **BAD)
    assert running.wait() == 70
    assert len(alerts(entrypoint)) == 1 and (entrypoint.directory / "own").exists()


def test_a_failed_python_task_sees_why_in_its_context_and_cannot_change_the_exit_code(entrypoint: Entrypoint) -> None:
    (entrypoint.directory / "z.py").write_text(
        "import os\nfrom startup import task\n\n@task\ndef tells(context):\n"
        "    assert context.phase == 'failed' and os.environ['STARTUP_EXIT_CODE'] == '70'\n"
        "    open('alerts', 'w').write(context.environ['STARTUP_FAILURE'])\n    os._exit(9)\n"
    )
    env = {"STARTUP_MODULE": "z", "STARTUP_FAILED": "tells", "STARTUP_TASKS": "bad@local", "STARTUP_TASK_BAD": "exit 3"}
    done = entrypoint.run(*APP, env=env)
    assert done.returncode == 70
    assert "task bad failed" in (entrypoint.directory / "alerts").read_text()
    assert "task bad failed" in done.stderr.splitlines()[-1]


def test_the_verbs_of_a_failed_task_tell_of_no_failure_again(entrypoint: Entrypoint) -> None:
    """Or it would go on for ever."""
    again = f'echo again >>again; "$STARTUP_PYTHON" -I {ROOT}/startup run bad'
    running = started(entrypoint, STARTUP_FAILED="again", STARTUP_TASK_AGAIN=again, STARTUP_HOOK_TIMEOUT="30", **BAD)
    assert running.wait() == 70
    assert (entrypoint.directory / "again").read_text() == "again\n"
    assert len(alerts(entrypoint)) == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl(1) is not installed")
@pytest.mark.parametrize("here", ["true", "false"])
def test_the_pages_alert_reaches_a_webhook_from_the_node_that_failed_alone(tmp_path: Path, here: str) -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    script = re.search(r"^    #!/bin/sh\n(?:    .*\n)+", page, re.MULTILINE)
    assert script
    (tmp_path / "alert.sh").write_text(re.sub("^    ", "", script[0], flags=re.MULTILINE))
    got: list[str] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {"STARTUP_EXIT_CODE": "70", "STARTUP_FAILURE": "task a failed: 3 & 4", "STARTUP_FAILED_HERE": here}
        env |= {"HOSTNAME": "web-1", "PATH": os.environ["PATH"], "ALERT_URL": f"http://127.0.0.1:{server.server_port}/"}
        assert subprocess.run(["sh", str(tmp_path / "alert.sh")], env=env, timeout=20).returncode == 0
        server.shutdown()
    said = [parse_qs(one) for one in got]
    assert said == ([{"text": ["web-1 (70): task a failed: 3 & 4"]}] if here == "true" else [])


# ----------------------------------------------------------------------------------------- init and run, by themselves


@pytest.mark.parametrize(
    ("verb", "env", "code", "why"),
    [
        (["init"], {}, 70, "task bad failed: it ended with exit code 3"),
        (["run", "bad"], {"STARTUP_TASKS": "none"}, 70, "task bad failed: it ended with exit code 3"),
        (["init"], {"STARTUP_TASKS": "x:leaves@local"}, 70, "ended with exit code 0 before they were done"),
        (["init"], {"STARTUP_TASKS": "x:killed@local"}, 70, "ended by signal 9 before they were done"),
        (["init"], {"STARTUP_TASKS": "nosuch", "STARTUP_TIMEOUT": "soon"}, 78, "STARTUP_TIMEOUT is 'soon'"),
        (["init"], {"STARTUP_TASKS": "x:odd@local"}, 70, "ValueError: a\\x1b[2K b"),
        (["run", "nosuch"], {}, 78, "names 'nosuch', which is no task"),
        (["init"], {"STARTUP_FAILED": "nosuch"}, 78, "STARTUP_FAILED names 'nosuch', which is no task"),
        (
            ["init"],
            {"STARTUP_TASKS": "bad@once", "DATABASE_URL": NOBODY, "STARTUP_DATABASE_TIMEOUT": "1"},
            69,
            "postgresql://u:***@127.0.0.1:1/nobody",
        ),
    ],
)
def test_init_and_run_have_them_too(startup: Any, verb: list[str], env: dict[str, str], code: int, why: str) -> None:
    startup.write("x.py", MODULE)
    startup.write("app", "1")
    startup.write("hooks/failed.d/10-alert.sh", f"#!/bin/sh\n{ALERT}", 0o755)
    base = {"STARTUP_TASKS": "bad@local", "STARTUP_TASK_BAD": "exit 3", "STARTUP_HOOKS_DIR": "hooks"}
    done = startup(*verb, **{"DATABASE_URL": "sqlite:///here.db", **base, **env})
    assert done.returncode == code, done.stderr
    (told,) = alerts(startup)
    assert why in told["why"], told
    assert (told["code"], told["here"], told["phase"]) == (str(code), "true", "failed")
    assert told["why"] in done.stderr.splitlines()[-1] and told["why"].isprintable()


@pytest.mark.parametrize("arguments", [["run"], ["init", "--nosuch"]])
def test_a_wrong_command_line_is_no_failed_startup(startup: Any, arguments: list[str]) -> None:
    done = startup(*arguments, STARTUP_FAILED="tell", STARTUP_TASK_TELL=": >told")
    assert done.returncode == 2
    assert not (startup.directory / "told").exists()


def test_a_stop_signal_that_ends_init_is_no_failure(startup: Any, wait_until: Any) -> None:
    env = {"STARTUP_TASKS": "long@local", "STARTUP_TASK_LONG": ": >begun; sleep 60", "STARTUP_TASK_TELL": ": >told"}
    process = startup.start("init", **env, STARTUP_FAILED="tell")
    wait_until((startup.directory / "begun").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert not (startup.directory / "told").exists()


@pytest.mark.parametrize("second", [None, signal.SIGINT])
def test_of_init_too_the_first_stop_signal_waits_for_them_and_the_second_ends_them(
    startup: Any, wait_until: Any, second: int | None
) -> None:
    hook = ": >begun; until [ -e go ]; do sleep 0.02; done; : >finished"
    env = {"STARTUP_FAILED": "hang", "STARTUP_TASK_HANG": hook, "STARTUP_HOOK_TIMEOUT": "0"}
    process = startup.start("init", STARTUP_TASKS="bad@local", STARTUP_TASK_BAD="exit 3", **env)
    wait_until((startup.directory / "begun").exists)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: not _pending(process.pid))
    if second is None:
        (startup.directory / "go").touch()
    else:
        process.send_signal(second)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 70, said
    assert (startup.directory / "finished").exists() == (second is None)


def _pending(pid: int) -> int:
    """The signals that wait for a process which takes them in by sigwaitinfo(2)."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)


def test_when_the_parent_of_init_is_killed_its_failed_tasks_are_too(startup: Any, wait_until: Any) -> None:
    startup.write(
        "x.py", "import os, time\ndef waits(context):\n    open('pid', 'w').write(str(os.getpid()))\n    time.sleep(60)"
    )
    process = startup.start(
        "init", STARTUP_TASKS="bad@local", STARTUP_TASK_BAD="exit 3", STARTUP_FAILED="x:waits", STARTUP_HOOK_TIMEOUT="0"
    )
    pid = startup.directory / "pid"
    wait_until(lambda: pid.exists() and pid.read_text())
    process.kill()
    process.wait()
    child = Path(f"/proc/{pid.read_text()}/stat")
    wait_until(lambda: not child.exists() or child.read_text().rpartition(")")[2].split()[0] in "ZX")
