"""13: the processor time of a whole boot with nothing to do, which a container's CPU limit multiplies."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.measure import Group, Series, Verdict, interleave
from bench.ready import CONNECT, FLOOR, until_ready
from bench.things import Bench, Mark, timed
from bench.tools import Ours, applied

BARE = "python3 -I -S -c pass"
MIGRATE = "startup-tasks, migrate, 100 applied"
NOTHING = "startup-tasks, no tasks, ping none"
AT_ONCE = "startup-tasks, app answers at once, 100 applied"


def measure(bench: Bench) -> list[Group]:
    directory, url = applied(bench, Ours(bench), 100)
    python = bench.product.python
    connect = [python, "-I", "-c", CONNECT.format(url=bench.new_database())]
    cases: dict[str, Callable[[], float]] = {
        BARE: lambda: _processor_time([python, "-I", "-S", "-c", "pass"], {}, directory),
        FLOOR: lambda: _processor_time(connect, {}, directory),
        NOTHING: lambda: _boot(bench, directory, STARTUP_TASKS="none"),
        MIGRATE: lambda: _boot(bench, directory, DATABASE_URL=url),
    }
    spent = interleave(cases, bench.n(20))
    walls: dict[str, Callable[[], float]] = {
        FLOOR: lambda: timed(connect, {}, directory),
        AT_ONCE: lambda: until_ready(bench, directory, url, "0"),
    }
    took = interleave(walls, bench.n(20))
    note = "Of entrypoint.sh and all that it waits for, the app, `dd`, too. Ratios are of pairs, run by run."
    return [
        Group(
            "13",
            "Processor time of a boot with nothing to do",
            "ms",
            spent,
            BARE,
            [_verdict(spent, MIGRATE, FLOOR, 0.3), _verdict(spent, NOTHING, BARE, 4)],
            note,
        ),
        Group("13", "From the answer to ready", "ms", took, FLOOR, [_verdict(took, AT_ONCE, FLOOR, 0.35)]),
    ]


def _verdict(series: Mapping[str, Series], ours: str, floor: str, goal: float) -> Verdict:
    pairs = zip(series[ours].values, series[floor].values, strict=False)
    ratio = Series([value / base for value, base in pairs])
    found = f"{ratio.median:.2f} ({ratio.percentile(25):.2f} - {ratio.percentile(75):.2f})"
    return Verdict(f"{ours}, in times of {floor}", f"at most {goal:g}", found, ratio.median <= goal)


def _processor_time(argv: list[str], env: Mapping[str, str], directory: Path) -> float:
    """Seconds, of the whole process."""
    return _spent(subprocess.Popen(argv, env={"PATH": os.environ["PATH"], **env}, cwd=directory))


def _spent(process: subprocess.Popen[bytes]) -> float:
    """Wait for it; the seconds that it, and all that it has waited for, had of a processor."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.args
    return used.ru_utime + used.ru_stime


def _boot(bench: Bench, directory: Path, **env: str) -> float:
    """One boot, from the container's start to the end of an app that ends once it is ready."""
    one = bench.new_directory()
    os.mkfifo(one / "end")
    (one / "state").mkdir()
    ready = Mark(one / "state" / "ready")
    argv = [bench.product.entrypoint, "/bin/dd", f"if={one / 'end'}", "of=/dev/null", "status=none"]
    process = bench.start(argv, bench.entrypoint_env(one / "state", STARTUP_PING="none", **env), directory)
    ready.wait(process)
    os.close(os.open(one / "end", os.O_WRONLY))
    seconds = _spent(process)
    shutil.rmtree(one)
    return seconds
