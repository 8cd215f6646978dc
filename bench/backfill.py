"""15: a backfill's batches beside a plain loop that commits as often; and how long the app's statements are held up."""

from __future__ import annotations

import os
import random
import re
import subprocess
import time

import psycopg

from bench.measure import Group, Series, Verdict, interleave
from bench.things import Bench

BATCH = 1_000
SQL = "UPDATE numbers SET times = times + 1 WHERE n > %s AND n <= %s"
TASK = """
from startup import Context, task

@task(policy="once")
def fill(context: Context):
    for first in range(context.cursor or 0, {rows}, {batch}):
        context.connection.execute({sql!r}, (first, first + {batch}))
        yield first + {batch}
"""
OURS, PLAIN = "startup-tasks, a batch with its cursor", "a loop in psycopg, a commit a batch"


def measure(bench: Bench) -> list[Group]:
    rows = bench.n(1_000_000, 100_000)
    directory = bench.new_directory()
    (directory / "tasks.py").write_text(TASK.format(rows=rows, batch=BATCH, sql=SQL))
    url = bench.new_database()
    env = {"PATH": os.environ["PATH"], "DATABASE_URL": url, "STARTUP_MODULE": "tasks", "STARTUP_TASKS": "fill"}
    argv = [bench.product.python, "-I", "-m", "startup", "init"]

    def start() -> subprocess.Popen[str]:
        _make(url, rows)
        return subprocess.Popen(argv, cwd=directory, env=env, stderr=subprocess.PIPE, text=True)

    def ours() -> float:
        return _seconds(start()) / (rows / BATCH)

    def plain() -> float:
        _make(url, rows)
        with psycopg.connect(url) as connection:
            began = time.monotonic()
            for first in range(0, rows, BATCH):
                connection.execute(SQL, (first, first + BATCH))
                connection.commit()
            return (time.monotonic() - began) / (rows / BATCH)

    series = interleave({OURS: ours, PLAIN: plain}, bench.n(5), warm=False)
    held_up = _app_beside(start(), url, rows)
    one, other = series[OURS], series[PLAIN]
    verdicts = [
        Verdict(
            f"a batch of {BATCH:,} rows of {rows:,}",
            "-",
            f"{1000 * one.median:.2f} ms, {one.median / other.median:.2f} times a plain loop's",
            None,
        ),
        Verdict(
            "the app's own UPDATE of a random row meanwhile",
            "never longer than a batch",
            f"{1000 * held_up.median:.2f} ms, at most {1000 * max(held_up.values):.1f} ms; "
            f"a batch at most {1000 * max(one.values):.1f} ms on the average of a run",
            None,
        ),
    ]
    return [Group("15", "A batch of a backfill", "ms", series, PLAIN, verdicts, "The whole task, by batches.")]


def _make(url: str, rows: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS numbers, startup_ledger, startup_run, startup_node")
        connection.execute(
            "CREATE TABLE numbers (n integer PRIMARY KEY, times integer NOT NULL) WITH (fillfactor = 45)"
        )
        connection.execute("INSERT INTO numbers SELECT n, 0 FROM generate_series(1, %s) AS n", (rows,))
        connection.execute("VACUUM ANALYZE numbers")


def _seconds(process: subprocess.Popen[str]) -> float:
    """How long the task took, as its own line says."""
    _, said = process.communicate(timeout=600)
    found = re.search(r"is done after ([\d.]+) s", said)
    assert process.returncode == 0 and found, said
    return float(found[1])


def _app_beside(process: subprocess.Popen[str], url: str, rows: int) -> Series:
    """Seconds of an app's statements while the backfill runs."""
    waits = []
    with psycopg.connect(url, autocommit=True) as connection:
        while process.poll() is None:
            began = time.monotonic()
            connection.execute("UPDATE numbers SET times = times WHERE n = %s", (random.randrange(1, rows),))
            waits.append(time.monotonic() - began)
    _seconds(process)
    return Series(waits)
