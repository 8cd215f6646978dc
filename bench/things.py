"""What is measured, and what with: the product as it is installed, an app, a database, processes and their cost."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import Server

ROOT = Path(__file__).resolve().parents[1]
#: Where make has put the peers from PyPI.
PEERS = Path(sys.executable).parent
APP = Path(__file__).with_name("app.py")
PATH = f"{PEERS}:/usr/local/bin:/usr/bin:/bin"
LIBC = ctypes.CDLL(None)
LIBC.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what an init leaves behind comes to us, and is ended


class Fifo:
    """A named pipe: the moment at which somebody writes to it is known without polling."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def wait(self, process: subprocess.Popen[bytes] | None = None, timeout: float = 120) -> float:
        """When it was written to, on the monotonic clock."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        deadline = time.monotonic() + timeout
        while not poller.poll(1000):
            assert process is None or process.poll() is None, f"it has ended: {process.args!r}"
            assert time.monotonic() < deadline, f"nothing was written to {self.path}"
        now = time.monotonic()
        os.close(self._fd)
        self.path.unlink()
        return now


class Mark:
    """A file that appears in a directory: the moment at which it does is known without polling (inotify(7))."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        in_create = 0x100
        watch = LIBC.inotify_add_watch(self._fd, os.fsencode(path.parent), in_create)
        assert watch >= 0, path

    def wait(self, process: subprocess.Popen[bytes], timeout: float = 120) -> float:
        """When it appeared, on the monotonic clock."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        deadline = time.monotonic() + timeout
        while True:
            found, now = poller.poll(1000), time.monotonic()
            if found and os.fsencode(self.path.name) in _names(os.read(self._fd, 1 << 16)):
                os.close(self._fd)
                return now
            assert process.poll() is None, f"it has ended: {process.args!r}"
            assert now < deadline, f"{self.path} did not appear"


def _names(events: bytes) -> Iterator[bytes]:
    """The names in a buffer of struct inotify_event."""
    while events:
        (length,) = struct.unpack_from("=I", events, 12)
        yield events[16 : 16 + length].rstrip(b"\0")
        events = events[16 + length :]


class Product:
    """startup-tasks in an environment of its own, installed and compiled as the Dockerfile does it."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self.entrypoint = str(self.bin / "startup-entrypoint")
        self.python = str(self.bin / "python")
        _quiet(sys.executable, "-m", "venv", "--without-pip", str(directory))
        pip = (sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check")
        _quiet(*pip, "install", "--no-compile", str(ROOT))
        _quiet(
            self.python, "-m", "compileall", "-q", "-j0", "--invalidation-mode=unchecked-hash", str(directory / "lib")
        )


def _quiet(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}"


class Bench:
    """The run: its directory, the product, the server, and what the rows share."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.directory = Path(tempfile.mkdtemp(prefix="startup-bench-"))
        self.directory.chmod(0o755)
        self.product = Product(self.directory / "product")
        self.cache: dict[object, Any] = {}
        self._server: Server | None = None
        self._count = 0

    def n(self, full: int, quick: int = 3) -> int:
        """How many runs."""
        return quick if self.quick else full

    @property
    def server(self) -> Server:
        """PostgreSQL; started when it is needed."""
        if self._server is None:
            self._server = Server()
            self._server.create(autovacuum="on")
        return self._server

    def new_database(self) -> str:
        """The address of an empty one."""
        return self.server.url(self.server.new_database())

    def new_directory(self) -> Path:
        self._count += 1
        made = self.directory / f"{self._count}"
        made.mkdir()
        return made

    def close(self) -> None:
        if self._server is not None:
            self._server.destroy()
        shutil.rmtree(self.directory, ignore_errors=True)

    # ----------------------------------------------------------------------------- starting something

    def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        terminal: bool = False,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """In a session of its own, with nothing in its environment but PATH and *env*."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
        master = -1
        if terminal:
            master, slave = os.openpty()
            options.update(stdin=slave, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        process = subprocess.Popen(
            argv, env={"PATH": PATH, **(env or {})}, cwd=cwd or self.directory, start_new_session=True, **options
        )
        if terminal:
            os.close(slave)
            self.cache.setdefault("terminals", []).append(master)
        return process

    def entrypoint_env(self, state: Path, **more: str) -> dict[str, str]:
        """The least that an entrypoint needs outside a container: a state directory."""
        return {"STARTUP_STATE_DIR": str(state), "STARTUP_NODE": "n", **more}


def end(process: subprocess.Popen[bytes]) -> None:
    """KILL for it and everything under it, also what has left its session."""
    while pids := [process.pid, *descendants(process.pid)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if pids == [process.pid]:
            break
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def timed(argv: Sequence[str], env: Mapping[str, str], cwd: Path, check: bool = True) -> float:
    """Run a command to its end; seconds."""
    began = time.monotonic()
    done = subprocess.run(
        argv, env={"PATH": PATH, **env}, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    took = time.monotonic() - began
    assert not check or done.returncode == 0, f"{argv}: {done.stdout.decode()[-2000:]}"
    return took


# --------------------------------------------------------------------------------- what processes cost


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Of *pid*, without itself."""
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def cpu_seconds(pids: Sequence[int]) -> float:
    """The processor time of *pids* and of the children that they have waited for."""
    total = 0.0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0]) / 1e9
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return total


def memory(pids: Sequence[int]) -> float:
    """Bytes: each process's own pages, and its share of those that it shares (Pss)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


# ------------------------------------------------------------------------------------------ supervisors


def wrap(kind: str, directory: Path, command: Sequence[str]) -> list[str] | None:
    """The command line that runs *command* under a peer, as its users wire it up; None where it is not installed."""
    program = shutil.which({"supervisor": "supervisord", "s6": "s6-svscan"}.get(kind, kind), path=PATH)
    if program is None:
        return None
    line = " ".join(command)  # no word here needs quotes
    if kind in ("tini", "dumb-init"):
        return [program, *(["-s"] if kind == "tini" else []), "--", *command]
    if kind == "supervisor":
        (directory / "conf").write_text(
            f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={directory}/pid\n"
            f"[program:app]\ncommand={line}\nautorestart=false\nstartsecs=0\nstdout_logfile=/dev/stdout\n"
            "stdout_logfile_maxbytes=0\nredirect_stderr=true\n"
        )
        return [program, "-c", str(directory / "conf")]
    if kind == "honcho":
        (directory / "Procfile").write_text(f"app: {line}\n")
        return [program, "start", "-f", str(directory / "Procfile"), "-d", str(directory)]
    service = directory / "scan" / "app"
    service.mkdir(parents=True)
    (service / "run").write_text(f"#!/bin/sh\nexec {line}\n")
    (service / "run").chmod(0o755)
    return [program, str(directory / "scan")]


SUPERVISORS = ("tini", "dumb-init", "s6", "honcho", "supervisor")


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """It is ended when the block is left."""
    try:
        yield process
    finally:
        end(process)
