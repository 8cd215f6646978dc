"""What many nodes cost: prints a Markdown table. Needs the extra ``test``: .venv/bin/python bench/cluster.py [ROUNDS]

Real nodes (processes) on a PostgreSQL of its own on loopback, with the defaults of every setting. Each row is the
median of its rounds, and their spread; seconds unless another unit is named.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.cluster.nodes import Node, Project, Zygote
from tests.cluster.wire import Proxy
from tests.conftest import Server, wait_for

NODES = 50
LIST = "migrate plans"
#: Seconds of waiting after which a node polls as seldom as it ever will.
SETTLED = 4.0
WINDOW = 10.0


class Bench:
    """One server, and a project on a fresh database for each round."""

    def __init__(self, directory: Path, zygote: Zygote, server: Server) -> None:
        self.directory = directory
        self.zygote = zygote
        self.server = server
        self._rounds = 0

    @contextmanager
    def project(self) -> Iterator[Project]:
        self._rounds += 1
        directory = self.directory / str(self._rounds)
        directory.mkdir()
        database = self.server.new_database()
        project = Project(directory, self.server.url(database), self.zygote)
        project.env["STARTUP_STOP_TIMEOUT"] = ""
        project.migrations(1)
        try:
            yield project
        finally:
            project.close()
            self.server.drop_database(database)

    @contextmanager
    def waiting(self, count: int, point: str, proxy: Proxy | None = None) -> Iterator[tuple[Project, Node, list[Node]]]:
        """A runner that pauses in the task ``plans``, and *count* nodes that have waited for a while."""
        with self.project() as project:
            url = project.url
            if proxy:
                url = url.replace(f":{self.server.port}/", f":{proxy.port}/") + "?sslmode=disable"
            runner = project.start("runner", LIST, PAUSE_AT=point, DATABASE_URL=url)
            project.reached(point)
            nodes = [project.start(f"node{number}", LIST) for number in range(count)]
            for node in nodes:
                node.until("waiting for the lock", 60)
            time.sleep(SETTLED)
            yield project, runner, nodes

    def last_ready(self) -> float:
        """From the runner's end to the last of the waiting nodes' being ready."""
        with self.waiting(NODES, "plans-end") as (project, runner, nodes):
            project.go("plans-end")
            assert [node.wait(60) for node in (runner, *nodes)] == [0] * (NODES + 1)
            return max(node.ended_at for node in nodes) - runner.ended_at

    def succession(self, count: int) -> float:
        """From a runner's SIGKILL to the next node's first statement of its run."""
        with self.waiting(count, "plans-start") as (project, runner, _):
            killed = time.time()
            runner.send(signal.SIGKILL)
            return self._next_run(project) - killed

    def succession_after_a_cut(self) -> float:
        """The same, where the runner's machine vanishes without a word."""
        proxy = Proxy(self.server.port)
        try:
            with self.waiting(1, "plans-start", proxy) as (project, _, _):
                cut = time.time()
                proxy.cut_all()
                return self._next_run(project) - cut
        finally:
            proxy.close()

    def _next_run(self, project: Project) -> float:
        """When the second run began, by the server's clock, which is ours."""
        began = "SELECT extract(epoch FROM started_at)::float8 FROM startup_run WHERE epoch > 1"
        ((moment,),) = wait_for(lambda: project.query(began), 90)
        return float(moment)

    def statements(self) -> float:
        """What the waiting nodes send, in statements a second, as the server logs them."""
        with self.waiting(NODES, "plans-start"):
            before, started = self._logged(), time.monotonic()
            time.sleep(WINDOW)
            return (self._logged() - before) / (time.monotonic() - started)

    def _logged(self) -> int:
        return len(re.findall(r"startup/node\d+ LOG:  (?:statement|execute)", self.server.log()))


def row(what: str, unit: str, rounds: int, measure: Callable[[], float]) -> None:
    """Measure, and print the table's line."""
    numbers = sorted(measure() for _ in range(rounds))
    median, low, high = (_short(number) for number in (statistics.median(numbers), numbers[0], numbers[-1]))
    print(f"| {what} | {median} {unit} | {low} to {high} | {rounds} |", flush=True)


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"


@contextmanager
def running_server(**settings: str) -> Iterator[Server]:
    server = Server()
    try:
        server.create(**settings)
        yield server
    finally:
        server.destroy()


def main(rounds: int) -> None:
    zygote = Zygote()
    with (
        tempfile.TemporaryDirectory() as name,
        running_server() as server,
        running_server(log_statement="all") as tells,
    ):
        bench = Bench(Path(name), zygote, server)
        telling = Bench(Path(name) / "telling", zygote, tells)
        telling.directory.mkdir()
        version = server.run("postgres", "--version").split()[-1]
        print(
            f"PostgreSQL {version} and all nodes on one machine: {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, load average {os.getloadavg()[0]:.1f} when it began.\n"
        )
        print("| what | median | spread | rounds |\n|---|---|---|---|")
        row(f"the runner's end -> the last of {NODES} waiting nodes is ready", "s", rounds, bench.last_ready)
        few, many = (lambda: bench.succession(1)), (lambda: bench.succession(NODES))
        row("the runner's SIGKILL -> the next node's first statement, 1 node waiting", "s", rounds, few)
        row(f"the same, {NODES} nodes waiting", "s", rounds, many)
        row("the same, the runner's network cut, 1 node waiting", "s", 3, bench.succession_after_a_cut)
        row(f"what {NODES} waiting nodes cost the server", "statements/s", 3, telling.statements)
    zygote.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
