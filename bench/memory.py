"""6: the memory that stays behind after ready, the app's own aside."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import Group, Verdict, interleave
from bench.things import SUPERVISORS, Bench, Mark, descendants, memory, running, wrap

OURS = "startup-tasks"
LIMIT = 2_000_000


def measure(bench: Bench) -> list[Group]:
    cases: dict[str, Callable[[], float]] = {OURS: lambda: _overhead(bench, "")}
    for peer in SUPERVISORS:
        if wrap(peer, bench.new_directory(), ["true"]):
            cases[peer] = lambda peer=peer: _overhead(bench, peer)  # type: ignore[misc]
    series = interleave(cases, bench.n(20), warm=False)
    found = series[OURS].median
    verdict = Verdict("memory after ready", "under 2 MB", f"{found / 1e6:.2f} MB", found < LIMIT)
    note = (
        "Proportional set size of every process but the app, 0.4 s after the app has started; ours: after ready, too."
    )
    return [Group("6", "Memory after ready", "MB", series, OURS, [verdict], note)]


def _overhead(bench: Bench, wrapper: str) -> float:
    directory = bench.new_directory()
    app = ["/bin/sleep", "1000"]
    argv, env = wrap(wrapper, directory, app) if wrapper else [bench.product.entrypoint, *app], {}
    if not wrapper:
        (directory / "state").mkdir()
        ready = Mark(directory / "state" / "ready")
        env = bench.entrypoint_env(directory / "state", STARTUP_TASKS="none", STARTUP_PING="none")
    with running(bench.start(argv or [], env, directory)) as process:
        if not wrapper:
            ready.wait(process)
        while not (apps := [pid for pid in descendants(process.pid) if _runs(pid, "sleep")]):
            time.sleep(0.02)
        time.sleep(0.4)
        found = memory([pid for pid in [process.pid, *descendants(process.pid)] if pid not in apps])
    shutil.rmtree(directory)
    return found


def _runs(pid: int, name: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == name
    except OSError:
        return False
