"""An image with nothing configured at all behaves as without the entrypoint: no STARTUP_*, no database, no migrations.

The same image is run twice, through the entrypoint and without it, and both must agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .conftest import get

if TYPE_CHECKING:
    from .conftest import Docker

SHOW = (
    "import json, os, sys; os.environ.pop('HOSTNAME');"
    "json.dump([sys.argv[1:], os.getcwd(), os.getuid(), os.getgid(), dict(os.environ)], sys.stdout, sort_keys=True)"
)


def both(docker: Docker, image: str, *command: str, options: tuple[str, ...] = (), stdin: str | None = None) -> str:
    """What *command* prints, which is the same, like the exit code, with and without the entrypoint."""
    with_us = docker.run(*options, image, *command, input=stdin)
    alone = docker.run(*options, "--entrypoint", command[0], image, *command[1:], input=stdin)
    assert (with_us.returncode, with_us.stdout) == (alone.returncode, alone.stdout), with_us.stderr
    return with_us.stdout


def test_echo_prints_and_ends(docker: Docker, base_image: str) -> None:
    assert both(docker, base_image, "echo", "one", "two  three") == "one two  three\n"


def test_cat_in_a_pipe_passes_everything_through(docker: Docker, base_image: str) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000)) + "without a newline at the end"
    assert both(docker, base_image, "cat", options=("--interactive",), stdin=text) == text


def test_a_closed_stdin_is_an_empty_one(docker: Docker, base_image: str) -> None:
    assert both(docker, base_image, "cat") == ""


def test_arguments_directory_user_and_environment_are_the_same(docker: Docker, base_image: str) -> None:
    odd = ("", " two  words ", "*", "$HOME", "`id`", "a\nb", "--", "-n", "ü", "'\"\\")
    options = ("--env", "WITH_DASH-and.dot=1", "--env", "EMPTY=", "--env", "TEXT=a\nb", "--workdir", "/srv")
    assert "WITH_DASH-and.dot" in both(docker, base_image, "python", "-c", SHOW, *odd, options=options)


@pytest.mark.parametrize("code", [0, 1, 7, 69, 70, 75, 78, 124, 126, 127, 255])
def test_the_exit_code_is_the_apps(docker: Docker, base_image: str, code: int) -> None:
    done = docker.run(base_image, "sh", "-c", f"exit {code}")
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize(("signal", "code"), [("TERM", 143), ("KILL", 137), ("INT", 130), ("SEGV", 139)])
def test_an_app_that_a_signal_ends_gives_128_and_its_number(
    docker: Docker, base_image: str, signal: str, code: int
) -> None:
    done = docker.run(base_image, "sh", "-c", f"kill -{signal} $$; sleep 10")
    assert done.returncode == code, done.stderr


def test_a_command_that_is_not_there_is_127_and_named(docker: Docker, base_image: str) -> None:
    done = docker.run(base_image, "no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


def test_a_file_that_cannot_be_executed_is_126_and_named(docker: Docker, base_image: str) -> None:
    done = docker.run(base_image, "/etc/passwd")
    assert done.returncode == 126
    assert "/etc/passwd" in done.stderr


def test_stdout_and_stderr_stay_apart(docker: Docker, base_image: str) -> None:
    done = docker.run(base_image, "sh", "-c", "echo out; echo err >&2")
    assert done.stdout == "out\n"
    assert "err\n" in done.stderr


def test_a_web_server_serves_and_a_stop_signal_reaches_it(docker: Docker, base_image: str) -> None:
    container = docker.start("--publish", "127.0.0.1::8000", base_image, "python", "-m", "http.server", "8000")
    container.wait_until_healthy()
    assert "Directory listing" in get(container.address(8000))
    code, seconds = container.stop()
    assert (code, seconds < 5) == (143, True), container.logs


def test_a_worker_that_listens_on_nothing_stays_up_and_stops_at_once(docker: Docker, base_image: str) -> None:
    container = docker.start(base_image, "sh", "-c", "echo at work; exec sleep 1000")
    container.wait_for_log("at work")
    code, seconds = container.stop()
    assert (code, seconds < 5) == (143, True), container.logs


def test_a_worker_is_ready_when_it_has_lived_through_the_ping_timeout(docker: Docker, base_image: str) -> None:
    container = docker.start("--env", "STARTUP_PING_TIMEOUT=2", base_image, "sleep", "1000")
    container.wait_until_healthy()
    assert "STARTUP_PING" in container.logs


def test_a_signal_that_the_app_handles_gives_the_apps_own_code(docker: Docker, base_image: str) -> None:
    app = "trap 'echo stopping; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    container = docker.start(base_image, "sh", "-c", app)
    container.wait_for_log("up\n")
    code, _ = container.stop()
    assert code == 3, container.logs
    assert "stopping" in container.logs


def test_a_terminal_is_a_terminal(docker: Docker, base_image: str) -> None:
    assert both(docker, base_image, "python", "-c", "import os; print(os.isatty(0), os.isatty(1))").startswith("False")
    done = docker.run("--tty", base_image, "python", "-c", "import os; print(os.isatty(0), os.isatty(1))")
    assert "True True" in done.stdout


def test_disabled_it_execs_the_app_even_without_a_python(docker: Docker, base_image: str) -> None:
    options = ("--env", "STARTUP_ENABLED=false", "--env", "STARTUP_PYTHON=/nowhere/python")
    done = docker.run(*options, base_image, "sh", "-c", "echo $$; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "1\n", "")
