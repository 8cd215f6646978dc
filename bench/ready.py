"""3 and 4: from the app's answer to ready where nothing is to be done, and what that costs the app's own boot."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import Group, Series, Verdict, interleave
from bench.things import APP, PEERS, Bench, Fifo, Mark, running, timed
from bench.tools import Ours, Tool, all_tools, applied
from tests.conftest import pick_port

#: What the app does while it boots, and the word for it.
BOOTS = {"1": "1 s asleep", "imports": "web app", "0": "at once"}
CONNECT = "import psycopg; psycopg.connect({url!r}).execute('SELECT 1').fetchone()"
FLOOR = "import psycopg, connect, SELECT 1"


def measure(bench: Bench) -> list[Group]:
    ours = Ours(bench)
    cases: dict[str, Callable[[], float]] = {}
    floor_url = bench.new_database()

    def python(*code: str) -> float:
        return timed([bench.product.python, "-I", "-c", *code], {}, bench.directory)

    cases[FLOOR] = lambda: python(CONNECT.format(url=floor_url))
    cases["python3 -c pass"] = lambda: python("pass")
    many_applied = bench.n(5000, 500)
    for count in (100, many_applied):
        directory, url = applied(bench, ours, count)
        for boot, word in BOOTS.items():

            def run(directory: Path = directory, url: str = url, boot: str = boot) -> float:
                return until_ready(bench, directory, url, boot)

            cases[_name(count, word)] = run
    for tool in all_tools(bench):
        if tool.name in ("yoyo apply", "dbmate up"):
            cases[f"curl loop, {tool.name}, 100 applied, web app"] = lambda tool=tool: _by_hand(bench, tool)  # type: ignore[misc]
    series = interleave(cases, bench.n(20))
    few, more = verdicts(series, many_applied)
    shown = {name: one for name, one in series.items() if f"{many_applied:,} applied" not in name}
    large = {FLOOR: series[FLOOR], **{name: one for name, one in series.items() if name.startswith("startup")}}
    note = "PostgreSQL; the app notes when it listens. The floor and `python3 -c pass` are whole processes."
    return [
        Group("3", "From the app's answer to ready, nothing to do", "ms", shown, FLOOR, few, note),
        Group("4", f"The same over {many_applied:,} applied migrations", "ms", large, _name(100, BOOTS["1"]), more),
        _app_boot(bench),
    ]


def verdicts(series: dict[str, Series], many_applied: int) -> tuple[list[Verdict], list[Verdict]]:
    """Rows 3 and 4, for each kind of boot; one that is shorter than ours leaves us no time to prepare."""
    floor = series[FLOOR].median
    few, more = [], []
    for word in BOOTS.values():
        here, there = series[_name(100, word)].median, series[_name(many_applied, word)].median
        found = f"{here * 1000:.0f} ms, {here / floor:.2f} times import and connect"
        goal = "under 50 ms, well under one import and connect"
        few.append(Verdict(f"app answers -> ready, 100 applied; {word}", goal, found, here < min(0.050, floor / 2)))
        met = there / here <= 1.2
        ratio = f"{there / here:.2f} times"
        more.append(Verdict(f"{many_applied:,} applied against 100; {word}", "within 1.2 times", ratio, met))
    return few, more


def _name(count: int, word: str) -> str:
    return f"startup-tasks, {count:,} applied, {word}"


class Boot:
    """One boot of the app, under the entrypoint or directly."""

    def __init__(self, bench: Bench, boot: str) -> None:
        self.bench = bench
        self.directory = bench.new_directory()
        self.note, self.port = self.directory / "note", pick_port()
        flags = [] if boot == "imports" else ["-I", "-S"]
        self.app = [str(PEERS / "python"), *flags, str(APP), str(self.note), str(self.port), boot]

    def env(self, url: str) -> dict[str, str]:
        (self.directory / "state").mkdir()
        target = f"http://127.0.0.1:{self.port}/"
        return self.bench.entrypoint_env(self.directory / "state", DATABASE_URL=url, STARTUP_PING=target)

    def times(self) -> tuple[float, float]:
        """When the app began, and when it listened."""
        began, listening, _ = map(float, self.note.read_text().split())
        return began, listening


def until_ready(bench: Bench, directory: Path, url: str, boot: str) -> float:
    one = Boot(bench, boot)
    env = one.env(url)
    ready = Mark(one.directory / "state" / "ready")
    with running(bench.start([bench.product.entrypoint, *one.app], env, directory)) as process:
        took = ready.wait(process) - one.times()[1]
    shutil.rmtree(one.directory)
    return took


def _by_hand(bench: Bench, tool: Tool) -> float:
    """The article's post-start hook: loop on a ping, migrate."""
    directory, url = applied(bench, tool, 100)
    one = Boot(bench, "imports")
    ready = Fifo(one.directory / "ready")
    argv, env = tool.command(directory, url)
    loop = f"until curl -fs -o /dev/null http://127.0.0.1:{one.port}/; do sleep 1; done"
    script = f'{" ".join(one.app)} & {loop}; "$@" && echo >{ready.path}; wait'
    with running(bench.start(["/bin/sh", "-c", script, "sh", *argv], env, directory)) as process:
        took = ready.wait(process) - one.times()[1]
    shutil.rmtree(one.directory)
    return took


# ------------------------------------------------------------------------------ the app's own boot


def _app_boot(bench: Bench) -> Group:
    directory, url = applied(bench, Ours(bench), 100)
    cases: dict[str, Callable[[], float]] = {}
    for boot, word in (("imports", "web app, one core"), ("busy", "both cores busy")):
        for where in ("directly", "under startup-tasks"):
            name = f"{'startup-tasks' if where != 'directly' else where}, {word}"

            def run(boot: str = boot, where: str = where) -> float:
                return _boot_time(bench, directory, url, boot, where == "directly")

            cases[name] = run
    series = interleave(cases, bench.n(20))
    verdicts = []
    for word in ("web app, one core", "both cores busy"):
        with_us, alone = series[f"startup-tasks, {word}"], series[f"directly, {word}"]
        ratios = Series([a / b for a, b in zip(with_us.values, alone.values, strict=True)])
        found = f"{(with_us.median / alone.median - 1) * 100:+.1f} % (run by run {(ratios.median - 1) * 100:+.1f} %)"
        verdicts.append(
            Verdict(f"the app's own boot, {word}", "under 3 % slower", found, with_us.median / alone.median < 1.03)
        )
    note = "From the app's first instruction to its listening; 100 migrations are compared meanwhile."
    return Group("3", "The app's own boot", "ms", series, "directly, web app, one core", verdicts, note)


def _boot_time(bench: Bench, directory: Path, url: str, boot: str, alone: bool) -> float:
    one = Boot(bench, boot)
    env = one.env(url)
    argv = one.app if alone else [bench.product.entrypoint, *one.app]
    with running(bench.start(argv, env, directory)) as process:
        deadline = time.monotonic() + 60
        while not one.note.exists():
            assert process.poll() is None and time.monotonic() < deadline, argv
            time.sleep(0.02)
        began, listening = one.times()
    shutil.rmtree(one.directory)
    return listening - began
