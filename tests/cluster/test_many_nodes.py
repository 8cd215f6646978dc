"""Many nodes at once: each task once, in order, and everybody is ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.cluster.nodes import Project
from tests.conftest import run_query

Query = Callable[[str, str], list[tuple[Any, ...]]]
LIST = "migrate plans prices command@once"
MIGRATIONS = 20
STEPS = [f"{number:04}" for number in range(1, MIGRATIONS + 1)]


def server_errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if "ERROR:" in line or "FATAL:" in line or "PANIC:" in line]


class TestFiftyNodes:
    @pytest.mark.timeout(1800)
    def test_each_migration_and_task_runs_once_in_order_and_all_end_ready(
        self, make_project: Callable[[str], Project], server: Any, rounds: int
    ) -> None:
        for _ in range(rounds):
            name = server.new_database()
            before = len(server.log())
            project = make_project(server.url(name))
            project.migrations(MIGRATIONS)
            nodes = [project.start(f"node{number}", LIST) for number in range(50)]
            assert [node.wait(120) for node in nodes] == [0] * 50, nodes
            assert project.trace() == [*STEPS, "plans", "prices"]
            assert [line.split()[0] for line in project.commands()] == ["start", "end"]
            ledger = project.query("SELECT task, state, count(*) FROM startup_ledger GROUP BY 1, 2 ORDER BY 1")
            assert ledger == [("command", "done", 1), ("plans", "done", 1), ("prices", "done", 1)]
            assert project.query("SELECT count(*) FROM _yoyo_migration") == [(MIGRATIONS,)]
            assert project.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
            assert not [node for node in nodes if "error" in node.log().lower()]
            assert server_errors(server.log()[before:]) == []
            server.drop_database(name)

    def test_as_programs_of_their_own(self, any_project: Project) -> None:
        any_project.migrations(3)
        nodes = [any_project.start(f"node{number}", LIST, real=True) for number in range(8)]
        assert [node.wait(60) for node in nodes] == [0] * 8, nodes
        assert any_project.trace() == ["0001", "0002", "0003", "plans", "prices"]
        assert [line.split()[0] for line in any_project.commands()] == ["start", "end"]


def test_an_index_is_built_concurrently_while_five_nodes_wait_for_more_than_a_second(
    project: Project, wait_until: Callable[..., Any]
) -> None:
    project.migrations(1)
    assert project.run("before", "migrate").code == 0
    project.migration("0002_index", "-- transactional: false\nCREATE INDEX CONCURRENTLY trace_what ON trace (what);")
    with psycopg.connect(project.url) as older:  # CONCURRENTLY waits for it, and so all of them for us
        older.execute("INSERT INTO trace (what) VALUES ('by the app')")
        runner = project.start("runner", "migrate")
        building = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'"
        wait_until(lambda: project.query(building))
        nodes = [project.start(f"node{number}", "migrate") for number in range(5)]
        for node in nodes:
            node.until("waiting for the lock: runner holds it")
        since = time.monotonic()
        wait_until(lambda: time.monotonic() - since > 1.2)
        assert [node.code for node in nodes] == [None] * 5
        older.commit()
    assert [node.wait() for node in (runner, *nodes)] == [0] * 6, nodes
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'trace_what'::regclass"
    assert project.query(valid) == [(True,)]
    assert project.query("SELECT count(*) FROM _yoyo_log WHERE migration_id = '0002_index'") == [(1,)]


def test_twenty_processes_on_one_sqlite_file(make_project: Callable[[str], Project], sqlite_url: str) -> None:
    project = make_project(sqlite_url)
    project.migrations(MIGRATIONS)
    nodes = [project.start(f"node{number}", LIST) for number in range(20)]
    assert [node.wait(60) for node in nodes] == [0] * 20, nodes
    assert project.trace() == [*STEPS, "plans", "prices"]
    assert [line.split()[0] for line in project.commands()] == ["start", "end"]


class TestTwoNamespacesOnOneSchema:
    """Ten nodes each, with the same migrations: each statement once, and what runs is never called interrupted."""

    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("limit", [0, 4], ids=["no limit", "connection limit 4"])
    def test_each_statement_runs_once(
        self, make_project: Callable[[str], Project], new_server: Callable[..., Any], rounds: int, limit: int
    ) -> None:
        server = new_server()
        for _ in range(rounds):
            name = server.new_database()
            project = make_project(server.url(name))
            project.migrations(2)
            project.migration("0003_step", "-- transactional: false\nSELECT pg_sleep(0.2);\n" + project.leave("0003"))
            project.migration("0004_step", project.leave("0004"))
            if limit:
                run_query(server.admin_url("postgres"), f"ALTER DATABASE {name} CONNECTION LIMIT {limit}")
            nodes = [
                project.start(f"{space}{number}", "migrate plans", STARTUP_NAMESPACE=space)
                for number in range(10)
                for space in ("a", "b")
            ]
            codes = [node.wait(120) for node in nodes]
            assert codes == [0] * 20, [node for node in nodes if node.code]
            project.url = server.admin_url(name)
            assert sorted(project.trace()) == ["0001", "0002", "0003", "0004", "plans", "plans"]
            assert not [node for node in nodes if "interrupted" in node.log()]
            server.drop_database(name)


def test_a_schema_of_the_roles_own_name_that_a_migration_makes_disturbs_no_node(project: Project, rounds: int) -> None:
    """The search_path is "$user", public: from that migration on it leads elsewhere first."""
    trace = "CREATE SCHEMA IF NOT EXISTS app; CREATE TABLE IF NOT EXISTS public.trace (n serial, what text, node text);"
    project.migration("0001_schema", f"{trace} INSERT INTO public.trace (what) VALUES ('0001');")
    project.migration("0002_more", "SELECT pg_sleep(0.2); INSERT INTO public.trace (what) VALUES ('0002');")
    for _ in range(rounds):
        nodes = [project.start(f"node{number}", "migrate plans command@once") for number in range(6)]
        assert [node.wait(60) for node in nodes] == [0] * 6, nodes
    assert project.trace() == ["0001", "0002", "plans"]
    schemas = project.query("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename ~ 'yoyo|startup_'")
    assert schemas == [("public",)]
