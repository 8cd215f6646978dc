"""A backfill of a million rows whose nodes are killed at random points: every row exactly once, memory flat."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any

import psutil
import pytest

ROWS, BATCH, KILLS = 1_000_000, 5_000, 20
TASK = f"""
from startup import Context, task

@task(policy="once")
def fill(context: Context):
    for first in range(context.cursor or 0, {ROWS}, {BATCH}):
        context.connection.execute(
            "UPDATE numbers SET times = times + 1 WHERE n > %s AND n <= %s", (first, first + {BATCH})
        )
        yield first + {BATCH}
"""
#: Kibibytes that a process may be larger after many batches than it was after a few.
SLACK = 4096


@pytest.mark.timeout(400)
def test_every_row_is_filled_once_by_nodes_that_are_killed_at_random(
    startup: Any, query: Any, database_url: str
) -> None:
    startup.write("tasks.py", TASK)
    query(database_url, "CREATE TABLE numbers (n integer PRIMARY KEY, times integer NOT NULL) WITH (fillfactor = 45)")
    query(database_url, f"INSERT INTO numbers SELECT n, 0 FROM generate_series(1, {ROWS}) AS n")
    settings = {"DATABASE_URL": database_url, "STARTUP_MODULE": "tasks", "STARTUP_TASKS": "fill"}

    def batches() -> int:
        """How many the ledger has; 0 before its table is there."""
        if not query(database_url, "SELECT 1 FROM pg_tables WHERE tablename = 'startup_ledger'"):
            return 0
        rows = query(database_url, "SELECT batches FROM startup_ledger")
        return int(rows[0][0] or 0) if rows else 0

    def until(wanted: int, node: Any) -> None:
        while batches() < wanted and node.poll() is None:
            time.sleep(0.005)

    chance, sizes = random.Random(), []
    for _ in range(KILLS):
        node = startup.start("init", **settings)
        worker = psutil.Process(node.pid)
        until(batches() + 1, node)
        time.sleep(chance.uniform(0, 0.05))  # anywhere within a batch
        for process in (*worker.children(), worker):
            with contextlib.suppress(psutil.NoSuchProcess):  # a parent ends with its child
                process.kill()
        node.wait(30)
        # in one snapshot: the server may still be at the commit of the one that was killed
        together = f"SELECT count(*) = {BATCH} * max(batches) FROM numbers, startup_ledger WHERE times = 1"
        assert query(database_url, together) == [(True,)]
    node = startup.start("init", **settings)
    (worker,) = psutil.Process(node.pid).children() or [psutil.Process(node.pid)]
    first = batches()
    for wanted in (first + 10, ROWS // BATCH - 5):
        until(wanted, node)
        sizes.append(worker.memory_info().rss >> 10)
    _, err = node.communicate(timeout=120)
    assert node.returncode == 0, err
    assert f"goes on after {first:,} batches" in err
    assert query(database_url, "SELECT times, count(*) FROM numbers GROUP BY times") == [(1, ROWS)]
    assert sizes[1] - sizes[0] < SLACK, sizes
