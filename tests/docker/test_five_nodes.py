"""Five nodes under compose: what all of them say is one story, and `status` shows it while it happens and afterwards.

STARTUP_TEST_WRITE_DOCS=1 keeps the log and the pictures that docs/observability.md and README.md show.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import termios

import pytest

from .conftest import ROOT, Project, environment, wait_for
from .picture import DARK, LIGHT, svg, timeline

NODES = 5
#: A task that takes as long as the test wants, and one that every node runs in its turn.
OVERRIDE = """
services:
  app:
    environment:
      STARTUP_TASKS: migrate insert_users load_plans@once warm_cache
      STARTUP_TASK_LOAD_PLANS: until [ -e /tmp/go ]; do sleep 0.1; done
      STARTUP_TASK_WARM_CACHE: sleep 0.5
"""
#: For the picture of the README: nothing that each node would run.
ONCE = """
services:
  app:
    environment:
      STARTUP_TASKS: migrate insert_users load_plans@once
      STARTUP_TASK_LOAD_PLANS: sleep 2
"""
WRITE = bool(os.environ.get("STARTUP_TEST_WRITE_DOCS"))


def on_a_terminal(project: Project, *words: str) -> str:
    """What ``docker compose exec`` shows on a terminal of 132 columns."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 132, 0, 0))
        os.chdir(project.directory)
        argv = ["docker", "compose", "--project-name", project.name, "exec", *words]
        os.execvpe("docker", argv, environment())
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux: EIO once the other side is closed
            break
        shown += piece
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    return shown.decode()


def plain(shown: str) -> str:
    return re.sub(r"\033\[\d*m", "", shown).replace("\r", "")


def in_order(logs: str) -> str:
    """The entrypoints' lines in the order in which they were written, each with time and node."""
    lines = re.findall(r"^(app-\d+) +\| \S+T(\S{12})\S* startup: (.*)", logs, re.MULTILINE)
    return "".join(f"{time} {node} | startup: {text}\n" for node, time, text in sorted(lines, key=lambda one: one[1]))


@pytest.mark.timeout(600)
def test_the_logs_of_five_nodes_are_one_story_and_status_draws_it(project: Project) -> None:
    (project.directory / "compose.override.yaml").write_text(OVERRIDE)
    done = project("up", "--build", "--detach", "--scale", f"app={NODES}", check=False)
    assert done.returncode == 0, done.stderr

    def logs(*options: str) -> str:
        said = project("logs", "--no-color", *options, "app").stdout
        return said.replace("\033[2K", "")  # compose's own, where another compose command runs beside it

    def until(text: str, times: int = 1) -> None:
        """So many nodes have said it."""

        def said() -> bool:
            return len(set(re.findall(rf"(app-\d+) .*{text}", logs()))) >= times

        try:
            wait_for(said, f"{times} times {text!r}", 150)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{logs()}") from None

    until("load_plans, starts")
    until("holds it, at task 3 of 4, load_plans, since", NODES - 1)
    (runner,) = set(re.findall(r"app-(\d+) .*load_plans, starts", logs()))
    (container,) = re.findall(r"\| startup: waiting for the lock: (\w+) holds it, at task 3", logs())[:1]
    during = on_a_terminal(project, "--index", runner, "app", "startup", "status")
    assert f"{container} holds it" in during and "it runs task 3 of 4, load_plans, for" in during
    assert len(re.findall(r"waiting: .*waited [\d.]+ s", plain(during))) == NODES - 1
    assert re.search(rf"{container} .*running: .*load_plans", plain(during))

    project("exec", "--no-TTY", "--index", runner, "app", "touch", "/tmp/go")
    until("warm_cache, is done after", NODES)
    after = on_a_terminal(project, "--index", runner, "app", "startup", "status")
    assert "lock        free" in plain(after)
    assert len(re.findall(r"done: .*warm_cache [\d.]+ s", plain(after))) == NODES
    story = logs("--timestamps")
    for once in (
        "migration 1 of 3: 0001_create_users applied",
        "insert_users, is done after",
        "load_plans, is done after",
    ):
        assert story.count(once) == 1, story
    if WRITE:
        docs = ROOT / "docs"
        (docs / "status-during.svg").write_text(svg(during))
        (docs / "status-after.svg").write_text(svg(after))
        (docs / "five-nodes.txt").write_text(f"{plain(during)}\n{plain(after)}\n{in_order(story)}")


@pytest.mark.timeout(600)
def test_one_of_five_nodes_runs_the_tasks_and_the_picture_shows_it(project: Project) -> None:
    (project.directory / "compose.override.yaml").write_text(ONCE)
    project("up", "--build", "--detach", "--wait", "db")
    project("up", "--detach", "--wait", "--scale", f"app={NODES}")
    nodes = json.loads(project("exec", "--no-TTY", "app", "startup", "status", "--json").stdout)["nodes"]
    worked = [node["node"] for node in nodes if any(span["kind"] == "task" for span in node["spans"])]
    waited = [node["node"] for node in nodes if any(span["name"] == "lock" for span in node["spans"])]
    assert len(worked) == 1 and len(waited) == NODES - 1 and not {*worked} & {*waited}
    pictures = {name: timeline(nodes, palette) for name, palette in (("light", LIGHT), ("dark", DARK))}
    assert [text.count(">ready<") for text in pictures.values()] == [NODES, NODES]
    if WRITE:
        for name, text in pictures.items():
            (ROOT / "docs" / f"five-nodes-{name}.svg").write_text(text)
