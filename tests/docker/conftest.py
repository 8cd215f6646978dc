"""Real images and containers. What is made here has a name of this run's own, and is removed when it is over.

``docker``         the engine's command line: ``docker("ps")``, ``docker.run(IMAGE, ...)``, ``docker.start(IMAGE, ...)``
``base_image``     the Dockerfile's target ``base``
``bundle_image``   its target ``bundle``
``demo_image``     its last target
``build``          ``build("scratch")``: one of ``images.ALL``, most of them with the bundle
``derived_image``  ``derived_image(dockerfile, **files)``: an image of the test's own, ``{base}`` is ``base_image``
``postgres``       a PostgreSQL 17 container on a network of its own; ``database`` is a fresh database there
``project``        a copy of what compose.yaml needs, as a compose project of the test's own
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from .images import ALL, CONTEXT, Built

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: What the Dockerfile copies (.dockerignore), and what reads it.
SOURCES = (
    *("Dockerfile", "compose.yaml", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"),
    *("entrypoint.sh", "bin", "startup", "migrations", "seeds", "examples/demo", "release"),
)
Done = subprocess.CompletedProcess[str]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the group
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them on one pytest-xdist worker: images are built once, and two cores are not asked for more.

    Those that change the engine itself come last.
    """
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.docker)
            item.add_marker(pytest.mark.xdist_group("docker"))
    items.sort(key=lambda item: "swarm" in getattr(item, "fixturenames", ()))


def environment() -> dict[str, str]:
    """The tester's own, without what compose.yaml would read from it."""
    ours = ("STARTUP_", "POSTGRES_", "DEMO_", "COMPOSE_", "DATABASE_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"DEMO_PORT": "0"}


def wait_for(condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
    """Ask *condition* until it is true; fails the test after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.1)


def get(address: str) -> str:
    """The body of http://*address*; urllib.error.HTTPError for a status of 400 or more."""
    with urlopen(f"http://{address}", timeout=10) as answer:
        body: bytes = answer.read()
        return body.decode()


@dataclass
class Container:
    """A container that runs in the background."""

    docker: Docker
    name: str

    @property
    def state(self) -> dict[str, Any]:
        """``State`` as docker inspect shows it: Status, Running, ExitCode, Health ..."""
        state: dict[str, Any] = json.loads(self.docker("inspect", "--format", "{{json .State}}", self.name).stdout)
        return state

    @property
    def health(self) -> str:
        return str(self.state["Health"]["Status"])

    @property
    def logs(self) -> str:
        """Both streams together, in the order in which the engine got them."""
        return self.docker("logs", self.name, stderr=subprocess.STDOUT).stdout

    def wait_until_healthy(self) -> None:
        def healthy() -> bool:
            assert self.state["Running"], f"it has ended with {self.state['ExitCode']}: {self.logs}"
            return self.health == "healthy"

        try:
            wait_for(healthy, f"{self.name} healthy")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.state}\n{self.logs}") from None

    def wait_for_log(self, text: str) -> None:
        def logged() -> bool:
            running = self.state["Running"]
            if text in (logs := self.logs):
                return True
            assert running, f"it has ended with {self.state['ExitCode']}: {logs}"
            return False

        wait_for(logged, f"{text!r} in the log")

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return int(self.docker("wait", self.name).stdout)

    def exec(self, *command: str, check: bool = True) -> Done:
        return self.docker("exec", self.name, *command, check=check)

    def address(self, port: int) -> str:
        """Where the published *port* of the container is reached: HOST:PORT."""
        return self.docker("port", self.name, f"{port}/tcp").stdout.split()[0]

    def stop(self) -> tuple[int, float]:
        """docker stop, with Docker's own 10 s; the exit code, and how long it took in seconds."""
        began = time.monotonic()
        self.docker("stop", self.name)
        return int(self.state["ExitCode"]), time.monotonic() - began


class Docker:
    """The docker command. Everything that it makes under :attr:`run_id` is removed by :meth:`clean`."""

    def __init__(self) -> None:
        self.run_id = f"startup-test-{uuid.uuid4().hex[:8]}"
        self._count = 0
        self._containers: list[str] = []
        self._images: list[str] = []
        #: Puts back on their networks the containers that outlive a test (see the fixture ``swarm``).
        self.rejoin: list[Callable[[], object]] = []

    def new_name(self) -> str:
        self._count += 1
        return f"{self.run_id}-{self._count}"

    def __call__(
        self,
        *arguments: str,
        input: str | None = None,
        check: bool = True,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stderr: int = subprocess.PIPE,
        timeout: float = 120,
    ) -> Done:
        """``docker ARGUMENTS``. With *check*, an exit code that is not 0 fails the test with what was printed."""
        done = subprocess.run(
            ["docker", *arguments],
            **({"stdin": subprocess.DEVNULL} if input is None else {"input": input}),
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=cwd,
            env=environment() | dict(env or {}),
            text=True,
            timeout=timeout,
        )
        if check:
            assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def claim_name(self) -> str:
        """For a container that a test starts by itself; it is removed like the others."""
        self._containers.append(self.new_name())
        return self._containers[-1]

    def container(self, name: str) -> Container:
        return Container(self, name)

    def build(self, context: Path, *options: str) -> str:
        """Build an image of a name of its own; the name."""
        name = self.new_name()
        self._images.append(name)
        self("build", "--quiet", "--tag", name, *options, str(context), timeout=170)
        return name

    def run(self, *arguments: str, input: str | None = None, timeout: float = 60) -> Done:
        """``docker run --rm ARGUMENTS`` to its end; its exit code and what it printed are for the test to check."""
        name = self.new_name()
        self._containers.append(name)
        return self("run", "--rm", "--name", name, *arguments, input=input, check=False, timeout=timeout)

    def start(self, *arguments: str) -> Container:
        """``docker run --detach ARGUMENTS``; the container stays when it has ended, for its log and exit code."""
        name = self.new_name()
        self._containers.append(name)
        self("run", "--detach", "--name", name, *arguments)
        return Container(self, name)

    def inspect(self, image: str) -> dict[str, Any]:
        """What docker image inspect shows."""
        shown: dict[str, Any] = json.loads(self("image", "inspect", image).stdout)[0]
        return shown

    def clean(self, images: bool = False) -> None:
        """Remove the containers started so far, and with *images* the images too."""
        if self._containers:
            self("rm", "--force", "--volumes", *self._containers, check=False)
            self._containers.clear()
        if images and self._images:
            self("rmi", "--force", *self._images, check=False)


@pytest.fixture(scope="session")
def engine() -> Iterator[Docker]:
    """The engine; the tests are skipped where there is none."""
    try:
        there = subprocess.run(["docker", "info"], capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        there = None
    if there is None or there.returncode != 0:
        pytest.skip("there is no Docker Engine here")
    docker = Docker()
    yield docker
    docker.clean(images=True)


@pytest.fixture
def docker(engine: Docker) -> Iterator[Docker]:
    """The engine, without the test's containers afterwards."""
    yield engine
    engine.clean()


@pytest.fixture(scope="session")
def base_image(engine: Docker) -> str:
    return engine.build(ROOT, "--target", "base")


@pytest.fixture(scope="session")
def demo_image(engine: Docker) -> str:
    return engine.build(ROOT)


@pytest.fixture(scope="session")
def bundle_image(engine: Docker) -> str:
    return engine.build(ROOT, "--target", "bundle")


@pytest.fixture(scope="session")
def bundle_directory(engine: Docker, bundle_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's files, to be mounted as /opt/startup."""
    name = engine.claim_name()
    engine("create", "--name", name, bundle_image, "none")
    there = tmp_path_factory.mktemp("bundle")
    engine("cp", "--quiet", f"{name}:/opt/startup", str(there))
    engine("rm", name)
    return there / "startup"


DerivedImage = Callable[..., str]
Build = Callable[[str], Built]


@pytest.fixture
def derived_image(engine: Docker, base_image: str, tmp_path: Path) -> DerivedImage:
    """``derived_image(dockerfile, context)``: built on ``base_image``, which stands for ``{base}`` in *dockerfile*."""

    def build(dockerfile: str, context: Path = tmp_path) -> str:
        file = tmp_path / "Dockerfile.derived"
        file.write_text(dockerfile.replace("{base}", base_image))
        return engine.build(context, "--file", str(file))

    return build


@pytest.fixture(scope="session")
def build(engine: Docker, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Build:
    """``build(WHICH)``: the one of :data:`.images.ALL`, each built once."""
    context = tmp_path_factory.mktemp("images")
    for name, text in CONTEXT.items():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(text)
        (context / name).chmod(0o755)

    @cache
    def build(which: str) -> Built:
        lines = ALL[which].dockerfile
        for stage in ("bundle", "base"):
            if f"{{{stage}}}" in lines:
                lines = lines.replace(f"{{{stage}}}", request.getfixturevalue(f"{stage}_image"))
        (context / "Dockerfile").write_text(lines)
        return Built(ALL[which], engine.build(context))

    return build


#: What the server is called on its network.
ALIAS = "db"


@dataclass
class Postgres:
    """A server in a container, seen by containers on *network* under the name ``db``."""

    docker: Docker
    network: str
    name: str
    password: str = "s3cr3t-Pa55"

    def rejoin(self) -> None:
        """Leave the network and join it again: the engine then knows the server's name."""
        self.docker("network", "disconnect", self.network, self.name)
        self.docker("network", "connect", "--alias", ALIAS, self.network, self.name)

    def psql(self, database: str, sql: str) -> str:
        """What psql prints, unaligned: one row a line, ``|`` between the columns."""
        words = ("psql", "--username=postgres", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet")
        return self.docker("exec", self.name, *words, f"--dbname={database}", f"--command={sql}").stdout.strip()


@pytest.fixture(scope="session")
def postgres(engine: Docker) -> Iterator[Postgres]:
    name = engine.new_name()
    server = Postgres(engine, network=name, name=name)
    engine("network", "create", name)
    try:
        engine(
            *("run", "--detach", "--name", name, "--network", name, "--network-alias", ALIAS),
            *("--tmpfs", "/var/lib/postgresql/data", "--env", f"POSTGRES_PASSWORD={server.password}"),
            *("postgres:17-trixie", "postgres", "-c", "fsync=off"),
        )
        ready = ("exec", name, "pg_isready", "--quiet", "--host=127.0.0.1")
        wait_for(lambda: engine(*ready, check=False).returncode == 0, "the server", timeout=60)
        engine.rejoin.append(server.rejoin)
        yield server
    finally:
        engine.rejoin.clear()
        engine("rm", "--force", "--volumes", name, check=False)
        engine("network", "rm", name, check=False)


@dataclass
class Database:
    """A fresh database. ``docker.run(*database.options, IMAGE)`` gives a container its address."""

    server: Postgres
    name: str

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.server.password}@{ALIAS}/{self.name}"

    @property
    def options(self) -> tuple[str, ...]:
        return ("--network", self.server.network, "--env", f"DATABASE_URL={self.url}")

    def query(self, sql: str) -> str:
        return self.server.psql(self.name, sql)


@pytest.fixture
def database(postgres: Postgres) -> Database:
    name = f"test_{uuid.uuid4().hex[:8]}"
    postgres.psql("postgres", f"CREATE DATABASE {name}")
    return Database(postgres, name)


class Project:
    """A compose project in a directory of its own, where a test may change files."""

    def __init__(self, docker: Docker, directory: Path) -> None:
        self.docker = docker
        self.directory = directory
        self.name = docker.new_name()
        for source in SOURCES:
            target = directory / source
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / source, target)

    def __call__(self, *arguments: str, check: bool = True, env: Mapping[str, str] | None = None) -> Done:
        """``docker compose ARGUMENTS``"""
        words = ("compose", "--project-name", self.name, *arguments)
        return self.docker(*words, check=check, cwd=self.directory, env=env, timeout=170)

    def up(self, env: Mapping[str, str] | None = None) -> None:
        """``docker compose up --build --detach --wait``; fails with the app's log unless all is green."""
        done = self("up", "--build", "--detach", "--wait", "--wait-timeout", "90", check=False, env=env)
        assert done.returncode == 0, f"{done.stderr}\n{self('logs', check=False).stdout}"

    def down(self) -> float:
        """``docker compose down``; how long it took in seconds."""
        began = time.monotonic()
        self("down")
        return time.monotonic() - began

    @property
    def app(self) -> Container:
        return Container(self.docker, self("ps", "--all", "--quiet", "app").stdout.strip())

    def query(self, sql: str) -> str:
        """What psql prints in the service ``db``, unaligned."""
        words = ("psql", "--username=demo", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet")
        return self("exec", "--no-TTY", "db", *words, f"--command={sql}").stdout.strip()

    @cached_property
    def seeded(self) -> list[str]:
        """The email addresses of seeds/users.csv."""
        lines = (self.directory / "seeds" / "users.csv").read_text().splitlines()[1:]
        return [line.split(",")[0] for line in lines]

    def clean(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self("--profile", "tasks", "down", "--volumes", "--timeout", "1", check=False)
        # `down --rmi local` forgets those that are not in use, or that a second build has replaced
        label = f"label=com.docker.compose.project={self.name}"
        images = self.docker("images", "--quiet", "--filter", label, check=False).stdout.split()
        if images:
            self.docker("rmi", "--force", *images, check=False)


@pytest.fixture
def project(docker: Docker, tmp_path: Path) -> Iterator[Project]:
    one = Project(docker, tmp_path / "project")
    yield one
    one.clean()


@pytest.fixture(scope="module")
def running_project(engine: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One project for a module's tests, up and green; a test may restart it, but leaves it green."""
    one = Project(engine, tmp_path_factory.mktemp("project") / "project")
    try:
        one.up()
        yield one
    finally:
        one.clean()
