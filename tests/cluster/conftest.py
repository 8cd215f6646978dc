"""What the cluster's tests share: ``project``, a PostgreSQL database with nodes that start up on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.cluster.nodes import Project, Zygote


@pytest.fixture(scope="session")
def rounds() -> int:
    """How often a test that leaves much to chance is repeated: STARTUP_TEST_ROUNDS, else 2."""
    return int(os.environ.get("STARTUP_TEST_ROUNDS") or 2)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    one = Zygote()
    yield one
    one.close()


@pytest.fixture
def make_project(tmp_path: Path, zygote: Zygote) -> Iterator[Callable[[str], Project]]:
    """``make_project(url)``: a new directory, and nodes on the database *url*."""
    made: list[Project] = []

    def make(url: str) -> Project:
        directory = tmp_path / f"project-{len(made)}"
        directory.mkdir()
        made.append(Project(directory, url, zygote))
        return made[-1]

    yield make
    for project in made:
        project.close()


@pytest.fixture
def project(make_project: Callable[[str], Project], database_url: str) -> Project:
    """On PostgreSQL. Its addresses are those of a peer that is noticed to be dead soon."""
    return make_project(database_url + "?tcp_user_timeout=1000&keepalives_idle=1&keepalives_interval=1")


@pytest.fixture(params=["postgresql", "sqlite"])
def any_project(request: pytest.FixtureRequest, make_project: Callable[[str], Project]) -> Project:
    """On PostgreSQL, and on SQLite."""
    if request.param == "sqlite":
        return make_project(request.getfixturevalue("sqlite_url"))
    project: Project = request.getfixturevalue("project")
    return project
