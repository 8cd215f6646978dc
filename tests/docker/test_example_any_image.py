"""examples/any-image: an app in Node, in an image without Python, with the bundle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import ROOT, Container, get
from .first_process import BUNDLE

if TYPE_CHECKING:
    from .conftest import Docker


class Example:
    """A copy of the example, as a compose project of the test's own."""

    def __init__(self, docker: Docker, bundle: str, directory: Path) -> None:
        self.docker = docker
        self.directory = directory
        self.name = docker.new_name()
        self.environ = {"BUNDLE": bundle, "PORT": "0"}
        shutil.copytree(ROOT / "examples" / "any-image", directory)

    def __call__(self, *words: str, check: bool = True) -> str:
        compose = ("compose", "--project-name", self.name, *words)
        return self.docker(*compose, cwd=self.directory, env=self.environ, check=check, timeout=170).stdout

    def up(self) -> None:
        self("up", "--build", "--detach", "--wait", "--wait-timeout", "90")

    @property
    def app(self) -> Container:
        return Container(self.docker, self("ps", "--all", "--quiet", "app").strip())

    def query(self, sql: str) -> str:
        psql = ("psql", "--username=postgres", "--tuples-only", "--no-align", f"--command={sql}")
        return self("exec", "--no-TTY", "db", *psql).strip()


@pytest.fixture
def example(docker: Docker, bundle_image: str, tmp_path: Path) -> Iterator[Example]:
    one = Example(docker, bundle_image, tmp_path / "example")
    yield one
    one("down", "--volumes", "--rmi", "local", "--timeout", "1", check=False)


def test_an_app_in_node_is_migrated_warmed_by_its_own_code_and_greeted_once(example: Example) -> None:
    example.up()
    app = example.app
    assert app.exec("sh", "-c", "command -v python3", check=False).returncode != 0, "no Python in the image"
    assert example.query("SELECT cents FROM plans WHERE name = 'team'") == "1900"
    greeting = "the first node of this database is up"
    assert "warm in post_start: 200, request 1" in app.logs
    assert app.logs.count(greeting) == 1, app.logs
    assert get(app.address(8080)) == "request 2\n"
    assert "1 applied, 0 pending" in app.exec(f"{BUNDLE}/bin/startup", "status").stdout
    assert app.stop()[0] == 143, app.logs

    example("up", "--detach", "--wait", "--force-recreate", "--no-deps", "app")
    assert "warm in post_start: 200, request 1" in example.app.logs
    assert greeting not in example.app.logs
    assert "applied in" not in example.app.logs
