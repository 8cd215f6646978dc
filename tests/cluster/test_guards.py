"""Each guarantee holds, and is seen broken where its guard (see guards.py) is taken out of the nodes.

A scenario is a guarantee in a sentence. It runs twice, on a fresh database each time: with the guard it must answer
True, without it False; so no guard can be lost without a test that fails, and no scenario is one that cannot fail.
"""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.cluster import guards
from tests.cluster.nodes import Node, Project
from tests.cluster.test_connections import frozen
from tests.cluster.wire import Proxy
from tests.conftest import Server, run_query
from tests.conftest import wait_for as wait_for_seconds

SOON = "?tcp_user_timeout=1000&keepalives_idle=1&keepalives_interval=1&keepalives_count=2"
#: A statement that does not end before the table ``go`` is there.
UNTIL_GO = """
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_tables WHERE tablename = 'go') LOOP PERFORM pg_sleep(0.02); END LOOP;
END $$;
"""
UNTIL_GO_IN_A_TRIGGER = UNTIL_GO.replace("DO $$ ", "").replace("END $$;", "RETURN NEW; END")


def wait_for(condition: Callable[[], object]) -> None:
    """Until it is so; long, since two cores may be shared."""
    wait_for_seconds(condition, 30)


class Stage:
    """A project, and what a scenario does around it; every node of it is *without* the guard."""

    def __init__(self, project: Project, server: Server, without: str, request: pytest.FixtureRequest) -> None:
        self.project = project
        self.server = server
        self.without = without
        self.fixture: Callable[[str], Any] = request.getfixturevalue
        self.migrations = project.migrations
        self.migration = project.migration
        self.query = project.query
        self.trace = project.trace
        self.commands = project.commands
        self.reached = project.reached
        self.go = project.go

    def start(self, name: str, tasks: str, *argv: str, **env: Any) -> Node:
        return self.project.start(name, tasks, *argv, without=self.without, **env)

    def run(self, name: str, tasks: str, *argv: str, **env: Any) -> Node:
        return self.project.run(name, tasks, *argv, without=self.without, **env)

    def held_up(self, tasks: str, point: str, **env: Any) -> Node:
        """A runner that pauses at *point*, after one migration."""
        self.migrations(1)
        runner = self.start("runner", tasks, PAUSE_AT=point, **env)
        self.reached(point)
        return runner

    def terminate(self, name: str) -> None:
        """End the sessions of the node *name* as a fail-over or an administrator does."""
        self.query(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE application_name = 'startup/{name}' AND datname = current_database()"
        )


Scenario = Callable[[Stage], bool]
SCENARIOS: list[Any] = []
GUARDS: dict[str, str] = {}
BOTH = ("postgresql", "sqlite")
PGBOUNCER = "pooler"


def guarded_by(guard: str, *dialects: str) -> Callable[[Scenario], Scenario]:
    """The scenario's guard, and where it runs; on PostgreSQL unless told otherwise."""

    def add(scenario: Scenario) -> Scenario:
        GUARDS[scenario.__name__] = guard
        for dialect in dialects or ("postgresql",):
            name = scenario.__name__ + (f" on {dialect}" if dialect in BOTH else "")
            SCENARIOS.append(pytest.param(scenario, dialect, id=name))
        return scenario

    return add


# ------------------------------------------------------------------------------------------ one node at a time


@guarded_by("the_lock", *BOTH)
def a_task_runs_once_though_two_nodes_start(stage: Stage) -> bool:
    runner = stage.held_up("migrate command@once", "command-start")
    other = stage.start("other", "migrate command@once")
    wait_for(lambda: "waiting for the lock" in other.log() or other.code is not None)
    stage.go("command-start")
    return [runner.wait(), other.wait()] == [0, 0] and stage.commands() == ["start runner", "end runner"]


@guarded_by("the_lock", *BOTH)
def a_baseline_takes_nothing_while_another_node_is_at_work(stage: Stage) -> bool:
    stage.migrations(1)
    stage.start("runner", "command migrate", PAUSE_AT="command-start")
    stage.reached("command-start")
    return stage.run("baseline", "migrate", "baseline", "0001_step").code == 75


@guarded_by("the_transaction_of_a_baseline")
def a_baseline_that_is_killed_has_taken_all_or_nothing(stage: Stage) -> bool:
    stage.migrations(4)
    assert stage.run("first", "migrate", "baseline", "0001_step").code == 0
    stage.query(f"CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $f${UNTIL_GO_IN_A_TRIGGER}$f$")
    stage.query("CREATE TRIGGER hold BEFORE INSERT ON startup_ledger FOR EACH ROW EXECUTE FUNCTION hold()")
    node = stage.start("killed", "migrate", "baseline", "0004_step")
    holds = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'INSERT INTO%startup_ledger%' AND state = 'active'"
    wait_for(lambda: stage.query(f"{holds} AND pid <> pg_backend_pid()"))
    node.send(signal.SIGKILL)
    node.wait()
    stage.terminate("killed")
    return stage.query("SELECT migration_id FROM _yoyo_migration") == [("0001_step",)]


@guarded_by("the_look_for_what_came_later", *BOTH)
def a_baseline_takes_nothing_before_what_is_applied(stage: Stage) -> bool:
    stage.migrations(2)
    assert stage.run("first", "migrate").code == 0
    stage.migration("0000_before", "SELECT 1;")
    refused = stage.run("baseline", "migrate", "baseline", "0000_before")
    return refused.code == 70 and "0002_step" in refused.log()


@guarded_by("the_look_before_the_lock", *BOTH)
def what_is_done_already_needs_no_lock(stage: Stage) -> bool:
    stage.migrations(1)
    assert stage.run("first", "migrate plans").code == 0
    stage.start("runner", "migrate plans command", PAUSE_AT="command-start")
    stage.reached("command-start")
    late = stage.start("late", "migrate plans")
    wait_for(lambda: "waiting for the lock" in late.log() or late.code is not None)
    return late.code == 0


@guarded_by("the_look_under_the_lock", *BOTH)
def what_was_done_while_a_node_waited_is_not_done_again(stage: Stage) -> bool:
    runner = stage.held_up("migrate plans", "plans-start")
    other = stage.start("other", "migrate plans prices")
    other.until("waiting for the lock")
    stage.go("plans-start")
    return [runner.wait(), other.wait()] == [0, 0] and stage.trace() == ["0001", "plans", "prices"]


@guarded_by("making_tables_one_by_one")
def two_namespaces_may_make_the_ledger_at_once(stage: Stage) -> bool:
    from startup.database.postgres.session import _CREATION

    with psycopg.connect(stage.project.url) as first:  # what a node of another namespace does
        first.execute(f"SELECT pg_advisory_xact_lock({_CREATION})")
        first.execute(
            "CREATE TABLE startup_ledger (namespace text, task text, key text, state text NOT NULL,"
            " PRIMARY KEY (namespace, task, key))"
        )
        node = stage.start("node", "told@once", STARTUP_TASK_TOLD="true")
        told = "waiting for the lock under which tables are made: pid "
        blocked = "SELECT 1 FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"  # without the guard
        wait_for(lambda: told in node.log() or bool(stage.query(blocked)) or node.code is not None)
        first.commit()
    return node.wait() == 0


@guarded_by("polling")
def an_index_is_built_concurrently_while_a_node_waits(stage: Stage) -> bool:
    stage.migrations(1)
    stage.migration("0002_index", "-- transactional: false\nCREATE INDEX CONCURRENTLY i ON trace (what);")
    assert stage.run("first", "migrate", STARTUP_MIGRATIONS=_only_the_first(stage)).code == 0
    with psycopg.connect(stage.project.url) as older:
        older.execute("INSERT INTO trace (what) VALUES ('by the app')")
        runner = stage.start("runner", "migrate")
        building = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'"
        wait_for(lambda: stage.query(building))
        other = stage.start("other", "migrate")
        taking = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_for(lambda: bool(stage.query(taking)) or "waiting for the lock" in other.log())
        older.rollback()
    return [runner.wait(), other.wait()] == [0, 0]


def _only_the_first(stage: Stage) -> str:
    directory = stage.project.directory / "first"
    directory.mkdir()
    (directory / "0001_step.sql").write_text((stage.project.directory / "migrations/0001_step.sql").read_text())
    return str(directory)


@guarded_by("patience_with_what_runs")
def a_migration_without_transaction_that_runs_is_not_taken_for_interrupted(stage: Stage) -> bool:
    stage.migrations(1)
    stage.migration("0002_slow", f"-- transactional: false\n{UNTIL_GO}INSERT INTO trace (what) VALUES ('0002');")
    runner = stage.start("runner", "migrate")
    wait_for(lambda: stage.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
    other = stage.start("other", "migrate")
    wait_for(lambda: "waiting for the lock" in other.log() or other.code is not None)
    stage.query("CREATE TABLE go ()")
    return [runner.wait(), other.wait()] == [0, 0]


@guarded_by("yoyos_row")
def a_stock_yoyo_started_by_hand_waits_and_is_refused(stage: Stage) -> bool:
    stage.migrations(1)
    stage.migration("0002_slow", f"-- transactional: false\n{UNTIL_GO}INSERT INTO trace (what) VALUES ('0002');")
    runner = stage.start("runner", "migrate")
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_for(lambda: stage.query(sleeping) == [(1,)])
    url = stage.project.url.partition("?")[0].replace("postgresql:", "postgresql+psycopg:")
    with subprocess.Popen(
        [sys.executable, "-m", "yoyo", "apply", "--batch", "--database", url, "migrations"],
        cwd=stage.project.directory,
        stderr=subprocess.DEVNULL,
    ) as yoyo:
        try:
            wait_for(lambda: yoyo.poll() is not None or stage.query(sleeping) == [(2,)])
        finally:
            stage.query("CREATE TABLE go ()")
        yoyo.wait(30)
    return runner.wait() == 0 and yoyo.returncode == 1 and stage.trace() == ["0001", "0002"]


@guarded_by("the_look_for_yoyos_row")
def nothing_is_applied_after_somebody_broke_yoyos_lock(stage: Stage) -> bool:
    stage.migrations(1)
    stage.migration("0002_slow", f"-- transactional: false\n{UNTIL_GO}")
    stage.migration("0003_more", "INSERT INTO trace (what) VALUES ('0003');")
    runner = stage.start("runner", "migrate")
    wait_for(lambda: stage.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
    stage.query("DELETE FROM yoyo_lock")
    stage.query("CREATE TABLE go ()")
    return runner.wait() == 75 and "yoyo break-lock" in runner.log() and stage.trace() == ["0001"]


@guarded_by("the_migrations_lock")
def two_namespaces_do_not_migrate_the_same_tables_at_once(stage: Stage) -> bool:
    stage.migrations(1)
    stage.migration("0002_slow", f"-- transactional: false\n{UNTIL_GO}INSERT INTO trace (what) VALUES ('0002');")
    first = stage.start("first", "migrate")
    wait_for(lambda: stage.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
    other = stage.start("other", "migrate", STARTUP_NAMESPACE="other")
    wait_for(lambda: "of another namespace, which migrates" in other.log() or other.code is not None)
    stage.query("CREATE TABLE go ()")
    return [first.wait(), other.wait()] == [0, 0] and stage.trace() == ["0001", "0002"]


@guarded_by("clearing_a_stale_row")
def a_killed_nodes_row_does_not_keep_stock_yoyo_out_for_ever(stage: Stage) -> bool:
    stage.migrations(1)
    assert stage.run("first", "migrate").code == 0
    stage.query("INSERT INTO yoyo_lock VALUES (1, '2036-01-01 00:00:00', -4711)")
    return stage.run("second", "migrate").code == 0 and stage.query("SELECT pid FROM yoyo_lock") == []


# ------------------------------------------------------------------------------------------ whose tables, and where


@guarded_by("the_search_for_a_home")
def a_schema_that_comes_before_the_tables_re_runs_nothing(stage: Stage) -> bool:
    stage.migrations(1)
    assert stage.run("first", "migrate plans").code == 0
    stage.query("CREATE SCHEMA app")
    try:
        return "nothing to do" in stage.run("second", "migrate plans").log()
    finally:
        stage.query("DROP SCHEMA app CASCADE")


@guarded_by("the_look_at_owners")
def a_strangers_ledger_is_not_used(stage: Stage) -> bool:
    stage.migrations(1)
    name = f"low_{stage.query('SELECT current_database()')[0][0]}"
    admin = stage.server.admin_url(stage.query("SELECT current_database()")[0][0])
    run_query(admin, f"CREATE ROLE {name}")
    run_query(
        admin,
        "CREATE TABLE startup_run (namespace text PRIMARY KEY);"
        f" ALTER TABLE startup_run OWNER TO {name}; GRANT ALL ON startup_run TO PUBLIC",
    )
    try:
        return stage.run("node", "migrate plans").code == 78
    finally:
        run_query(admin, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


# ------------------------------------------------------------------------------- few connections, and no answers


@guarded_by("giving_up_a_silent_server")
def a_time_limit_holds_while_the_server_is_silent(stage: Stage) -> bool:
    stage.held_up("migrate plans", "plans-start")
    node = stage.start("limited", "migrate plans", STARTUP_LOCK_TIMEOUT="3")
    node.until("runner holds it")
    with frozen(stage.server):
        wait_for_seconds(lambda: node.code is not None or _over(node), 20)
        ended = node.code
    return ended == 75


def _over(node: Node) -> bool:
    """Has it been at it for much longer than its limit?"""
    return time.time() - node.path.stat().st_mtime > 8


@guarded_by("letting_go_of_connections")
def five_connections_are_enough_for_eight_nodes(stage: Stage) -> bool:
    name = stage.query("SELECT current_database()")[0][0]
    runner = stage.held_up("migrate plans", "plans-start")
    run_query(stage.server.admin_url("postgres"), f"ALTER DATABASE {name} CONNECTION LIMIT 5")
    nodes = [stage.start(f"n{number}", "migrate plans", STARTUP_DATABASE_TIMEOUT="8") for number in range(8)]
    wait_for(lambda: all("runner holds it" in node.log() or node.code is not None for node in nodes))
    stage.go("plans-start")
    codes = [node.wait() for node in (runner, *nodes)]
    run_query(stage.server.admin_url("postgres"), f"ALTER DATABASE {name} CONNECTION LIMIT -1")
    return codes == [0] * 9


# ----------------------------------------------------------------------------------------------- exactly once


@guarded_by("one_transaction", *BOTH)
def a_tasks_work_is_not_kept_without_its_row(stage: Stage) -> bool:
    stage.migrations(1)
    assert stage.run("first", "migrate prices").code == 0
    refuse = {
        "postgresql": "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$;"
        " CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON startup_ledger"
        " FOR EACH ROW WHEN (NEW.state = 'done') EXECUTE FUNCTION refuse()",
    }
    if stage.project.dialect == "sqlite":
        import sqlite3

        with sqlite3.connect(stage.project.url.split("///", 1)[1]) as connection:
            connection.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON startup_ledger WHEN NEW.state = 'done'"
                " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
            )
        connection.close()
    else:
        stage.query(refuse["postgresql"])
    node = stage.run("node", "migrate plans")
    return node.code == 70 and "the disk is full" in node.log() and "plans" not in stage.trace()


@guarded_by("the_look_for_commits", *BOTH)
def a_task_that_commits_by_itself_is_not_taken_for_done(stage: Stage) -> bool:
    stage.migrations(1)
    return stage.run("node", "migrate commits").code == 70


@guarded_by("the_row_of_what_has_begun")
def a_file_without_transaction_that_was_cut_off_is_not_run_again_blindly(stage: Stage) -> bool:
    stage.migrations(1)
    stage.migration("0002_slow", f"-- transactional: false\nINSERT INTO trace (what) VALUES ('0002');{UNTIL_GO}")
    runner = stage.start("runner", "migrate")
    wait_for(lambda: stage.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
    runner.send(signal.SIGKILL)
    stage.terminate("runner")
    stage.query("CREATE TABLE go ()")
    other = stage.run("other", "migrate")
    return other.code == 70 and "was interrupted on runner" in other.log() and stage.trace() == ["0001", "0002"]


@guarded_by("the_look_for_invalid_indexes")
def an_index_that_was_left_invalid_is_not_taken_for_one(stage: Stage) -> bool:
    stage.migrations(1)
    stage.migration("0002_index", "-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON trace (what);")
    assert stage.run("first", "migrate", STARTUP_MIGRATIONS=_only_the_first(stage)).code == 0
    with psycopg.connect(stage.project.url) as older:
        older.execute("INSERT INTO trace (what) VALUES ('by the app')")
        runner = stage.start("runner", "migrate")
        wait_for(lambda: stage.query("SELECT 1 FROM pg_class WHERE relname = 'i'"))
        runner.send(signal.SIGKILL)
        runner.wait()
        stage.terminate("runner")
    assert stage.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass") == [(False,)]
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass"
    return stage.run("other", "migrate").code == 0 and stage.query(valid) == [(True,)]


# ---------------------------------------------------------------------------------------------------- fencing


@guarded_by("the_same_session")
def what_a_node_does_after_it_lost_its_session_commits_nothing(stage: Stage) -> bool:
    runner = stage.held_up("migrate plans", "plans-end")
    stage.terminate("runner")
    assert stage.run("other", "migrate plans").code == 0
    stage.go("plans-end")
    return runner.wait() == 75 and stage.trace() == ["0001", "plans"]


@guarded_by("the_lock_is_looked_up")
def what_a_task_does_after_it_let_the_lock_go_commits_nothing(stage: Stage) -> bool:
    runner = stage.held_up("migrate lets_go", "lets_go")
    assert stage.run("other", "migrate plans").code == 0
    stage.go("lets_go")
    return runner.wait() == 75 and stage.trace() == ["0001", "plans"]


@guarded_by("the_lock_is_looked_up")
def a_file_without_transaction_that_let_the_lock_go_is_not_run_to_its_end(stage: Stage) -> bool:
    stage.migrations(1)
    stage.migration(
        "0002_lets_go",
        "-- transactional: false\nSELECT pg_advisory_unlock_all();\nINSERT INTO trace (what) VALUES ('0002');",
    )
    return stage.run("node", "migrate").code == 75 and stage.trace() == ["0001"]


@guarded_by("the_lock_is_looked_up")
def a_python_migration_without_transaction_that_let_the_lock_go_is_not_run_to_its_end(stage: Stage) -> bool:
    stage.migrations(1)
    (stage.project.directory / "migrations/0002_lets_go.py").write_text(
        "from yoyo import step\n__transactional__ = False\n"
        "steps = [step('SELECT pg_advisory_unlock_all()'), step(\"INSERT INTO trace (what) VALUES ('0002')\")]\n"
    )
    return stage.run("node", "migrate").code == 75 and stage.trace() == ["0001"]


@guarded_by("the_watch")
def a_command_is_stopped_when_its_node_has_lost_the_lock(stage: Stage) -> bool:
    runner = stage.held_up("migrate command@once", "command-start")
    stage.terminate("runner")
    other = stage.start("other", "migrate command@once")
    wait_for(lambda: "start other" in stage.commands())
    stopped = runner.code
    stage.go("command-start")
    return stopped == 75 and [runner.wait(), other.wait()] == [75, 0] and "end runner" not in stage.commands()


@guarded_by("the_wait_for_the_vanished")
def the_next_node_waits_until_a_vanished_one_must_have_stopped_its_command(stage: Stage) -> bool:
    runner = stage.held_up("migrate command@once", "command-start")
    runner.send(signal.SIGSTOP)  # it cannot notice yet that its session is gone
    stage.terminate("runner")
    other = stage.start("other", "migrate command@once")
    wait_for(lambda: "vanished while it ran the task command" in other.log() or "start other" in stage.commands())
    patient = "start other" not in stage.commands()
    runner.send(signal.SIGCONT)
    assert other.wait() == 0
    return patient and runner.wait() == 75


@guarded_by("the_locks_descriptor", "sqlite")
def on_sqlite_a_command_keeps_the_lock_of_a_node_that_was_killed(stage: Stage) -> bool:
    runner = stage.held_up("migrate command@once", "command-start")
    runner.send(signal.SIGKILL)
    runner.wait()
    other = stage.start("other", "migrate command@once")
    wait_for(lambda: "waiting for the lock" in other.log() or "start other" in stage.commands())
    stage.go("command-start")
    assert other.wait() == 0
    return stage.commands() == ["start runner", "end runner", "start other", "end other"]


@guarded_by("keepalives")
def a_node_that_lost_its_network_is_succeeded_soon(stage: Stage) -> bool:
    port = urlsplit(stage.project.url).port
    assert port is not None
    proxy = Proxy(port)
    try:
        through = stage.project.url.replace(f":{port}/", f":{proxy.port}/") + SOON + "&sslmode=disable"
        stage.held_up("migrate plans", "plans-start", DATABASE_URL=through)
        other = stage.start("other", "migrate plans")
        other.until("waiting for the lock")
        proxy.cut_all()
        limit = time.monotonic() + (8 if stage.without else 30)  # it takes 3 s, and a look
        while other.code is None and time.monotonic() < limit:
            other._look()
        stage.go("plans-start")
        return other.code == 0
    finally:
        proxy.close()


@guarded_by("the_reset", "postgresql")
def what_a_task_does_to_the_session_does_not_reach_the_next(stage: Stage) -> bool:
    stage.migrations(1)
    run_query(stage.server.admin_url("postgres"), "GRANT pg_monitor TO app")
    try:
        node = stage.run("node", "migrate other_role prices")
    finally:
        run_query(stage.server.admin_url("postgres"), "REVOKE pg_monitor FROM app")
    return node.code == 0 and stage.trace() == ["0001", "prices"]


@guarded_by("the_pooler_check", PGBOUNCER)
def a_pooler_that_shares_sessions_is_refused(stage: Stage) -> bool:
    stage.migrations(1)
    return stage.run("node", "migrate plans").code == 78


@guarded_by("the_look_for_a_standby", "standby")
def a_standby_is_waited_for_until_it_is_the_primary(stage: Stage) -> bool:
    stage.migrations(1)
    node = stage.start("node", "migrate plans")
    wait_for(lambda: "waiting for a server that can be written to" in node.log() or node.code is not None)
    stage.server.run("pg_ctl", "promote", "-D", str(stage.server.data))
    return node.wait() == 0 and stage.trace() == ["0001", "plans"]


# ----------------------------------------------------------------------------------------------- those who wait


@guarded_by("failing_with_the_runner", *BOTH)
def a_node_that_waited_fails_with_the_runner_and_does_not_try_again(stage: Stage) -> bool:
    runner = stage.held_up("migrate faulty", "faulty")
    other = stage.start("other", "migrate faulty")
    wait_for(lambda: "waiting for the lock" in other.log() or other.code is not None)
    waited = other.code is None
    stage.go("faulty")
    return waited and [runner.wait(), other.wait()] == [70, 70] and "task 2 of 2, faulty, starts" not in other.log()


@guarded_by("raising_the_epoch", *BOTH)
def a_failure_is_told_from_the_one_before(stage: Stage) -> bool:
    stage.migrations(1)
    stage.go("faulty")
    assert stage.run("before", "migrate faulty").code == 70
    (stage.project.directory / "faulty.go").unlink()
    return a_node_that_waited_fails_with_the_runner_and_does_not_try_again(stage)


@guarded_by("the_memory_of_failures")
def a_node_that_tries_again_at_once_hides_the_failure_from_nobody(stage: Stage) -> bool:
    runner = stage.held_up("migrate faulty", "faulty")
    other = stage.start("other", "migrate faulty")
    other.until("waiting for the lock")
    other.send(signal.SIGSTOP)  # too slow to see the failure before the next run starts
    stage.go("faulty")
    assert runner.wait() == 70
    for end in ("reached", "go"):
        (stage.project.directory / f"faulty.{end}").unlink()
    stage.start("again", "migrate faulty", PAUSE_AT="faulty")
    stage.reached("faulty")
    other.send(signal.SIGCONT)
    wait_for(lambda: other.code is not None or "waiting for the lock: again holds it" in other.log())
    return other.code == 70


@guarded_by("connecting_again")
def a_session_that_is_lost_while_waiting_is_replaced(stage: Stage) -> bool:
    runner = stage.held_up("migrate plans", "plans-start")
    other = stage.start("other", "migrate plans")
    other.until("waiting for the lock")
    stage.terminate("other")
    wait_for(lambda: "connecting again" in other.log() or other.code is not None)
    stage.go("plans-start")
    return [runner.wait(), other.wait()] == [0, 0]


# ------------------------------------------------------------------------------------------------- running them


@pytest.fixture
def set_the_stage(
    request: pytest.FixtureRequest, make_project: Callable[[str], Project], tmp_path: Path
) -> Iterator[Callable[[str, str], Stage]]:
    """``set_the_stage(dialect, without)``: a project on a fresh database."""
    made: list[tuple[Server, str]] = []

    def stage(dialect: str, without: str) -> Stage:
        server: Server = request.getfixturevalue("server")
        if dialect == "sqlite":
            return Stage(make_project(f"sqlite:///{tmp_path}/{len(made)}-{without}.db"), server, without, request)
        if dialect == "standby":
            server = request.getfixturevalue("new_server")()
        name = server.new_database()
        url = server.url(name)
        if dialect == "standby":
            server.stop()
            (server.data / "standby.signal").touch()
            server.start()
        else:
            made.append((server, name))
        if dialect == PGBOUNCER:
            url = request.getfixturevalue("pooler")("transaction", name)
        return Stage(make_project(url + SOON), server, without, request)

    yield stage
    for server, name in made:
        server.drop_database(name)


@pytest.mark.parametrize(("scenario", "dialect"), SCENARIOS)
def test_the_guarantee_holds_and_is_seen_broken_without_its_guard(
    scenario: Scenario, dialect: str, set_the_stage: Callable[[str, str], Stage]
) -> None:
    with_it = set_the_stage(dialect, "")
    assert scenario(with_it), with_it.project.nodes
    guard = GUARDS[scenario.__name__]
    without = set_the_stage(dialect, guard)
    assert not scenario(without), f"{guard} is not missed: {without.project.nodes}"


def test_every_guard_has_a_guarantee() -> None:
    own = {name for name, one in inspect.getmembers(guards, inspect.isfunction) if one.__module__ == guards.__name__}
    elsewhere = {"the_redaction"}  # tests/failures/test_redaction.py
    assert own - {"take_out"} - elsewhere == set(GUARDS.values())
