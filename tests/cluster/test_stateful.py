"""The protocol under random nodes, images, failures and orders, on real servers, processes and signals.

Hypothesis picks what happens next: a node starts, one is killed, stopped, frozen or loses its session, the server
crashes, an image with one more migration comes. After each step nothing may have happened twice or out of order; at the
end everything is let go, one more node starts, and everything must have been done. STARTUP_TEST_EXAMPLES is the number
of stories for each database (4); ``STARTUP_TEST_EXAMPLES=200 pytest -s tests/cluster/test_stateful.py`` tells many.
STARTUP_TEST_WITHOUT takes a guard out of the nodes (see guards.py): the stories then fail.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.cluster.nodes import TRACE, Node, Project, Zygote
from tests.conftest import Server, run_query, wait_for

WITHOUT = os.environ.get("STARTUP_TEST_WITHOUT") or ""
EXAMPLES = int(os.environ.get("STARTUP_TEST_EXAMPLES") or 4)
STEPS = 25
MOST_NODES = 15
SOON = "?tcp_user_timeout=1000&keepalives_idle=1&keepalives_interval=1&keepalives_count=2"
#: A task holds where it finds the file hold-NODE-POINT, and tells so in a file ``.here``.
TASKS = """
import os, time
from startup import task

def hold(context, point):
    path = f"hold-{context.node}-{point}"
    while os.path.exists(path):
        open(f"{context.node}.here", "w").close()
        time.sleep(0.01)

def leave(context, what):
    hold(context, what)
    context.connection.execute(f"INSERT INTO trace (what, node) VALUES ('{what}', '{context.node}')")
    hold(context, what + "-left")

@task(policy="once")
def plans(context):
    leave(context, "plans")

@task(policy="change")
def prices(context):
    leave(context, "prices")

@task(policy="once")
def faulty(context):
    leave(context, "faulty")
    if not os.path.exists(os.environ["MENDED"]):
        raise ValueError("not yet mended")

@task(policy="once", transaction=False)
def backfill(context):
    leave(context, "backfill")
"""
COMMAND = """
path=hold-$STARTUP_NODE-command
while [ -e $path ]; do : >$STARTUP_NODE.here; sleep 0.01; done
echo $STARTUP_NODE >>commands
"""
ALL = "migrate plans backfill prices command@once faulty"
LISTS = (
    ALL,
    "migrate",
    "migrate plans prices",
    "migrate command@once plans",
    "migrate prices backfill",
    "migrate faulty plans",
)
POINTS = ("plans", "plans-left", "prices-left", "backfill", "backfill-left", "faulty-left", "command")
EXACTLY_ONCE = {"plans", "prices", "faulty"}


class Story(RuleBasedStateMachine):
    """One database, and what happens to it."""

    dialect = "postgresql"

    def __init__(self, directory: Path, zygote: Zygote, server: Server | None, told: Counter[str]) -> None:
        super().__init__()
        told["stories"] += 1
        self.told = told
        self.directory = directory / str(told["stories"])
        self.directory.mkdir()
        self.zygote = zygote
        self.server = server
        self.database = server.new_database() if server else ""
        self.url = server.url(self.database) + SOON if server else f"sqlite:///{self.directory}/story.db"
        self.images: list[Project] = []
        self.names: list[str] = []
        self.crashes = 0
        self.frozen: set[str] = set()
        self.nodes: list[tuple[Node, Project, str]] = []
        #: The exit codes that each node may have now, by what was done to it.
        self.codes: dict[str, set[int]] = {}
        self._build("first")

    # ------------------------------------------------------------------------------------------------- images

    def _build(self, kind: str) -> None:
        directory = self.directory / f"image{len(self.images)}"
        directory.mkdir()
        image = Project(directory, self.url, self.zygote)
        (directory / "steps.py").write_text(TASKS)
        number = len(self.images) + 1
        if kind == "index":
            sql = f"-- transactional: false\nCREATE INDEX CONCURRENTLY trace_{number} ON trace (what);"
        else:
            sql = (TRACE[image.dialect] if number == 1 else "") + image.leave(f"{number:04}")
        self.names.append(f"{number:04}_{kind}")
        for old in self.images[-1:]:
            for path in (old.directory / "migrations").iterdir():
                (directory / "migrations" / path.name).write_text(path.read_text())
        image.migration(self.names[-1], sql)
        self.images.append(image)

    @precondition(lambda self: len(self.images) < 4)
    @rule(kind=st.sampled_from(["step", "index"]))
    def build_an_image_with_one_more_migration(self, kind: str) -> None:
        self._build(kind if self.server else "step")

    # -------------------------------------------------------------------------------------------------- nodes

    @property
    def live(self) -> list[tuple[Node, Project, str]]:
        return [one for one in self.nodes if one[0].code is None]

    def _pick(self, number: int) -> tuple[Node, Project]:
        """One that lives, if any does. What may be drawn does not hang on that: Hypothesis needs it to be the same."""
        among = self.live or self.nodes
        node, image, _ = among[number % len(among)]
        return node, image

    def _hold(self, node: str, image: Project, point: str) -> Path:
        return image.directory / f"hold-{node}-{point}"

    def _start(self, image: Project, tasks: str, **env: Any) -> Node:
        name = f"n{len(self.nodes)}"
        for point in env.pop("hold", "").split():
            self._hold(name, image, point).touch()
        mended = str(self.directory / "mended")
        node = image.start(name, tasks, without=WITHOUT, MENDED=mended, STARTUP_TASK_COMMAND=COMMAND, **env)
        self.nodes.append((node, image, tasks))
        self.codes[name] = {0}
        self.told["nodes"] += 1
        return node

    def _may_end(self, node: Node, *codes: int) -> None:
        if node.name in self.codes:
            self.codes[node.name] |= set(codes)

    @initialize(
        tasks=st.lists(st.sampled_from(LISTS), min_size=2, max_size=4),
        hold=st.lists(st.sampled_from(POINTS), min_size=1, max_size=3),
    )
    def start_some_nodes(self, tasks: list[str], hold: list[str]) -> None:
        for one in tasks:
            self._start(self.images[0], one, hold=" ".join(hold))

    @precondition(lambda self: len(self.nodes) < MOST_NODES)
    @rule(
        image=st.integers(0, 3),
        tasks=st.sampled_from(LISTS),
        hold=st.lists(st.sampled_from(POINTS), max_size=2),
        follows=st.sampled_from([False, False, False, True]),
    )
    def start_a_node(self, image: int, tasks: str, hold: list[str], follows: bool) -> None:
        role = "follower" if follows else "auto"
        self._start(self.images[image % len(self.images)], tasks, hold=" ".join(hold), STARTUP_ROLE=role)

    @rule(number=st.integers(0, 9))
    def see_how_far_a_node_comes(self, number: int) -> None:
        node, image = self._pick(number)
        deadline = time.monotonic() + 0.5  # it may be frozen
        here = image.directory / f"{node.name}.here"
        while node.code is None and not here.exists() and "waiting for" not in node.log():
            if time.monotonic() > deadline:
                break
            node._look()

    @rule(number=st.integers(0, 9))
    def let_a_node_go_on(self, number: int) -> None:
        node, image = self._pick(number)
        for path in image.directory.glob(f"hold-{node.name}-*"):
            path.unlink()

    @rule(number=st.integers(0, 9))
    def kill_a_node(self, number: int) -> None:
        node, _ = self._pick(number)
        node.send(signal.SIGKILL)
        self._may_end(node, -9)
        self.told["killed"] += 1

    @rule(number=st.integers(0, 9))
    def tell_a_node_to_stop(self, number: int) -> None:
        node, _ = self._pick(number)
        node.send(signal.SIGTERM)
        self._may_end(node, 143, -15)  # the latter before its handler is there
        self.told["told to stop"] += 1

    @rule(number=st.integers(0, 9))
    def freeze_a_node(self, number: int) -> None:
        node, _ = self._pick(number)
        node.send(signal.SIGSTOP)
        self.frozen.add(node.name)
        self.told["frozen"] += 1

    @rule(number=st.integers(0, 9))
    def thaw_a_node(self, number: int) -> None:
        node, _ = self._pick(number)
        node.send(signal.SIGCONT)
        self.frozen.discard(node.name)

    @precondition(lambda self: self.server)
    @rule(number=st.integers(0, 9))
    def end_a_nodes_sessions(self, number: int) -> None:
        node, _ = self._pick(number)
        self._query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE application_name = 'startup/{node.name}' AND datname = current_database()"
        )
        self._may_end(node, 75, 69)
        self.told["sessions ended"] += 1

    @precondition(lambda self: self.server and self.crashes < 2)
    @rule()
    def crash_the_server(self) -> None:
        assert self.server is not None
        self.crashes += 1
        self.server.stop(signal.SIGQUIT)
        self.server.start()
        for node, _, _ in self.nodes:
            self._may_end(node, 75, 69)
        self.told["server crashes"] += 1

    @precondition(lambda self: not (self.directory / "mended").exists())
    @rule()
    def mend_the_faulty_task(self) -> None:
        (self.directory / "mended").touch()

    # ----------------------------------------------------------------------------------------- what must hold

    def _query(self, sql: str) -> list[tuple[object, ...]]:
        return run_query(self.url.partition("?")[0], sql)

    def _keeps_readers_out(self) -> bool:
        """SQLite: a node that is frozen in the middle of a commit does."""
        if self.server or not self.frozen:
            return False
        connection = sqlite3.connect(self.url.split("///", 1)[1], timeout=1)  # asked twice a step, of 25
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            return True
        finally:
            connection.close()
        return False

    def _has(self, table: str) -> bool:
        if self.server:
            return self._query(f"SELECT to_regclass('{table}') IS NOT NULL") == [(True,)]
        return self._query(f"SELECT count(*) FROM sqlite_master WHERE name = '{table}'") == [(1,)]

    def _trace(self) -> list[str]:
        return [str(what) for (what,) in self._query("SELECT what FROM trace ORDER BY n")] if self._has("trace") else []

    @invariant()
    def nothing_has_happened_twice_or_out_of_order(self) -> None:
        if self._keeps_readers_out():
            return
        trace = self._trace()
        once = [what for what in trace if what in EXACTLY_ONCE or what.isdigit()]
        assert len(once) == len(set(once)), (trace, self.nodes)
        migrations = [what for what in trace if what.isdigit()]
        assert migrations == sorted(migrations), (trace, self.nodes)

    @invariant()
    def who_has_ended_had_a_reason_and_who_is_ready_finds_everything_done(self) -> None:
        if self._keeps_readers_out():
            return
        for node, image, tasks in self.nodes:
            if node.code is None or node.name not in self.codes:
                continue
            allowed = self.codes.pop(node.name)
            if "task faulty failed: ValueError: not yet mended" in node.log():
                allowed.add(70)  # its own, or that of the runner that it was waiting for
            assert node.code in allowed, (node.code, allowed, node, self.nodes)
            self.told[f"exit code {node.code}"] += 1
            if node.code == 0:
                names = [task.partition("@")[0] for task in tasks.split()]
                marks = {name for (name,) in self._query("SELECT migration_id FROM _yoyo_migration")}
                done = {name for (name,) in self._query("SELECT task FROM startup_ledger WHERE state = 'done'")}
                if "migrate" in names:
                    assert marks >= {path.stem for path in (image.directory / "migrations").iterdir()}, node
                assert done >= set(names) - {"migrate"}, (done, node)

    def teardown(self) -> None:
        """Everything is let go, and one more node starts: then all is done, whatever has happened."""
        try:
            (self.directory / "mended").touch()
            for image in self.images:
                for path in image.directory.glob("hold-*"):
                    path.unlink()
            for node, _, _ in self.live:
                node.send(signal.SIGCONT)
            # one that waited for a node whose faulty task had failed before it was mended fails with it: start again
            for _ in range(3):
                last = self._start(self.images[-1], ALL)
                last.wait(60)
                self.who_has_ended_had_a_reason_and_who_is_ready_finds_everything_done()
                if last.code == 0:
                    break
            assert last.code == 0, self.nodes
            for node, _, _ in self.nodes:
                node.wait(60)
            self.who_has_ended_had_a_reason_and_who_is_ready_finds_everything_done()
            self.nothing_has_happened_twice_or_out_of_order()
            trace = self._trace()
            steps = {name[:4] for name in self.names if not name.endswith("index")}
            assert set(trace) == steps | EXACTLY_ONCE | {"backfill"}, (trace, self.nodes)
            assert any((image.directory / "commands").exists() for image in self.images)
            if self.server:
                locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                wait_for(lambda: self._query(locks) == [(0,)])
                assert self._query("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
        finally:
            for image in self.images:
                image.close()
            if self.server:
                self.server.drop_database(self.database)


@pytest.mark.timeout(4 * 3600 if EXAMPLES > 10 else 400)
@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_whatever_happens_in_whatever_order_nothing_is_done_twice_and_everything_in_the_end(
    dialect: str,
    tmp_path: Path,
    zygote: Zygote,
    new_server: Callable[..., Server],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # else a crash takes back what a node has already seen to be done
    server = new_server(synchronous_commit="on") if dialect == "postgresql" else None
    told: Counter[str] = Counter()
    run_state_machine_as_test(
        lambda: Story(tmp_path, zygote, server, told),  # type: ignore[arg-type]
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a story of real processes is not shrunk: the next try is another one
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    with capsys.disabled():
        print(f"\non {dialect}: {', '.join(f'{count} {what}' for what, count in told.items())}")
    assert told["stories"] >= EXAMPLES
