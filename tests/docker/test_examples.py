"""examples/: each README's commands print what it shows; a node that is killed comes back with nothing run twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import pages
from .conftest import ROOT, environment

if TYPE_CHECKING:
    from .conftest import Docker

EXAMPLES = {path.parent.name: path for path in (ROOT / "examples").glob("*/README.md")}
#: The most lines that an example may have, without its README.
LONGEST = 100


class Example:
    """A copy of the example, as a compose project of the test's own."""

    def __init__(self, docker: Docker, source: Path, directory: Path, images: dict[str, str]) -> None:
        self.docker = docker
        self.directory = directory
        self.environ = environment() | images | {"PORT": "0", "COMPOSE_PROJECT_NAME": docker.new_name()}
        shutil.copytree(source, directory, ignore=shutil.ignore_patterns("__pycache__"))

    def __call__(self, *words: str, check: bool = True) -> str:
        done = self.docker("compose", *words, cwd=self.directory, env=self.environ, check=check, timeout=170)
        return done.stdout + done.stderr


@pytest.fixture
def images(base_image: str, bundle_image: str) -> dict[str, str]:
    return {"BASE": base_image, "BUNDLE": bundle_image}


@pytest.fixture
def example(
    docker: Docker, images: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Example]:
    one = Example(docker, EXAMPLES[request.param].parent, tmp_path / "example", images)
    yield one
    one("down", "--volumes", "--rmi", "local", "--timeout", "1", check=False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("example", sorted(EXAMPLES), indirect=True)
def test_an_example_does_what_its_readme_says_and_bears_a_kill(example: Example) -> None:
    assert pages.run(example.directory / "README.md", example.directory, example.environ) > 0
    assert example("ps", "--all", "--quiet") == "", "it has tidied up"

    example("up", "--detach", "--wait")
    for service in [name for name in example("config", "--services").split() if name not in ("db", "redis")]:
        example("kill", service)
    example("up", "--detach", "--wait")
    logs = example("logs", "--no-log-prefix")
    again = logs.count("migrate, is done after") == 2  # a tool of its own, which knows by itself what is applied
    assert "startup: error:" not in logs and (again or "is done already" in logs or "are done already" in logs), logs


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_is_short(name: str) -> None:
    files = [path for path in EXAMPLES[name].parent.rglob("*") if path.is_file() and path.name != "README.md"]
    texts = [path.read_text() for path in files if "__pycache__" not in path.parts]
    assert sum(text.count("\n") for text in texts) < LONGEST
