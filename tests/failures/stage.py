"""Where a failure is staged: a directory, a database of its own, the entrypoint as a process, other nodes beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from startup.migrations import squawk
from tests.conftest import PASSWORD, Server, pick_port, run_query, wait_for
from tests.failures.catalog import Failure

ROOT = Path(__file__).parents[2]
PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/bin:/usr/bin")
#: ``app.py PORT STATUS``: answers each request with STATUS; with 0, accepts and says nothing.
SERVER = """
import http.server, socket, sys, time
port, status = map(int, sys.argv[1:])
if status == 0:
    listener = socket.create_server(("127.0.0.1", port))
    time.sleep(60)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(status)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Stage:
    """``known`` are the values that a failure's settings and line may name."""

    def __init__(self, directory: Path, server: Server, database: str) -> None:
        self.directory = directory
        self.server = server
        self.database = database
        self.url = server.url(database)
        self.known = {
            "port": str(pick_port()),
            "other": str(pick_port()),
            "server": str(server.port),
            "database": database,
            "url": self.url,
            "password": PASSWORD,
            "directory": str(directory),
            "path": os.environ["PATH"],
            "python": sys.executable,
        }
        (directory / "hooks").mkdir(exist_ok=True)
        self.environ = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self.url,
            "STARTUP_NODE": "web-2",
            "STARTUP_PYTHON": sys.executable,
            "STARTUP_STATE_DIR": str(directory / "state"),
            "STARTUP_HOOKS_DIR": str(directory / "hooks"),
            "STARTUP_STOP_TIMEOUT": "1",
        }
        self._started: list[subprocess.Popen[Any]] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def write(self, name: str, content: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def prepare(self, failure: Failure) -> None:
        self.write("app.py", SERVER)
        for name, content in failure.files.items():
            self.write(name, content)
        if any(name.startswith("migrations/") for name in failure.files) or not failure.env.get("STARTUP_TASKS"):
            self.write("migrations/0000_nothing.sql", "SELECT 1;\n") if not failure.files else None
        failure.stage(self)

    def run(self, failure: Failure) -> tuple[list[str], int]:
        """The entrypoint's own lines, and its exit code."""
        words = [word.format_map(self.known) for word in failure.app]
        environ = {**self.environ, **{name: value.format_map(self.known) for name, value in failure.env.items()}}
        environ.setdefault("STARTUP_PING", "none") if words == ["sleep", "60"] else None
        process = subprocess.Popen(
            ["sh", str(ROOT / "entrypoint.sh"), *words],
            cwd=self.directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        out, _ = process.communicate(timeout=60)
        code = process.returncode
        return [line for line in out.splitlines() if line.startswith("startup: ")], 128 - code if code < 0 else code

    def start(self, *verb: str, **environ: str) -> subprocess.Popen[Any]:
        """Another node, in the background."""
        log = (self.directory / f"node{len(self._started)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-I", str(ROOT / "startup"), *verb],
                cwd=self.directory,
                env={**self.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def ok(self, *verb: str) -> None:
        assert self.start(*verb).wait(60) == 0

    def need_squawk(self) -> None:
        if squawk.program() is None:
            pytest.skip("squawk is not installed here: pip install squawk-cli")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return run_query(self.url, sql)

    def admin(self, sql: str, database: str = "postgres") -> None:
        run_query(self.server.admin_url(database), sql)

    def has_table(self, name: str) -> bool:
        return bool(self.query(f"SELECT 1 FROM pg_tables WHERE tablename = '{name}'"))

    def until(self, condition: Callable[[], object]) -> None:
        wait_for(condition, 30)

    def meanwhile(self, condition: Callable[[], object]) -> None:
        """Ask *condition* again and again while the entrypoint runs, until its answer is true."""

        def ask() -> None:
            while not self._over.is_set() and not condition():
                time.sleep(0.05)

        self._threads.append(threading.Thread(target=ask))
        self._threads[-1].start()

    def pooler(self) -> str:
        """A PgBouncer before the database; its address."""
        if PGBOUNCER is None:
            pytest.skip("pgbouncer is not installed")
        port = self.known["port"]
        config = self.server.directory / f"pgbouncer-{port}.ini"
        config.write_text(
            f"[databases]\n{self.database} = host=127.0.0.1 port={self.server.port} user=app password={PASSWORD}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\nignore_startup_parameters = extra_float_digits\n"
        )
        config.chmod(0o644)
        self._started.append(
            subprocess.Popen([PGBOUNCER, "-q", str(config)], user=self.server.user, cwd=self.server.directory)
        )

        def accepts() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", int(port))) == 0

        wait_for(accepts)
        return f"postgresql://app:{PASSWORD}@127.0.0.1:{port}/{self.database}"

    def clean(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)
        for process in self._started:
            if process.poll() is None:  # one that has ended has given its number away
                for kill in (os.killpg, os.kill):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        kill(process.pid, signal.SIGKILL)
            process.wait(10)
