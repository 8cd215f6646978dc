"""Verbs, and tasks chosen and overridden by variables, in containers with a real PostgreSQL."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from .conftest import HERE, wait_for

if TYPE_CHECKING:
    from .conftest import Database, DerivedImage, Docker, Postgres

APP_STARTED = "Started server process"  # uvicorn's words
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


def env(**settings: str) -> tuple[str, ...]:
    return tuple(word for name, value in settings.items() for word in ("--env", f"{name}={value}"))


def test_plan_says_what_init_would_run_and_changes_nothing(docker: Docker, demo_image: str, database: Database) -> None:
    done = docker.run(*database.options, demo_image, "startup", "plan")
    assert done.returncode == 0, done.stderr
    assert "migrate" in done.stdout
    assert "0001_create_users" in done.stdout
    assert APP_STARTED not in done.stdout + done.stderr
    assert database.query(TABLES) == ""


def test_describe_explains_the_configuration_without_starting_the_app(
    docker: Docker, demo_image: str, database: Database
) -> None:
    settings = env(STARTUP_TASKS="migrate warm@local", STARTUP_TASK_WARM="echo warm", STARTUP_PING="tcp://localhost:1")
    done = docker.run(*database.options, *settings, demo_image, "startup", "describe")
    assert done.returncode == 0, done.stderr
    for word in ("migrate", "warm", "local", "STARTUP_TASK_WARM", "tcp://localhost:1", "STARTUP_TASKS"):
        assert word in done.stdout
    assert database.server.password not in done.stdout + done.stderr
    assert APP_STARTED not in done.stdout + done.stderr
    assert database.query(TABLES) == ""


def test_describe_json_is_one_object(docker: Docker, demo_image: str, database: Database) -> None:
    done = docker.run(*database.options, demo_image, "startup", "describe", "--json")
    assert isinstance(json.loads(done.stdout), dict)
    assert database.server.password not in done.stdout


def test_init_runs_the_tasks_and_exits_without_the_app(docker: Docker, demo_image: str, database: Database) -> None:
    settings = env(STARTUP_TASKS="migrate insert_users")
    done = docker.run(*database.options, *settings, demo_image, "startup", "init")
    assert done.returncode == 0, done.stderr
    assert APP_STARTED not in done.stdout + done.stderr
    assert database.query("SELECT count(*) FROM users") == "3"
    again = docker.run(*database.options, *settings, demo_image, "startup", "init")
    assert again.returncode == 0, again.stderr
    assert database.query("SELECT count(*) FROM _yoyo_log WHERE operation = 'apply'") == "3"


def test_a_setting_that_is_wrong_is_78_and_the_app_never_starts(docker: Docker, demo_image: str) -> None:
    done = docker.run(*env(STARTUP_PING="smoke://signal", STARTUP_TIMEOUT="soon"), demo_image)
    assert done.returncode == 78
    for word in ("STARTUP_PING", "smoke://signal", "STARTUP_TIMEOUT", "soon"):
        assert word in done.stderr, "all faults are reported at once"
    assert "Finished server process" in done.stderr or APP_STARTED not in done.stderr


def test_without_a_database_that_answers_it_is_69_and_the_app_is_stopped(docker: Docker, demo_image: str) -> None:
    settings = env(DATABASE_URL="postgresql://a:s3cr3t@127.0.0.1:1/a", STARTUP_DATABASE_TIMEOUT="1")
    done = docker.run(*settings, demo_image)
    assert done.returncode == 69, done.stderr
    assert "s3cr3t" not in done.stderr


def test_startup_tasks_is_obeyed_in_its_order(docker: Docker, demo_image: str, database: Database) -> None:
    settings = env(
        STARTUP_TASKS="second@local, migrate first@local",
        STARTUP_TASK_FIRST="echo ran=$STARTUP_TASK",
        STARTUP_TASK_SECOND="echo ran=$STARTUP_TASK",
    )
    done = docker.run(*database.options, *settings, demo_image, "startup", "init")
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    assert output.index("ran=second") >= 0
    assert output.index("ran=first") >= 0
    assert "users" in database.query(TABLES)


def test_skipped_tasks_do_not_run(docker: Docker, demo_image: str, database: Database) -> None:
    settings = env(STARTUP_TASKS="migrate insert_users", STARTUP_SKIP_TASKS="insert_users")
    container = docker.start(*database.options, *settings, demo_image)
    container.wait_until_healthy()
    assert database.query("SELECT count(*) FROM users") == "0"


@pytest.fixture
def alembic_image(derived_image: DerivedImage) -> str:
    return derived_image(
        "FROM {base}\n"
        "USER root\n"
        "RUN pip install --no-cache-dir alembic 'psycopg[binary]'\n"
        "USER 10001\n"
        "COPY . .\n"
        'CMD ["python", "-m", "http.server", "8000"]\n',
        HERE / "alembic_project",
    )


def test_migrate_may_be_alembic_upgrade_head(docker: Docker, alembic_image: str, database: Database) -> None:
    address = database.url.replace("postgresql://", "postgresql+psycopg://")
    options = ("--network", database.server.network, *env(DATABASE_URL=address))
    override = env(STARTUP_TASK_MIGRATE="alembic upgrade head", STARTUP_TASKS="migrate")
    for boot in (1, 2):
        container = docker.start(*options, *override, alembic_image)
        container.wait_until_healthy()
        assert database.query("SELECT version_num FROM alembic_version") == "0002", boot
        assert container.stop()[0] == 143
    assert "_yoyo_migration" not in database.query(TABLES)
    assert database.query("SELECT email FROM accounts") == "admin@example.com"


def test_insert_users_without_migrate_before_it_is_70_with_the_app_stopped(
    docker: Docker, demo_image: str, database: Database
) -> None:
    container = docker.start(*database.options, *env(STARTUP_TASKS="insert_users"), demo_image)
    assert container.wait() == 70
    state, logs = container.state, container.logs
    assert (state["Status"], state["OOMKilled"]) == ("exited", False)
    assert APP_STARTED in logs
    assert "Finished server process" in logs, "the app was stopped in order, not killed"
    assert "insert_users" in logs.splitlines()[-1]
    assert "users" not in database.query(TABLES).splitlines()


def test_migrate_before_insert_users_is_what_makes_it_work(docker: Docker, demo_image: str, database: Database) -> None:
    container = docker.start(*database.options, *env(STARTUP_TASKS="migrate insert_users"), demo_image)
    container.wait_until_healthy()
    assert database.query("SELECT count(*) FROM users") == "3"


def test_insert_users_before_migrate_is_70(docker: Docker, demo_image: str, database: Database) -> None:
    container = docker.start(*database.options, *env(STARTUP_TASKS="insert_users migrate"), demo_image)
    assert container.wait() == 70
    assert "_yoyo_migration" not in database.query(TABLES), "the tasks after one that failed do not run"


def test_pre_start_migrate_runs_before_the_app(docker: Docker, demo_image: str, database: Database) -> None:
    settings = env(STARTUP_PRE_START="migrate", STARTUP_TASKS="insert_users")
    container = docker.start(*database.options, *settings, demo_image)
    container.wait_until_healthy()
    logs = container.logs
    assert logs.index("0003_unique_email_in_any_case") < logs.index(APP_STARTED)


def test_a_stop_during_a_task_ends_the_task_and_then_the_app(
    docker: Docker, demo_image: str, database: Database
) -> None:
    settings = env(STARTUP_TASKS="long", STARTUP_TASK_LONG="echo at it; exec sleep 1000")
    container = docker.start(*database.options, *settings, demo_image)
    container.wait_for_log("at it")
    code, seconds = container.stop()
    assert (code, seconds < 8) == (143, True), container.logs
    assert "Finished server process" in container.logs


GERMAN = """
FROM postgres:17-trixie
RUN apt-get update && apt-get install -y --no-install-recommends locales && rm -rf /var/lib/apt/lists/* \\
    && localedef -i de_DE -f UTF-8 de_DE.UTF-8
"""


def test_a_refusal_in_the_servers_own_language_is_final_and_a_full_server_is_waited_for(
    docker: Docker, derived_image: DerivedImage, demo_image: str, postgres: Postgres
) -> None:
    """Its messages are German: only the SQLSTATE tells one from the other."""
    german = ("postgres", "-c", "lc_messages=de_DE.UTF-8", "-c", "fsync=off")
    server = docker.start(
        *("--network", postgres.network, "--network-alias", "german", *env(POSTGRES_PASSWORD="geheim-1")),
        *(derived_image(GERMAN), *german),
    )
    wait_for(lambda: server.exec("pg_isready", "--quiet", "--host=127.0.0.1", check=False).returncode == 0, "it is up")
    words = ("--network", postgres.network, *env(STARTUP_TASKS="t", STARTUP_TASK_T="true", STARTUP_LOG_LEVEL="debug"))

    def init(user: str, database: str, seconds: int) -> tuple[int, str, float]:
        began = time.monotonic()
        url = f"postgresql://{user}@german/{database}"
        more = env(DATABASE_URL=url, STARTUP_DATABASE_TIMEOUT=str(seconds))
        done = docker.run(*words, *more, demo_image, "startup", "init")
        return done.returncode, done.stderr, time.monotonic() - began

    for user, database, says in (
        ("postgres:wrong", "postgres", "the password was rejected"),
        ("postgres:geheim-1", "nowhere", "the database does not exist"),
    ):
        code, said, seconds = init(user, database, 50)
        assert (code, says in said, seconds < 25) == (69, True, True), said
        assert "Passwort-Authentifizierung" in said or "existiert nicht" in said, said
    server.exec("psql", "-U", "postgres", "-c", "CREATE ROLE low LOGIN PASSWORD 'geheim-1' CONNECTION LIMIT 0")
    code, said, seconds = init("low:geheim-1", "postgres", 3)
    assert (code, "too many connections" in said, "STARTUP_DATABASE_TIMEOUT" in said) == (69, True, True), said
    assert seconds > 3, "it was waited for"
