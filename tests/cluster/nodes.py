"""Nodes for the tests: a project directory, and processes that start up in it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_query
from tests.leaks import leaks

ROOT = Path(__file__).resolve().parents[2]

#: Each migration and each task leaves a row or a line, in the order in which they ran.
TRACE = {
    "postgresql": "CREATE TABLE trace (n serial PRIMARY KEY, what text NOT NULL, node text);",
    "sqlite": "CREATE TABLE trace (n integer PRIMARY KEY AUTOINCREMENT, what text NOT NULL, node text);",
}
TASKS = '''
import os, time
from startup import task

def leave(context, what):
    context.connection.execute(f"INSERT INTO trace (what, node) VALUES ('{what}', '{context.node}')")

def pause_at(point):
    """Where the test has asked for it: say that we are here, and go on when told."""
    if os.environ.get("PAUSE_AT") == point:
        open(point + ".reached", "w").close()
        while not os.path.exists(point + ".go"):
            time.sleep(0.01)

@task(policy="once")
def plans(context):
    """Adds the plans."""
    pause_at("plans-start")
    leave(context, "plans")
    pause_at("plans-end")

@task(policy="change")
def prices(context):
    leave(context, "prices")

@task
def beat(context):
    leave(context, "beat")

@task(policy="once")
def faulty(context):
    leave(context, "faulty")
    pause_at("faulty")
    if not os.path.exists("mended"):
        raise ValueError("no such plan")

@task(policy="once", transaction=False)
def backfill(context):
    pause_at("backfill")
    leave(context, "backfill")

@task(policy="once")
def lets_go(context):
    leave(context, "lets_go")
    context.connection.execute("SELECT pg_advisory_unlock_all()")
    pause_at("lets_go")

@task(policy="once", transaction=False)
def discards(context):
    context.connection.execute("DISCARD ALL")

@task(policy="once", transaction=False)
def unfinished(context):
    context.connection.execute("BEGIN")
    leave(context, "unfinished")

@task(policy="once")
def bulk(context):
    """SQLite: more than its cache holds, so that readers are kept out until it commits."""
    context.connection.execute("CREATE TABLE bulk AS WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c "
                               "WHERE i < 20000) SELECT hex(randomblob(200)) AS t FROM c")
    leave(context, "bulk")
    pause_at("bulk")

@task(policy="once")
def commits(context):
    leave(context, "commits")
    context.connection.execute("COMMIT")
    context.connection.execute("BEGIN")

@task(policy="once")
def other_role(context):
    context.connection.execute("SET search_path = pg_catalog")
    context.connection.execute("SET ROLE pg_monitor")
'''
PAUSE = """
if [ "${PAUSE_AT:-}" = %(point)s ]; then
    : >%(point)s.reached
    while [ ! -e %(point)s.go ]; do sleep 0.02; done
fi
"""
#: A command task; it leaves lines in the file ``commands``.
COMMAND = f"""
echo "start $STARTUP_NODE" >>commands
{PAUSE % {"point": "command-start"}}
{PAUSE % {"point": "command-end"}}
echo "end $STARTUP_NODE" >>commands
"""


class Node:
    """One node, running or ended."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.pid = 0
        self.path = log
        #: The exit code, negative for a signal; None while it runs.
        self.code: int | None = None
        self.ended_at = 0.0

    def __repr__(self) -> str:
        return f"{self.name} (exit code {self.code}):\n{self.log()}"

    def log(self) -> str:
        """What it has written so far."""
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if self.code is None and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout: float = 30) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + timeout
        while self.code is None:
            if time.monotonic() > deadline:
                pytest.fail(f"still running after {timeout} s: {self!r}")
            self._look()
        return self.code

    def _look(self) -> None:
        time.sleep(0.01)

    def until(self, text: str, timeout: float = 20) -> None:
        """Wait until it has said *text*."""
        deadline = time.monotonic() + timeout
        while text not in self.log():
            if time.monotonic() > deadline or self.code is not None:
                if text in self.log():
                    return
                pytest.fail(f"never said {text!r}: {self!r}")
            self._look()


class _Process(Node):
    """A node that was started as its own program."""

    process: subprocess.Popen[bytes]

    def _look(self) -> None:
        time.sleep(0.01)
        self.code = self.process.poll()


class Zygote:
    """The process that nodes are forked from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(ROOT / "tests/cluster/zygote.py"), str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._born: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._nodes: dict[int, Node] = {}
        self._codes: dict[int, int] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "code" not in told:
                self._born.put(told["pid"])
                continue
            with self._lock:
                node = self._nodes.pop(told["pid"], None)
                if node is None:
                    self._codes[told["pid"]] = told["code"]
                else:
                    node.ended_at = time.monotonic()
                    node.code = told["code"]

    def fork(self, order: dict[str, Any], node: Node) -> None:
        """Start a node."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._born.get(timeout=20)
        with self._lock:
            node.pid = pid
            if pid in self._codes:
                node.code = self._codes.pop(pid)
            else:
                self._nodes[pid] = node

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


class Project:
    """A directory with migrations and tasks, as an image has it, and the nodes that start up in it."""

    def __init__(self, directory: Path, url: str, zygote: Zygote) -> None:
        self.directory = directory
        self.url = url
        self.dialect = "sqlite" if url.startswith("sqlite") else "postgresql"
        self.zygote = zygote
        self.nodes: list[Node] = []
        self.env: dict[str, str] = {}
        (directory / "migrations").mkdir()
        (directory / "steps.py").write_text(TASKS)

    def migrations(self, count: int) -> None:
        """*count* migrations; the first makes the table ``trace``, and each leaves a row in it."""
        for number in range(1, count + 1):
            self.migration(
                f"{number:04}_step", (TRACE[self.dialect] if number == 1 else "") + self.leave(f"{number:04}")
            )

    def migration(self, name: str, sql: str) -> None:
        (self.directory / "migrations" / f"{name}.sql").write_text(sql)

    def leave(self, what: str) -> str:
        """The statement that leaves a row."""
        return f"INSERT INTO trace (what) VALUES ('{what}');\n"

    def start(self, name: str, tasks: str, *argv: str, real: bool = False, without: str = "", **env: Any) -> Node:
        """A node that runs *tasks*: forked, or *real*\\ ly started as its own program."""
        log = self.directory / f"{name}.{len(self.nodes)}.log"
        (self.directory / "hooks").mkdir(exist_ok=True)
        environ = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self.url,
            "STARTUP_NODE": name,
            "STARTUP_TASKS": tasks,
            "STARTUP_MODULE": "steps",
            "STARTUP_HOOKS_DIR": str(self.directory / "hooks"),
            "STARTUP_TASK_COMMAND": COMMAND,
            "STARTUP_STOP_TIMEOUT": "1",
            **self.env,
            **env,
        }
        leaks.watch(log, name)
        node: Node
        if real:
            node = _Process(name, log)
            with log.open("wb") as output:
                node.process = subprocess.Popen(
                    [sys.executable, "-I", str(ROOT / "startup"), *(argv or ("init",))],
                    cwd=self.directory,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            node.pid = node.process.pid
        else:
            node = Node(name, log)
            order = {"env": environ, "cwd": str(self.directory), "log": str(log)}
            self.zygote.fork({**order, "argv": list(argv) or ["init"], "without": without}, node)
        self.nodes.append(node)
        return node

    def run(self, name: str, tasks: str, *argv: str, timeout: float = 30, **env: Any) -> Node:
        """The same, and wait until it has ended."""
        node = self.start(name, tasks, *argv, **env)
        node.wait(timeout)
        return node

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return run_query(self.url, sql)

    def trace(self) -> list[str]:
        """What has left a row, in order."""
        return [what for (what,) in self.query("SELECT what FROM trace ORDER BY n")]

    def commands(self) -> list[str]:
        """What the command task has left."""
        file = self.directory / "commands"
        return file.read_text().splitlines() if file.exists() else []

    def reached(self, point: str, timeout: float = 20) -> None:
        """Wait until a node pauses at *point*."""
        deadline = time.monotonic() + timeout
        while not (self.directory / f"{point}.reached").exists():
            if time.monotonic() > deadline:
                pytest.fail(f"nobody came to {point}: {self.nodes}")
            time.sleep(0.01)

    def go(self, point: str) -> None:
        """Let it go on."""
        (self.directory / f"{point}.go").touch()

    def touch(self, name: str) -> None:
        (self.directory / name).touch()

    def close(self) -> None:
        """End what still runs."""
        for node in self.nodes:
            if node.code is None:
                for kill in (os.killpg, os.kill):
                    with contextlib.suppress(ProcessLookupError):
                        kill(node.pid, signal.SIGKILL)
                node.wait()
        for point in (
            "plans-start",
            "plans-end",
            "faulty",
            "backfill",
            "command-start",
            "command-end",
            "lets_go",
            "bulk",
        ):
            self.go(point)


Start = Callable[..., Project]
