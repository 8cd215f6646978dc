"""One alert, not fifty: on which node the failed tasks are told that it was its own work."""

from __future__ import annotations

from typing import Any

from tests.cluster.nodes import Project

#: A line for each run of the hook: the node, whether its own work failed, the exit code and why.
ALERT = '#!/bin/sh\necho "$STARTUP_NODE $STARTUP_FAILED_HERE $STARTUP_EXIT_CODE $STARTUP_FAILURE" >>alerts\n'


def alerting(project: Project) -> None:
    hook = project.directory / "hooks" / "failed.d" / "10-alert.sh"
    hook.parent.mkdir(parents=True)
    hook.write_text(ALERT)
    hook.chmod(0o755)


def alerts(project: Project) -> list[str]:
    return sorted((project.directory / "alerts").read_text().splitlines())


def start(project: Project, name: str, **env: Any) -> Any:
    return project.start(name, "migrate faulty", real=True, **env)


def test_nodes_that_were_waiting_for_the_one_that_failed_are_told_that_it_was_not_they(any_project: Project) -> None:
    alerting(any_project)
    any_project.migrations(1)
    runner = start(any_project, "runner", PAUSE_AT="faulty")
    any_project.reached("faulty")
    waiting = [start(any_project, f"node{number}") for number in range(2)]
    follower = start(any_project, "follower", STARTUP_ROLE="follower")
    for node in waiting:
        node.until("waiting for the lock")
    follower.until("following: ")
    any_project.go("faulty")
    assert [node.wait() for node in (runner, follower, *waiting)] == [70] * 4
    error = "task faulty failed: ValueError: no such plan"
    told = alerts(any_project)
    assert [" ".join(line.split()[:3]) for line in told] == [
        "follower false 70",
        "node0 false 70",
        "node1 false 70",
        "runner true 70",
    ]
    assert all(error in line for line in told)
    assert all("which this node was waiting for" in line for line in told[:3])


def test_a_node_that_waited_in_vain_has_failed_by_itself(any_project: Project) -> None:
    alerting(any_project)
    any_project.migrations(1)
    runner = start(any_project, "runner", PAUSE_AT="faulty")
    any_project.reached("faulty")
    late = start(any_project, "late", STARTUP_LOCK_TIMEOUT="0.5")
    assert late.wait() == 75
    assert "late true 75 the lock was not free within 0.5 s" in alerts(any_project)[0]
    any_project.touch("mended")
    any_project.go("faulty")
    assert runner.wait() == 0
    assert len(alerts(any_project)) == 1
