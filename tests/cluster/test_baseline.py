"""``startup baseline`` among nodes: those that wait meanwhile go on, and of several baselines one does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.nodes import TRACE, Project
from tests.conftest import wait_for


@contextmanager
def writes_held_up(project: Project) -> Iterator[None]:
    """In the block yoyo's table can be read, and not written, as by another program's transaction."""
    if project.dialect == "sqlite":
        import sqlite3

        connection = sqlite3.connect(project.url.split("///", 1)[1], isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.close()
        return
    import psycopg

    with psycopg.connect(project.url) as other:
        other.execute("LOCK TABLE _yoyo_migration IN SHARE MODE")
        yield


def test_nodes_that_wait_meanwhile_see_it_done_and_apply_only_what_is_new(any_project: Project) -> None:
    project = any_project
    project.migrations(4)
    project.query(TRACE[project.dialect])
    assert project.run("first", "migrate", "baseline", "0001_step").code == 0
    with writes_held_up(project):
        baseline = project.start("adopting", "migrate", "baseline", "0003_step")
        wait_for(lambda: "adopting holds it" in project.run("look", "migrate", "status").log())
        nodes = [project.start(f"node-{number}", "migrate plans") for number in range(3)]
        nodes.append(project.start("follower", "migrate plans", STARTUP_ROLE="follower"))
        for node in nodes[:3]:
            node.until("waiting for the lock: adopting holds it")
        nodes[3].until("following: adopting holds it")
    assert [node.wait() for node in (baseline, *nodes)] == [0] * 5
    assert "2 migrations are taken for applied, without being run: 0002_step, 0003_step" in baseline.log()
    assert project.trace() == ["0004", "plans"]


def test_of_several_baselines_at_once_one_takes_what_the_others_find_taken(any_project: Project) -> None:
    project = any_project
    project.migrations(3)
    nodes = [
        project.start(f"node-{number}", "migrate", "baseline", "0003_step", STARTUP_LOCK_TIMEOUT="30")
        for number in range(5)
    ]
    assert [node.wait() for node in nodes] == [0] * 5
    assert sum("3 migrations are taken" in node.log() for node in nodes) == 1
    assert sum("nothing to do: all migrations up to it" in node.log() for node in nodes) == 4
    assert project.query("SELECT count(*) FROM _yoyo_migration") == [(3,)]
    assert project.query("SELECT task, state FROM startup_ledger") == [("baseline 0003_step", "done")]


def test_a_baseline_leaves_what_a_node_that_migrates_has_applied_meanwhile(any_project: Project) -> None:
    project = any_project
    project.migrations(2)
    runner = project.start("runner", "migrate plans", PAUSE_AT="plans-start")
    project.reached("plans-start")
    project.migration("0003_step", project.leave("0003"))
    baseline = project.start("adopting", "migrate", "baseline", "0003_step", STARTUP_LOCK_TIMEOUT="30")
    baseline.until("waiting for the lock: runner holds it")
    project.go("plans-start")
    assert [runner.wait(), baseline.wait()] == [0, 0]
    assert "1 migration is taken for applied, without being run: 0003_step" in baseline.log()
    assert project.trace() == ["0001", "0002", "plans"]
