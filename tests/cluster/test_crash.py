"""A crash at every point of a run: nothing is applied twice, nothing is lost, nothing waits for a human.

The points are found, not picked: a run through a proxy counts what it sends, and each request is a point before it is
sent and one after its reply has come; a Python task and a command have a point at their start and their end. One point
a run, then the next node starts. A random sample runs by default, and its seed is printed; all of them, for each way to
crash, with ``STARTUP_TEST_CRASHES=all pytest -s tests/cluster/test_crash.py``; a number takes that many.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.cluster.nodes import Node, Project, Zygote
from tests.cluster.wire import Proxy
from tests.conftest import Server, run_query, wait_for

TASKS = "migrate plans command@once"
SAMPLE = 6
TASK_POINTS = ("plans-start", "plans-end", "command-start", "command-end")
#: Short keepalives: both ends notice a peer that is gone within about 3 s.
SOON = "tcp_user_timeout=1000&keepalives_idle=1&keepalives_interval=1&keepalives_count=2"
MIGRATIONS = {
    "0001_trace": "CREATE TABLE trace (n serial PRIMARY KEY, what text, node text);"
    "INSERT INTO trace (what) VALUES ('0001');",
    "0002_index": "-- transactional: false\nCREATE INDEX CONCURRENTLY trace_what ON trace (what);\n"
    "INSERT INTO trace (what) VALUES ('0002');",
    "0003_more": "CREATE TABLE plans (i int); INSERT INTO trace (what) VALUES ('0003');",
}


@dataclass(frozen=True)
class Point:
    """Where it happens: at a request of the node's, or in a task."""

    when: Literal["before", "after", "in"]
    what: int | str

    def __str__(self) -> str:
        return f"{self.when} {'request ' if self.when != 'in' else ''}{self.what}"


class Scene:
    """One run that crashes, and the next node."""

    def __init__(self, directory: Path, zygote: Zygote, server: Server) -> None:
        directory.mkdir()
        self.server = server
        self.database = server.new_database()
        self.url = server.url(self.database)
        self.admin = server.admin_url(self.database)
        self.proxy = Proxy(server.port)
        self.project = Project(directory, self.url + "?" + SOON, zygote)
        for name, sql in MIGRATIONS.items():
            self.project.migration(name, sql)
        self.node: Node | None = None

    def start(self, pause: str = "") -> Node:
        through = self.url.replace(f":{self.server.port}/", f":{self.proxy.port}/") + "?sslmode=disable&" + SOON
        env = {"DATABASE_URL": through, "STARTUP_DATABASE_TIMEOUT": "5"}
        self.node = self.project.start("first", TASKS, PAUSE_AT=pause, **env)  # type: ignore[arg-type]
        return self.node

    def crash_at(self, point: Point, crash: Callable[[Scene], None]) -> Node:
        """Start the first node, and let it crash there."""
        if point.when == "in":
            node = self.start(str(point.what))
            self.project.reached(str(point.what))
            crash(self)
            self.project.go(str(point.what))
        else:
            assert isinstance(point.what, int)
            self.proxy.at, self.proxy.when = point.what, point.when
            node = self.start()
            wait_for(lambda: self.proxy.struck.is_set() or node.code is not None, 20)
            assert self.proxy.struck.is_set(), f"{point} was never reached: {node!r}"
            crash(self)
            self.proxy.go_on.set()
        return node

    def check(self, point: Point) -> str:
        """The next node starts; what it came to: ``done``, or ``by hand`` for the migration without a transaction."""
        outcome = "done"
        second = self.project.run("second", TASKS, timeout=60)
        if second.code == 70 and "0002_index.sql: was interrupted" in second.log():
            outcome = "by hand"
            trace = self.project.trace()
            assert trace in (["0001"], ["0001", "0002"]), (point, trace)
            run_query(
                self.url,
                "DROP INDEX IF EXISTS trace_what; DELETE FROM trace WHERE what = '0002';"
                "DELETE FROM startup_migration WHERE id = '0002_index'",
            )
            second = self.project.run("third", TASKS, timeout=60)
        assert second.code == 0, (point, self.project.nodes)
        assert self.project.trace() == ["0001", "0002", "0003", "plans"], (point, self.project.nodes)
        marks = run_query(self.url, "SELECT migration_id FROM _yoyo_migration ORDER BY 1")
        assert marks == [(name,) for name in MIGRATIONS], (point, marks)
        assert run_query(self.url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'trace_what'::regclass") == [
            (True,)
        ]
        rows = run_query(self.url, "SELECT task, state FROM startup_ledger ORDER BY 1")
        assert rows == [("command", "done"), ("plans", "done")], (point, rows)
        lines = [line.split()[0] for line in self.project.commands()]
        assert lines.count("start") in (1, 2) and lines[-1] == "end", (point, lines)
        assert self.node is not None
        self.node.wait(60)
        locks = run_query(self.admin, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert locks == [(0,)], point
        return outcome

    def request(self, point: Point) -> str:
        """The statement at that point."""
        sent = self.proxy.requests
        return sent[point.what - 1][:200] if isinstance(point.what, int) and point.what <= len(sent) else "a task"

    def close(self) -> None:
        self.proxy.go_on.set()
        self.project.close()
        self.proxy.close()
        self.server.drop_database(self.database)


def _send(number: signal.Signals) -> Callable[[Scene], None]:
    def crash(scene: Scene) -> None:
        assert scene.node is not None
        scene.node.send(number)
        if number == signal.SIGKILL:
            scene.node.wait()

    return crash


def _terminate(scene: Scene) -> None:
    """The lock's session alone, so that the node's second one lives on; before there is a lock, the node's only one."""
    run_query(
        scene.admin,
        "WITH ours AS (SELECT a.pid, EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')"
        " AS locks FROM pg_stat_activity a WHERE application_name = 'startup/first' AND datname = current_database())"
        " SELECT pg_terminate_backend(pid, 5000) FROM ours WHERE locks OR NOT EXISTS (SELECT FROM ours WHERE locks)",
    )


def _restart(scene: Scene) -> None:
    scene.server.stop(signal.SIGQUIT)
    scene.server.start()


#: How the first node may end, by the way it crashes. It lives on where nothing was lost that it could not replace.
CRASHES: dict[str, tuple[Callable[[Scene], None], set[int]]] = {
    "SIGKILL": (_send(signal.SIGKILL), {-9}),
    "SIGTERM": (_send(signal.SIGTERM), {143, 0}),
    "pg_terminate_backend": (_terminate, {75, 69, 0}),
    "cut": (lambda scene: scene.proxy.cut_all(), {75, 69}),
    "restart": (_restart, {75, 69, 0}),
}


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote, server: Server) -> list[Point]:
    """Every point of a run on an empty database, as a run that goes well shows them."""
    scene = Scene(tmp_path_factory.mktemp("crash") / "whole", zygote, server)
    try:
        assert scene.start().wait() == 0
        count = scene.proxy.count
        assert scene.check(Point("in", "nothing")) == "done"
    finally:
        scene.close()
    assert count > 30, scene.proxy.requests
    return [
        *(Point("before", number) for number in range(1, count + 1)),
        *(Point("after", number) for number in range(1, count + 1)),
        *(Point("in", name) for name in TASK_POINTS),
    ]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def print_it(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", flush=True)

    return print_it


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("how", CRASHES)
def test_a_crash_anywhere_leaves_nothing_twice_and_nothing_undone(
    how: str, points: list[Point], tmp_path: Path, zygote: Zygote, request: Any, say: Callable[[str], None]
) -> None:
    crash, codes = CRASHES[how]
    wanted = os.environ.get("STARTUP_TEST_CRASHES") or str(SAMPLE)
    seed = int(os.environ.get("STARTUP_TEST_SEED") or random.randrange(10**6))
    chosen = points if wanted == "all" else random.Random(f"{how} {seed}").sample(points, min(int(wanted), len(points)))
    server = request.getfixturevalue("new_server")() if how == "restart" else request.getfixturevalue("server")
    outcomes = {"done": 0, "by hand": 0}
    ends: dict[int, int] = {}
    failures: list[str] = []
    started = time.monotonic()
    for number, point in enumerate(chosen):
        scene = Scene(tmp_path / str(number), zygote, server)
        try:
            first = scene.crash_at(point, crash)
            outcomes[scene.check(point)] += 1
            code = first.wait()
            assert code in codes, first
            ends[code] = ends.get(code, 0) + 1
        except (AssertionError, pytest.fail.Exception) as error:
            failures.append(f"{point} ({scene.request(point)}): {error}")
            say(f"crash by {how}, {failures[-1]}")
        finally:
            scene.close()
    say(
        f"crash by {how}: {len(points)} points, {len(chosen)} runs, seed {seed}, {time.monotonic() - started:.0f} s: "
        f"{outcomes['done']} done by the next node, {outcomes['by hand']} interrupted without a transaction, "
        f"{len(failures)} wrong; exit codes of the first node {dict(sorted(ends.items()))}"
    )
    assert not failures, "\n".join(failures)
