"""Nodes behind a real PgBouncer: never an unsafe run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.nodes import Project

Pooler = Callable[[str, str], str]
LIST = "migrate plans prices command@once"


@pytest.mark.parametrize(("mode", "said"), [("transaction", ""), ("transaction", "session"), ("session", "")])
def test_what_is_not_said_or_not_true_is_refused_before_anything_is_done(
    make_project: Callable[[str], Project], pooler: Pooler, database: str, database_url: str, query: Any, mode: str,
    said: str,
) -> None:  # fmt: skip
    project = make_project(pooler(mode, database))
    project.migrations(1)
    nodes = [project.start(f"n{number}", LIST, STARTUP_POOLER=said) for number in range(6)]
    assert [node.wait() for node in nodes] == [78] * 6, nodes
    for node in nodes:
        assert "STARTUP_DATABASE_URL with the server's own address" in node.log()
        assert "Pa55" not in node.log()
    assert query(database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_session_mode_works_where_it_is_said(
    make_project: Callable[[str], Project], pooler: Pooler, database: str
) -> None:
    project = make_project(pooler("session", database))
    project.migrations(3)
    nodes = [project.start(f"n{number}", LIST, STARTUP_POOLER="session") for number in range(5)]
    assert [node.wait() for node in nodes] == [0] * 5, nodes
    assert project.trace() == ["0001", "0002", "0003", "plans", "prices"]
    assert [line.split()[0] for line in project.commands()] == ["start", "end"]


def test_a_direct_address_for_the_tasks_is_the_way_out(
    make_project: Callable[[str], Project], pooler: Pooler, database: str, database_url: str
) -> None:
    project = make_project(pooler("transaction", database))
    project.migrations(1)
    assert project.run("node", LIST, STARTUP_DATABASE_URL=database_url).code == 0
    assert project.trace() == ["0001", "plans", "prices"]
