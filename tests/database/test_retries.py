"""A task that failed is tried again, as often as STARTUP_RETRIES or ``@task(retries=N)`` has it, and no other."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from startup.errors import EndedInside, LockLost, SettingError, TaskFailed, Unreachable
from startup.plan.task import Task
from startup.run import retries
from tests.conftest import wait_for
from tests.database.homes import BOTH
from tests.database.test_tasks import App, app  # noqa: F401  # a fixture

#: Fails until it is there for the third time, and leaves a line at each try.
FLAKY = {"STARTUP_TASK_FLAKY": "echo try >>ran; [ $(wc -l <ran) -ge 3 ] || exit 5"}
FLAKY_FUNCTION = """
@task(policy="once", retries=5)
def flaky(context):
    context.connection.execute("CREATE TABLE IF NOT EXISTS rows (n int)")
    context.connection.execute("INSERT INTO rows VALUES (1)")
    open("ran", "a").write("try\\n")
    if len(open("ran").readlines()) < 2:
        raise OSError("no answer")
"""


def task(retries: int) -> Task:
    return Task("flaky", "command", "", argv=("x",), retries=retries)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that it would have slept."""
    slept: list[float] = []
    monkeypatch.setattr(retries, "sleep", lambda seconds, look: slept.append(seconds))
    return slept


def failing(error: Exception, calls: list[int]) -> Callable[[], str]:
    def once() -> str:
        calls.append(1)
        raise error

    return once


def nothing(*_: object) -> None: ...


class TestTheRule:
    def test_pauses_double_from_one_second_to_a_minute(self, pauses: list[float]) -> None:
        calls: list[int] = []
        with pytest.raises(TaskFailed, match=r"^no \(try 9 of 9\)\nmore$"):
            retries.tried(task(8), failing(TaskFailed("no\nmore"), calls), nothing, nothing)
        assert len(calls) == 9
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]

    @pytest.mark.parametrize("error", [LockLost, Unreachable, SettingError, EndedInside])
    def test_what_no_retry_mends_is_not_tried_again(self, pauses: list[float], error: type[Exception]) -> None:
        calls: list[int] = []
        with pytest.raises(error, match=r"^no$"):
            retries.tried(task(3), failing(error("no"), calls), nothing, nothing)
        assert (len(calls), pauses) == (1, [])

    def test_a_pause_ends_with_what_a_look_raises(self) -> None:
        def look() -> None:
            raise LockLost("gone")

        with pytest.raises(LockLost):
            retries.sleep(3600, look)


@BOTH
def test_each_error_is_printed_and_the_last_try_counts(app: App) -> None:  # noqa: F811
    log = app.ok("flaky", **FLAKY, STARTUP_RETRIES="3")
    said = [
        "task 1 of 1, flaky, starts",
        "warning: try 1 of 4, next in 1 s: task flaky failed: it ended with exit code 5",
        "task flaky: try 2 of 4 starts",
        "warning: try 2 of 4, next in 2 s: task flaky failed: it ended with exit code 5",
        "task flaky: try 3 of 4 starts",
        "task 1 of 1, flaky, is done after",
    ]
    assert re.search(".*".join(map(re.escape, said)), log, re.DOTALL), log
    assert app.ran() == 3
    assert app.ledger() == [("flaky", "always", "done")]


@BOTH
def test_retries_end_and_the_error_says_how_many_there_were(app: App) -> None:  # noqa: F811
    log = app.fails("never", STARTUP_TASK_NEVER="echo try >>ran; exit 5", STARTUP_RETRIES="1")
    assert "task never failed: it ended with exit code 5; its own output says why (try 2 of 2)" in log
    assert app.ran() == 2
    assert app.ledger() == [("never", "always", "failed")]


def test_without_the_setting_there_is_one_try(app: App) -> None:  # noqa: F811
    log = app.fails("never", STARTUP_TASK_NEVER="echo try >>ran; exit 5")
    assert app.ran() == 1 and " try " not in log and "(try" not in log


@BOTH
def test_a_try_that_fails_is_rolled_back_as_a_whole(app: App) -> None:  # noqa: F811
    app.tasks(FLAKY_FUNCTION)
    log = app.ok("flaky")
    assert "try 1 of 6, next in 1 s: task flaky failed: OSError: no answer" in log
    assert app.ran() == 2
    assert app.query("SELECT count(*) FROM rows") == [(1,)]
    assert app.ledger() == [("flaky", "once", "done")]


def test_a_local_task_is_tried_again_without_a_database(startup: Any) -> None:
    done = startup("init", **FLAKY, STARTUP_TASKS="flaky@local", STARTUP_RETRIES="2")
    assert done.returncode == 0, done.stderr
    assert "try 2 of 3, next in 2 s" in done.stderr


def test_the_time_limit_is_for_each_try(app: App) -> None:  # noqa: F811
    line = "echo try >>ran; [ $(wc -l <ran) -ge 2 ] || exec sleep 60"
    log = app.ok("slow", STARTUP_TASK_SLOW=line, STARTUP_TIMEOUT="1.5", STARTUP_RETRIES="1")
    assert "try 1 of 2, next in 1 s: task slow was not done within 1.5 s" in log
    assert app.ran() == 2


def test_what_a_task_commits_by_itself_is_not_done_twice(app: App) -> None:  # noqa: F811
    app.tasks(
        """
@task(policy="once", retries=3)
def commits(context):
    open("ran", "a").write("try\\n")
    context.connection.execute("COMMIT")
"""
    )
    assert "(try" not in app.fails("commits")
    assert app.ran() == 1


def test_migrate_has_its_own_rule(app: App) -> None:  # noqa: F811
    app.startup.write("migrations/0001_a.sql", "SELECT nonsense;")
    log = app.fails("migrate", STARTUP_RETRIES="3")
    assert "try 1" not in log


def test_a_stop_signal_ends_the_pause_at_once(app: App) -> None:  # noqa: F811
    listed = {"STARTUP_TASKS": "never", "STARTUP_TASK_NEVER": "echo try >>ran; exit 5", "STARTUP_RETRIES": "20"}
    running = app.startup.start("init", **app.settings, **listed)
    wait_for(lambda: app.ran() == 3)  # the next pause has 4 s
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM, err
    assert app.ran() == 3, err


def test_a_lock_that_is_lost_in_the_pause_ends_it(app: App, database_url: str) -> None:  # noqa: F811
    listed = {"STARTUP_TASKS": "never", "STARTUP_TASK_NEVER": "echo try >>ran; exit 5", "STARTUP_RETRIES": "20"}
    running = app.startup.start("init", **app.settings, **listed)
    wait_for(lambda: app.ran() == 4)  # the next pause has 8 s
    wait_for(lambda: app.query("SELECT 1 FROM startup_ledger WHERE state = 'running'"))
    app.query(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid() "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    _, err = running.communicate(timeout=60)
    assert running.returncode == 75, err
    assert app.ran() == 4, err


@BOTH
def test_nodes_that_wait_for_it_go_on_waiting_between_two_tries(app: App) -> None:  # noqa: F811
    line = "echo try >>ran; [ -e mended ] || exit 5"
    settings = {**app.settings, "STARTUP_TASKS": "flaky@once", "STARTUP_TASK_FLAKY": line, "STARTUP_RETRIES": "20"}
    runner = app.startup.start("init", **settings)
    wait_for(lambda: app.ran() == 2)
    waiting = app.startup.start("init", **{**settings, "STARTUP_NODE": "node-b"})
    wait_for(lambda: app.ran() == 3)
    app.startup.write("mended", "")
    for node in (runner, waiting):
        _, err = node.communicate(timeout=60)
        assert node.returncode == 0, err
    assert app.ran() == 4
    assert app.ledger() == [("flaky", "once", "done")]


def test_a_wrong_number_is_refused(app: App) -> None:  # noqa: F811
    for wrong in ("-1", "1.5", "many"):
        log = app.fails("never", 78, STARTUP_TASK_NEVER="true", STARTUP_RETRIES=wrong)
        assert f"STARTUP_RETRIES is '{wrong}' (environment): it must be a whole number" in log


@pytest.mark.parametrize("wrong", ["-1", "1.5", "'x'", "True"])
def test_a_decorator_takes_whole_numbers_alone(app: App, wrong: str) -> None:  # noqa: F811
    app.tasks(f"@task(retries={wrong})\ndef one(context): ...\n")
    assert "ValueError: task one: retries is " in app.fails("one", 78)


def test_describe_shows_them_and_stop_tasks_have_none(startup: Any, tmp_path: Path) -> None:
    shown = startup(
        "describe",
        STARTUP_TASK_A="true",
        STARTUP_TASKS="a@local",
        STARTUP_PRE_STOP="a",
        STARTUP_RETRIES="3",
    ).stdout
    assert "a (local; 3 retries; STARTUP_TASK_A)" in shown
    assert "a (local; STARTUP_TASK_A)" in shown
