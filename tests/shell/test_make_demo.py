"""``make demo`` where nothing is installed: a copy of what it needs, with no virtual environment in it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (
    *("Makefile", "pyproject.toml", "README.md", "LICENSE", "entrypoint.sh"),
    *("bin", "startup", "migrations", "seeds", "examples/demo"),
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for source in SOURCES:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / source, tmp_path / source)
    return tmp_path


def users(port: int) -> list[str]:
    """Their email addresses; none while the demo does not answer, or has no users yet."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/users", timeout=5) as answer:
            return [user["email"] for user in json.load(answer)]
    except (URLError, ConnectionError):
        return []


@contextmanager
def demo(clone: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """``make demo`` on a terminal of its own, as a person starts it; the process, and the terminal's other end."""
    mine, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    with (clone / "log").open("ab") as log:
        process = subprocess.Popen(
            ["sh", "-c", 'make demo "$@"; exit $?', "sh", f"DEMO_PORT={port}", f"PYTHON={sys.executable}"],
            cwd=clone,
            env=environment | {name: value for name, value in os.environ.items() if name.startswith("PIP_")},
            stdin=theirs,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # makes it the controlling terminal
        )
    try:
        yield process, mine
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(mine)
        os.close(theirs)


def test_make_demo_serves_the_seeded_users_and_a_second_start_finds_nothing_to_do(
    clone: Path, free_port: int, wait_until: Callable[..., object]
) -> None:
    logs = []
    for _ in range(2):
        with demo(clone, free_port) as (process, terminal):

            def served_or_ended(process: subprocess.Popen[bytes] = process) -> bool:
                assert process.poll() is None, (clone / "log").read_text()
                return users(free_port) == ["admin@example.com", "editor@example.org", "reader@example.net"]

            wait_until(served_or_ended, timeout=120)
            wait_until(lambda: (clone / ".venv/state/ready").exists())
            os.write(terminal, b"\x03")
            process.wait(15)
        logs.append((clone / "log").read_text())
        (clone / "log").unlink()
    first, second = logs
    assert "0001_create_users" in first
    assert "0001_create_users" not in second
    assert "nothing" in second
    for log in logs:
        assert "Finished server process" in log
        assert "exit code 0" in log.splitlines()[-2], "the app's own code on Ctrl-C; make adds a line"
