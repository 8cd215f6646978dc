"""What a server, a role or the environment may be set to: nothing of it changes what we read; a fault has its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from startup.database.postgres.reach import explain_state, misset
from startup.settings.address import parse
from tests.conftest import PASSWORD

Query = Callable[[str, str], list[tuple[Any, ...]]]
TASKS = {"STARTUP_TASKS": "migrate seed@once again", "STARTUP_TASK_SEED": "true", "STARTUP_TASK_AGAIN": "true"}
ODD = {
    "datestyle": "German",
    "TimeZone": "<+03>-3",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "lc_numeric": "C",
    "array_nulls": "off",
}


@pytest.mark.parametrize("how", ["database", "role", "environment"])
def test_no_setting_of_the_server_changes_what_is_read_or_how_a_migration_is_understood(
    startup: Any, server: Any, database: str, database_url: str, query: Query, how: str
) -> None:
    environ = {"DATABASE_URL": database_url, "STARTUP_DATABASE_TIMEOUT": "5", **TASKS}
    if how == "environment":
        environ["PGOPTIONS"] = " ".join(f"-c {name}={value}" for name, value in ODD.items())
    else:
        for name, value in ODD.items():
            where = f"DATABASE {database}" if how == "database" else f"ROLE app IN DATABASE {database}"
            query(server.admin_url("postgres"), f"ALTER {where} SET {name} = '{value}'")
    sql = "CREATE TABLE seen (t text); INSERT INTO seen VALUES ('a\\'); INSERT INTO seen SELECT now()::time::text;"
    startup.write("migrations/0001_a.sql", sql)
    for _ in range(2):
        done = startup("init", **environ)
        assert done.returncode == 0, done.stderr
    done = startup("status", **environ)
    assert done.returncode == 0 and "1 applied" in done.stdout, done.stdout + done.stderr
    assert query(database_url, r"SELECT count(*) FROM seen WHERE t = E'a\\'") == [(1,)]
    startup.write("migrations/0002_b.sql", "INSERT INTO seen SELECT current_setting('TimeZone');")
    assert startup("init", **environ).returncode == 0
    assert query(database_url, "SELECT count(*) FROM seen WHERE t = '<+03>-3'") == [(1,)], "the tasks' SQL sees its own"


@pytest.mark.parametrize(
    ("more", "environ", "code", "says"),
    [
        ("?options=-c%20serch_path%3Dx", {}, 78, "whose serch_path in options is wrong"),
        ("", {"PGOPTIONS": "-c serch_path=x"}, 78, "PGOPTIONS has a wrong serch_path in options for"),
        ("?options=-c%20work_mem%3Dlots", {}, 78, "whose work_mem in options is wrong"),
        ("", {"PGTZ": "Mars/Olympus"}, 78, "PGTZ has a wrong timezone for"),
        ("", {"PGDATESTYLE": "Nonsense"}, 78, "PGDATESTYLE has a wrong datestyle for"),
        ("?channel_binding=require", {}, 78, "whose channel_binding is wrong"),
        ("", {"PGCHANNELBINDING": "require"}, 78, "PGCHANNELBINDING has a wrong channel_binding for"),
        ("", {"PGSSLMODE": "sometimes"}, 78, "PGSSLMODE has a wrong sslmode for"),
        ("?require_auth=none", {}, 78, "whose require_auth is wrong"),
        ("", {"PGSERVICE": "nowhere"}, 78, "PGSERVICE has a wrong service for"),
        ("?service=nowhere", {}, 78, "whose service is wrong"),
        ("", {"PGPORT": "many", "DATABASE_URL": "postgresql://127.0.0.1/x"}, 78, "PGPORT has a wrong port for"),
        ("%22", {}, 69, "the database does not exist"),
        ("", {"PGSSLMODE": "require"}, 69, "check sslmode of PGSSLMODE"),
    ],
)
def test_what_no_waiting_can_mend_ends_at_once_and_is_named_by_where_it_came_from(
    startup: Any, database_url: str, more: str, environ: dict[str, str], code: int, says: str
) -> None:
    settings = {"DATABASE_URL": database_url + more, "STARTUP_TASKS": "again", "STARTUP_TASK_AGAIN": "true", **environ}
    began = time.monotonic()
    done = startup("init", **settings, STARTUP_DATABASE_TIMEOUT="40")
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert time.monotonic() - began < 20, "at once"


def test_a_user_whom_the_system_does_not_know_must_be_named() -> None:
    """libpq asks for the name of the process's own user, which a random uid has not."""
    assert (
        misset(parse("postgresql://db/x"), "local user with ID 54321 does not exist")
        == "DATABASE_URL is 'postgresql://db/x', whose user is wrong"
    )


@pytest.mark.parametrize(
    ("address", "environ", "says"),
    [
        ("postgresql://app@{place}", {"PGPASSWORD": "wrong"}, "user and password in DATABASE_URL and PGPASSWORD."),
        (
            "postgresql://{place}",
            {"PGUSER": "nobody", "PGPASSWORD": "x"},
            "user and password in PGUSER and PGPASSWORD.",
        ),
        ("postgresql://app:wrong@{place}", {}, "user and password in DATABASE_URL."),
    ],
)
def test_a_rejected_password_is_blamed_on_where_it_came_from(
    startup: Any, server: Any, address: str, environ: dict[str, str], says: str
) -> None:
    url = address.format(place=f"127.0.0.1:{server.port}/postgres")
    task = {"STARTUP_TASKS": "again", "STARTUP_TASK_AGAIN": "true"}
    done = startup("init", DATABASE_URL=url, **environ, **task)
    assert (done.returncode, says in done.stderr) == (69, True), done.stderr


def test_the_setting_that_is_in_force_is_the_one_that_is_named(startup: Any, server: Any) -> None:
    url = f"postgresql://app:wrong@127.0.0.1:{server.port}/postgres"
    task = {"STARTUP_TASKS": "again", "STARTUP_TASK_AGAIN": "true"}
    done = startup("init", STARTUP_DATABASE_URL=url, DATABASE_URL="sqlite:///app.db", **task)
    assert "user and password in STARTUP_DATABASE_URL." in done.stderr and PASSWORD not in done.stderr


@pytest.mark.parametrize(
    ("state", "final"),
    [
        *(("28P01", True), ("28000", True), ("3D000", True), ("42501", True), ("22023", True), ("0A000", True)),
        *(("57P03", False), ("57P01", False), ("53300", False), ("08P01", False), ("XX000", False), ("", False)),
    ],
)
def test_a_refusal_is_final_or_not_by_its_sqlstate(state: str, final: bool) -> None:
    assert explain_state(state).final is final


SPEAKS = "DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; RAISE INFO 'an info'; END $$;"


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_the_server_says_beside_its_results_is_shown_at_its_level(
    startup: Any, database_url: str, level: str
) -> None:
    startup.write("migrations/0001.sql", SPEAKS)
    startup.write("tasks.py", f"def ask(context):\n    context.connection.execute({SPEAKS!r})\n")
    environ = {"DATABASE_URL": database_url, "STARTUP_TASKS": "migrate tasks:ask", "STARTUP_LOG_LEVEL": level}
    done = startup("init", **environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("startup: warning: the database says: a warning\n") == 2
    for text in ("a notice", "an info"):
        assert done.stderr.count(f"startup: debug: the database says: {text}\n") == 2 * (level == "debug")


def test_what_a_trigger_says_of_a_users_row_is_shown_nowhere(startup: Any, database_url: str, query: Query) -> None:
    query(
        database_url,
        "CREATE TABLE users (id int PRIMARY KEY, password text); CREATE FUNCTION say() RETURNS trigger "
        "LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'it is %', NEW.password; RETURN NEW; END$$; "
        "CREATE TRIGGER say BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION say()",
    )
    startup.write("users.csv", "id,password\n1,hunter22\n")
    environ = {"DATABASE_URL": database_url, "STARTUP_USERS": "users.csv", "STARTUP_LOG_LEVEL": "debug"}
    done = startup("run", "insert_users", **environ)
    assert "1 of 1 rows added" in done.stderr
    assert "hunter22" not in done.stderr
