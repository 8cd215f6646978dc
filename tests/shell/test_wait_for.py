"""STARTUP_WAIT_FOR in the flow: before pre_start tasks, before the app is started. SPEC, sections 2, 3 and 8."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

import pytest

from tests.conftest import PASSWORD

from .conftest import Entrypoint, Recorder

SQLITE = {"DATABASE_URL": "sqlite:///app.db"}


@pytest.fixture(autouse=True)
def place(request: pytest.FixtureRequest) -> str:
    """Nothing here differs as PID 1 but how signals come, for which one test asks for that."""
    return str(getattr(request, "param", "outside"))


def late(entrypoint: Entrypoint) -> str:
    return f"file://{entrypoint.directory}/late"


def test_neither_pre_start_tasks_nor_the_app_begin_before_all_is_there(
    entrypoint: Entrypoint, recorder: Recorder, redis: Callable[..., int], free_port: int
) -> None:
    entrypoint.hook("pre_start", "test -e late && touch first")
    words = f"{late(entrypoint)} redis://:{PASSWORD}@127.0.0.1:{free_port} database"
    running = entrypoint.start(*recorder.command, env={"STARTUP_WAIT_FOR": words, **SQLITE})
    running.wait_for(lambda: "waiting for" in running.log)
    assert running.told("phase").startswith(f"waiting for {late(entrypoint)} (no such file or directory), redis://127")
    redis("--requirepass", PASSWORD, port=free_port)
    running.wait_for(
        lambda: running.log.splitlines()[-1].endswith(f"waiting for {late(entrypoint)} (no such file or directory)")
    )
    assert not recorder.up and not (entrypoint.directory / "first").exists()
    (entrypoint.directory / "late").touch()
    running.wait_until_ready()
    assert (entrypoint.directory / "first").exists()
    running.wait_for(lambda: recorder.up)
    assert running.log.index("there after") < running.log.index("task 1 of 1, hook")
    running.send(signal.SIGTERM)
    running.wait()


def test_what_is_not_there_in_time_is_124_and_the_app_is_never_started(entrypoint: Entrypoint, free_port: int) -> None:
    entrypoint.hook("pre_start", "touch began")
    words = f"redis://:{PASSWORD}@127.0.0.1:{free_port}/0 {late(entrypoint)} database"
    env = {"STARTUP_WAIT_FOR": words, "STARTUP_WAIT_TIMEOUT": "0.5", **SQLITE}
    done = entrypoint.run("touch", "began", env=env)
    assert done.returncode == 124
    last = (
        f"startup: error: not there within 0.5 s (STARTUP_WAIT_TIMEOUT): redis://127.0.0.1:{free_port}/0: connection "
        f"refused; {late(entrypoint)}: no such file or directory; the app was not started (exit code 124)"
    )
    assert done.stderr.splitlines()[-1] == last
    assert (entrypoint.state / "result").read_text().strip() == last.removeprefix("startup: error: ")
    assert not (entrypoint.directory / "began").exists()


def test_there_is_no_pause_and_no_change_where_all_is_there(entrypoint: Entrypoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = f"tcp://127.0.0.1:{listener.getsockname()[1]} database"
        done = entrypoint.run("sh", "-c", "echo out; exit 7", env={"STARTUP_WAIT_FOR": words, **SQLITE})
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "startup: there after 0." in done.stderr and "waiting" not in done.stderr


@pytest.mark.parametrize("value", ["", "none"])
def test_an_empty_list_starts_no_python_before_the_app(entrypoint: Entrypoint, value: str) -> None:
    started = entrypoint.directory / "python"
    started.write_text(
        f'#!/bin/sh\necho "$*" >>{entrypoint.directory}/calls\nexec {entrypoint.environ["STARTUP_PYTHON"]} "$@"\n'
    )
    started.chmod(0o755)
    env = {"STARTUP_WAIT_FOR": value, "STARTUP_PYTHON": str(started), "STARTUP_ENV": "prod"}
    (entrypoint.directory / ".env").write_text(f"STARTUP_WAIT_FOR={late(entrypoint)}\n")  # not read in prod
    assert entrypoint.run("true", env=env).returncode == 0
    assert "pre_start" not in (entrypoint.directory / "calls").read_text()


@pytest.mark.parametrize(
    ("file", "env"),
    [
        (".env", {"STARTUP_ENV": "dev"}),
        (".env", {"APP_ENV": "test"}),
        (".env.dev", {"STARTUP_ENV": "dev"}),
        ("settings", {"STARTUP_DOTENV": "settings"}),
        ("settings.prod", {"STARTUP_DOTENV": "settings", "APP_ENV": ""}),
    ],
)
def test_a_dotenv_file_may_set_it(entrypoint: Entrypoint, file: str, env: dict[str, str]) -> None:
    (entrypoint.directory / "settings").touch()
    (entrypoint.directory / file).write_text(
        f"A=1\nexport STARTUP_WAIT_FOR='{late(entrypoint)}'\nSTARTUP_WAIT_TIMEOUT=0.1\n"
    )
    done = entrypoint.run("touch", "began", env=env)
    assert done.returncode == 124 and "the app was not started" in done.stderr
    assert not (entrypoint.directory / "began").exists()
    done = entrypoint.run("touch", "began", env={**env, "STARTUP_WAIT_FOR": "none"})
    assert done.returncode == 0 and (entrypoint.directory / "began").exists()


def test_a_dotenv_file_that_is_a_pipe_is_not_waited_for(entrypoint: Entrypoint) -> None:
    os.mkfifo(entrypoint.directory / ".env")
    assert entrypoint.run("true", env={"STARTUP_ENV": "dev"}).returncode == 0


def test_a_list_that_is_wrong_is_78_with_all_other_faults_and_nothing_is_started(entrypoint: Entrypoint) -> None:
    env = {"STARTUP_WAIT_FOR": f"auto redis://:{PASSWORD}@:1 database", "STARTUP_WAIT_TIMEOUT": "x"}
    done = entrypoint.run("touch", "began", env=env)
    assert done.returncode == 78 and not (entrypoint.directory / "began").exists()
    assert "STARTUP_WAIT_FOR is 'auto redis://:***@:1 database'" in done.stderr
    assert "STARTUP_WAIT_TIMEOUT is 'x'" in done.stderr and "no address is set" in done.stderr


def test_a_wrong_setting_of_the_database_ends_it_at_once(entrypoint: Entrypoint) -> None:
    env = {"STARTUP_WAIT_FOR": f"{late(entrypoint)} database", "DATABASE_URL": "sqlite:///no/app.db"}
    done = entrypoint.run("true", env=env)
    assert done.returncode == 78
    assert "there is no directory" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].endswith("; the app was not started (exit code 78)")


@pytest.mark.parametrize("place", ["outside", "pid1"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_signal_ends_the_wait_at_once(
    entrypoint: Entrypoint, recorder: Recorder, number: signal.Signals, free_port: int
) -> None:
    database = f"postgresql://app:{PASSWORD}@127.0.0.1:{free_port}/x"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = f"http://127.0.0.1:{silent.getsockname()[1]}/ database {late(entrypoint)}"
        running = entrypoint.start(*recorder.command, env={"STARTUP_WAIT_FOR": words, "DATABASE_URL": database})
        running.wait_for(lambda: "waiting for http" in running.log)
        began = time.monotonic()
        running.send(number)
        assert running.wait() == 128 + number
        assert time.monotonic() - began < 3  # a try of the silent one takes 5 s
    assert f"stopped by signal {int(number)} before the app was started" in running.last_line
    assert not recorder.up


def test_a_redis_may_be_the_apps_own_ping_too(
    entrypoint: Entrypoint, free_port: int, redis: Callable[..., int]
) -> None:
    app = ("redis-server", "--port", str(free_port), "--requirepass", PASSWORD, "--save", "")
    running = entrypoint.start(*app, env={"STARTUP_PING": f"redis://:{PASSWORD}@127.0.0.1:{free_port}"})
    running.wait_until_ready()
    assert f"(redis://127.0.0.1:{free_port}: PONG)" in running.log
    running.send(signal.SIGTERM)
    assert running.wait() == 0
