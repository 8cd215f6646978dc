"""compose.yaml: PostgreSQL, and the demo app under the entrypoint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.error import HTTPError

import pytest

from .conftest import ROOT, get

if TYPE_CHECKING:
    from .conftest import Project

MARKS = "SELECT migration_id, applied_at_utc FROM _yoyo_migration ORDER BY 1"
ROWS = "SELECT email, created_at FROM users ORDER BY 1"


def emails(project: Project) -> list[str]:
    return [user["email"] for user in json.loads(get(f"{project.app.address(8000)}/users"))]


def test_up_wait_is_green_when_the_seeded_users_are_served_from_postgresql(running_project: Project) -> None:
    assert running_project.app.health == "healthy"
    assert emails(running_project) == sorted(running_project.seeded)
    assert running_project.query("SELECT email FROM users ORDER BY 1").split() == sorted(running_project.seeded)


def test_the_page_shows_the_users(running_project: Project) -> None:
    page = get(f"{running_project.app.address(8000)}/")
    assert all(email in page for email in running_project.seeded)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_draws_the_users_the_node_and_the_last_run(running_project: Project) -> None:
    words = ("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom")
    address = f"http://{running_project.app.address(8000)}/"
    shown = subprocess.run(["chromium", *words, address], capture_output=True, text=True, timeout=60, check=True).stdout
    assert f'id="node">{running_project.app.name[:12]}<' in shown
    assert all(f"<td>{email}</td>" in shown for email in running_project.seeded)
    bars = re.findall(r'class="bar (\w+)" style="left: ([\d.]+)%; width: max\(([\d.]+)%', shown)
    assert [kind for kind, _, _ in bars].count("task") == 2
    assert all(float(left) + float(wide) <= 100.1 for _, left, wide in bars)


def test_only_the_shell_and_the_app_remain_when_it_is_ready(running_project: Project) -> None:
    processes = running_project.docker("top", running_project.app.name, "-eo", "pid,args").stdout.splitlines()[1:]
    assert len(processes) == 2, processes
    assert "uvicorn" in processes[1]


def test_health_says_ready_by_exec(running_project: Project) -> None:
    done = running_project("exec", "--no-TTY", "app", "startup", "health")
    assert done.stdout == "ready\n"


def test_restart_applies_nothing_twice(running_project: Project) -> None:
    before = running_project.query(MARKS), running_project.query(ROWS)
    running_project("restart", "app")
    running_project.app.wait_until_healthy()
    assert (running_project.query(MARKS), running_project.query(ROWS)) == before
    assert emails(running_project) == sorted(running_project.seeded)


def test_the_profile_tasks_runs_a_task_that_a_variable_defines(running_project: Project) -> None:
    done = running_project("run", "--rm", "--no-TTY", "tasks")
    assert "hello from the task greet" in done.stdout + done.stderr


def test_the_stock_yoyo_list_agrees(running_project: Project) -> None:
    yoyo = '/opt/startup/bin/yoyo list --batch --database "postgresql+psycopg${DATABASE_URL#postgresql}" migrations'
    lines = running_project("exec", "--no-TTY", "app", "sh", "-c", yoyo).stdout.splitlines()[2:]
    assert [line.split()[:2] for line in lines] == [
        ["A", path.stem]
        for path in sorted((running_project.directory / "migrations").glob("*.sql"))
        if not path.name.endswith(".rollback.sql")
    ]


def test_a_migration_added_to_the_image_is_applied_at_the_next_up(project: Project) -> None:
    project.up()
    marks = project.query(MARKS).splitlines()
    (project.directory / "migrations" / "0004_create_notes.sql").write_text("CREATE TABLE notes (text text);\n")
    project.up()
    assert project.query("SELECT count(*) FROM notes") == "0"
    assert project.query(MARKS).splitlines()[:-1] == marks


def test_a_migration_that_fails_leaves_up_red_and_the_app_stopped(project: Project) -> None:
    (project.directory / "migrations" / "0002_add_plans.sql").write_text("CREATE TABLE plans (\n  name tekst\n);\n")
    done = project("up", "--build", "--detach", "--wait", check=False)
    assert done.returncode != 0
    app = project.app
    assert app.state["Status"] == "exited"
    assert app.state["ExitCode"] == 70
    assert "0002_add_plans.sql" in app.logs
    assert "tekst" in app.logs
    assert project.query("SELECT migration_id FROM _yoyo_migration") == "0001_create_users"
    with pytest.raises(AssertionError):
        project.query("SELECT count(*) FROM plans")


def test_without_its_tables_the_app_answers_503_and_boots_all_the_same(project: Project) -> None:
    project.up(env={"STARTUP_TASKS": "none"})
    assert get(f"{project.app.address(8000)}/healthz") == "ok\n"
    with pytest.raises(HTTPError, match="503"):
        get(f"{project.app.address(8000)}/users")


def test_down_takes_less_than_2_s_beyond_what_the_app_itself_takes(project: Project) -> None:
    project.up()
    with_us = project.down()
    without = project.directory / "compose.override.yaml"
    without.write_text(
        "services:\n  app:\n    environment: {STARTUP_ENABLED: 'false'}\n    healthcheck: {test: ['CMD', 'true']}\n"
    )
    project.up()
    alone = project.down()
    assert with_us - alone < 2


def test_a_password_never_appears_in_the_log(project: Project) -> None:
    project.up(env={"POSTGRES_PASSWORD": "hunter2-hunter2"})
    assert "hunter2" not in project.app.logs


def test_env_example_holds_the_values_that_are_in_force_without_it(project: Project) -> None:
    without = project("config").stdout
    assert "DATABASE_URL: postgresql://demo:for-the-demo-only@db:5432/demo" in without
    shutil.copy(ROOT / ".env.example", project.directory / ".env")
    assert project("config", env={"DEMO_PORT": "8000"}).stdout == without.replace('published: "0"', 'published: "8000"')
