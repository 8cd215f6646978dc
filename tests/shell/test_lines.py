"""Section 9 of the contract: the shell's lines and the module's are of one form, in text and in JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Entrypoint

TASKS = {
    "STARTUP_TASKS": "one@local two@local",
    "STARTUP_TASK_ONE": "true",
    "STARTUP_TASK_TWO": "exit 3",
    "STARTUP_LOG_FORMAT": "json",
    "STARTUP_NODE": "web-1",
}
#: In this order on every line, whoever writes it.
COMMON = ["@timestamp", "log.level", "message", "host.name", "event.dataset"]


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_json_line_has_the_same_fields_in_the_same_form_whoever_writes_it(entrypoint: Entrypoint) -> None:
    found = events(entrypoint.run("sleep", "30", env=TASKS).stderr)
    for event in found:
        assert list(event)[:5] == COMMON
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["@timestamp"])
        assert (event["host.name"], event["event.dataset"]) == ("web-1", "startup")
        assert event["startup.phase"] == "post_start"
    assert found[-1]["message"].endswith("the app was stopped (exit code 70)")
    assert found[-1]["process.exit_code"] == 70 and found[-1]["log.level"] == "error"


def test_they_tell_task_k_of_n_its_duration_and_the_attempt(entrypoint: Entrypoint) -> None:
    answered, starts, done, *_ = events(entrypoint.run("sleep", "30", env=TASKS).stderr)
    assert answered["startup.attempt"] == 1 and answered["event.duration"] > 0
    assert [starts[f"startup.{name}"] for name in ("task", "position", "total")] == ["one", 1, 2]
    assert "startup.task" not in answered
    assert isinstance(done["event.duration"], int) and 0 < done["event.duration"] < 20e9  # nanoseconds


@pytest.mark.parametrize("name", ["no\nsuch\tthing", 'a "quoted" \\ one', "\033[31mred\033[0m \x01\x7f", "caf\u00e9"])
def test_what_json_must_escape_is_escaped_in_the_shells_lines(entrypoint: Entrypoint, name: str) -> None:
    """But for control characters, which are spaces there."""
    (event,) = events(entrypoint.run(name, env={"STARTUP_LOG_FORMAT": "json", "STARTUP_NODE": name}).stderr)
    shown = re.sub(r"[\x00-\x1f\x7f]", " ", name)
    assert f"there is no '{shown}'" in event["message"] and event["host.name"] == shown


def test_what_a_dotenv_file_says_of_the_log_holds_for_the_shells_lines_too(entrypoint: Entrypoint) -> None:
    (entrypoint.directory / ".env").write_text("STARTUP_LOG_FORMAT=json\nSTARTUP_NODE=from dotenv\n")
    env = {**TASKS, "STARTUP_DOTENV": ".env", "STARTUP_LOG_FORMAT": "unset", "STARTUP_NODE": "unset"}
    last = events(entrypoint.run("sleep", "30", env=env).stderr)[-1]
    assert last["host.name"] == "from dotenv" and last["process.exit_code"] == 70


def test_without_a_name_the_node_is_the_host(entrypoint: Entrypoint) -> None:
    (event,) = events(entrypoint.run("nosuch", env={"STARTUP_LOG_FORMAT": "json"}).stderr)
    assert event["host.name"] == os.uname().nodename


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_the_last_line_is_red_on_a_terminal_and_only_there(
    entrypoint: Entrypoint, env: dict[str, str], coloured: bool
) -> None:
    assert "\033" not in entrypoint.run("nosuch", env=env).stderr
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        entrypoint.words("nosuch"), env=entrypoint.environment(env), stderr=theirs, cwd=entrypoint.directory
    )
    os.close(theirs)
    assert process.wait(20) == 127
    said = os.read(ours, 65536).decode()
    os.close(ours)
    assert said.startswith("\033[31mstartup: error: ") == coloured and said.startswith("startup: ") != coloured


def test_health_starts_no_python(entrypoint: Entrypoint) -> None:
    if entrypoint.place != "outside":
        pytest.skip("a second entrypoint here is in another namespace; in a container's own: tests/docker")
    running = entrypoint.start("sleep", "30")
    running.wait_until_ready()
    mark = entrypoint.directory / "started"
    python = entrypoint.directory / "python"
    python.write_text(f'#!/bin/sh\n: >{mark}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for broken in (str(python), "/nowhere/python"):
        done = entrypoint.run("startup", "health", env={"STARTUP_PYTHON": broken})
        assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    assert not mark.exists()
    assert entrypoint.run("startup", "status", env={"STARTUP_PYTHON": str(python)}).returncode == 78
    assert mark.exists()


def test_health_looks_only_into_the_state_directory_that_is_set(entrypoint: Entrypoint, tmp_path: Path) -> None:
    if entrypoint.place != "outside":
        pytest.skip("a second entrypoint here is in another namespace; in a container's own: tests/docker")
    found_elsewhere = {"TMPDIR": str(tmp_path), "STARTUP_STATE_DIR": str(tmp_path / "startup-1")}
    running = entrypoint.start("sleep", "30", env=found_elsewhere)
    running.wait_for((tmp_path / "startup-1" / "ready").exists)
    done = entrypoint.run("startup", "health", env={**found_elsewhere, "STARTUP_STATE_DIR": str(tmp_path / "ours")})
    assert (done.returncode, done.stdout) == (1, "not running\n")
    done = entrypoint.run("startup", "health", env={**found_elsewhere, "STARTUP_STATE_DIR": "unset"})
    assert (done.returncode, done.stdout) == (0, "ready\n")


def test_startup_anything_is_ours_and_never_the_app(entrypoint: Entrypoint) -> None:
    done = entrypoint.run("startup", "migrate")
    assert done.returncode == 2
    assert "invalid choice: 'migrate'" in done.stderr
    assert "to run a task: startup run migrate" in done.stderr
    for word, meant in (("staus", "status"), ("inti", "init"), ("sed", "run seed"), ("migrat", "run migrate")):
        done = entrypoint.run("startup", word, env={"STARTUP_TASK_SEED": "true"})
        assert done.returncode == 2 and f"did you mean {meant}?" in done.stderr, done.stderr
    assert "startup run NAME" in entrypoint.run("startup", "zzzzzz").stderr


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"  # W3C Trace Context, section 3.2.2
NO_TRACES = [
    f"00-{TRACE}-{SPAN}",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    f'00-{TRACE}-{SPAN}-01", "forged": "yes',
    f"00-{TRACE}-{SPAN}-01\nforged",
    f"forged\n00-{TRACE}-{SPAN}-01",
    "\\",
]


def test_a_trace_that_is_handed_in_is_on_every_json_line_whoever_writes_it_and_reaches_tasks(
    entrypoint: Entrypoint,
) -> None:
    parent = f"00-{TRACE}-{SPAN}-01"
    (entrypoint.directory / "tasks.py").write_text(
        'def note(context):\n    open("noted", "w").write(context.environ["TRACEPARENT"])\n'
    )
    env = {**TASKS, "TRACEPARENT": parent, "STARTUP_TASK_ONE": 'echo "$TRACEPARENT" >seen'}
    env["STARTUP_TASKS"] = "one@local tasks:note@local two@local"
    for event in events(entrypoint.run("sleep", "30", env=env).stderr):
        assert (event["trace.id"], event["span.id"]) == (TRACE, SPAN), event
    assert (entrypoint.directory / "seen").read_text() == f"{parent}\n"
    assert (entrypoint.directory / "noted").read_text() == parent


@pytest.mark.parametrize("value", NO_TRACES)
def test_a_trace_that_is_not_valid_is_on_no_line_and_breaks_none(entrypoint: Entrypoint, value: str) -> None:
    for event in events(entrypoint.run("sleep", "30", env={**TASKS, "TRACEPARENT": value}).stderr):
        assert not {"trace.id", "span.id", "forged"} & set(event), event
