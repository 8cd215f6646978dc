"""deploy/swarm.yaml on a real Swarm of one machine: a first deployment, a rolling update, one that Swarm takes back."""

from __future__ import annotations

import fcntl
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import HERE, ROOT, wait_for

if TYPE_CHECKING:
    from .conftest import Docker

REPLICAS = 5
DEMO = ["0001_create_users", "0002_add_plans", "0003_unique_email_in_any_case"]
PASSWORD = "s3cr3t-Pa55"

#: Seeds: what is inserted twice is there twice, since no constraint keeps it from that.
SEEDS = """
from startup import Context, task

@task(policy="once")
def first_notes(context: Context) -> None:
    context.connection.execute("INSERT INTO notes (text, node) VALUES ('first', %s)", (context.node,))

@task(policy="once")
def tagged_notes(context: Context) -> None:
    context.connection.execute("INSERT INTO notes (text, tag, node) VALUES ('second', 'new', %s)", (context.node,))
"""
#: Long enough for the other nodes to come and wait.
SLOWLY = "SELECT pg_sleep(2);\n"
#: Until the test has seen the other nodes wait.
UNTIL_GO = """
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_tables WHERE tablename = 'go') LOOP PERFORM pg_sleep(0.1); END LOOP;
END $$;
"""
MIGRATIONS = {
    1: {"0004_notes": f"CREATE TABLE notes (text text, node text);\n{UNTIL_GO}"},
    2: {"0005_tags": f"ALTER TABLE notes ADD COLUMN tag text;\n{SLOWLY}"},
    3: {"0006_broken": f"ALTER TABLE notes ADD COLUMN broken text;\n{SLOWLY}ALTER TABLE nowhere ADD COLUMN n int;\n"},
}
TASKS = {
    1: "migrate insert_users first_notes",
    2: "migrate insert_users first_notes tagged_notes",
    3: "migrate insert_users first_notes tagged_notes",
}


@pytest.fixture
def swarm(docker: Docker) -> Iterator[None]:
    """A Swarm of this engine alone, for one test run at a time; the engine is left as it was.

    Leaving makes it forget the names of containers that were on a network of their own before.
    """
    with (Path(tempfile.gettempdir()) / "startup-tests-swarm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if docker("info", "--format", "{{.Swarm.LocalNodeState}}").stdout.strip() == "active":
            yield
            return
        bridge = docker("network", "inspect", "docker_gwbridge", check=False).returncode == 0
        docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
        try:
            yield
        finally:
            docker("swarm", "leave", "--force")
            for rejoin in docker.rejoin:
                rejoin()
            if not bridge:
                docker("network", "rm", "docker_gwbridge", check=False)


class Stack:
    """deploy/swarm.yaml under a name of its own."""

    def __init__(self, docker: Docker, images: Mapping[int, str]) -> None:
        self.docker = docker
        self.images = images
        self.name = f"{docker.new_name()}-production"  # so a node's name has more bytes than PostgreSQL keeps
        self.secret = f"{self.name}-url"
        url = f"postgresql://postgres:{PASSWORD}@db/postgres"
        docker("secret", "create", self.secret, "-", input=url)

    def deploy(self, release: int) -> None:
        """``docker stack deploy`` of the release; returns at once."""
        self.docker(
            *("stack", "deploy", "--detach=true", "--resolve-image", "never"),
            *("--compose-file", str(ROOT / "deploy" / "swarm.yaml")),
            *("--compose-file", str(HERE / "swarm.override.yaml"), self.name),
            env={
                "IMAGE": self.images[release],
                "RELEASE": str(release),
                "STARTUP_TASKS": TASKS[release],
                "TEST_CLIENT": str(HERE / "swarm_client.py"),
                "TEST_PASSWORD": PASSWORD,
                "TEST_SECRET": self.secret,
            },
        )

    def _containers(self, service: str, *options: str) -> dict[str, str]:
        """Name of the task -> id of its container."""
        label = f"label=com.docker.swarm.service.name={self.name}_{service}"
        shown = '{{.Label "com.docker.swarm.task.name"}} {{.ID}}'
        lines = self.docker("ps", "--no-trunc", "--filter", label, "--format", shown, *options).stdout.splitlines()
        return dict(line.split() for line in lines)

    def healthy(self, release: int) -> dict[str, str]:
        """The replicas of the release that Swarm sends requests to."""
        return self._containers("app", "--filter", "health=healthy", "--filter", f"ancestor={self.images[release]}")

    def wait_until_healthy(self, release: int) -> None:
        wait_for(lambda: len(self.healthy(release)) == REPLICAS, f"5 replicas of release {release}", 180)

    def logs(self, release: int) -> dict[str, str]:
        """Name of the node -> all that it has said, of those of the release that have run or run now."""
        found = self._containers("app", "--all", "--filter", f"ancestor={self.images[release]}")
        return {node: self.docker("logs", one, stderr=subprocess.STDOUT).stdout for node, one in found.items()}

    def waiting(self, release: int) -> list[str]:
        """The nodes of the release that have said that they wait for the lock while somebody works."""
        return [node for node, log in self.logs(release).items() if ", at task " in log]

    def update_state(self) -> str:
        form = "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}"
        return self.docker("service", "inspect", "--format", form, f"{self.name}_app").stdout.strip()

    def wait_for_update(self, state: str) -> None:
        wait_for(lambda: self.update_state() == state, f"the update {state}", 180)

    def counted(self) -> Any:
        """The last line of the client."""
        (client,) = self._containers("client").values()
        return json.loads(self.docker("logs", "--tail", "1", client).stdout)

    def query(self, sql: str) -> list[str]:
        """What psql prints, unaligned: one row a line."""
        (db,) = self._containers("db").values()
        words = ("psql", "--username=postgres", "--no-psqlrc", "--tuples-only", "--no-align", f"--command={sql}")
        return self.docker("exec", db, *words).stdout.split()

    def applied(self) -> list[str]:
        return self.query("SELECT migration_id FROM _yoyo_log WHERE operation = 'apply' ORDER BY created_at_utc, 1")

    def _is_gone(self, *what: str) -> bool:
        label = f"label=com.docker.stack.namespace={self.name}"
        return self.docker(*what, "--quiet", "--filter", label).stdout == ""

    def remove(self) -> None:
        self.docker("stack", "rm", self.name, check=False)
        for what in (("ps", "--all"), ("network", "ls")):
            wait_for(partial(self._is_gone, *what), f"no container or network of {self.name}", 60)
        self.docker("secret", "rm", self.secret, check=False)


@pytest.fixture
def stack(docker: Docker, swarm: None, demo_image: str, tmp_path: Path) -> Iterator[Stack]:
    images: dict[int, str] = {}
    (tmp_path / "migrations").mkdir()
    (tmp_path / "notes.py").write_text(SEEDS)
    for release, migrations in MIGRATIONS.items():
        for name, sql in migrations.items():
            (tmp_path / "migrations" / f"{name}.sql").write_text(sql)
        (tmp_path / "Dockerfile").write_text(
            f"FROM {demo_image}\n"
            "COPY . .\n"
            "ENV STARTUP_MODULE=notes\n"
            f'CMD ["uvicorn", "--host", "0.0.0.0", "--port", "8000", "--header", "X-Release:{release}", "app:app"]\n'
        )
        images[release] = docker.build(tmp_path)
    one = Stack(docker, images)
    try:
        yield one
    finally:
        one.remove()


@pytest.mark.timeout(600)  # a minute where nothing else runs; ten containers at once on two cores that others share
def test_five_replicas_an_update_and_one_that_fails_each_task_once_and_no_request_lost(stack: Stack) -> None:
    # five nodes at once, on a database that only just comes up: one works, four wait for it and say so
    stack.deploy(1)
    wait_for(lambda: len(stack.waiting(1)) == REPLICAS - 1, "four replicas that wait for the lock", 180)
    assert stack.healthy(1) == {}, "nobody is ready before all is done"
    stack.query("CREATE TABLE go ()")
    stack.wait_until_healthy(1)
    wait_for(lambda: bool(stack.counted()["answers"]), "an answer")
    said = stack.logs(1)
    (runner,) = (node for node, log in said.items() if "migration 4 of 4: 0004_notes applied" in log)
    for node, log in said.items():
        if node != runner:
            assert "migrate, insert_users, first_notes are done already" in log, log
            assert "applied" not in log
            assert f"waiting for the lock: {runner} holds it, at task 1 of 3, migrate, since" in log, log
    assert stack.applied() == [*DEMO, "0004_notes"]
    assert stack.query("SELECT text, node FROM notes") == [f"first|{runner}"]

    # the rolling update: two new ones at a time, one of them does the work, the old ones serve meanwhile
    stack.deploy(2)
    stack.wait_for_update("completed")
    assert len(stack.healthy(2)) == REPLICAS
    (runner,) = (node for node, log in stack.logs(2).items() if "migration 1 of 1: 0005_tags applied" in log)
    assert stack.applied() == [*DEMO, "0004_notes", "0005_tags"]
    assert stack.query("SELECT node FROM notes WHERE text = 'second'") == [runner]
    (done,) = stack.query("SELECT extract(epoch FROM finished_at) FROM startup_ledger WHERE task = 'tagged_notes'")
    assert stack.counted()["first"]["2"] > float(done), "a new replica is asked only when everything is done"

    # a migration that fails: no new replica is ever ready, and Swarm goes back to what was
    kept = stack.healthy(2)
    stack.deploy(3)
    stack.wait_for_update("rollback_completed")
    before = stack.counted()["answers"]["2"]
    wait_for(lambda: stack.counted()["answers"]["2"] > before, "an answer after the rollback")
    failed = stack.logs(3)
    assert 1 <= len(failed) <= 4, "the first ones, and perhaps their restart"
    assert any("task migrate failed: migrations/0006_broken.sql:3:" in log for log in failed.values()), failed
    assert any(log.rstrip().endswith("the app was stopped (exit code 70)") for log in failed.values()), failed
    assert stack.healthy(2) == kept, "the old replicas have never been stopped"
    assert stack.applied() == [*DEMO, "0004_notes", "0005_tags"]
    assert stack.query("SELECT column_name FROM information_schema.columns WHERE column_name = 'broken'") == []
    assert sorted(stack.query("SELECT text FROM notes")) == ["first", "second"]

    counted = stack.counted()
    print(json.dumps(counted))
    assert counted["lost"] == []
    assert set(counted["answers"]) == {"1", "2"}, "release 3 has never been asked"
    assert counted["longest"] < 2, "some replica has answered at any time"
    for log in [*stack.logs(1).values(), *stack.logs(2).values(), *failed.values()]:
        assert PASSWORD not in log
        assert "a defect of startup-tasks" not in log
