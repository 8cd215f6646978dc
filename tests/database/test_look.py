"""The session that can only be asked answers as psycopg's does, without its import."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from startup.database.postgres import libpq, look
from startup.database.postgres import session as postgres
from startup.database.postgres.look import Look
from startup.errors import Interrupted, Unreachable
from startup.settings.address import parse
from tests.conftest import PASSWORD, Query, Server, WaitUntil

ROOT = Path(__file__).parents[2]


@pytest.fixture
def looking(database_url: str) -> Iterator[postgres.PostgresSession]:
    one = look.connect(parse(database_url), node="looking", timeout=5, report=print)
    assert isinstance(one, Look)
    yield one
    one.close()


@pytest.fixture
def full(database_url: str) -> Iterator[postgres.PostgresSession]:
    one = postgres.connect(parse(database_url), node="full", timeout=5, report=print)
    yield one
    one.close()


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT 1, 2::bigint, 3::smallint, 4::oid, -5", []),
        ("SELECT true, false, NULL::boolean, NULL, ''", []),
        ("SELECT 0.1::float8, 1e300::float8, 0.5::real, 'NaN'::float8 = 'NaN'::float8", []),
        ("SELECT 'Grüße \U0001f600', 'name'::name, 'r'::\"char\"::text", []),
        ("SELECT relname FROM pg_catalog.pg_class WHERE false", []),
        ("SELECT generate_series(1, 3), 'x'", []),
        ("SELECT %s::text, %s::int, %s::boolean, %s::text", ["Grüße %s \\ \" '", 7, True, None]),
        ("SELECT unnest(%s::text[]), unnest(%s::name[])", [["a", 'b"c', "d\\e,{}", ""], ["x", "y", "z", "w"]]),
        ("SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = ANY (%s)", [["public", "pg_catalog"]]),
        ("SELECT (coalesce(%s::name[], ARRAY['none'::name]))[1] WHERE %s::name IS NULL", [None, None]),
        ("SELECT pg_catalog.has_table_privilege(%s, 'SELECT')", ["pg_catalog.pg_class"]),
        ("WITH a AS (SELECT 1 AS i) SELECT i FROM a", []),
        ("SHOW datestyle", []),
    ],
)
def test_it_gives_the_same_answers(
    looking: postgres.PostgresSession, full: postgres.PostgresSession, sql: str, parameters: list[object]
) -> None:
    rows = looking.execute(sql, parameters)
    assert rows == full.execute(sql, parameters)
    assert [[type(value) for value in row] for row in rows] == [
        [type(value) for value in row] for row in full.execute(sql, parameters)
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nonsense",
        "SELECT FROM FROM",
        "SELECT 1 / 0",
        "SELECT * FROM pg_catalog.pg_authid",
        "SELECT * FROM no_table",
        "SELECT 'x'::int",
    ],
)
def test_it_gives_the_same_errors_and_bears_them(
    looking: postgres.PostgresSession, full: postgres.PostgresSession, sql: str
) -> None:
    with pytest.raises(psycopg.Error) as theirs:
        full.execute(sql)
    with pytest.raises(libpq.Error) as ours:
        looking.execute(sql)
    assert (str(ours.value), ours.value.sqlstate) == (str(theirs.value), theirs.value.sqlstate)
    assert looking.execute("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    "change", [("s3cr3t-Pa55", "wr0ng"), ("/test_", "/no_such_"), ("@127.0.0.1", "@no-such-host.invalid")]
)
def test_it_is_refused_in_the_same_words(database_url: str, change: tuple[str, str]) -> None:
    said = []
    for kind in (postgres, look):
        with pytest.raises(Unreachable) as caught:
            kind.connect(parse(database_url.replace(*change)), timeout=0.1, report=print)
        said.append(re.sub(r"\[Errno -\d+\] ", "", str(caught.value)))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "attempt",
    [
        lambda session: session.execute("CREATE TABLE t (i int)"),
        lambda session: session.execute("DELETE FROM pg_catalog.pg_class"),
        lambda session: session.execute("SELECT 1; DROP TABLE t"),
        lambda session: session.try_lock(),
        lambda session: session.try_lock_migrations(),
        lambda session: session.transaction(),
        lambda session: session.execute_all([("SELECT 1", ())]),
        lambda session: session.ensure_home("t"),
        lambda session: session.reset(),
    ],
)
def test_nothing_can_be_written_or_locked_on_it(
    looking: postgres.PostgresSession, attempt: Callable[[postgres.PostgresSession], object]
) -> None:
    with pytest.raises((TypeError, libpq.Error), match=r"can only be asked|cannot insert multiple commands"):
        attempt(looking)


@pytest.mark.parametrize("kind", [Interrupted(143), GeneratorExit()], ids=["Interrupted", "any other"])
def test_a_signal_ends_what_it_asks_at_once_and_on_the_server_too(
    looking: postgres.PostgresSession, server: Server, query: Query, wait_until: WaitUntil, kind: BaseException
) -> None:
    def stop(number: int, frame: object) -> None:
        raise kind

    before = signal.signal(signal.SIGALRM, stop)
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(type(kind)):
            looking.execute("SELECT pg_sleep(30)")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 3
    state = f"SELECT state FROM pg_stat_activity WHERE pid = {looking.backend}"
    wait_until(lambda: query(server.admin_url("postgres"), state) == [("idle",)])


def test_what_it_asks_is_cancelled_from_another_thread(looking: postgres.PostgresSession) -> None:
    threading.Timer(0.3, looking.cancel).start()
    start = time.monotonic()
    with pytest.raises(libpq.Error) as caught:
        looking.execute("SELECT pg_sleep(30)")
    assert caught.value.sqlstate == "57014"
    assert time.monotonic() - start < 10
    looking.close()
    looking.cancel()


def test_a_silent_server_is_given_up(looking: postgres.PostgresSession) -> None:
    start = time.monotonic()
    with pytest.raises(Unreachable, match="has not answered for 1 s"), looking.answered_within(1):
        looking.execute("SELECT pg_sleep(30)")
    assert time.monotonic() - start < 10


def test_what_the_server_says_beside_is_a_line_of_ours_alone(
    looking: postgres.PostgresSession, full: postgres.PostgresSession, capfd: pytest.CaptureFixture[str]
) -> None:
    full.execute(
        "CREATE FUNCTION warn() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'beware'; RETURN 1; END $$"
    )
    assert looking.execute("SELECT warn()") == [(1,)]
    assert "WARNING:" not in capfd.readouterr().err


def test_it_does_without_psycopg(database_url: str) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from startup.database.postgres import look; from startup.settings.address import parse\n"
        "session = look.connect(parse(sys.argv[2]))\n"
        "assert session.execute('SELECT 1') == [(1,)] and session.tables('startup_run') == {}\n"
        "session.close()\n"
        "assert 'psycopg' not in sys.modules and 'asyncio' not in sys.modules and 'ssl' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code, str(ROOT), database_url], check=True, timeout=60)


def test_psycopg_connects_where_there_is_no_libpq(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "library", lambda: None)
    session = look.connect(parse(database_url))
    assert not session.only_looks and session.execute("SELECT 1") == [(1,)]
    session.close()


def test_where_python_has_no_ctypes_psycopg_says_that_it_needs_it(database_url: str) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['_ctypes'] = None\n"
        "from startup.errors import SettingError\n"
        "from startup.database.postgres import look; from startup.settings.address import parse\n"
        "try: look.connect(parse(sys.argv[2]))\n"
        "except SettingError as error: sys.exit('needs psycopg, and' not in str(error))\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code, str(ROOT), database_url], check=True, timeout=60)


def test_psycopg_connects_where_no_callback_can_be_made(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(libpq, "_Receiver", refused)
    session = look.connect(parse(database_url))
    assert not session.only_looks and session.execute("SELECT 1") == [(1,)]
    session.close()


def test_psycopg_connects_where_a_limit_counts_for_each_address(database_url: str) -> None:
    session = look.connect(parse(f"{database_url}?connect_timeout=3"))
    assert not session.only_looks and session.execute("SELECT 1") == [(1,)]
    session.close()


def test_psycopg_goes_on_where_a_server_is_silent(
    database_url: str, full: postgres.PostgresSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may have several addresses, of which psycopg tries each for a while; libpq would wait for the first."""
    asked: list[float | None] = []
    monkeypatch.setattr(look, "limit", lambda seconds: 0.5)

    def dial(self: object, connect_arguments: dict[str, Any], seconds: float | None) -> Any:
        asked.append(seconds)
        return full.connection

    monkeypatch.setattr(postgres.Driver, "dial", dial)
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = parse(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x")
        session = look.connect(address, timeout=10, report=lines.append)
    assert not session.only_looks and session.execute("SELECT 1") == [(1,)]
    assert len(asked) == 1 and 5 < (asked[0] or 0) < 9.6  # what the other has left
    assert len(lines) == 1 and "there is no answer" in lines[0]


def test_the_systems_libpq_serves_as_well(database_url: str) -> None:
    try:
        library = libpq.Library("libpq.so.5")
    except OSError:
        pytest.skip("this machine has none of its own")
    parameters = parse(database_url).conninfo
    connection = libpq.Connection(library, parameters)
    connection.complete(time.monotonic() + 10)
    assert connection.execute("SELECT %s::text, 1", ["a"]) == [("a", 1)]
    connection.close()
    assert connection.closed


def test_a_password_file_is_read(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "passwords"
    file.write_text(f"*:*:*:app:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    session: Any = look.connect(parse(database_url.replace(f":{PASSWORD}", "")))
    assert session.only_looks and session.execute("SELECT 1") == [(1,)]
    assert PASSWORD not in str(session.connection.get_parameters())
    session.close()


def test_no_descriptor_is_left_of_connections_that_failed(database_url: str) -> None:
    def attempt() -> None:
        with pytest.raises(Unreachable):
            look.connect(parse(database_url.replace("s3cr3t", "wr0ng")), timeout=1, report=print)

    attempt()
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        attempt()
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_over_tls_it_is_as_strict_as_psycopg(
    pooler: Callable[..., str], server: Server, database: str, tmp_path: Path
) -> None:
    """PgBouncer's, since the tests' server speaks none."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key = server.directory / "tls.crt", server.directory / "tls.key"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(
        [*make, "-addext", "subjectAltName=DNS:localhost", "-out", str(certificate), "-keyout", str(key)],
        check=True,
        capture_output=True,
    )
    for file in (certificate, key):
        file.chmod(0o644)
    files = {"client_tls_key_file": key, "client_tls_cert_file": certificate}
    by_address = pooler("session", database, client_tls_sslmode="require", **files)
    named = by_address.replace("@127.0.0.1", "@localhost")
    for url in (f"{by_address}?sslmode=require", f"{named}?sslmode=verify-full&sslrootcert={certificate}"):
        session = look.connect(parse(url), timeout=5, pooler=True, report=print)
        assert session.only_looks and session.execute("SELECT 1") == [(1,)]
        session.close()
    for url in (
        f"{by_address}?sslmode=verify-full&sslrootcert={certificate}",
        f"{named}?sslmode=verify-full&sslrootcert={tmp_path}/none.crt",
    ):
        for kind in (postgres, look):
            with pytest.raises(Unreachable, match="no TLS connection could be agreed on"):
                kind.connect(parse(url), timeout=5, pooler=True, report=print)


def test_a_node_that_has_the_turn_and_takes_nothing_is_not_waited_for(startup: Any, database_url: str) -> None:
    startup.write("migrations/0001.a.sql", "CREATE TABLE a (id integer)")
    turn = postgres.lock_key("default", "startup-turn")
    with psycopg.connect(database_url, autocommit=True, application_name="startup/frozen") as frozen:
        frozen.execute("SELECT pg_advisory_lock(%s)", (turn,))
        done = startup("init", DATABASE_URL=database_url, STARTUP_TASKS="migrate")
        assert done.returncode == 0 and "0001.a applied" in done.stderr
        assert frozen.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (1,)


def test_a_node_that_only_waits_does_not_load_what_does_the_work(startup: Any, database_url: str) -> None:
    """The lock is held by another node until this one has said that it waits."""
    startup.write("migrations/0001.a.sql", "CREATE TABLE a (id integer)")
    startup.write("show.py", SHOW)
    with psycopg.connect(database_url, autocommit=True, application_name="startup/runner") as runner:
        runner.execute("SELECT pg_advisory_lock(%s)", (postgres.lock_key("default"),))
        environ = {**startup.environ, "DATABASE_URL": database_url, "STARTUP_TASKS": "migrate"}
        environ["STARTUP_LOCK_TIMEOUT"] = "1.5"
        words = [sys.executable, "-I", "show.py", str(ROOT)]
        done = subprocess.run(words, cwd=startup.directory, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 75 and "runner holds it" in done.stderr, done.stderr
    assert "startup.run.waiting" in done.stdout.split() and "psycopg" not in done.stdout.split()


SHOW = """
import sys
sys.path.insert(0, sys.argv[1])
from startup import cli
code = cli.main(["init"])
print(*sys.modules)
sys.exit(code)
"""
