"""examples/wait-for: an app before which Redis, PostgreSQL and an HTTP service must be there, whatever the order."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import ROOT, Container, wait_for

if TYPE_CHECKING:
    from .conftest import Docker

#: What the app's lines call each of the services.
NAMES = {
    "cache": "redis://cache",
    "db": "the database at postgresql://postgres:***@db/postgres",
    "api": "http://api:8080/",
}


class Example:
    """A copy of the example, as a compose project of the test's own."""

    def __init__(self, docker: Docker, bundle: str, directory: Path) -> None:
        self.docker = docker
        self.directory = directory
        self.name = docker.new_name()
        self.environ = {"BUNDLE": bundle}
        shutil.copytree(ROOT / "examples" / "wait-for", directory)

    def __call__(self, *words: str, check: bool = True) -> str:
        compose = ("compose", "--project-name", self.name, *words)
        return self.docker(*compose, cwd=self.directory, env=self.environ, check=check, timeout=170).stdout

    def begin(self, seconds: str = "60") -> Container:
        """The app alone, a new one, and for how long it waits."""
        self.environ["WAIT_TIMEOUT"] = seconds
        self("up", "--detach", "--no-deps", "--force-recreate", "app")
        return Container(self.docker, self("ps", "--all", "--quiet", "app").strip())


@pytest.fixture(scope="module")
def example(engine: Docker, bundle_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    one = Example(engine, bundle_image, tmp_path_factory.mktemp("wait-for") / "example")
    try:
        one("build")
        one("create", "--no-build")
        yield one
    finally:
        one("down", "--volumes", "--rmi", "local", "--timeout", "1", check=False)


@pytest.mark.parametrize("order", list(permutations(NAMES)), ids="-".join)
def test_the_app_begins_when_the_last_is_there_whichever_that_is(example: Example, order: tuple[str, ...]) -> None:
    example("stop", "--timeout", "1", *NAMES)
    app = example.begin()
    missing = list(order)
    for service in order:

        def told(left: tuple[str, ...] = tuple(missing)) -> bool:
            last = "".join(app.logs.splitlines()[-1:])
            return "waiting for" in last and all((NAMES[one] in last) == (one in left) for one in NAMES)

        wait_for(told, f"a line that names {missing}, and nothing else")
        assert "the app begins" not in app.logs
        example("start", service)
        missing.remove(service)
    app.wait_for_log("the app begins")
    app.wait_until_healthy()
    logs = app.logs
    assert logs.index("startup: there after ") < logs.index("the app begins"), logs
    assert "for-the-example-only" not in logs


def test_one_that_never_comes_is_named_and_the_app_never_begins(example: Example) -> None:
    example("start", *NAMES)
    example("stop", "--timeout", "1", "cache")
    app = example.begin("6")
    assert app.wait() == 124
    last = app.logs.splitlines()[-1]
    assert last.startswith("startup: error: not there within 6 s (STARTUP_WAIT_TIMEOUT): redis://cache: ")
    assert last.endswith("; the app was not started (exit code 124)")
    assert not [name for service, name in NAMES.items() if service != "cache" and name in last]
    assert "the app begins" not in app.logs
