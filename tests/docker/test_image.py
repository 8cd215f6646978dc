"""The Dockerfile's target ``base``: what an image that is built on it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .conftest import ROOT, get

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import DerivedImage, Docker

SERVER = ("python", "-m", "http.server", "8000")
UNPRIVILEGED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "54321")


def test_base_adds_less_than_20_mb(docker: Docker, base_image: str) -> None:
    added = docker.inspect(base_image)["Size"] - docker.inspect("python:3.13-slim-trixie")["Size"]
    assert 0 < added < 20e6


def test_base_has_both_commands_on_path_and_no_root(docker: Docker, base_image: str) -> None:
    done = docker.run("--entrypoint", "sh", base_image, "-c", "which startup startup-entrypoint; id -u; pwd")
    assert done.stdout.split() == ["/usr/local/bin/startup", "/usr/local/bin/startup-entrypoint", "10001", "/app"]


def test_base_ships_every_module_compiled(docker: Docker, base_image: str) -> None:
    look = """
import importlib.util, pathlib, sys
files = list(pathlib.Path("/opt/startup/lib").rglob("*.py"))
missing = [str(file) for file in files if not pathlib.Path(importlib.util.cache_from_source(file)).exists()]
sys.exit(f"{len(missing)} of {len(files)}: {missing}" if missing or not files else 0)
"""
    done = docker.run("--entrypoint", "python", base_image, "-c", look)
    assert done.returncode == 0, done.stderr


def test_an_apps_own_packages_are_not_changed_by_those_of_the_tasks(docker: Docker, base_image: str) -> None:
    done = docker.run("--entrypoint", "python", base_image, "-c", "import psycopg")
    assert "No module named 'psycopg'" in done.stderr


@pytest.mark.parametrize("options", [(), UNPRIVILEGED], ids=["as it is", "read-only, no capability, random user id"])
def test_a_web_server_turns_healthy(docker: Docker, base_image: str, options: tuple[str, ...]) -> None:
    container = docker.start("--publish", "127.0.0.1::8000", *options, base_image, *SERVER)
    container.wait_until_healthy()
    assert "Directory listing" in get(container.address(8000))
    assert container.exec("startup", "health").stdout == "ready\n"
    code, seconds = container.stop()
    assert (code, seconds < 5) == (143, True), container.logs


def test_migrations_run_with_a_read_only_root_without_capabilities_as_a_random_user(
    docker: Docker, demo_image: str
) -> None:
    memory = ("--mount", "type=tmpfs,destination=/data,tmpfs-mode=1777")
    container = docker.start(
        *UNPRIVILEGED,
        *memory,
        *("--env", "DATABASE_URL=sqlite:////data/demo.db", "--env", "STARTUP_TASKS=migrate insert_users"),
        *("--publish", "127.0.0.1::8000", demo_image),
    )
    container.wait_until_healthy()
    assert "admin@example.com" in get(f"{container.address(8000)}/users")


def test_health_is_answered_by_the_shell_alone(docker: Docker, base_image: str) -> None:
    container = docker.start("--publish", "127.0.0.1::8000", base_image, *SERVER)
    container.wait_until_healthy()
    verb = ("startup-entrypoint", "startup", "health")
    done = docker("exec", "--env", "STARTUP_PYTHON=/bin/false", container.name, *verb)
    assert done.stdout == "ready\n"


def test_the_health_check_bears_a_migration_of_hours(docker: Docker, base_image: str) -> None:
    check = docker.inspect(base_image)["Config"]["Healthcheck"]
    assert check["StartPeriod"] == 24 * 3600 * 10**9
    assert check["StartInterval"] == 10**9


def test_health_is_starting_and_not_unhealthy_while_a_task_runs(docker: Docker, base_image: str) -> None:
    container = docker.start(
        *("--env", "STARTUP_TASKS=long@local", "--env", "STARTUP_TASK_LONG=sleep 1000"),
        *(base_image, *SERVER),
    )
    container.wait_for_log("long")
    assert container.health == "starting"
    assert container.exec("startup", "health", check=False).returncode == 1


def test_an_image_that_sets_entrypoint_is_told_to_repeat_its_command(
    docker: Docker, derived_image: DerivedImage
) -> None:
    done = docker.run(derived_image('FROM {base}\nENTRYPOINT ["startup-entrypoint"]\nCMD []\n'))
    assert done.returncode == 78
    assert "repeat" in done.stderr


def test_pip_install_puts_the_entrypoint_in_front_of_any_image(docker: Docker, derived_image: DerivedImage) -> None:
    image = derived_image(
        "FROM python:3.13-slim-trixie\n"
        "COPY . /src\n"
        "RUN pip install --no-cache-dir /src\n"
        'ENTRYPOINT ["startup-entrypoint"]\n'
        'CMD ["sh", "-c", "echo the app; exit 7"]\n',
        ROOT,
    )
    done = docker.run(image)
    assert (done.returncode, done.stdout) == (7, "the app\n"), done.stderr
    assert docker.run(image, "startup", "plan").returncode == 0


def test_an_apps_own_startup_module_on_pythonpath_shadows_nothing(
    docker: Docker, derived_image: DerivedImage, tmp_path: Path
) -> None:
    for name in ("startup.py", "dotenv.py"):
        (tmp_path / name).write_text("raise SystemExit('this is the app')\n")
    image = derived_image('FROM {base}\nCOPY *.py ./\nENV PYTHONPATH=/app\nCMD ["true"]\n')
    assert docker.run("--entrypoint", "python", image, "-c", "import startup").returncode == 1
    assert docker.run(image, "startup", "plan").returncode == 0
    assert docker.run("--entrypoint", "startup", image, "plan").returncode == 0
