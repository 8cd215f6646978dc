"""The pods of deploy/kubernetes as containers: what the kubelet would give them, and a user id nobody has chosen."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .conftest import ROOT, Container, get, wait_for

if TYPE_CHECKING:
    from .conftest import Database, Docker

TASKS = "migrate insert_users"


class Pod:
    """The one container of a Deployment's or Job's pod, translated into the words of ``docker run``."""

    def __init__(self, file: str, kind: str, image: str, database: Database, directory: Path) -> None:
        objects = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / file).read_text())
        spec = next(one for one in objects if one["kind"] == kind)["spec"]["template"]["spec"]
        self.image = image
        self.database = database
        self.directory = directory
        self.container: dict[str, Any] = spec["containers"][0]
        self.volumes = {volume["name"]: volume for volume in spec["volumes"]}
        (directory / "url").write_text(database.url)
        self.termination_log = directory / "termination-log"
        self.termination_log.touch()
        self.termination_log.chmod(0o666)

    def options(self, node: str, **environment: str) -> tuple[str, ...]:
        """All of ``docker run`` but --detach and --name; *environment* wins over the manifest's."""
        security = self.container["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
        words = ["--read-only", "--security-opt", "no-new-privileges", "--user", "54321:54321", "--no-healthcheck"]
        words += ["--network", self.database.server.network, "--publish", "127.0.0.1::8000"]
        words += [word for name in security["capabilities"]["drop"] for word in ("--cap-drop", name)]
        env = {entry["name"]: entry.get("value", node) for entry in self.container["env"]}
        for name, value in (env | {"STARTUP_TASKS": TASKS} | environment).items():
            words += ["--env", f"{name}={value}"]
        for mount in self.container["volumeMounts"]:
            path = mount["mountPath"]
            if "secret" in self.volumes[mount["name"]]:
                words += ["--volume", f"{self.directory}/url:{path}/url:ro"]
            else:
                words += ["--mount", f"type=tmpfs,destination={path},tmpfs-mode=0777"]
        words += ["--volume", f"{self.termination_log}:/dev/termination-log"]
        return (*words, self.image, *self.container.get("args", ()))

    def probe(self, container: Container, name: str) -> tuple[bool, str]:
        """One try of the startupProbe or readinessProbe, and what it printed."""
        done = container.exec(*self.container[name]["exec"]["command"], check=False)
        return done.returncode == 0, done.stdout.strip()

    def is_started(self, container: Container) -> bool:
        return self.probe(container, "startupProbe")[0]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def test_a_pod_of_the_deployment_starts_serves_and_drains(
    docker: Docker, demo_image: str, database: Database, directory: Path
) -> None:
    pod = Pod("deployment.yaml", "Deployment", demo_image, database, directory)
    container = docker.start(*pod.options("shop-1"))
    wait_for(partial(pod.is_started, container), "the startup probe")
    assert pod.probe(container, "readinessProbe") == (True, "ready")
    address = container.address(8000)
    assert "admin@example.com" in get(f"{address}/users")
    began = time.monotonic()
    docker("kill", "--signal", "TERM", container.name)
    wait_for(lambda: not pod.probe(container, "readinessProbe")[0], "the readiness probe to fail", 2)
    assert "admin@example.com" in get(f"{address}/users"), "requests that still come are answered"
    assert container.wait() in (0, 143)
    assert 2 <= time.monotonic() - began < 10, container.logs


def test_followers_that_are_there_before_the_job_are_ready_when_it_is_done(
    docker: Docker, demo_image: str, database: Database, directory: Path
) -> None:
    job, follower = (
        Pod("job-and-followers.yaml", kind, demo_image, database, directory) for kind in ("Job", "Deployment")
    )
    followers = [docker.start(*follower.options(f"follower-{number}")) for number in (1, 2)]
    for one in followers:
        one.wait_for_log("following: nobody runs the tasks now")
        assert not follower.is_started(one)
    done = docker.run(*job.options("the-job"))
    assert done.returncode == 0, done.stderr
    for one in followers:
        wait_for(partial(follower.is_started, one), "the follower ready", 10)
        assert "applied" not in one.logs
    assert database.query("SELECT DISTINCT node FROM startup_ledger") == "the-job"
    assert database.query("SELECT count(*), count(DISTINCT migration_id) FROM _yoyo_log") == "3|3"


def test_the_termination_message_says_why_a_pod_ended(
    docker: Docker, demo_image: str, database: Database, directory: Path
) -> None:
    pod = Pod("deployment.yaml", "Deployment", demo_image, database, directory)
    container = docker.start(*pod.options("shop-1", STARTUP_TASKS="insert_users"))
    assert container.wait() == 70
    message = pod.termination_log.read_text()
    assert "task insert_users failed" in message
    assert "exit code 70" in message


def test_a_follower_whose_job_never_comes_gives_up_with_75(
    docker: Docker, demo_image: str, database: Database, directory: Path
) -> None:
    pod = Pod("job-and-followers.yaml", "Deployment", demo_image, database, directory)
    container = docker.start(*pod.options("follower-1", STARTUP_FOLLOW_TIMEOUT="1"))
    assert container.wait() == 75
    assert "STARTUP_FOLLOW_TIMEOUT" in pod.termination_log.read_text()
    assert database.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == ""
