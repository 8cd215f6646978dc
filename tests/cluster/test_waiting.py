"""What becomes of the nodes that wait: the runner succeeds, fails, vanishes, or must be followed."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.cluster.nodes import Project
from tests.conftest import run_query, wait_for

Query = Callable[[str, str], list[tuple[Any, ...]]]
WaitUntil = Callable[..., Any]


def held_up(project: Project, tasks: str = "migrate plans", **env: Any) -> Any:
    """A runner that pauses in the task ``plans``."""
    project.migrations(1)
    runner = project.start("runner", tasks, PAUSE_AT="plans-start", **env)
    project.reached("plans-start")
    return runner


class TestARunnerThatSucceeds:
    def test_waiting_nodes_are_ready_when_all_is_done_and_not_before(self, any_project: Project) -> None:
        runner = held_up(any_project, "migrate plans prices")
        waiting = [any_project.start(f"node{number}", "migrate plans prices") for number in range(3)]
        for node in waiting:
            node.until("waiting for the lock")
            assert node.code is None
        any_project.go("plans-start")
        assert [node.wait() for node in [runner, *waiting]] == [0] * 4
        assert any_project.trace() == ["0001", "plans", "prices"]
        assert "nothing to do: migrate, plans, prices are done already" in waiting[0].log()

    def test_they_say_who_holds_the_lock_since_when_and_at_what_task(self, any_project: Project) -> None:
        runner = held_up(any_project)
        node = any_project.start("node", "migrate plans")
        node.until("waiting for the lock: runner holds it, at task 2 of 2, plans, since ")
        assert f"pid {runner.pid}" in node.log() or "pid " in node.log()
        assert " UTC (" in node.log()
        assert node.log().count("waiting for the lock") == 1

    def test_a_name_that_postgresql_cuts_is_told_whole(self, project: Project) -> None:
        name = "production-backend_app.1." + "n" * 50  # Swarm's are as long; application_name has 63 bytes
        held_up(project, STARTUP_NODE=name)
        node = project.start("node", "migrate plans")
        node.until(f"waiting for the lock: {name} holds it, at task 2 of 2, plans, since ")
        status = project.run("status", "migrate plans", "status")
        assert f"lock        {name} holds it" in status.log()

    def test_a_name_that_is_not_ascii_is_no_reason_to_call_its_node_vanished(self, project: Project) -> None:
        held_up(project, STARTUP_NODE="knüpfer")
        node = project.start("node", "migrate plans")
        node.until("holds it, at task 2 of 2, plans, since ")
        status = project.run("status", "migrate plans", "status").log()
        assert "running on knüpfer, task 2 of 2, plans" in status and "vanished" not in status

    @pytest.mark.timeout(60)
    def test_a_line_every_ten_seconds_shows_that_they_live(self, project: Project, wait_until: WaitUntil) -> None:
        held_up(project)
        node = project.start("node", "migrate plans")
        wait_until(lambda: node.log().count("waiting for the lock") == 2, timeout=15)
        assert "(waiting for 10 s)" in node.log() or "(waiting for 11 s)" in node.log()

    def test_they_hold_one_idle_connection_each_and_no_snapshot(self, project: Project) -> None:
        held_up(project)
        nodes = [project.start(f"node{number}", "migrate plans") for number in range(3)]
        for node in nodes:
            node.until("waiting for the lock")
        held = (
            "SELECT application_name, count(*), max(backend_xmin::text) FROM pg_stat_activity "
            "WHERE application_name LIKE 'startup/node%' AND datname = current_database() GROUP BY 1 ORDER BY 1"
        )
        idle = [(f"startup/node{number}", 1, None) for number in range(3)]
        wait_for(lambda: project.query(held) == idle)  # a look has a snapshot while it lasts

    def test_what_is_done_needs_no_lock(self, any_project: Project) -> None:
        any_project.migrations(2)
        assert any_project.run("first", "migrate plans").code == 0
        runner = any_project.start("runner", "migrate plans beat command", PAUSE_AT="command-start")
        any_project.reached("command-start")
        late = any_project.run("late", "migrate plans", timeout=30)
        assert late.code == 0
        assert "waiting" not in late.log()
        assert runner.code is None

    def test_a_node_that_was_waiting_through_a_migration_without_transaction_does_not_take_it_for_interrupted(
        self, project: Project
    ) -> None:
        project.migrations(1)
        project.migration(
            "0002_slow", "-- transactional: false\nSELECT pg_sleep(2);\nINSERT INTO trace (what) VALUES ('0002')"
        )
        runner = project.start("runner", "migrate")
        runner.until("0001_step applied")
        nodes = [project.start(f"node{number}", "migrate") for number in range(2)]
        follower = project.start("follower", "migrate", STARTUP_ROLE="follower")
        assert [node.wait() for node in [runner, *nodes, follower]] == [0] * 4
        assert project.trace() == ["0001", "0002"]


class TestARunnerWhoseTransactionKeepsReadersOut:
    """SQLite, once a transaction has outgrown its cache of 2 MB."""

    def start(self, make_project: Any, sqlite_url: str) -> tuple[Project, Any]:
        project = make_project(sqlite_url)
        project.migrations(1)
        runner = project.start("runner", "migrate bulk", PAUSE_AT="bulk")
        project.reached("bulk")
        return project, runner

    def test_the_others_wait_and_say_for_whom_and_heed_signals(self, make_project: Any, sqlite_url: str) -> None:
        project, runner = self.start(make_project, sqlite_url)
        node, follower, stopped = (
            project.start(name, "migrate bulk", STARTUP_ROLE=role)
            for name, role in (("node", "auto"), ("follower", "follower"), ("stopped", "auto"))
        )
        for one, word in ((node, "waiting for the lock"), (follower, "following"), (stopped, "waiting for the lock")):
            one.until(f"{word}: runner holds it")
        stopped.send(signal.SIGTERM)
        assert stopped.wait(30) == 143
        project.go("bulk")
        assert [one.wait() for one in (runner, node, follower)] == [0] * 3
        assert project.trace() == ["0001", "bulk"]

    def test_with_a_write_ahead_log_it_keeps_out_nobody(self, make_project: Any, sqlite_url: str) -> None:
        with contextlib.closing(sqlite3.connect(sqlite_url.split("///", 1)[1])) as other:
            assert other.execute("PRAGMA journal_mode = WAL").fetchall() == [("wal",)]
        project, runner = self.start(make_project, sqlite_url)
        node = project.start("node", "migrate bulk")
        node.until("waiting for the lock: runner holds it, at task 2 of 2, bulk, since")
        assert project.trace() == ["0001"]
        project.go("bulk")
        assert [one.wait() for one in (runner, node)] == [0] * 2
        assert project.trace() == ["0001", "bulk"]

    def test_a_limit_for_the_wait_holds_there_too(self, make_project: Any, sqlite_url: str) -> None:
        project, _ = self.start(make_project, sqlite_url)
        node = project.run("node", "migrate bulk", STARTUP_LOCK_TIMEOUT="1")
        assert node.code == 75
        assert "the lock was not free within 1 s (STARTUP_LOCK_TIMEOUT): runner holds it" in node.log()

    def test_another_programs_is_waited_for_as_long_as_for_a_database(self, make_project: Any, sqlite_url: str) -> None:
        project = make_project(sqlite_url)
        project.migrations(1)
        assert project.run("first", "migrate").code == 0
        with contextlib.closing(sqlite3.connect(sqlite_url.split("///", 1)[1], isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            node = project.start("node", "migrate plans")
            node.until("waiting for another program's transaction: ")
            late = project.run("late", "migrate plans", STARTUP_DATABASE_TIMEOUT="1")
            assert late.code == 69
            assert "cannot be used: database is locked" in late.log()
            other.execute("COMMIT")
        assert node.wait() == 0
        assert project.trace() == ["0001", "plans"]


class TestARunnerThatFails:
    def test_every_node_that_was_waiting_fails_at_once_with_the_same_error(self, any_project: Project) -> None:
        any_project.migrations(1)
        runner = any_project.start("runner", "migrate faulty", PAUSE_AT="faulty")
        any_project.reached("faulty")
        waiting = [any_project.start(f"node{number}", "migrate faulty") for number in range(5)]
        waiting.append(any_project.start("follower", "migrate faulty", STARTUP_ROLE="follower"))
        for node in waiting:
            node.until("faulty, since")
        start = time.monotonic()
        any_project.go("faulty")
        assert [node.wait() for node in [runner, *waiting]] == [70] * 7
        assert time.monotonic() - start < 15
        for node in [runner, *waiting]:
            assert "task faulty failed: ValueError: no such plan" in node.log()
        for node in waiting:
            assert "(on runner), which this node was waiting for" in node.log()
        assert any_project.trace() == ["0001"]

    def test_the_restart_is_the_retry(self, any_project: Project) -> None:
        any_project.migrations(1)
        assert any_project.run("node1", "migrate faulty").code == 70
        again = any_project.run("node2", "migrate faulty")
        assert again.code == 70
        assert "waiting for" not in again.log()
        any_project.touch("mended")
        assert any_project.run("node3", "migrate faulty").code == 0
        assert any_project.trace() == ["0001", "faulty"]
        rows = any_project.query("SELECT state, node, error FROM startup_ledger")
        assert rows == [("done", "node3", None)]

    def test_a_node_that_retries_at_once_hides_the_failure_from_nobody(self, project: Project) -> None:
        project.migrations(1)
        runner = project.start("runner", "migrate faulty", PAUSE_AT="faulty")
        project.reached("faulty")
        waiting = project.start("waiting", "migrate faulty")
        waiting.until("faulty, since")
        waiting.send(signal.SIGSTOP)  # too slow to see the failure before the next run starts
        project.go("faulty")
        assert runner.wait() == 70
        (project.directory / "faulty.reached").unlink()
        (project.directory / "faulty.go").unlink()
        retry = project.start("retry", "migrate faulty", PAUSE_AT="faulty")
        project.reached("faulty")
        waiting.send(signal.SIGCONT)
        assert waiting.wait(30) == 70
        assert "(on runner), which this node was waiting for" in waiting.log()
        assert retry.code is None

    @pytest.mark.parametrize("tasks", ["migrate", "migrate beat"])
    def test_a_migration_that_fails_does_too(self, any_project: Project, tasks: str) -> None:
        any_project.migrations(1)
        any_project.migration("0002_wrong", "INSERT INTO nowhere VALUES (1)")
        nodes = [any_project.start(f"node{number}", tasks) for number in range(4)]
        assert [node.wait() for node in nodes] == [70] * 4
        assert all("0002_wrong.sql" in node.log() for node in nodes)
        assert any_project.trace() == ["0001"]

    def test_tasks_behind_the_one_that_failed_do_not_run(self, any_project: Project) -> None:
        any_project.migrations(1)
        assert any_project.run("node1", "migrate plans faulty prices").code == 70
        assert any_project.trace() == ["0001", "plans"]
        any_project.touch("mended")
        assert any_project.run("node2", "migrate plans faulty prices").code == 0
        assert any_project.trace() == ["0001", "plans", "faulty", "prices"]

    def test_the_password_of_the_database_is_in_no_ledger(self, project: Project) -> None:
        project.migrations(1)
        assert project.run("node1", "migrate leak", STARTUP_TASK_LEAK="exit 3").code == 70
        assert "s3cr3t" not in str(project.query("SELECT * FROM startup_ledger, startup_run"))


class TestARunnerThatVanishes:
    def test_a_waiting_node_takes_over_from_a_killed_one(self, any_project: Project) -> None:
        runner = held_up(any_project, "migrate plans prices")
        nodes = [any_project.start(f"node{number}", "migrate plans prices") for number in range(3)]
        for node in nodes:
            node.until("waiting for the lock")
        runner.send(signal.SIGKILL)
        assert [node.wait() for node in nodes] == [0] * 3
        assert any_project.trace() == ["0001", "plans", "prices"]

    def test_from_one_that_was_told_to_stop_too(self, any_project: Project) -> None:
        runner = held_up(any_project)
        node = any_project.start("node", "migrate plans")
        node.until("waiting for the lock")
        runner.send(signal.SIGTERM)
        assert runner.wait() == 143
        assert node.wait() == 0
        assert any_project.trace() == ["0001", "plans"]

    def test_who_finds_its_command_marked_as_running_waits_until_it_must_have_been_stopped(
        self, project: Project
    ) -> None:
        project.migrations(1)
        runner = project.start("runner", "migrate command@once", PAUSE_AT="command-start")
        project.reached("command-start")
        node = project.start("node", "migrate command@once")
        node.until("waiting for the lock")
        runner.send(signal.SIGKILL)
        node.until("runner vanished while it ran the task command: waiting 4 s")
        start = time.monotonic()
        assert project.commands() == ["start runner"]
        assert node.wait() == 0
        assert 2.5 < time.monotonic() - start < 20
        assert project.commands()[:2] == ["start runner", "start node"]

    def test_who_waits_for_that_is_not_said_to_run_the_vanished_nodes_task(self, project: Project) -> None:
        project.migrations(1)
        runner = project.start("runner", "migrate command@once", PAUSE_AT="command-start")
        project.reached("command-start")
        runner.send(signal.SIGKILL)
        node = project.start("node", "migrate command@once", STARTUP_STOP_TIMEOUT="60")
        node.until("runner vanished while it ran the task command")
        third = project.start("third", "migrate command@once")
        third.until("waiting for the lock: node holds it (pid ")
        status = project.run("status", "migrate command@once", "status").log()
        assert "number 1: vanished on runner, task 2 of 2, command" in status
        assert "node holds it" in status and "it runs task" not in status

    def test_a_command_that_was_stopped_in_order_is_not_waited_for(self, project: Project) -> None:
        project.migrations(1)
        runner = project.start("runner", "migrate command@once", PAUSE_AT="command-start")
        project.reached("command-start")
        runner.send(signal.SIGTERM)
        assert runner.wait() == 143
        node = project.run("node", "migrate command@once", timeout=20)
        assert node.code == 0
        assert "vanished" not in node.log()
        assert project.commands() == ["start runner", "start node", "end node"]

    def test_on_sqlite_the_command_itself_keeps_the_lock(self, make_project: Any, sqlite_url: str) -> None:
        project = make_project(sqlite_url)
        project.migrations(1)
        runner = project.start("runner", "migrate command@once", PAUSE_AT="command-start")
        project.reached("command-start")
        runner.send(signal.SIGKILL)
        runner.wait()
        node = project.start("node", "migrate command@once")
        node.until("waiting for the lock")
        project.go("command-start")
        assert node.wait() == 0
        assert project.commands() == ["start runner", "end runner", "start node", "end node"]


class TestAWaitThatIsTooLong:
    def test_is_exit_75_and_names_the_holder(self, any_project: Project) -> None:
        held_up(any_project)
        node = any_project.run("node", "migrate plans", STARTUP_LOCK_TIMEOUT="0.5")
        assert node.code == 75
        assert "the lock was not free within 0.5 s (STARTUP_LOCK_TIMEOUT): runner holds it" in node.log()

    def test_a_lost_session_is_replaced_while_waiting(self, project: Project) -> None:
        runner = held_up(project)
        node = project.start("node", "migrate plans")
        node.until("waiting for the lock")
        for _ in range(2):
            project.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'startup/node'"
            )
        node.until("connecting again")
        project.go("plans-start")
        assert [runner.wait(), node.wait()] == [0, 0]
        assert project.trace() == ["0001", "plans"]

    def test_a_server_that_restarts_meanwhile_is_waited_for(self, make_project: Any, new_server: Any) -> None:
        server = new_server()
        project = make_project(server.url(server.new_database()))
        runner = held_up(project)
        node = project.start("node", "migrate plans")
        node.until("waiting for the lock")
        server.stop()
        node.until("connecting again")
        server.start()
        project.go("plans-start")
        assert runner.wait() == 75
        assert "the lock is lost" in runner.log()
        assert node.wait() == 0
        assert project.trace() == ["0001", "plans"]


class TestFollowers:
    def test_they_wait_for_the_job_and_never_run_anything(self, any_project: Project) -> None:
        any_project.migrations(2)
        followers = [
            any_project.start(f"app{number}", "migrate plans command@once", STARTUP_ROLE="follower")
            for number in range(3)
        ]
        for node in followers:
            node.until("following: nobody runs the tasks")
        job = any_project.run("job", "migrate plans command@once")
        assert job.code == 0
        assert [node.wait() for node in followers] == [0] * 3
        assert any_project.trace() == ["0001", "0002", "plans"]
        assert any_project.commands() == ["start job", "end job"]

    def test_they_find_what_was_done_before_they_came(self, any_project: Project) -> None:
        any_project.migrations(2)
        assert any_project.run("job", "migrate plans").code == 0
        node = any_project.run("app", "migrate plans", STARTUP_ROLE="follower")
        assert node.code == 0
        assert "following" not in node.log()

    def test_they_wait_for_their_own_images_migrations(self, any_project: Project) -> None:
        any_project.migrations(1)
        assert any_project.run("old", "migrate").code == 0
        any_project.migrations(2)
        node = any_project.start("app", "migrate", STARTUP_ROLE="follower")
        node.until("following: nobody runs the tasks")
        assert any_project.run("new", "migrate").code == 0
        assert node.wait() == 0

    def test_they_see_a_stock_yoyo_too(self, project: Project, wait_until: WaitUntil) -> None:
        import subprocess
        import sys

        project.migrations(1)
        node = project.start("app", "migrate", STARTUP_ROLE="follower")
        node.until("following: nobody runs the tasks")
        url = project.url.partition("?")[0].replace("postgresql:", "postgresql+psycopg:")
        subprocess.run(
            [sys.executable, "-m", "yoyo", "apply", "--batch", "--database", url, "migrations"],
            cwd=project.directory,
            check=True,
            capture_output=True,
        )
        assert node.wait() == 0

    def test_they_need_no_right_to_write(self, project: Project, server: Any, database: str) -> None:
        reader = f"reader_{database}"
        admin = server.admin_url(database)
        may_read = f"ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT SELECT ON TABLES TO {reader}"
        run_query(admin, f"CREATE ROLE {reader} LOGIN PASSWORD 's3cr3t-Pa55'; {may_read}")
        try:
            project.migrations(1)
            url = project.url.replace("//app:", f"//{reader}:")
            node = project.start("app", "migrate plans", STARTUP_ROLE="follower", DATABASE_URL=url)
            node.until("following: nobody runs the tasks")
            runner = held_up(project)
            node.until("following: runner holds it, at task 2 of 2, plans, since")
            project.go("plans-start")
            assert [runner.wait(), node.wait()] == [0, 0]
        finally:
            run_query(admin, f"DROP OWNED BY {reader}; DROP ROLE {reader}")

    def test_nobody_runs_what_they_need_is_exit_75(self, any_project: Project) -> None:
        any_project.migrations(1)
        node = any_project.run("app", "migrate plans", STARTUP_ROLE="follower", STARTUP_FOLLOW_TIMEOUT="0.5")
        assert node.code == 75
        assert "nobody has run migrate, plans for 0.5 s (STARTUP_FOLLOW_TIMEOUT)" in node.log()

    def test_a_long_run_is_no_reason_to_give_up(self, any_project: Project) -> None:
        runner = held_up(any_project)
        node = any_project.start("app", "migrate plans", STARTUP_ROLE="follower", STARTUP_FOLLOW_TIMEOUT="1")
        node.until("following: runner holds it, at task 2 of 2, plans, since")
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            assert node.code is None
            time.sleep(0.1)
        any_project.go("plans-start")
        assert [runner.wait(), node.wait()] == [0, 0]

    def test_an_always_task_on_their_list_is_exit_78_and_names_the_way_out(self, any_project: Project) -> None:
        any_project.migrations(1)
        node = any_project.run("app", "migrate beat", STARTUP_ROLE="follower")
        assert node.code == 78
        assert "beat@local" in node.log()
        assert (
            any_project.run("app", "migrate beat@local", STARTUP_ROLE="follower", STARTUP_FOLLOW_TIMEOUT=".1").code
            == 75
        )


class TestPolicies:
    def test_over_several_nodes_and_boots(self, any_project: Project) -> None:
        any_project.migrations(1)
        for name in ("always", "change", "release", "once", "local"):
            any_project.env[f"STARTUP_TASK_{name.upper()}"] = f"echo {name} >>{name}.ran"
        tasks = "migrate always change@change release@release once@once local@local"

        def count() -> dict[str, int]:
            names = ("always", "change", "release", "once", "local")
            files = {name: any_project.directory / f"{name}.ran" for name in names}
            return {name: len(file.read_text().splitlines()) for name, file in files.items()}

        def boot(number: int, release: str) -> None:
            nodes = [any_project.start(f"n{number}", tasks, STARTUP_RELEASE=release) for number in range(number)]
            assert [node.wait() for node in nodes] == [0] * number, nodes

        boot(4, "1")
        assert count() == {"always": 4, "change": 1, "release": 1, "once": 1, "local": 4}
        boot(3, "1")
        assert count() == {"always": 7, "change": 1, "release": 1, "once": 1, "local": 7}
        boot(2, "2")
        assert count() == {"always": 9, "change": 1, "release": 2, "once": 1, "local": 9}
        any_project.env["STARTUP_TASK_CHANGE"] += " # better"
        boot(3, "2")
        assert count() == {"always": 12, "change": 2, "release": 2, "once": 1, "local": 12}
        rows = any_project.query("SELECT task, policy, count(*) FROM startup_ledger GROUP BY 1, 2 ORDER BY 1")
        assert rows == [
            ("always", "always", 1),
            ("change", "change", 2),
            ("once", "once", 1),
            ("release", "release", 2),
        ]

    def test_always_is_one_node_at_a_time(self, any_project: Project) -> None:
        any_project.migrations(1)
        script = "mkdir alone && sleep 0.1 && rmdir alone"
        nodes = [any_project.start(f"n{number}", "migrate busy", STARTUP_TASK_BUSY=script) for number in range(5)]
        assert [node.wait() for node in nodes] == [0] * 5, nodes

    def test_local_waits_for_nobody_and_needs_no_database(self, project: Project) -> None:
        held_up(project)
        node = project.run("node", "warm@local", STARTUP_TASK_WARM="echo warm >>warm", DATABASE_URL="", timeout=30)
        assert node.code == 0
        assert (project.directory / "warm").read_text() == "warm\n"


class TestNamespaces:
    def test_apps_that_share_a_database_do_not_wait_for_each_other(self, project: Project) -> None:
        runner = held_up(project, STARTUP_NAMESPACE="one")
        other = project.run("other", "plans", STARTUP_NAMESPACE="two", timeout=30)
        assert other.code == 0
        project.go("plans-start")
        assert runner.wait() == 0
        assert project.trace() == ["0001", "plans", "plans"]
        rows = project.query("SELECT namespace, task FROM startup_ledger ORDER BY 1")
        assert rows == [("one", "plans"), ("two", "plans")]

    def test_they_make_the_ledger_and_yoyos_tables_at_the_same_time(self, make_project: Any, server: Any) -> None:
        for _ in range(3):
            database = server.new_database()
            project = make_project(server.url(database))
            project.migration("0001_nothing", "SELECT 1")
            nodes = [
                project.start(
                    f"n{n}",
                    "migrate tell@once",
                    STARTUP_NAMESPACE=f"ns{n}",
                    STARTUP_TASK_TELL="echo $STARTUP_NAMESPACE >>told",
                )
                for n in range(8)
            ]
            assert [node.wait() for node in nodes] == [0] * 8, nodes
            told = (project.directory / "told").read_text().split()
            assert sorted(told) == [f"ns{n}" for n in range(8)]
            assert project.query("SELECT count(*) FROM _yoyo_log") == [(1,)], "migrations are the database's"
            server.drop_database(database)

    def test_also_in_a_schema_that_is_not_there_yet(self, make_project: Any, database_url: str) -> None:
        project = make_project(database_url + "?schema=tenant")
        nodes = [
            project.start(f"n{n}", "tell@once", STARTUP_NAMESPACE=f"ns{n}", STARTUP_TASK_TELL="true") for n in range(6)
        ]
        assert [node.wait() for node in nodes] == [0] * 6, nodes


class TestLedgersOfOtherImages:
    def test_an_older_ones_is_read_and_gains_its_columns(self, any_project: Project) -> None:
        any_project.migrations(1)
        assert any_project.run("old", "migrate plans").code == 0
        for table, column in (
            ("startup_run", "failed_epoch"),
            ("startup_run", "failure"),
            ("startup_ledger", "seconds"),
        ):
            any_project.query(f"ALTER TABLE {table} DROP COLUMN {column}")
        late = any_project.run("late", "migrate plans")
        assert late.code == 0
        assert "nothing to do" in late.log()
        assert any_project.run("new", "migrate plans prices").code == 0
        assert any_project.query("SELECT count(seconds) FROM startup_ledger") == [(1,)]
        assert any_project.query("SELECT failed_epoch, failure FROM startup_run") == [(None, None)]

    def test_a_newer_ones_with_more_columns_is_used(self, any_project: Project) -> None:
        any_project.migrations(1)
        assert any_project.run("new", "migrate plans").code == 0
        any_project.query("ALTER TABLE startup_run ADD COLUMN mood text DEFAULT 'good'")
        any_project.query("ALTER TABLE startup_ledger ADD COLUMN mood text DEFAULT 'good'")
        assert any_project.run("old", "migrate plans prices").code == 0
        assert any_project.query("SELECT task, mood FROM startup_ledger ORDER BY 1") == [
            ("plans", "good"),
            ("prices", "good"),
        ]


def test_a_command_that_ends_before_its_lost_lock_is_noticed_is_told_as_a_lost_lock(project: Any) -> None:
    project.migrations(1)
    lose = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'startup/runner'"
        " AND pid <> pg_backend_pid()"
    )
    command = "touch lose.reached; until [ -e go ]; do :; done"
    node = project.start("runner", "migrate lose@once", STARTUP_TASK_LOSE=command)
    project.reached("lose")
    project.query(lose)
    project.touch("go")
    assert node.wait() == 75, node
    last = node.log().splitlines()[-1]
    assert "the lock" in last and ("another node may have taken over" in last), last


def test_the_lock_under_which_tables_are_made_is_told_and_limited(project: Any, server: Any) -> None:
    """Any role of the database may take it."""
    from startup.database.postgres.session import _CREATION

    project.migrations(1)
    with psycopg.connect(project.url, autocommit=True) as low:
        low.execute(f"SELECT pg_advisory_lock({_CREATION})")
        node = project.run("limited", "migrate", STARTUP_LOCK_TIMEOUT="1")
        assert node.code == 75, node
        pid = low.info.backend_pid
        assert f"waiting for the lock under which tables are made: pid {pid}, user app" in node.log()
        assert "STARTUP_LOCK_TIMEOUT" in node.log().splitlines()[-1]
        waiting = project.start("patient", "migrate")
        waiting.until("waiting for the lock under which tables are made")
    assert waiting.wait() == 0, waiting
    assert project.trace() == ["0001"]
