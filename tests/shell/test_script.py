"""The script itself: short enough to be read in one sitting, and its functions alone, under each shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT, Entrypoint

SCRIPT = ROOT / "entrypoint.sh"
#: Defines the functions, runs CODE in the same shell; its arguments are from $1 on.
ALONE = 'script=$1 then=$2 argument=$3; set -- :functions; . "$script"; set -- "$argument"; eval "$then"'


def alone(entrypoint: Entrypoint, code: str, argument: str = "", **environ: str) -> str:
    """What *code* prints, with the functions at hand and *argument* in $1."""
    done = subprocess.run(
        [str(shutil.which(entrypoint.shell[0])), *entrypoint.shell[1:], "-c", ALONE, "sh", str(SCRIPT), code, argument],
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
    )
    return done.stdout.decode() + done.stderr.decode()


def test_it_has_500_lines_at_the_most_and_no_function_over_30() -> None:
    lines = SCRIPT.read_text().splitlines()
    assert len(lines) <= 500
    start = 0
    for number, line in enumerate(lines):
        if re.match(r"\w+\(\) [{(]", line):
            start = number
        assert line != "}" or number - start < 30, lines[start]


def test_what_traps_run_asks_by_case_alone() -> None:
    """In dash and busybox sh a test is whatever another trap leaves that comes between it and what depends on it."""
    run = "on_signal on_stop_signal stop_app has_tasks to_app until_executed on_child end_helper"
    for name in run.split():
        body = re.search(rf"^{name}\(\) {{(.*?)}}$", SCRIPT.read_text(), re.DOTALL | re.MULTILINE)
        assert body and not re.search(r"\[ | if |&&|\|\|", body[1]), name


def test_main_is_the_story() -> None:
    story = SCRIPT.read_text().partition("\nmain() {\n")[2].partition("\n}\n")[0].split()
    steps = ["start_app", "ping_then_run_tasks", "wait_for_the_app", "finish"]
    assert [word for word in story if word in steps] == steps


@pytest.mark.parametrize(
    "text",
    ["plain", 'quo"ted \\ back\\slash', "ünï ☃ 日本", "".join(map(chr, range(1, 32))), "a\nb\tc\x7fd", "%s \\n", "'"],
)
def test_any_text_is_json_but_for_control_characters_which_are_spaces(entrypoint: Entrypoint, text: str) -> None:
    shown = alone(entrypoint, 'json_text "$1"', text)
    expected = "".join(" " if ord(character) < 32 or character == "\x7f" else character for character in text)
    assert json.loads(f'"{shown}"') == expected


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (143, "exit code 143 (SIGTERM)"), (127, "exit code 127"), (166, "exit code 166")],
)
def test_an_exit_code_is_told_in_words(entrypoint: Entrypoint, code: int, words: str) -> None:
    assert alone(entrypoint, 'in_words "$1"; printf %s "$words"', str(code)) == words


def test_an_app_is_looked_for_as_a_shell_does(entrypoint: Entrypoint, tmp_path: Path) -> None:
    (tmp_path / "app").write_text("#!/bin/sh\n")
    seen = 'find_app "$1"; printf %s "$found"'
    assert "cannot be executed" in alone(entrypoint, seen, "app", PATH=f"{tmp_path}:/bin")
    assert "was not found" in alone(entrypoint, seen, "ap", PATH=f"{tmp_path}:/bin")
    (tmp_path / "app").chmod(0o755)
    assert alone(entrypoint, seen, "app", PATH=f"/nowhere:{tmp_path}") == "0"
    assert alone(entrypoint, seen, f"{tmp_path}/app") == "0"


def test_a_state_directory_is_live_while_its_entrypoint_is(entrypoint: Entrypoint, tmp_path: Path) -> None:
    seen = 'if is_live "$1"; then printf live; else printf dead; fi'
    started = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    for content, state in ((f"{os.getpid()} {started}", "live"), (f"{os.getpid()} 1", "dead"), ("", "dead")):
        (tmp_path / "pid").write_text(f"{content}\n")
        assert alone(entrypoint, seen, str(tmp_path)) == state


def test_it_runs_under_any_name(entrypoint: Entrypoint, tmp_path: Path) -> None:
    copy = tmp_path / "docker-entrypoint"
    copy.write_bytes(SCRIPT.read_bytes())
    environ = {"PATH": os.environ["PATH"], "STARTUP_ENABLED": "false"}
    done = subprocess.run([*entrypoint.shell, str(copy), "echo", "hello"], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "hello\n")
