"""1: what stands between the container's start and the app's first instruction."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from bench.measure import Group, Verdict, interleave, minus
from bench.things import SUPERVISORS, Bench, Fifo, running, wrap

DIRECT = "executed directly"
DIRECT_TERMINAL = "executed directly, at a terminal"
ENV = "startup-tasks, GNU env"
BUSYBOX = "startup-tasks, busybox alone"
TERMINAL = "startup-tasks, at a terminal"


def measure(bench: Bench) -> list[Group]:
    cases: dict[str, Callable[[], float]] = {DIRECT: lambda: _delay(bench, "", "direct")}
    cases[DIRECT_TERMINAL] = lambda: _delay(bench, "", "terminal")
    cases[ENV] = lambda: _delay(bench, "us", "direct")
    cases[TERMINAL] = lambda: _delay(bench, "us", "terminal")
    if _busybox(bench):
        cases[BUSYBOX] = lambda: _delay(bench, "us", "busybox")
    for peer in SUPERVISORS:
        if wrap(peer, bench.new_directory(), ["true"]):
            cases[peer] = lambda peer=peer: _delay(bench, peer, "direct")  # type: ignore[misc]
    series = interleave(cases, bench.n(40))
    verdicts = []
    for name, direct, goal in ((ENV, DIRECT, 0.005), (TERMINAL, DIRECT_TERMINAL, 0.020), (BUSYBOX, DIRECT, 0.020)):
        if name in series:
            added = minus(series[name], series[direct])
            verdicts.append(
                Verdict(
                    f"added before the app's first instruction: {name.partition(', ')[2]}",
                    f"within {goal * 1000:.0f} ms of direct",
                    f"{added.median * 1000:.1f} ms ({added.percentile(25) * 1000:.1f} - "
                    f"{added.percentile(75) * 1000:.1f})",
                    added.median <= goal,
                )
            )
    note = "From exec to the app's first write, no `pre_start` tasks; a supervisor's time includes its own start."
    return [Group("1", "Until the app's first instruction", "ms", series, DIRECT, verdicts, note)]


def _busybox(bench: Bench) -> bool:
    program = shutil.which("busybox")
    directory = bench.directory / "busybox"
    if program and not directory.exists():
        directory.mkdir()
        for applet in ("sh", "env", "grep", "mkdir", "rm", "sleep", "tr", "date", "sed"):
            (directory / applet).symlink_to(program)
    return bool(program)


def _delay(bench: Bench, wrapper: str, where: str) -> float:
    directory = bench.new_directory()
    fifo = Fifo(directory / "fifo")
    argv = ["/bin/dd", "if=/dev/zero", f"of={fifo.path}", "bs=1", "count=1"]
    env = {}
    if wrapper == "us":
        (directory / "state").mkdir()  # as the image has /run/startup
        argv = [bench.product.entrypoint, *argv]
        env = bench.entrypoint_env(directory / "state", STARTUP_TASKS="none", STARTUP_PING="none")
    elif wrapper:
        argv = wrap(wrapper, directory, argv) or []
    if where == "busybox":
        env["PATH"] = str(bench.directory / "busybox")
        argv = [f"{env['PATH']}/sh", *argv]
    began = time.monotonic()
    with running(bench.start(argv, env, directory, terminal=where == "terminal")):
        delay = fifo.wait() - began
    shutil.rmtree(directory)
    return delay
