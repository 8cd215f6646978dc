"""5: what a minute of waiting for a slow app costs, and what is left after ready."""

from __future__ import annotations

import subprocess
import time

from bench.measure import Group, Series, Verdict
from bench.ping import COSTLY, IN_VAIN, WAIT_IN_VAIN
from bench.things import APP, SUPERVISORS, Bench, cpu_seconds, descendants, end, running, wrap
from bench.tools import Ours, applied
from tests.conftest import pick_port

HTTP = "startup-tasks, http://, migrate"
AUTO = "startup-tasks, auto, no tasks"
LOOPS = {"curl, once a second": "until curl -fs -o /dev/null http://127.0.0.1:{port}/; do sleep 1; done"}
LOOPS["wait-for-it"] = "wait-for-it -q -t 0 127.0.0.1:{port}"
#: The wait alone, kind by kind.
KINDS = {name: value for name, value in IN_VAIN.items() if name != COSTLY}
KINDS |= {"startup-tasks, unix://": "unix:///nowhere/{}", "startup-tasks, cmd:": "cmd:false {}"}
GOAL = 0.15


class Wait:
    """One wait: a tree of processes, the app in it aside."""

    def __init__(self, bench: Bench, kind: str, boot: float) -> None:
        directory = bench.new_directory()
        self.kind, self.note, self.known = kind, directory / "note", directory / "known"
        self.cost = -1.0
        port = pick_port()
        argv = [bench.product.python, "-I", "-S", str(APP), str(self.note), str(port), f"{boot}"]
        env: dict[str, str] = {}
        if kind.startswith("startup"):
            state = directory / "state"
            self.known = state / "ready"
            where, url = applied(bench, Ours(bench), 100)
            env = bench.entrypoint_env(state, DATABASE_URL=url, STARTUP_PING=f"http://127.0.0.1:{port}/")
            if kind == AUTO:
                env.update(STARTUP_TASKS="none", STARTUP_PING="auto")
            argv, directory = [bench.product.entrypoint, *argv], where
        elif kind in LOOPS:
            script = f'"$@" & {LOOPS[kind].format(port=port)}; : >{self.known}; wait'
            argv = ["/bin/sh", "-c", script, "sh", *argv]
        else:
            argv = wrap(kind, directory, argv) or []
            self.known = self.note
        self.process: subprocess.Popen[bytes] = bench.start(argv, env, directory)

    def app(self) -> int:
        """The app's pid."""
        return int(self.note.read_text().split()[2])

    def so_far(self) -> float:
        """Processor seconds of everything but the app."""
        return cpu_seconds([self.process.pid, *(pid for pid in descendants(self.process.pid) if pid != self.app())])


def measure(bench: Bench) -> list[Group]:
    seconds = bench.n(60, 10)
    kinds = [HTTP, AUTO, *LOOPS, *SUPERVISORS]
    kinds = [kind for kind in kinds if kind not in SUPERVISORS or wrap(kind, bench.new_directory(), ["true"])]
    applied(bench, Ours(bench), 100)
    waits = [Wait(bench, kind, seconds) for _ in range(bench.n(3, 1)) for kind in kinds]
    series = {kind: Series(ours=kind.startswith("startup")) for kind in kinds}
    after = Series()
    try:
        deadline = time.monotonic() + seconds + 60
        while open_ones := [one for one in waits if one.cost < 0]:
            assert time.monotonic() < deadline, [one.kind for one in open_ones]
            for one in open_ones:
                if one.known.exists() and one.note.exists():
                    time.sleep(0.05)  # the last child is being reaped
                    one.cost = one.so_far()
                    series[one.kind].values.append(one.cost)
            time.sleep(0.05)
        ours = [one for one in waits if one.kind == HTTP]
        time.sleep(1)
        before = [one.so_far() for one in ours]
        time.sleep(bench.n(20, 3))
        after.values = [one.so_far() - spent for one, spent in zip(ours, before, strict=True)]
    finally:
        for one in waits:
            end(one.process)
    idle = max(after.values)
    verdicts = [
        Verdict(f"processor time of waiting {seconds} s, all included", f"under {GOAL} s", *_judged(series[HTTP])),
        Verdict("the same without tasks, ping auto", f"under {GOAL} s", *_judged(series[AUTO])),
        Verdict("processor time in 20 s after ready", "nothing", f"{idle * 1000:.1f} ms", idle == 0),
    ]
    note = (
        f"The app listens after {seconds} s; all wait side by side. Supervisors do not wait for it: what they cost "
        "meanwhile. `migrate` includes loading psycopg, connecting and comparing."
    )
    title = f"Processor time of waiting {seconds} s"
    return [Group("5", title, "ms", series, HTTP, verdicts, note), _alone(bench, f"{title}, the wait alone", seconds)]


def _judged(series: Series) -> tuple[str, bool]:
    return f"{series.median:.2f} s", series.median < GOAL


def _alone(bench: Bench, title: str, seconds: float) -> Group:
    """Without the program's start, its settings and its tasks."""
    series = {name: Series(ours=True) for name in KINDS}
    with running(bench.start(["sleep", f"{seconds + 60}"])) as app:
        waits = [
            (name, bench.start(_in_vain(bench, value, app.pid, seconds), stdout=subprocess.PIPE, text=True))
            for _ in range(bench.n(5, 2))
            for name, value in KINDS.items()
        ]
        for name, one in waits:
            series[name].values.append(float(one.communicate()[0]))
    verdicts = [
        Verdict(f"the wait alone: {name.partition(', ')[2]}", "-", f"{found.median:.3f} s", None)
        for name, found in series.items()
    ]
    return Group("5", title, "ms", series, next(iter(series)), verdicts, "All side by side; nothing answers.")


def _in_vain(bench: Bench, value: str, app: int, seconds: float) -> list[str]:
    argv = [bench.product.python, "-I", "-c", WAIT_IN_VAIN, value.format(pick_port())]
    return [*argv, str(app), f"{seconds}"]
