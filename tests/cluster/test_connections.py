"""More nodes than connections, and a server that does not answer: all end well, and say what they wait for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import Node, Project
from tests.conftest import PASSWORD, Server, run_query, wait_for

LIST = "migrate plans prices command@once"
TRACE = ["0001", "0002", "plans", "prices"]


def all_ready(project: Project, nodes: list[Node], timeout: float = 60) -> None:
    codes = [node.wait(timeout) for node in nodes]
    assert codes == [0] * len(nodes), [node for node in nodes if node.code]
    assert sorted(project.trace()) == TRACE
    assert [line.split()[0] for line in project.commands()] == ["start", "end"]


@pytest.mark.parametrize("nodes", [1, 2, 8, 20])
@pytest.mark.parametrize("pool", [1, 2, 5])
def test_a_pool_smaller_than_the_number_of_nodes_is_enough(
    make_project: Callable[[str], Project], pooler: Callable[..., str], database: str, database_url: str, pool: int,
    nodes: int,
) -> None:  # fmt: skip
    project = make_project(pooler("session", database, default_pool_size=pool))
    project.migrations(2)
    started = [project.start(f"n{number}", LIST, STARTUP_POOLER="session") for number in range(nodes)]
    codes = [node.wait(60) for node in started]
    assert codes == [0] * nodes, [node for node in started if node.code]
    project.url = database_url
    all_ready(project, started)


def test_a_full_pool_is_waited_for_beyond_the_databases_time_limit_and_told(
    make_project: Callable[[str], Project], pooler: Callable[..., str], database: str, database_url: str
) -> None:
    project = make_project(pooler("session", database, default_pool_size=1))
    project.migrations(2)
    settings: dict[str, Any] = {"STARTUP_POOLER": "session", "STARTUP_DATABASE_TIMEOUT": "3"}
    runner = project.start("runner", LIST, PAUSE_AT="plans-start", **settings)
    project.reached("plans-start")
    other = project.start("other", LIST, **settings)
    limited = project.start("limited", LIST, **settings, STARTUP_LOCK_TIMEOUT="4")
    other.until("the pooler has no server session to spare")
    assert limited.wait() == 75, limited
    assert other.code is None, other
    project.go("plans-start")
    project.url = database_url
    all_ready(project, [runner, other])


@pytest.mark.parametrize("limit", ["server", "role", "database"])
def test_twenty_nodes_end_ready_where_the_server_admits_five(
    make_project: Callable[[str], Project], new_server: Callable[..., Server], limit: str
) -> None:
    """Of a server's five, three are its superusers' own by default, so that two are left."""
    server = new_server(max_wal_senders="0", max_connections="5" if limit == "server" else "50")
    database = server.new_database()
    if limit != "server":
        what = "ROLE app" if limit == "role" else f"DATABASE {database}"
        run_query(server.admin_url("postgres"), f"ALTER {what} CONNECTION LIMIT 5")
    project = make_project(server.url(database))
    project.migrations(2)
    runner = project.start("runner", LIST, PAUSE_AT="plans-start")
    project.reached("plans-start")
    nodes = [project.start(f"n{number}", LIST) for number in range(20)]
    wait_for(lambda: all("runner holds it" in node.log() for node in nodes), timeout=60)
    project.go("plans-start")
    project.url = server.admin_url(database)
    all_ready(project, [runner, *nodes], timeout=90)


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Every process of the server is stopped: TCP lives on, in the kernel, and nobody answers."""
    postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
    pids = [postmaster]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == postmaster:
                pids.append(int(entry.name))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_silent_server_is_given_up_and_every_limit_holds_meanwhile(
    make_project: Callable[[str], Project], new_server: Callable[..., Server]
) -> None:
    server = new_server()
    project = make_project(server.url(server.new_database()))
    project.migrations(2)
    runner = project.start("runner", LIST, PAUSE_AT="plans-start")
    project.reached("plans-start")
    patient = project.start("patient", LIST, STARTUP_DATABASE_TIMEOUT="0")
    limited = project.start("limited", LIST, STARTUP_LOCK_TIMEOUT="6")
    impatient = project.start("impatient", LIST, STARTUP_DATABASE_TIMEOUT="3")
    follower = project.start("follower", "migrate plans prices", STARTUP_ROLE="follower", STARTUP_DATABASE_TIMEOUT="0")
    for node in (patient, limited, impatient):
        node.until("runner holds it")
    follower.until("following: runner holds it")
    with frozen(server):
        assert limited.wait(20) == 75, limited
        for node in (patient, follower):
            node.until("has not answered for 30 s, though its connection stands", timeout=45)
        assert impatient.wait(60) == 69, impatient
    project.go("plans-start")
    all_ready(project, [runner, patient, follower], timeout=60)


@contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """A hot standby that streams from it."""
    standby = Server()
    try:
        primary.run(
            *("pg_basebackup", "--pgdata", str(standby.data), "--write-recovery-conf", "--checkpoint", "fast"),
            *("--host", str(primary.directory), "--port", str(primary.port), "--username", "postgres"),
        )
        standby.start()
        yield standby
    finally:
        standby.destroy()


def wait_for_replay(primary: Server, standby: Server) -> None:
    position = run_query(primary.admin_url("postgres"), "SELECT pg_current_wal_lsn()")[0][0]
    replayed = f"SELECT pg_last_wal_replay_lsn() >= '{position}'"
    wait_for(lambda: run_query(standby.admin_url("postgres"), replayed) == [(True,)])


def test_on_a_read_replica_a_node_is_ready_when_everything_is_done(
    make_project: Callable[[str], Project], new_server: Callable[..., Server]
) -> None:
    primary = new_server(wal_level="replica", max_wal_senders="5", hot_standby="on")
    database = primary.new_database()
    with standby_of(primary) as standby:
        project = make_project(primary.url(database))
        project.migrations(2)
        follower = project.start("follower", LIST, STARTUP_ROLE="follower", DATABASE_URL=standby.url(database))
        follower.until("following: nobody runs the tasks now")
        assert project.run("first", LIST).code == 0
        wait_for_replay(primary, standby)
        assert follower.wait() == 0, follower
        node = project.run("replica", LIST, DATABASE_URL=standby.url(database))
        assert node.code == 0 and "nothing to do" in node.log(), node


def test_ten_waiting_nodes_find_the_promoted_server_when_the_primary_is_frozen(
    make_project: Callable[[str], Project], new_server: Callable[..., Server]
) -> None:
    """Streaming replication; an address with both hosts."""
    primary = new_server(wal_level="replica", max_wal_senders="5", hot_standby="on")
    database = primary.new_database()
    with standby_of(primary) as standby:
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        project = make_project(f"postgresql://app:{PASSWORD}@{hosts}/{database}?target_session_attrs=read-write")
        project.migrations(2)
        runner = project.start("runner", LIST, PAUSE_AT="plans-start")
        project.reached("plans-start")
        nodes = [project.start(f"n{number}", LIST, STARTUP_DATABASE_TIMEOUT="120") for number in range(10)]
        for node in nodes:
            node.until("runner holds it")
        wait_for_replay(primary, standby)
        with frozen(primary):
            standby.run("pg_ctl", "promote", "--pgdata", str(standby.data))
            codes = [node.wait(150) for node in nodes]
            assert codes == [0] * 10, [node for node in nodes if node.code]
            project.url = standby.url(database)
            assert sorted(project.trace()) == TRACE
            runner.send(signal.SIGKILL)
