"""STARTUP_BEFORE_MIGRATE: a backup before migrations are applied, once for the same pending ones."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import wait_for
from tests.database.homes import BOTH
from tests.database.test_tasks import App, app  # noqa: F401  # a fixture

BACKUP = {"STARTUP_BEFORE_MIGRATE": "backup", "STARTUP_TASK_BACKUP": "echo $STARTUP_NODE >>ran"}


def write(app: App, *names: str, text: str = "") -> None:  # noqa: F811
    for name in names:
        app.startup.write(f"migrations/{name}.sql", text or f"CREATE TABLE t{name[:4]} (n int);")


@BOTH
def test_it_runs_before_the_first_migration_and_not_when_nothing_is_pending(app: App) -> None:  # noqa: F811
    write(app, "0001_a", "0002_b")
    log = app.ok("migrate", **BACKUP)
    said = [
        "task 1 of 1, backup before migrate, starts",
        "backup before migrate, is done",
        "task 1 of 1, migrate, starts",
    ]
    assert [log.index(one) for one in said] == sorted(log.index(one) for one in said)
    app.ok("migrate", **BACKUP)
    assert app.ran() == 1
    assert app.ledger() == [("backup", "before migrate", "done")]
    status = app.startup("status", **app.settings).stdout
    assert "backup  before migrate  done" in status


@BOTH
def test_where_it_fails_nothing_is_applied(app: App) -> None:  # noqa: F811
    write(app, "0001_a")
    log = app.fails("migrate", **{**BACKUP, "STARTUP_TASK_BACKUP": "exit 3"})
    assert "task backup failed: it ended with exit code 3" in log
    assert "; it must run before migrations (STARTUP_BEFORE_MIGRATE), so none was applied" in log
    assert "1, migrate, starts" not in log
    assert app.ledger() == [("backup", "before migrate", "failed")]
    app.ok("migrate", **BACKUP)  # mended: it runs, and so do they
    assert app.ran() == 1


@BOTH
def test_a_boot_that_is_tried_again_and_again_makes_one_backup_and_another_set_another(app: App) -> None:  # noqa: F811
    write(app, "0001_a", text="SELECT nonsense;")
    for _ in range(3):
        log = app.fails("migrate", **BACKUP)
        assert app.ran() == 1, log
    assert "backup before migrate, is done already, for the same pending migrations" in log
    write(app, "0002_b")
    app.fails("migrate", **BACKUP)
    assert app.ran() == 2
    write(app, "0001_a")  # corrected: the same two are pending
    app.ok("migrate", **BACKUP)
    assert app.ran() == 2


@BOTH
def test_what_was_taken_back_is_backed_up_anew(app: App) -> None:  # noqa: F811
    write(app, "0001_a")
    app.startup.write("migrations/0001_a.rollback.sql", "DROP TABLE t0001;")
    app.ok("migrate", **BACKUP)
    done = app.startup("rollback", **app.settings)
    assert done.returncode == 0, done.stderr
    app.ok("migrate", **BACKUP)
    assert app.ran() == 2


@BOTH
def test_three_nodes_at_once_make_one_backup(app: App) -> None:  # noqa: F811
    write(app, "0001_a")
    slow = {**BACKUP, "STARTUP_TASK_BACKUP": "echo $STARTUP_NODE >>ran; until [ -e go ]; do sleep 0.05; done"}
    names = ("a", "b", "c")
    nodes = [app.startup.start("init", **{**app.settings, **slow, "STARTUP_NODE": f"node-{name}"}) for name in names]
    wait_for(lambda: app.ran() == 1)
    app.startup.write("go", "")
    logs = [node.communicate(timeout=60)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0, 0], logs
    assert app.ran() == 1


@BOTH
def test_a_function_of_python_writes_with_its_row(app: App) -> None:  # noqa: F811
    app.tasks(
        """
@task(policy="local")
def backup(context):
    context.connection.execute("CREATE TABLE copied (n int)")
"""
    )
    write(app, "0001_a")
    app.ok("migrate", STARTUP_BEFORE_MIGRATE="backup")
    assert app.query("SELECT count(*) FROM copied") == [(0,)]


def test_a_lost_lock_stops_it_and_nothing_is_applied(app: App) -> None:  # noqa: F811
    write(app, "0001_a")
    hanging = {**BACKUP, "STARTUP_TASK_BACKUP": "echo x >>ran; sleep 300"}
    running = app.startup.start("init", **{**app.settings, **hanging, "STARTUP_TASKS": "migrate"})
    wait_for(lambda: app.ran() == 1)
    app.query(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid() "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    _, err = running.communicate(timeout=60)
    assert running.returncode == 75, err
    assert app.query("SELECT to_regclass('t0001')") == [(None,)]


def test_it_is_tried_again_as_others_are(app: App) -> None:  # noqa: F811
    write(app, "0001_a")
    flaky = {**BACKUP, "STARTUP_TASK_BACKUP": "echo x >>ran; [ $(wc -l <ran) -ge 2 ]", "STARTUP_RETRIES": "1"}
    assert "try 1 of 2, next in 1 s: task backup failed" in app.ok("migrate", **flaky)


@BOTH
def test_plan_and_describe_show_it(app: App) -> None:  # noqa: F811
    write(app, "0001_a", "0002_b")
    assert "   before migrate: backup (2 pending)" in app.startup("plan", **app.settings, **BACKUP).stdout
    assert "before migrate: backup (STARTUP_TASK_BACKUP)" in app.startup("describe", **app.settings, **BACKUP).stdout
    assert app.ran() == 0
    app.ok("migrate", **BACKUP)
    assert "before migrate" not in app.startup("plan", **app.settings, **BACKUP).stdout


def test_it_can_be_skipped_and_is_not_called_unlisted(app: App) -> None:  # noqa: F811
    write(app, "0001_a")
    log = app.ok("migrate", **BACKUP, STARTUP_SKIP_TASKS="backup")
    assert "backup is left out: STARTUP_SKIP_TASKS names it" in log and "on no list" not in log
    assert app.ran() == 0


def test_run_migrate_makes_it_too(app: App) -> None:  # noqa: F811
    write(app, "0001_a")
    done: Any = app.startup("run", "migrate", **app.settings, **BACKUP)
    assert done.returncode == 0, done.stderr
    assert app.ran() == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("backup@once", "STARTUP_BEFORE_MIGRATE has backup@once: what runs before migrations takes no policy"),
        ("migrate", "STARTUP_BEFORE_MIGRATE has migrate, which is built in"),
        ("insert_users", "STARTUP_BEFORE_MIGRATE has insert_users, which is built in"),
        ("bakup", "STARTUP_BEFORE_MIGRATE names 'bakup', which is no task: did you mean backup?"),
    ],
)
def test_what_cannot_run_before_is_refused(app: App, value: str, said: str) -> None:  # noqa: F811
    write(app, "0001_a")
    assert said in app.fails("migrate", 78, **{**BACKUP, "STARTUP_BEFORE_MIGRATE": value})


def test_a_migrate_of_ones_own_is_warned_of(app: App) -> None:  # noqa: F811
    log = app.ok("migrate@local", **BACKUP, STARTUP_TASK_MIGRATE="true")
    assert "STARTUP_BEFORE_MIGRATE is set, but the built-in migrate is on no list" in log
