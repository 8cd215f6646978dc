"""examples/python-tasks: three nodes at once, a task of each policy, hooks."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import ROOT, Container

if TYPE_CHECKING:
    from .conftest import Docker

NODES = 3


class Example:
    """A copy of the example, as a compose project of the test's own."""

    def __init__(self, docker: Docker, base: str, directory: Path) -> None:
        self.docker = docker
        self.base = base
        self.directory = directory
        self.name = docker.new_name()
        shutil.copytree(ROOT / "examples" / "python-tasks", directory, ignore=shutil.ignore_patterns("__pycache__"))

    def __call__(self, *words: str, release: str = "1", check: bool = True) -> str:
        env = {"BASE": self.base, "RELEASE": release}
        compose = ("compose", "--project-name", self.name, *words)
        return self.docker(*compose, cwd=self.directory, env=env, check=check, timeout=150).stdout

    def up(self, release: str) -> None:
        self("up", "--build", "--detach", "--wait", "--wait-timeout", "90", release=release)

    def nodes(self) -> list[Container]:
        return [Container(self.docker, one) for one in self("ps", "--all", "--quiet", "app").split()]

    def journal(self) -> Counter[str]:
        """How often each task has run so far."""
        psql = ("psql", "--username=postgres", "--tuples-only", "--no-align", "--command=SELECT task FROM journal")
        return Counter(self("exec", "--no-TTY", "db", *psql).split())


@pytest.fixture
def example(docker: Docker, base_image: str, tmp_path: Path) -> Iterator[Example]:
    one = Example(docker, base_image, tmp_path / "example")
    yield one
    one("down", "--volumes", "--rmi", "local", "--timeout", "1", check=False)


def test_each_task_runs_as_often_as_its_policy_says_on_three_nodes_at_once(example: Example) -> None:
    example.up(release="1")
    nodes = example.nodes()
    assert len(nodes) == NODES
    once = {"load_plans": 1, "load_prices": 1, "greet_release": 1, "index_journal": 1}
    assert example.journal() == {**once, "refresh_statistics": NODES}
    logs = [node.logs for node in nodes]
    assert sum("the mail is sent" in log for log in logs) == 1, "a hook with .once in its name"
    for node in nodes:
        assert node.exec("cat", "/tmp/cache").stdout == (example.directory / "prices.csv").read_text()

    (example.directory / "prices.csv").write_text("plan,cents\nfree,0\nteam,2900\n")
    example.up(release="2")
    assert example.journal() == {**once, "load_prices": 2, "greet_release": 2, "refresh_statistics": 2 * NODES}
    logs = [node.logs for node in example.nodes()]
    assert not any("the mail is sent" in log for log in logs)

    one = example.nodes()[0]
    one.stop()
    assert "this node says goodbye" in one.logs
