"""The bundle where an image or its user has set or left out what it might lean on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .first_process import BUNDLE

if TYPE_CHECKING:
    from .conftest import Docker

SHELL, PYTHON = f"{BUNDLE}/bin/sh", f"{BUNDLE}/bin/python3"
VERB, ENTRYPOINT = f"{BUNDLE}/bin/startup", f"{BUNDLE}/bin/startup-entrypoint"
SETTINGS = ("--env=STARTUP_PING=none", "--env=STARTUP_TASKS=say@local")
#: The app ends by itself after its task has.
APP = 'echo "app $SHOWN"; until [ -e /tmp/said ]; do sleep 0.02; done; exit 5'


@pytest.fixture(scope="module")
def image(engine: Docker, bundle_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian's with the bundle; the verbs are on PATH by links, as somebody may have made them."""
    context = tmp_path_factory.mktemp("surroundings")
    (context / "Dockerfile").write_text(
        f"FROM debian:trixie-slim\nCOPY --from={bundle_image} /opt/startup /opt/startup\n"
        f'RUN ln -s {VERB} {ENTRYPOINT} /usr/local/bin/\nENTRYPOINT ["startup-entrypoint"]\n'
    )
    return engine.build(context)


def start(docker: Docker, image: str, shown: str, *options: str, shell: str = "sh") -> tuple[int, str, str]:
    """Exit code, the app's output, and everything else, of an app and a task that both print *shown*."""
    task = f'--env=STARTUP_TASK_SAY=echo "task {shown}"; touch /tmp/said'
    app = APP.replace("$SHOWN", shown)
    done = docker.run(*SETTINGS, task, *options, image, shell, "-c", app)
    return done.returncode, done.stdout, done.stderr


def test_a_variable_of_several_lines_forges_no_other(docker: Docker, image: str) -> None:
    """Nor is one of the loader's cut at the end of its first line."""
    options = ("--env=LD_LIBRARY_PATH=/a\n/b", "--env=NOTE=first\nLD_PRELOAD=/forged.so")
    code, app, said = start(docker, image, "$LD_LIBRARY_PATH ${LD_PRELOAD-none}", *options)
    assert (code, app) == (5, "app /a\n/b none\n"), said
    assert "\ntask /a\n/b none\n" in said


def test_it_needs_no_proc(docker: Docker, image: str) -> None:
    """The loader would look there for the place that $ORIGIN stands for."""
    rights = ("--cap-add=SYS_ADMIN", "--security-opt=apparmor=unconfined", "--env=LD_LIBRARY_PATH=/a")
    command = f"umount -l /proc; exec {ENTRYPOINT} sh -c '{APP}'".replace("$SHOWN", "$LD_LIBRARY_PATH")
    settings = (*SETTINGS, "--env=STARTUP_TASK_SAY=echo task $LD_LIBRARY_PATH; touch /tmp/said")
    done = docker.run(*settings, *rights, "--entrypoint=sh", image, "-c", command)
    assert (done.returncode, done.stdout) == (5, "app /a\n"), done.stderr
    assert "\ntask /a\n" in done.stderr


def test_an_apps_python_that_is_too_old_is_named(docker: Docker, bundle_image: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM debian:bookworm-slim\nRUN apt-get update && apt-get install --yes --no-install-recommends pypy3\n"
        f'COPY --from={bundle_image} /opt/startup /opt/startup\nENTRYPOINT ["{ENTRYPOINT}"]\n'
    )
    image = docker.build(tmp_path)
    old = "--env=STARTUP_PYTHON=pypy3"
    done = docker.run(old, image, "startup", "describe")
    text = "startup: error: STARTUP_PYTHON is /usr/bin/pypy3, a Python 3.9: it must be 3.10 or newer"
    assert (done.returncode, done.stderr.splitlines()) == (78, [text])
    code, _, said = start(docker, image, "", old)
    assert (code, said.splitlines()[0]) == (78, text)
