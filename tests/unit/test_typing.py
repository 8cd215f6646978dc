"""The package is typed for those who write tasks, too (PEP 561)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed: it is in the extra dev")

TASK = """
from collections.abc import Iterator

from startup import Context, task

@task(policy="once", timeout=60)
def load_plans(context: Context) -> None:
    context.connection.execute("INSERT INTO plans VALUES (1)")
    context.log("loaded")

@task
def greet(context: Context) -> None:
    print(context.node)

@task(policy="once")
def fill(context: Context) -> Iterator[int]:
    yield (context.cursor or 0) + 1
"""


def mypy(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    """As a user runs it, far from this project's own settings and sources."""
    (directory / "tasks.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-I", "-m", "mypy", "--strict", "--config-file=", "tasks.py"],
        cwd=directory,
        capture_output=True,
        text=True,
    )


def test_a_users_tasks_pass_mypy_strict(tmp_path: Path) -> None:
    done = mypy(tmp_path, TASK)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_knows_what_a_task_may_be(tmp_path: Path) -> None:
    done = mypy(tmp_path, TASK.replace('"once"', '"sometimes"'))
    assert done.returncode == 1 and "No overload variant" in done.stdout, done.stdout + done.stderr
