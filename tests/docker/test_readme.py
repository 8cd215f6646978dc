"""The Dockerfiles of README.md and docs/which-way.md build and run as they are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import ROOT, get

if TYPE_CHECKING:
    from .conftest import Docker

README, WAYS = ROOT / "README.md", ROOT / "docs" / "which-way.md"
SQLITE = ("--env", "DATABASE_URL=sqlite:///shop.db")
SERVER = 'require("http").createServer((_, answer) => answer.end("shop\\n")).listen(8000);\n'
WSGI = 'def application(environ, start):\n    start("200 OK", [])\n    return [b"shop\\n"]\n'
MIGRATION = "CREATE TABLE plans (name text PRIMARY KEY);\n"


def block(page: Path, first: str) -> str:
    """The indented block of *page* whose first line begins with *first*."""
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", page.read_text(), re.MULTILINE)
    texts = [re.sub("^    ", "", one, flags=re.MULTILINE).strip() + "\n" for one in blocks]
    (found,) = [text for text in texts if text.startswith(first)]
    return found


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """An app's directory, as a new user has it."""
    for name, text in {
        "server.js": SERVER,
        "shop/__init__.py": "",
        "shop/wsgi.py": WSGI,
        "requirements.txt": "gunicorn\n",
        "migrations/0001.plans.sql": MIGRATION,
    }.items():
        path = tmp_path / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "app"


def serves(docker: Docker, context: Path, dockerfile: str) -> None:
    (context / "Dockerfile").write_text(dockerfile)
    container = docker.start("--publish", "127.0.0.1:0:8000", *SQLITE, docker.build(context))
    container.wait_until_healthy()
    assert "startup: migration 1 of 1: 0001.plans applied" in container.logs
    assert get(container.address(8000)) == "shop\n"


def test_the_readmes_first_dockerfile_is_the_bundles(docker: Docker, bundle_image: str, context: Path) -> None:
    text = re.search(r"^    FROM .*\n", README.read_text(), re.MULTILINE)
    assert text, "no Dockerfile"
    dockerfile = block(README, text[0].strip())
    assert dockerfile.count("COPY --from=startup-tasks:bundle /opt/startup /opt/startup\n") == 1
    serves(docker, context, dockerfile.replace("startup-tasks:bundle", bundle_image))


def test_the_bundles_lines_are_the_same_on_both_pages() -> None:
    whole = block(README, "FROM debian:").splitlines()
    assert [line for line in block(WAYS, "COPY --from=startup-tasks:bundle ").splitlines() if line not in whole] == []


def test_from_the_base_image(docker: Docker, base_image: str, context: Path) -> None:
    dockerfile = block(WAYS, "FROM startup-tasks\n")
    serves(docker, context, dockerfile.replace("FROM startup-tasks\n", f"FROM {base_image}\n"))


def test_by_pip(docker: Docker, context: Path) -> None:
    wheel = docker.build(ROOT, "--target", "wheel")
    created = docker.claim_name()
    docker("create", "--name", created, wheel)
    docker("cp", f"{created}:/wheel", str(context / "dist"))
    before = "FROM python:3.13-slim-trixie\nRUN pip install --no-cache-dir gunicorn\nWORKDIR /app\n"
    before += "COPY shop shop\nCOPY migrations migrations\n"
    serves(docker, context, before + block(WAYS, "COPY dist/"))
