"""``startup baseline ID``: what it takes, what it refuses, and that it does all or nothing; and who is told of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Server
from tests.database.homes import BOTH

NAMES = ("0001_a", "0002_b", "0003_c", "0004_d", "0005_e")
#: Each of our tables, and what it says of the migrations.
MARKS = "SELECT migration_id FROM _yoyo_migration ORDER BY applied_at_utc"
ROWS = "SELECT id, state FROM startup_migration ORDER BY id"
LINES = "SELECT task, state, node, release FROM startup_ledger ORDER BY started_at"


@pytest.fixture
def image(startup: Any, url: str) -> Any:
    """Five migrations, each of which would make a table."""
    for name in NAMES:
        startup.write(f"migrations/{name}.sql", f"CREATE TABLE table_{name} (id int);\n")
    startup.environ |= {"DATABASE_URL": url, "STARTUP_NODE": "node-a", "STARTUP_TASKS": "migrate"}
    return startup


def ok(image: Any, *verb: str, **environ: str) -> str:
    """What it said, on both."""
    done = image(*verb, **environ)
    assert done.returncode == 0, done.stderr
    return str(done.stdout + done.stderr)


def refused(image: Any, code: int, *verb: str, **environ: str) -> str:
    done = image("baseline", *verb, **environ)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return str(done.stderr)


def tables(image: Any, query: Any) -> set[str]:
    url = image.environ["DATABASE_URL"]
    if url.startswith("sqlite"):
        there = os.path.exists(url.removeprefix("sqlite:///"))
        return {name for (name,) in query(url, "SELECT name FROM sqlite_master")} if there else set()
    return {name for (name,) in query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def before(image: Any, query: Any, count: int) -> None:
    """The first *count* tables are there, by whatever tool."""
    for name in NAMES[:count]:
        query(image.environ["DATABASE_URL"], f"CREATE TABLE table_{name} (id int)")


def yoyo(image: Any, *arguments: str) -> str:
    url = image.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "yoyo"), *arguments, "--batch", "--no-config-file"),
            *("--database", url, str(image.directory / "migrations")),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------------ what it takes


@BOTH
def test_all_up_to_the_id_are_taken_and_a_boot_applies_only_what_is_new(image: Any, query: Any, url: str) -> None:
    before(image, query, 3)
    said = ok(image, "baseline", "0003_c")
    assert "3 migrations are taken for applied, without being run: 0001_a, 0002_b, 0003_c" in said
    assert query(url, MARKS) == [(name,) for name in NAMES[:3]]
    assert "2 applied" in ok(image, "init")
    assert {f"table_{name}" for name in NAMES} <= tables(image, query)
    assert "nothing to do" in ok(image, "init")


@BOTH
def test_yoyo_agrees_and_has_a_log_as_of_its_own_mark(image: Any, query: Any, url: str) -> None:
    ok(image, "baseline", "0002_b")
    yoyo(image, "mark", "--match", "^0003_c$")
    listed = yoyo(image, "list")
    assert [line.split()[:2] for line in listed.splitlines() if line[:2] in ("A ", "U ")] == [
        ["A" if name < "0004" else "U", name] for name in NAMES
    ]
    log = "SELECT migration_id, operation, migration_hash = (SELECT migration_hash FROM _yoyo_migration m WHERE"
    log += " m.migration_id = l.migration_id) FROM _yoyo_log l WHERE migration_id IS NOT NULL ORDER BY created_at_utc"
    assert query(url, log) == [(name, "mark", True) for name in NAMES[:3]]


@BOTH
def test_nothing_of_a_file_is_run_whatever_kind_it_is(image: Any, query: Any, url: str) -> None:
    image.write("migrations/0002_b.sql", "-- transactional: false\nSELECT 1 / 0; this is no SQL;\n")
    (image.directory / "migrations/0003_c.sql").unlink()
    image.write("migrations/0003_c.py", "open('ran', 'w').close()\nraise SystemExit(3)\n")
    image.write("migrations/post-apply.sql", "CREATE TABLE afterwards (id int);\n")
    ok(image, "baseline", "0003_c.py")
    assert query(url, ROWS) == [(name, "done") for name in NAMES[:3]], "no post-apply file is due"
    assert not (image.directory / "ran").exists()
    assert not {name for name in tables(image, query) if name.startswith("table_")}
    ok(image, "init")
    assert "afterwards" in tables(image, query), "after what was applied then, as ever"


@BOTH
def test_an_edited_file_is_drift_afterwards(image: Any) -> None:
    ok(image, "baseline", "0002_b")
    image.write("migrations/0001_a.sql", "SELECT 'edited';\n")
    done = image("init")
    assert done.returncode == 70 and "changed since they were applied: migrations/0001_a.sql" in done.stderr


@BOTH
def test_a_file_that_another_depends_on_is_taken_too(image: Any, query: Any, url: str) -> None:
    image.write("migrations/0001_a.sql", "-- depends: 0004_d\nSELECT 1;\n")
    ok(image, "baseline", "0001_a")
    assert query(url, MARKS) == [(name,) for name in ("0002_b", "0003_c", "0004_d", "0001_a")]


@BOTH
def test_what_is_applied_already_is_left_as_it_is(image: Any, query: Any, url: str) -> None:
    for name in NAMES[2:]:
        (image.directory / f"migrations/{name}.sql").rename(image.directory / name)
    ok(image, "init", STARTUP_NODE="node-b")
    for name in NAMES[2:]:
        (image.directory / name).rename(image.directory / f"migrations/{name}.sql")
    was = "SELECT id, checksum, state, statements_done, applied_by, duration, applied_at FROM startup_migration"
    rows = query(url, was)
    assert "2 migrations are taken for applied, without being run: 0003_c, 0004_d" in ok(image, "baseline", "0004_d")
    assert query(url, f"{was} ORDER BY id")[:2] == sorted(rows)
    assert query(url, MARKS) == [(name,) for name in NAMES[:4]]


@BOTH
def test_where_all_is_applied_already_a_line_says_so_and_the_code_is_0(image: Any, query: Any, url: str) -> None:
    ok(image, "baseline", "0002_b")
    lines = query(url, LINES)
    assert "nothing to do: all migrations up to it are applied already" in ok(image, "baseline", "0002_b")
    assert query(url, LINES) == lines


@BOTH
@pytest.mark.parametrize("given", ["0003_c", "0003_c.sql", "migrations/0003_c.sql", "./migrations/0003_c.sql"])
def test_the_id_may_be_a_file_name(image: Any, query: Any, url: str, given: str) -> None:
    ok(image, "baseline", given)
    assert query(url, MARKS)[-1] == ("0003_c",)


@BOTH
def test_the_ledger_says_who_did_it_when_and_up_to_where_and_status_shows_it(image: Any, query: Any, url: str) -> None:
    ok(image, "baseline", "0003_c", STARTUP_RELEASE="7")
    assert query(url, LINES) == [("baseline 0003_c", "done", "node-a", "7")]
    report = json.loads(image("status", "--json").stdout)
    (entry,) = report["ledger"]
    assert entry["task"] == "baseline 0003_c" and entry["node"] == "node-a" and entry["finished_at"]
    assert report["migrations"]["applied"] == list(NAMES[:3])
    shown = ok(image, "status")
    assert "3 applied, 2 pending" in shown and "baseline 0003_c  once    done" in shown


@BOTH
def test_a_task_of_that_name_is_another(image: Any, query: Any, url: str) -> None:
    ok(image, "baseline", "0001_a")
    assert "baseline, is done" in ok(image, "run", "baseline@once", STARTUP_TASK_BASELINE="true")
    assert len(query(url, LINES)) == 2


# ------------------------------------------------------------------------------------------------- what it refuses


@BOTH
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("0003", "did you mean 0003_c?"),
        ("0003_cc", "did you mean 0003_c?"),
        ("0002_b.rollback.sql", "did you mean 0002_b?"),
        ("xyz", "they are 0001_a to 0005_e"),
        ("post-apply.sql", "runs after the migrations and is none itself"),
        ("elsewhere/0003_c.sql", "did you mean 0003_c?"),
    ],
)
def test_a_wrong_id_is_78_and_names_the_nearest(image: Any, query: Any, given: str, says: str) -> None:
    image.write("migrations/post-apply.sql", "SELECT 1;\n")
    said = refused(image, 78, given)
    assert f"baseline {given}: " in said and says in said
    assert tables(image, query) == set()


def test_no_id_is_a_usage_error_and_no_migrations_are_78(image: Any, startup: Any, tmp_path: Path) -> None:
    assert startup("baseline").returncode == 2
    assert startup("baseline", "0001_a", "0002_b").returncode == 2
    assert "no such directory" in refused(image, 78, "0001_a", STARTUP_MIGRATIONS="nowhere")
    (tmp_path / "migrations").rename(tmp_path / "elsewhere")
    assert "no directory 'migrations' here" in refused(image, 78, "0001_a")


@BOTH
def test_what_is_applied_after_the_id_is_named_and_nothing_is_taken(image: Any, query: Any, url: str) -> None:
    for name in NAMES[:3]:
        (image.directory / f"migrations/{name}.sql").rename(image.directory / name)
    ok(image, "init")
    for name in NAMES[:3]:
        (image.directory / name).rename(image.directory / f"migrations/{name}.sql")
    marks = query(url, MARKS)
    for more in ((), ("--dry-run",)):
        said = refused(image, 70, "0002_b", *more)
        assert (
            "baseline 0002_b: applied already, after it: 0004_d, 0005_e; right would be 0005_e or a later one" in said
        )
    assert query(url, MARKS) == marks
    ok(image, "baseline", "0005_e")
    assert len(query(url, MARKS)) == 5


@BOTH
def test_what_is_applied_after_the_id_and_not_in_this_image_is_named_too(image: Any, query: Any, url: str) -> None:
    ok(image, "baseline", "0005_e")
    for name in NAMES[3:]:
        (image.directory / f"migrations/{name}.sql").unlink()
    query(url, "DELETE FROM _yoyo_migration WHERE migration_id = '0003_c'")
    assert "not in this image: 0004_d, 0005_e; use the image that has them" in refused(image, 70, "0003_c")
    query(url, "DELETE FROM _yoyo_migration WHERE migration_id > '0003'")
    image.write("migrations/0006_all.sql", "SELECT 'what 0001 to 0005 did';\n")
    (image.directory / "migrations/0001_a.sql").unlink()
    said = ok(image, "baseline", "0006_all")
    assert "which does not have: 0001_a" in said and "0003_c, 0006_all" in said


@BOTH
def test_an_interrupted_file_is_to_be_put_right_first(image: Any, query: Any, url: str) -> None:
    image.write("migrations/0002_b.sql", "-- transactional: false\nCREATE TABLE half (id int);\nSELECT wrong;\n")
    assert image("init").returncode == 70
    for given in ("0001_a", "0002_b", "0005_e"):
        for more in ((), ("--dry-run",)):
            said = refused(image, 70, given, *more)
            assert "0002_b.sql: was interrupted on node-a" in said and "yoyo mark" in said
    assert query(url, MARKS) == [("0001_a",)]
    query(url, "DELETE FROM startup_migration WHERE id = '0002_b'")
    ok(image, "baseline", "0002_b")


def test_an_interrupted_index_is_left_to_the_boot_that_mends_it(image: Any, query: Any, url: str) -> None:
    image.write("migrations/0002_b.sql", "-- transactional: false\nCREATE INDEX CONCURRENTLY b ON table_0001_a (id);\n")
    ok(image, "baseline", "0001_a")
    query(url, "CREATE TABLE table_0001_a (id int)")
    query(url, "INSERT INTO startup_migration (id, state, applied_by) VALUES ('0002_b', 'started', 'node-b')")
    assert "0002_b was interrupted on node-b, and the next boot builds its index again" in refused(image, 70, "0003_c")
    ok(image, "init")


@BOTH
def test_changed_content_is_told_as_by_migrate(image: Any, query: Any, url: str) -> None:
    ok(image, "baseline", "0002_b")
    image.write("migrations/0001_a.sql", "SELECT 'edited';\n")
    for more in ((), ("--dry-run",)):
        assert "changed since they were applied: migrations/0001_a.sql" in refused(image, 70, "0003_c", *more)
    assert len(query(url, MARKS)) == 2
    said = ok(image, "baseline", "0003_c", STARTUP_DRIFT="warn")
    assert "changed since they were applied: migrations/0001_a.sql" in said and len(query(url, MARKS)) == 3


# --------------------------------------------------------------------------------------------------------- dry run


@BOTH
def test_a_dry_run_shows_what_it_would_take_changes_nothing_and_needs_no_lock(
    image: Any, query: Any, url: str, wait_until: Any
) -> None:
    done = image("baseline", "0002_b", "--dry-run")
    assert done.returncode == 0 and "2 migrations would be taken for applied" in done.stderr
    assert done.stdout.splitlines() == ["0001_a  (migrations/0001_a.sql)", "0002_b  (migrations/0002_b.sql)"]
    assert tables(image, query) == set() and not list(image.directory.glob("test.db*"))
    hold = "touch there; while [ ! -e go ]; do sleep 0.05; done"
    image.start("init", STARTUP_TASKS="hold", STARTUP_TASK_HOLD=hold)
    wait_until((image.directory / "there").exists)
    assert "would be taken" in ok(image, "baseline", "0002_b", "--dry-run")
    assert "_yoyo_migration" not in tables(image, query)


def test_a_dry_run_takes_what_runs_now_for_no_interruption(image: Any, query: Any, url: str, wait_until: Any) -> None:
    image.write("migrations/0001_a.sql", "-- transactional: false\nSELECT pg_sleep(60);\n")
    image.start("init")
    wait_until(lambda: query(url, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"))
    said = ok(image, "baseline", "0002_b", "--dry-run")
    assert "another node migrates this database just now" in said and "2 migrations would be taken" in said


# ---------------------------------------------------------------------------------------------- all or nothing

#: Whoever writes the ledger's line is busy for minutes, with the marks written and not committed.
BUSY = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000000000) SELECT count(*) FROM c"
SLOW = {
    "postgresql": "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN PERFORM ({BUSY}); RETURN NEW; END $$; "
    "CREATE TRIGGER slow BEFORE INSERT ON startup_ledger FOR EACH ROW EXECUTE FUNCTION slow()",
    "sqlite": f"CREATE TRIGGER slow BEFORE INSERT ON startup_ledger BEGIN SELECT ({BUSY}); END",
}


@pytest.fixture
def midway(image: Any, query: Any, url: str, wait_until: Any) -> Any:
    """A baseline up to 0004_d, in the middle of its transaction."""
    ok(image, "baseline", "0001_a")
    if url.startswith("sqlite"):
        import sqlite3

        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute(SLOW["sqlite"])
        connection.close()
    else:
        query(url, SLOW["postgresql"])
    process = image.start("baseline", "0004_d")

    def works() -> bool:
        if not url.startswith("sqlite"):
            inserts = "state = 'active' AND query LIKE 'INSERT INTO%startup_ledger%'"
            return bool(query(url, f"SELECT 1 FROM pg_stat_activity WHERE {inserts} AND pid <> pg_backend_pid()"))
        return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11]) > 200  # 2 s: no start

    wait_until(works, 60)
    return process


@BOTH
def test_killed_in_the_middle_it_has_taken_nothing_and_can_be_done_again(
    image: Any, midway: Any, query: Any, url: str, wait_until: Any
) -> None:
    midway.send_signal(signal.SIGKILL)
    midway.wait(20)
    if not url.startswith("sqlite"):
        backend = "datname = current_database() AND application_name = 'startup/node-a'"
        query(url, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {backend}")
    assert query(url, MARKS) == [("0001_a",)]
    assert query(url, ROWS) == [("0001_a", "done")]
    assert query(url, LINES) == [("baseline 0001_a", "done", "node-a", None)]
    query(url, "DROP TRIGGER slow" + ("" if url.startswith("sqlite") else " ON startup_ledger"))
    assert "0002_b, 0003_c, 0004_d" in ok(image, "baseline", "0004_d")


@BOTH
def test_a_signal_ends_it_at_once_with_nothing_taken(image: Any, midway: Any, query: Any, url: str) -> None:
    midway.terminate()
    err = midway.communicate(timeout=30)[1]
    assert midway.returncode == 143 and "stopped by SIGTERM" in err
    assert query(url, MARKS) == [("0001_a",)] and query(url, ROWS) == [("0001_a", "done")]
    assert query(url, "SELECT * FROM yoyo_lock") == [], "its row is gone, too"


def test_a_session_that_is_lost_in_the_middle_is_75_with_nothing_taken(
    image: Any, midway: Any, query: Any, url: str
) -> None:
    backend = "datname = current_database() AND application_name = 'startup/node-a'"
    query(url, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {backend}")
    err = midway.communicate(timeout=30)[1]
    assert midway.returncode == 75 and "lost" in err and "Traceback" not in err
    assert query(url, MARKS) == [("0001_a",)] and query(url, ROWS) == [("0001_a", "done")]


def test_yoyos_row_that_somebody_removes_meanwhile_is_75_with_nothing_taken(image: Any, query: Any, url: str) -> None:
    """By yoyo break-lock: a stock yoyo may be at work then. Here a trigger does it, as soon as the row is there."""
    ok(image, "baseline", "0001_a")
    removes = "$$ BEGIN DELETE FROM yoyo_lock; RETURN NULL; END $$"
    query(url, f"CREATE FUNCTION break_lock() RETURNS trigger LANGUAGE plpgsql AS {removes}")
    query(url, "CREATE TRIGGER break AFTER INSERT ON yoyo_lock FOR EACH ROW EXECUTE FUNCTION break_lock()")
    assert "yoyo break-lock" in refused(image, 75, "0004_d")
    assert query(url, MARKS) == [("0001_a",)]


# --------------------------------------------------------------------------------------------------------- the lock


@pytest.fixture
def holding(image: Any, wait_until: Any) -> Any:
    """A node that holds the lock until the file ``go`` is there."""
    hold = "touch there; while [ ! -e go ]; do sleep 0.05; done"
    process = image.start("init", STARTUP_TASKS="hold", STARTUP_TASK_HOLD=hold, STARTUP_NODE="node-b")
    wait_until((image.directory / "there").exists)
    return process


@BOTH
def test_while_another_node_has_the_lock_it_is_75_at_once_or_after_the_lock_timeout(
    image: Any, holding: Any, query: Any
) -> None:
    assert "node-b holds it" in refused(image, 75, "0002_b")
    said = refused(image, 75, "0002_b", STARTUP_LOCK_TIMEOUT="0.5")
    assert "waiting for the lock: node-b holds it" in said
    assert "not free within 0.5 s (STARTUP_LOCK_TIMEOUT): node-b holds it" in said
    assert "_yoyo_migration" not in tables(image, query)


@BOTH
def test_within_the_lock_timeout_it_waits_and_a_signal_ends_the_wait(
    image: Any, holding: Any, query: Any, url: str
) -> None:
    first, second = (image.start("baseline", "0002_b", STARTUP_LOCK_TIMEOUT="60") for _ in range(2))
    for process in (first, second):
        assert "waiting for the lock: node-b holds it" in process.stderr.readline()
    second.terminate()
    assert second.wait(20) == 143
    image.write("go", "")
    assert first.wait(30) == 0
    assert query(url, MARKS) == [("0001_a",), ("0002_b",)]


def test_a_namespace_that_migrates_the_same_tables_is_waited_for(
    image: Any, query: Any, url: str, wait_until: Any
) -> None:
    query(url, "CREATE TABLE gate (id int)")
    image.write("migrations/0001_a.sql", "LOCK TABLE gate; CREATE TABLE table_a (id int);\n")
    with psycopg.connect(url) as gate:
        gate.execute("LOCK TABLE gate")
        other = image.start("init", STARTUP_NAMESPACE="other", STARTUP_TABLE_LOCK_TIMEOUT="0")
        wait_until(lambda: query(url, "SELECT 1 FROM pg_locks l WHERE NOT granted"))
        said = refused(image, 75, "0001_a", STARTUP_LOCK_TIMEOUT="0.5")
        assert "another namespace, which migrates the same tables: not free within 0.5 s" in said
    assert other.wait(30) == 0
    assert "nothing to do" in ok(image, "baseline", "0005_e")


# ---------------------------------------------------------------------------------------------------------- rights


def test_on_a_standby_it_is_69(startup: Any, new_server: Any) -> None:
    server = new_server()
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()
    startup.write("migrations/0001_a.sql", "SELECT 1;\n")
    done = startup("baseline", "0001_a", DATABASE_URL=server.url("postgres"), STARTUP_LOCK_TIMEOUT="30")
    assert done.returncode == 69 and "the server is a standby, which only reads" in done.stderr


@pytest.fixture
def reader(server: Server, database: str, query: Any) -> Iterator[str]:
    """The address of a role that may only read."""
    admin, role = server.admin_url(database), f"reader_{database}"
    query(
        admin, f"CREATE ROLE {role} LOGIN; GRANT pg_read_all_data TO {role}; REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    )
    yield f"postgresql://{role}@/{database}?host={server.directory}&port={server.port}"
    query(admin, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_that_may_only_read_is_told_so_and_may_look(image: Any, reader: str, query: Any, url: str) -> None:
    assert "right would be" in refused(image, 70, "0002_b", DATABASE_URL=reader)
    ok(image, "baseline", "0001_a")
    said = refused(image, 70, "0002_b", DATABASE_URL=reader)
    assert "permission denied" in said and "STARTUP_DATABASE_URL" in said and "a defect" not in said
    assert query(url, MARKS) == [("0001_a",)]
    assert "1 migration would be taken" in ok(image, "baseline", "0002_b", "--dry-run", DATABASE_URL=reader)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everything")
def test_an_sqlite_file_that_may_only_be_read_is_69(image: Any, sqlite_url: str) -> None:
    ok(image, "baseline", "0001_a", DATABASE_URL=sqlite_url)
    Path(sqlite_url.removeprefix("sqlite:///")).chmod(0o444)
    assert "is not writable" in refused(image, 69, "0002_b", DATABASE_URL=sqlite_url)


# ------------------------------------------------------------------------------------------------------- the hints

OTHERS = ("alembic_version", "django_migrations", "flyway_schema_history", "schema_migrations", "_prisma_migrations")
HINT = "startup baseline ID takes those up to ID for applied"


@BOTH
@pytest.mark.parametrize("table", OTHERS)
def test_another_tools_table_with_rows_is_named_before_the_first_migration(
    image: Any, query: Any, url: str, table: str
) -> None:
    query(url, f"CREATE TABLE {table} (version text)")
    assert HINT not in ok(image, "plan"), "it is empty"
    query(url, f"INSERT INTO {table} VALUES ('1')")
    for verb in ("plan", "init"):
        (line,) = [line for line in ok(image, verb).splitlines() if HINT in line]
        assert line.startswith(f"startup: warning: the database has the table {table} of ")
    image.write("migrations/0006_new.sql", "SELECT 1;\n")
    for verb in ("plan", "init"):
        assert HINT not in ok(image, verb), "once our own are applied, it is known"


@BOTH
def test_after_a_baseline_there_is_no_hint(image: Any, query: Any, url: str) -> None:
    query(url, "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('1')")
    assert HINT not in ok(image, "baseline", "0001_a")
    assert HINT not in ok(image, "init")


def test_a_table_that_is_altered_or_may_not_be_read_or_has_policies_gives_no_hint_and_holds_nobody_up(
    image: Any, server: Server, database: str, query: Any, url: str
) -> None:
    admin = server.admin_url(database)
    query(url, "CREATE TABLE alembic_version AS SELECT 1 AS x; CREATE TABLE schema_migrations AS SELECT 1 AS x")
    query(url, "ALTER TABLE schema_migrations ENABLE ROW LEVEL SECURITY")
    query(url, "CREATE VIEW flyway_schema_history AS SELECT 1 AS x")
    query(admin, "CREATE TABLE django_migrations AS SELECT 1 AS x")
    with psycopg.connect(url) as altering:
        altering.execute("LOCK TABLE alembic_version")
        assert HINT not in ok(image, "plan")
    said = ok(image, "init")
    assert said.count(HINT) == 1 and "alembic_version" in said


THERE = (
    "CREATE TABLE here (id int)",
    "CREATE INDEX here ON plans (id)",
    "CREATE VIEW here AS SELECT 1 AS x",
    "ALTER TABLE plans ADD COLUMN here int",
)
ON_POSTGRES = (
    "CREATE TYPE here AS ENUM ('a')",
    "CREATE SCHEMA here",
    "CREATE FUNCTION here() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE SEQUENCE here",
    "ALTER TABLE plans ADD CONSTRAINT here CHECK (id > 0)",
)
ALREADY = "hint: if this database was made by another tool, or by hand, and has all that this file makes: startup"


@pytest.mark.parametrize(
    ("url", "statement"),
    [("postgresql", one) for one in (*THERE, *ON_POSTGRES)] + [("sqlite", one) for one in THERE],
    indirect=["url"],
)
@pytest.mark.parametrize("kind", ["", "-- transactional: false\n", "py"])
def test_what_fails_because_it_is_there_already_names_the_way(
    image: Any, query: Any, url: str, statement: str, kind: str
) -> None:
    query(url, f"CREATE TABLE plans (id int); {statement}")
    if kind == "py":
        (image.directory / "migrations/0002_b.sql").unlink()
        image.write("migrations/0002_b.py", f"from yoyo import step\nstep({statement!r})\n")
    else:
        image.write("migrations/0002_b.sql", f"{kind}{statement};\n")
    done = image("init")
    assert done.returncode == 70, done.stderr
    assert f"{ALREADY} baseline 0002_b takes the migrations up to it for applied" in done.stderr
    ok(image, "baseline", "0002_b")
    ok(image, "init")


@BOTH
def test_another_failure_does_not_speak_of_it(image: Any, query: Any) -> None:
    image.write("migrations/0002_b.sql", "INSERT INTO nowhere VALUES (1);\n")
    image.write("migrations/post-apply.sql", "CREATE TABLE table_0001_a (id int);\n")
    assert "baseline" not in image("init").stderr
    image.write("migrations/0002_b.sql", "SELECT 1;\n")
    done = image("init")
    assert done.returncode == 70 and "already exists" in done.stderr and "baseline" not in done.stderr
