"""The last run as `status` draws it: who writes a row, who must not, and what becomes of the bars."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from startup.database import sqlite
from startup.ledger import journal
from startup.settings.address import parse
from tests.cluster.nodes import Project
from tests.conftest import PASSWORD, run_query

ROOT = Path(__file__).parents[2]


#: Connecting to a database may be slow on a busy machine, and is a bar then.
SLOW = r"(waited [\d.]+ s for the database, )?"


def status(project: Project, *words: str, python: tuple[str, ...] = ("-I",), **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *python, str(ROOT / "startup"), "status", *words],
        cwd=project.directory,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": project.url, "STARTUP_NODE": "looker", **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def nodes(project: Project) -> dict[str, Any]:
    return {node["node"]: node for node in json.loads(status(project, "--json"))["nodes"]}


def rows(project: Project) -> list[Any]:
    return project.query("SELECT node, state FROM startup_node ORDER BY node")


def bars(project: Project) -> dict[str, str]:
    """Each node's line in the drawing."""
    lines = status(project, COLUMNS="120").partition("\ntimeline ")[2].splitlines()[1:]
    return {line.split()[0]: line for line in lines}


def run_with_two_that_wait(project: Project) -> None:
    project.migrations(2)
    runner = project.start("runner", "migrate plans prices", PAUSE_AT="plans-start")
    project.reached("plans-start")
    waiting = [project.start(f"node{number}", "migrate plans prices") for number in range(2)]
    for node in waiting:
        node.until("waiting for the lock")
    project.go("plans-start")
    assert [node.wait() for node in [runner, *waiting]] == [0] * 3


class TestTheBars:
    def test_show_each_nodes_waiting_and_tasks(self, any_project: Project) -> None:
        run_with_two_that_wait(any_project)
        found = nodes(any_project)
        spans = {
            name: [one for span in node["spans"] if (one := (span["kind"], span["name"])) != ("wait", "database")]
            for name, node in found.items()
        }
        assert spans["runner"] == [("task", "migrate"), ("task", "plans"), ("task", "prices")]
        assert spans["node0"] == spans["node1"] == [("wait", "lock")]
        assert {node["state"] for node in found.values()} == {"done"}
        drawn = bars(any_project)
        assert re.fullmatch(
            rf" +runner [─ █▓]+ +done: {SLOW}migrate [\d.]+ s, plans [\d.]+ s, prices [\d.]+ s", drawn["runner"]
        )
        assert re.fullmatch(rf" +node0 +[─ ]+ +done: {SLOW}waited [\d.]+ s for the lock", drawn["node0"])
        assert drawn["node0"].rindex("─") > drawn["runner"].index("█")

    def test_while_it_runs_they_reach_to_now(self, project: Project, wait_until: Any) -> None:
        project.migrations(1)
        project.start("runner", "migrate plans", PAUSE_AT="plans-start")
        project.reached("plans-start")
        project.start("node0", "migrate plans").until("waiting for the lock")
        wait_until(lambda: len(rows(project)) == 2)
        drawn = bars(project)
        assert re.search(f"running: {SLOW}migrate", drawn["runner"])
        assert re.search(rf"waiting: {SLOW}waited [\d.]+ s for the lock", drawn["node0"])
        output = status(project)
        assert re.search(r"lock +runner holds it \(pid \d+, user app, .*connected for \d+ s\)", output)
        assert re.search(r"it runs task 2 of 2, plans, for \d+ s now", output)
        assert re.search(r"its session: no statement for \d+ s", output)

    def test_a_statement_that_runs_is_shown(self, project: Project, wait_until: Any) -> None:
        project.migration("0001_slow", "SELECT pg_sleep(30)")
        project.start("runner", "migrate")
        wait_until(lambda: re.search(r"its session: for \d+ s: SELECT pg_sleep\(30\)", status(project)))

    def test_a_node_that_was_killed_has_vanished_and_its_bar_ends_where_it_was_last_seen(
        self, project: Project, wait_until: Any
    ) -> None:
        project.migrations(1)
        project.start("runner", "migrate plans", PAUSE_AT="plans-start")
        project.reached("plans-start")
        node = project.start("node0", "migrate plans")
        assert nodes(project)["node0"]["spans"][-1]["seconds"] < 5
        node.until("waiting for the lock")
        wait_until(lambda: ("node0", "waiting") in rows(project))
        node.send(signal.SIGKILL)
        wait_until(lambda: nodes(project)["node0"]["state"] == "vanished")
        assert re.search(f"vanished: {SLOW}waited", bars(project)["node0"])

    def test_a_task_that_failed_is_marked(self, any_project: Project) -> None:
        any_project.migrations(1)
        assert any_project.run("runner", "migrate faulty").code == 70
        drawn = bars(any_project)["runner"]
        assert re.search(rf"█+ *x+ +failed: {SLOW}migrate [\d.]+ s, faulty [\d.]+ s failed", drawn), drawn

    def test_a_ping_is_a_bar_too(self, project: Project, tmp_path: Path, free_port: int, wait_until: Any) -> None:
        project.migrations(1)
        (tmp_path / "app.py").write_text(
            "import os, socket, time\n"
            f"while not os.path.exists('{tmp_path}/state/log'): time.sleep(0.05)\n"  # written just before the ping
            "time.sleep(2)\n"
            f"listener = socket.create_server(('127.0.0.1', {free_port}))\ntime.sleep(60)\n"
        )
        process = subprocess.Popen(
            ["sh", str(ROOT / "entrypoint.sh"), sys.executable, str(tmp_path / "app.py")],
            cwd=project.directory,
            env={
                "PATH": os.environ["PATH"],
                "DATABASE_URL": project.url,
                "STARTUP_NODE": "web",
                "STARTUP_PYTHON": sys.executable,
                "STARTUP_STATE_DIR": str(tmp_path / "state"),
                "STARTUP_PING": f"tcp://127.0.0.1:{free_port}",
            },
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until((tmp_path / "state" / "ready").exists, timeout=60)
        finally:
            process.terminate()
            process.wait(20)
        drawn = bars(project)["web"]
        assert re.search(rf"web +░+[─ ]*█+ *done: ping [\d.]+ s, {SLOW}migrate [\d.]+ s", drawn), drawn

    def test_another_days_run_is_not_in_the_drawing_and_is_removed_by_the_next(self, project: Project) -> None:
        project.migrations(1)
        assert project.run("old", "migrate").code == 0
        project.query("UPDATE startup_node SET changed_at = now() - interval '23 hours'")
        assert project.run("new", "beat").code == 0
        assert list(nodes(project)) == ["new"]
        project.query("UPDATE startup_node SET changed_at = now() - interval '25 hours' WHERE node = 'old'")
        assert project.run("new", "beat").code == 0
        assert rows(project) == [("new", "done")]


class TestTheTerminal:
    def test_where_its_encoding_has_no_blocks_they_are_ascii(self, project: Project) -> None:
        run_with_two_that_wait(project)
        drawn = status(project, python=("-I", "-X", "utf8=0"), LC_ALL="C")
        assert drawn.isascii(), drawn
        assert re.search(r"runner [- ]*[#=][#= ]* done", drawn), drawn  # a moment may pass between two tasks
        assert re.search(r"node0 +[- ]+ +done", drawn), drawn

    @pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
    def test_colours_are_for_a_terminal_and_for_who_wants_them(
        self, project: Project, env: dict[str, str], coloured: bool
    ) -> None:
        project.migrations(1)
        assert project.run("runner", "migrate").code == 0
        assert "\033" not in status(project)
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-I", str(ROOT / "startup"), "status"],
            cwd=project.directory,
            env={"PATH": os.environ["PATH"], "DATABASE_URL": project.url, **env},
            stdout=theirs,
        )
        os.close(theirs)
        output = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux: EIO once the other side is closed
                break
            output += piece
        os.close(ours)
        assert process.wait(20) == 0 and b"timeline" in output
        assert (b"\033[" in output) == coloured


class TestWhoWrites:
    def test_a_node_that_finds_nothing_to_do_writes_nothing_in_under_ten_statements(
        self, project: Project, server: Any, database: str
    ) -> None:
        project.migrations(1)
        assert project.run("first", "migrate plans").code == 0
        run_query(server.admin_url("postgres"), f"ALTER DATABASE {database} SET log_statement = 'all'")
        before = len(server.log())
        assert project.run("late", "migrate plans").code == 0
        statements = [
            line
            for line in server.log()[before:].splitlines()
            if " startup/late LOG:  " in line and ("statement: " in line or "execute " in line)
        ]
        assert 0 < len(statements) < 10, "\n".join(statements)
        assert not [line for line in statements if re.search("INSERT|UPDATE|DELETE|CREATE|advisory_lock", line)]
        assert rows(project) == [("first", "done")]

    def test_a_role_that_may_only_read_waits_without_one_and_without_an_error(
        self, project: Project, server: Any, database: str
    ) -> None:
        project.migrations(1)
        assert project.run("first", "migrate").code == 0
        admin = server.admin_url(database)
        role = f"reader_{database}"
        run_query(
            admin,
            f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};",
        )
        runner = project.start("runner", "migrate plans", PAUSE_AT="plans-start")
        project.reached("plans-start")
        before = len(server.log())
        url = project.url.replace("//app:", f"//{role}:")
        follower = project.start("follower", "migrate plans", DATABASE_URL=url, STARTUP_ROLE="follower")
        follower.until("following: runner holds it")
        project.go("plans-start")
        assert [runner.wait(), follower.wait()] == [0, 0]
        assert [name for name, _ in rows(project)] == ["first", "runner"]
        assert "ERROR" not in server.log()[before:]
        run_query(admin, f"DROP OWNED BY {role}; DROP ROLE {role}")

    def test_a_role_that_may_not_make_the_table_runs_its_tasks_all_the_same(
        self, project: Project, server: Any, database: str
    ) -> None:
        project.migrations(1)
        assert project.run("first", "migrate plans").code == 0
        admin = server.admin_url(database)
        run_query(admin, "DROP TABLE startup_node")
        run_query(admin, f"ALTER DATABASE {database} OWNER TO postgres; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        node = project.run("second", "migrate prices", STARTUP_LOG_LEVEL="debug")
        assert node.code == 0, node
        assert "there will be no timeline: permission denied" in node.log()
        assert json.loads(status(project, "--json"))["nodes"] == []
        assert "\ntimeline" not in status(project)

    def test_a_ledger_of_before_there_was_one_is_a_ledger(self, any_project: Project) -> None:
        any_project.migrations(1)
        assert any_project.run("first", "migrate plans").code == 0
        any_project.query("DROP TABLE startup_node")
        late = any_project.run("late", "migrate plans")
        assert late.code == 0 and "nothing to do" in late.log()
        assert any_project.run("next", "migrate plans prices").code == 0
        assert any_project.trace() == ["0001", "plans", "prices"]
        assert rows(any_project) == [("next", "done")]

    def test_on_sqlite_a_row_waits_for_no_other_writer_and_fails_nothing(self, sqlite_url: str) -> None:
        session = sqlite.connect(parse(sqlite_url), node="node")
        assert session.try_lock()
        mine = journal.Journal("default", "node", "post_start")
        mine.create(session)
        writer = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        mine.write(session, journal.RUNNING)
        assert time.monotonic() - start < 2
        assert session.connection.execute("PRAGMA busy_timeout").fetchone() == (60_000,)
        writer.close()
        session.close()

    def test_on_sqlite_a_node_that_is_done_waits_for_nobody_to_write_it_down(
        self, make_project: Callable[[str], Project], sqlite_url: str
    ) -> None:
        project = make_project(sqlite_url)
        project.migrations(1)
        first = project.start("first", "migrate backfill", PAUSE_AT="backfill")
        project.reached("backfill")
        node = project.start("node", "migrate backfill")
        node.until("waiting for the lock")
        writer = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        project.go("backfill")
        assert first.wait() == 0
        writer.execute("BEGIN IMMEDIATE")
        assert node.wait(30) == 0
        writer.execute("ROLLBACK")
        writer.close()
