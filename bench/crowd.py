"""What very many waiting nodes cost one server: prints a Markdown table. .venv/bin/python bench/crowd.py [NODES ...]

The waiting code itself, on threads of a few processes, each with a session of its own, against max_connections=100. The
server counts what it is asked: transactions (each statement is one) and connections, of ours alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

PROCESSES = 4
#: Seconds of waiting before it is measured, and while it is.
SETTLE, WINDOW = float(os.environ.get("SETTLE", "60")), float(os.environ.get("WINDOW", "60"))


def worker(first: int, count: int) -> None:
    """*count* nodes; a line with the time for each that is ready, one with the error for each that is not."""
    from startup.database.connect import connect
    from startup.ledger.journal import DONE, Journal
    from startup.plan.planner import resolve
    from startup.run.cluster import Cluster
    from startup.run.waiting import Waiting
    from startup.settings import settings as reader

    settings = reader.load(os.environ)
    plan = resolve(settings, "post_start", None)
    lock = threading.Lock()
    interrupts: Any = Interrupts()

    def node(number: int) -> None:
        own = replace(settings, node=f"n{number}")
        cluster = Cluster(own, interrupts, partial(connect, own))
        journal = Journal(own.namespace, own.node, "post_start")

        def say(text: str) -> None:
            journal.wait(cluster.session, cluster.away)

        try:
            cluster.open()
            Waiting(cluster, plan.clustered, say).until_locked()  # with the lock, too, it finds everything done
            told = f"ready {time.time()}"
            if cluster.is_open:
                journal.close(cluster.session, DONE)
        except Exception as error:
            told = f"failed {type(error).__name__} {error}".replace("\n", " ")
        cluster.close()
        with lock:
            print(told, flush=True)

    threads = [threading.Thread(target=node, args=(number,)) for number in range(first, first + count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Interrupts:
    """Nobody interrupts a thread."""

    cancel: Any = None


def measure(count: int) -> str:
    """One line of the table."""
    import psycopg

    from startup.database.connect import connect
    from startup.ledger.journal import Journal
    from startup.ledger.ledger import DONE, Entry, Ledger
    from startup.plan.planner import resolve
    from startup.settings import settings as reader
    from tests.conftest import Server

    server = Server()
    with tempfile.TemporaryDirectory() as directory:
        try:
            server.create(max_connections="100", log_statement="none")
            environ = {
                "PATH": os.environ["PATH"],
                "DATABASE_URL": server.url(server.new_database()),
                "STARTUP_TASKS": "seed@once",
                "STARTUP_TASK_SEED": "true",
                "STARTUP_HOOKS_DIR": directory,
                "STARTUP_LOG_LEVEL": "error",
            }
            settings = reader.load(environ)
            runner = connect(settings)
            assert runner.try_lock()
            ledger = Ledger(runner, "default")
            ledger.create()
            Journal("default", "runner", "post_start").create(runner)
            epoch = ledger.begin("runner", "post_start", 1)
            each = [count // PROCESSES + (number < count % PROCESSES) for number in range(PROCESSES)]
            workers = [
                subprocess.Popen(
                    [sys.executable, __file__, "--worker", str(sum(each[:number])), str(each[number])],
                    env=environ,
                    cwd=directory,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                for number in range(PROCESSES)
                if each[number]
            ]
            with psycopg.connect(server.admin_url("postgres"), autocommit=True) as watcher:
                time.sleep(SETTLE)
                ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'startup/%'"
                before, started, most = _asked(watcher), time.monotonic(), 0
                while time.monotonic() - started < WINDOW:
                    most = max(most, watcher.execute(ours).fetchone()[0])  # type: ignore[index]
                    time.sleep(0.1)
                asked = (_asked(watcher) - before) / (time.monotonic() - started)
            task = resolve(settings, "post_start", None).clustered[0]
            ledger.mark(epoch, Entry(task.name, task.key(""), task.policy, DONE, "runner", epoch, ""))
            ledger.end(epoch, DONE)
            runner.unlock()
            ended = time.time()
            runner.close()
            lines = [line for one in workers for line in one.communicate()[0].splitlines()]
            ready = [float(line.split()[1]) - ended for line in lines if line.startswith("ready")]
            failed = [line for line in lines if not line.startswith("ready")]
            if failed or len(ready) != count:
                print(f"{count} nodes: {len(ready)} ready; {failed[:3]}", file=sys.stderr)
            ready.sort()
            half, last = ready[len(ready) // 2], ready[-1]
            return f"| {count} | {asked:.0f}/s | {most} | {half:.1f} s | {last:.1f} s | {len(ready)} |"
        finally:
            server.destroy()


def _asked(watcher: Any) -> int:
    """Transactions of all databases but the watcher's."""
    sql = "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname LIKE 'test%'"
    return int(watcher.execute(sql).fetchone()[0])


def main(counts: list[int]) -> None:
    print("| nodes that wait | statements | connections, at most | half are ready after | all are | ready |")
    print("|---|---|---|---|---|---|")
    for count in counts:
        print(measure(count), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main([int(one) for one in sys.argv[1:]] or [10, 50, 200, 1000])
