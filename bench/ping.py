"""2: from the moment the app listens to the moment the ping loop knows, and what it costs until then."""

from __future__ import annotations

import os
import random
import selectors
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.measure import Group, Series, Verdict, interleave, progress
from bench.things import APP, Bench, cpu_seconds, end, running
from tests.conftest import pick_port

HTTP = "startup-tasks, http://"
AUTO = "startup-tasks, auto"
LATE = "startup-tasks, http://, after 10 s"
WAIT_FOR_IT = "wait-for-it"
CURL = "curl, once a second"
#: What is asked for in vain, on a port where nothing listens, to see what that costs.
COSTLY = "startup-tasks, a ping of 10 ms"
IN_VAIN = {
    "startup-tasks, tcp://": "tcp://127.0.0.1:{}",
    HTTP: "http://localhost:{}/",
    AUTO: "auto",
    "startup-tasks, file://": "file:///nowhere/{}",
    COSTLY: "costly",
}
#: Waits for an app (a pid) in vain for so many seconds; prints the processor time that this took.
WAIT_IN_VAIN = """
import os, sys, time
from startup.ping import kinds, wait

class Costly(wait.Ping):
    def answer(self, attempt):
        until = time.process_time() + 0.01
        while time.process_time() < until:
            pass
        return wait.Answer(False, "no")

def ask(seconds):
    quiet = lambda text: None
    wait.wait(one, app=int(sys.argv[2]), timeout=seconds, interval=1, report=quiet, warn=quiet)

one = Costly("costly") if sys.argv[1] == "costly" else kinds.parse(sys.argv[1], os.environ)
def burnt():
    times = os.times()
    return time.process_time() + times.children_user + times.children_system

ask(0.1)  # imports
before = burnt()
ask(float(sys.argv[3]))
print(burnt() - before)
"""


def measure(bench: Bench) -> list[Group]:
    peers = [CURL, *([WAIT_FOR_IT] if shutil.which("wait-for-it") else [])]
    series = {name: Series(ours=name.startswith("startup")) for name in (HTTP, AUTO, LATE, *peers)}
    # Several boots at once: one alone would take ten minutes. Each is asleep for nearly all of the time.
    batches = bench.n(13, 1)
    for number in range(batches):
        progress(f"batch {number + 1} of {batches}")
        _batch(bench, [HTTP] * 8 + [AUTO] * 8 + peers * 3, 1.5, 6.0, series)
    for _ in range(bench.n(2, 1)):
        _batch(bench, [LATE] * 12, 10.5, 15.0, series)
    progress("")
    verdicts = [
        Verdict(f"app listens -> known: {name.partition(', ')[2]}", *_judged(series[name])) for name in (HTTP, AUTO)
    ]
    late = series[LATE].percentile(100)
    verdicts.append(Verdict("the same after 10 s", "under 1 s (the cap)", f"{late:.2f} s at most", late < 1.0))
    note = "The app listens at a random moment between 1.5 and 6 s of its boot; 20 boots or so side by side."
    return [Group("2", "From the app's answer to the loop's knowing", "ms", series, HTTP, verdicts, note), _cost(bench)]


def _cost(bench: Bench) -> Group:
    """The first seconds of a boot, when pings come fast."""
    cases = {name: partial(_in_vain, bench, value) for name, value in IN_VAIN.items()}
    series = interleave({**cases, CURL: partial(_curl_in_vain, bench)}, bench.n(10, 2))
    verdicts = [
        Verdict(
            f"a processor's time while waiting: {name.partition(', ')[2]}",
            f"under {limit:.0%}",
            f"{series[name].median:.1%}",
            series[name].median < limit,
        )
        for name, limit in {name: 0.06 if name == COSTLY else 0.04 for name in IN_VAIN}.items()
    ]
    note = "Milliseconds of processor time for each second of the first three in which nothing answers."
    return Group("2", "What waiting costs", "ms", series, CURL, verdicts, note)


def _in_vain(bench: Bench, value: str) -> float:
    with running(bench.start(["sleep", "60"])) as app:
        argv = [bench.product.python, "-I", "-c", WAIT_IN_VAIN, value.format(pick_port()), str(app.pid), "3"]
        return float(subprocess.check_output(argv, text=True)) / 3


def _curl_in_vain(bench: Bench) -> float:
    loop = f"until curl -fs -o /dev/null http://127.0.0.1:{pick_port()}/; do sleep 1; done"
    with running(bench.start(["/bin/sh", "-c", loop])) as process:
        time.sleep(3)
        return cpu_seconds([process.pid]) / 3


def _judged(series: Series) -> tuple[str, str, bool]:
    median, last = series.median, series.percentile(99)
    return (
        "median under 15 ms, 99th percentile under 60 ms",
        f"{median * 1000:.1f} ms, {last * 1000:.1f} ms",
        median < 0.015 and last < 0.060,
    )


def _batch(bench: Bench, kinds: Sequence[str], first: float, last: float, series: dict[str, Series]) -> None:
    directory = bench.new_directory()
    selector = selectors.DefaultSelector()
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number, kind in enumerate(kinds):
            process, note = _start(bench, directory / f"{number}", kind, random.uniform(first, last))
            started.append(process)
            assert process.stderr is not None
            selector.register(process.stderr, selectors.EVENT_READ, (kind, note))
        said: dict[int, bytes] = {}
        deadline = time.monotonic() + last + 30
        while selector.get_map():
            assert time.monotonic() < deadline, said
            for key, _ in selector.select(1):
                now = time.monotonic()
                chunk = os.read(key.fd, 65536)
                said[key.fd] = said.get(key.fd, b"") + chunk
                assert chunk, said[key.fd]
                if b"app answers" in said[key.fd] or b"known" in said[key.fd]:
                    kind, note = key.data
                    series[kind].values.append(now - float(note.read_text().split()[1]))
                    selector.unregister(key.fileobj)
    finally:
        for process in started:
            end(process)
    shutil.rmtree(directory)


def _start(bench: Bench, directory: Path, kind: str, boot: float) -> tuple[subprocess.Popen[bytes], Path]:
    directory.mkdir()
    note, port = directory / "note", pick_port()
    app = [bench.product.python, "-I", "-S", str(APP), str(note), str(port), str(boot)]
    if kind.startswith("startup"):
        target = "auto" if kind == AUTO else f"http://127.0.0.1:{port}/"
        env = bench.entrypoint_env(directory / "state", STARTUP_TASKS="none", STARTUP_PING=target)
        argv = [bench.product.entrypoint, *app]
    else:
        loop = f"wait-for-it -q -t 0 127.0.0.1:{port}"
        if kind == CURL:
            loop = f"until curl -fs -o /dev/null http://127.0.0.1:{port}/; do sleep 1; done"
        env = {}
        argv = ["/bin/sh", "-c", f'"$@" & {loop}; echo known >&2; wait', "sh", *app]
    return bench.start(argv, env, directory, stderr=subprocess.PIPE), note
