"""Signals, phases, shells, places: what the app gets, what is left behind, the exit code and the time taken.

Each pair of a phase and a signal is tested under one shell in one place here, so that all pairs of the four are
covered; with STARTUP_TEST_FULL=1 each under all of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import Startup

from .conftest import FULL, PLACES, SHELLS, Entrypoint, Recorder, Running, can_be_pid_1, session_members

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
OTHERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, signal.SIGCONT, 34)
#: All that the entrypoint forwards: not KILL, STOP and CHLD, nor what a fault of a shell's own would raise.
FORWARDED = [1, 2, 3, 6, 10, *range(12, 17), 18, *range(20, 32), *range(34, 65)]
SIGNALS = [int(number) for number in (*STOP, *OTHERS)]
if FULL:  # the real-time signals are alike but for their number
    SIGNALS += [number for number in FORWARDED if number not in SIGNALS and number not in range(35, 64)]
#: Seconds; what is running is ended at once, which takes a Python no longer than this on a busy machine.
AT_ONCE = 8


@dataclass
class Scene:
    """One entrypoint with its app, brought to a phase. ``before``: the app got these on the way there."""

    entrypoint: Entrypoint
    recorder: Recorder
    query: Callable[[str, str], list[tuple[object, ...]]]
    new_database: Callable[[], str]
    before: list[int] = field(default_factory=list)
    database: str = ""
    #: Sessions of others in that database.
    sessions: int = 0
    app_starts: bool = True

    def start(self, **env: str) -> Running:
        self.running = self.entrypoint.start(*self.recorder.command, str(self.end), env=env)
        return self.running

    @property
    def mark(self) -> Path:
        return self.entrypoint.directory / "mark"

    @property
    def end(self) -> Path:
        """An app that was asked to stop goes on until this file is there."""
        return self.entrypoint.directory / "end"

    @property
    def hold(self) -> str:
        """A command line that shows that it runs, by a file with its pid, and goes on for long."""
        return f"echo $$ >'{self.mark}.new'; mv '{self.mark}.new' '{self.mark}'; exec sleep 60"

    def until_it_holds(self) -> None:
        self.running.wait_for(self.mark.exists)
        self.running.wait_for(lambda: self.recorder.up or not self.app_starts)

    def what_held_is_gone(self) -> bool:
        """As PID 1 it takes everything with it, and the pid in the file is its namespace's own."""
        return (
            self.entrypoint.place == "pid1"
            or not self.mark.exists()
            or not Path(f"/proc/{self.mark.read_text().strip()}").exists()
        )

    def count_sessions(self) -> int:
        others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        [(count,)] = self.query(self.database, f"SELECT count(*) FROM pg_stat_activity WHERE {others}")
        return int(str(count))


def in_pre_start(scene: Scene) -> None:
    scene.app_starts = False
    scene.start(STARTUP_PRE_START="hold@local", STARTUP_TASK_HOLD=scene.hold)
    scene.until_it_holds()


def while_the_app_boots(scene: Scene) -> None:
    running = scene.start(STARTUP_PING="tcp://127.0.0.1:1")
    running.wait_for(lambda: scene.recorder.up and running.told("stop_timeout"))


def in_a_ping(scene: Scene) -> None:
    scene.start(STARTUP_PING=f"cmd:{scene.hold}")
    scene.until_it_holds()


def in_a_python_task(scene: Scene) -> None:
    (scene.entrypoint.directory / "tasks.py").write_text(
        "import os, pathlib, time\n"
        "def hold(context):\n"
        "    context.connection.execute('CREATE TABLE half (id int)')\n"
        "    pathlib.Path('mark').touch()\n"
        "    time.sleep(60)\n"
    )
    scene.database = scene.new_database()
    scene.start(STARTUP_TASKS="hold@once", STARTUP_TASK_HOLD="tasks:hold", DATABASE_URL=scene.database)
    scene.until_it_holds()
    scene.mark.unlink()


def in_a_command_task(scene: Scene) -> None:
    scene.database = scene.new_database()
    scene.start(STARTUP_TASKS="hold", STARTUP_TASK_HOLD=scene.hold, DATABASE_URL=scene.database)
    scene.until_it_holds()


def in_a_migrations_statement(scene: Scene) -> None:
    directory = scene.entrypoint.directory / "migrations"
    directory.mkdir()
    (directory / "0001_half.sql").write_text("CREATE TABLE half (id int);\nSELECT pg_sleep(60);\n")
    scene.database = scene.new_database()
    running = scene.start(STARTUP_TASKS="migrate", DATABASE_URL=scene.database)
    asleep = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep'"
    running.wait_for(lambda: scene.recorder.up and scene.query(scene.database, asleep))


def waiting_for_the_lock(scene: Scene) -> None:
    scene.database = scene.new_database()
    holder = Entrypoint(scene.entrypoint.shell, scene.entrypoint.directory, scene.entrypoint.place)
    first = holder.start(
        *(sys.executable, "-I", "-c", "import time; time.sleep(60)"),
        env={
            "STARTUP_TASKS": "hold",
            "STARTUP_TASK_HOLD": scene.hold,
            "DATABASE_URL": scene.database,
            "STARTUP_STATE_DIR": str(scene.entrypoint.directory / "other"),
        },
    )
    first.wait_for(scene.mark.exists)
    try:
        scene.mark.unlink()
        scene.sessions = scene.count_sessions()
        os.rename(scene.entrypoint.directory / "log0", scene.entrypoint.directory / "log of the holder")
        running = scene.start(STARTUP_TASKS="hold", STARTUP_TASK_HOLD="true", DATABASE_URL=scene.database)
        running.wait_for(lambda: scene.recorder.up and "waiting" in running.log)
        scene.entrypoint.also_clean(holder)
    except BaseException:
        holder.clean()
        raise


def ready(scene: Scene) -> None:
    running = scene.start()
    running.wait_until_ready()
    running.wait_for(lambda: scene.recorder.up)


def in_pre_stop(scene: Scene) -> None:
    """A second signal ends the waiting."""
    scene.entrypoint.hook("pre_stop", scene.hold)
    running = scene.start(STARTUP_HOOK_TIMEOUT="50")
    running.wait_until_ready()
    running.wait_for(lambda: scene.recorder.up)
    running.send(signal.SIGTERM)
    running.wait_for(scene.mark.exists)
    scene.before = [signal.SIGTERM]


def while_the_app_stops(scene: Scene) -> None:
    ready(scene)
    scene.running.send(signal.SIGTERM)
    scene.running.wait_for(lambda: scene.recorder.got == [signal.SIGTERM])
    scene.before = [signal.SIGTERM]


PHASES = [
    *(in_pre_start, while_the_app_boots, in_a_ping, in_a_python_task, in_a_command_task),
    *(in_a_migrations_statement, waiting_for_the_lock, ready, in_pre_stop, while_the_app_stops),
]
WHERE = [(name, place) for place in PLACES for name in SHELLS]
CASES = [
    pytest.param(name, place, phase, number, id=f"{name}-{place}-{phase.__name__}-{number}")
    for row, phase in enumerate(PHASES)
    for column, number in enumerate(SIGNALS)
    for name, place in (WHERE if FULL else [WHERE[(row + column) % len(WHERE)]])
]


@pytest.fixture
def make_entrypoint(tmp_path: Path) -> Iterator[Callable[[str, str], Entrypoint]]:
    made = []

    def make(name: str, place: str) -> Entrypoint:
        if place == "pid1" and not can_be_pid_1():
            pytest.skip("unshare(1) cannot make a PID namespace here: not root?")
        if shutil.which(SHELLS[name][0]) is None:
            pytest.skip(f"{name} is not installed")
        made.append(Entrypoint(SHELLS[name], tmp_path, place))
        return made[-1]

    yield make
    for one in made:
        one.clean()


@pytest.mark.parametrize(("name", "place", "phase", "number"), CASES)
def test_a_signal_in_a_phase(
    make_entrypoint: Callable[[str, str], Entrypoint],
    recorder: Recorder,
    request: pytest.FixtureRequest,
    name: str,
    place: str,
    phase: Callable[[Scene], None],
    number: int,
) -> None:
    scene = Scene(
        make_entrypoint(name, place),
        recorder,
        lambda url, sql: request.getfixturevalue("query")(url, sql),
        lambda: str(request.getfixturevalue("database_url")),
    )
    phase(scene)
    running = scene.running
    began = time.monotonic()
    running.send(number)
    stops = number in STOP
    if not stops:
        if scene.app_starts:
            running.wait_for(lambda: number in recorder.got)
        running.wait_for(running.has_taken_all_signals)
        running.send(signal.SIGTERM)
    if scene.app_starts:
        expected = [*scene.before, number] if stops else [*scene.before, number, signal.SIGTERM]
        if phase is not in_pre_stop:
            running.wait_for(lambda: recorder.got == expected)
        else:  # what it held back comes at once, when the kernel merges equal signals and orders others by number
            running.wait_for(lambda: set(recorder.got) == set(expected))
            assert stops or recorder.got[0] == number, "pre_stop holds back stop signals alone"
        scene.end.touch()
        code = running.wait()
        assert code == 40 + next(one for one in recorder.got if one in STOP)
        assert f"exit code {code}" in running.last_line
        assert "passed on" in running.last_line
    else:
        assert running.wait() == 128 + (number if stops else signal.SIGTERM)
        assert not recorder.up, "the app was started after all"
    assert time.monotonic() - began < AT_ONCE
    assert [Path(f"/proc/{pid}/stat").read_text() for pid in session_members(running.process.pid)] == []
    assert scene.what_held_is_gone()
    if scene.database:
        deadline = time.monotonic() + 5
        while scene.count_sessions() != scene.sessions:
            assert time.monotonic() < deadline, "a session was left running"
        assert scene.query(scene.database, "SELECT to_regclass('half')") == [(None,)], "half of the work was left"


@pytest.mark.parametrize("when", ["python", "env"])
def test_a_signal_in_the_first_moments_is_neither_lost_nor_kills_the_wrong_process(
    entrypoint: Entrypoint, recorder: Recorder, when: str
) -> None:
    """TERM after 0, 2, 4 ... ms: the app gets it, or is never started. Nothing hangs, nothing stays behind."""
    env = {"not.a.shells.name": "1"} if when == "python" else {}
    for delay in range(0, 240 if FULL else 60, 2 if FULL else 6):
        recorder.clear()
        running = entrypoint.start("sh", "-c", 'exec "$@"', "sh", *recorder.command, env=env)
        time.sleep(delay / 1000)
        running.send(signal.SIGTERM)
        code = running.wait()
        assert code in (143, 55), running.log
        if code == 143:
            assert recorder.got == []
        else:
            assert recorder.got == [signal.SIGTERM]
        assert session_members(running.process.pid) == []


def test_a_second_term_ends_a_pre_stop_that_hangs(entrypoint: Entrypoint, recorder: Recorder) -> None:
    entrypoint.hook("pre_stop", "trap '' TERM; : >mark; while :; do sleep 0.1; done")
    running = entrypoint.start(*recorder.command, env={"STARTUP_HOOK_TIMEOUT": "50"})
    running.wait_until_ready()
    running.wait_for(lambda: recorder.up)
    running.send(signal.SIGTERM)
    running.wait_for((entrypoint.directory / "mark").exists)
    running.send(signal.SIGTERM)
    assert running.wait(AT_ONCE) == 55


@pytest.mark.parametrize("number", STOP)
def test_a_further_stop_signal_ends_a_post_stop_that_hangs(
    entrypoint: Entrypoint, recorder: Recorder, number: int
) -> None:
    env = {"STARTUP_HOOK_TIMEOUT": "0", "STARTUP_POST_STOP": "hold@local", "STARTUP_TASK_HOLD": ": >mark; sleep 60"}
    running = entrypoint.start(*recorder.command, env=env)
    running.wait_until_ready()
    running.wait_for(lambda: recorder.up)
    running.send(signal.SIGTERM)
    running.wait_for((entrypoint.directory / "mark").exists)
    running.send(number)
    assert running.wait(AT_ONCE) == 55
    assert recorder.got == [signal.SIGTERM]


@pytest.mark.parametrize("odd", [{}, {"not.a.shells.name": "1"}], ids=["env", "python"])
def test_an_app_gets_its_signals_whatever_words_it_was_given(entrypoint: Entrypoint, odd: dict[str, str]) -> None:
    """The shell knows its own launcher, from which it holds signals back, by a word."""
    app = "trap 'exit 5' TERM; : >up; while :; do sleep 0.05; done"
    running = entrypoint.start("sh", "-c", app, "STARTUP_LAUNCHING", "1", env=odd)
    running.wait_until_ready()
    running.wait_for((entrypoint.directory / "up").exists)
    running.send(signal.SIGTERM)
    assert running.wait(AT_ONCE) == 5


def test_a_stop_hook_that_ignores_term_is_killed_soon_after_its_time(
    entrypoint: Entrypoint, recorder: Recorder
) -> None:
    """Not STARTUP_STOP_TIMEOUT later: Docker's 10 s and Fly's 5 s are for the app, too."""
    for phase in ("pre_stop", "post_stop"):
        entrypoint.hook(phase, "trap '' TERM; while :; do sleep 0.1; done")
    running = entrypoint.start(*recorder.command, env={"STARTUP_HOOK_TIMEOUT": "0.3"})
    running.wait_until_ready()
    running.wait_for(lambda: recorder.up)
    running.send(signal.SIGTERM)
    assert running.wait(AT_ONCE) == 55
    assert running.log.count("0.3 s, its time limit (STARTUP_HOOK_TIMEOUT") == 2


def test_a_burst_of_signals_all_arrives(entrypoint: Entrypoint, recorder: Recorder) -> None:
    running = entrypoint.start(*recorder.command)
    running.wait_until_ready()
    running.wait_for(lambda: recorder.up)
    wanted = [number for number in FORWARDED if number not in (*STOP, signal.SIGCONT)]  # TSTP discards a CONT
    for number in wanted:
        running.send(number)
    running.wait_for(lambda: sorted(recorder.got) == sorted(wanted))
    running.send(signal.SIGTERM)
    assert running.wait() == 55


def test_three_signals_at_once_all_arrive_every_time(entrypoint: Entrypoint, recorder: Recorder) -> None:
    """bash loses one in its wait(1), dash and busybox sh one that comes in the trap of another, in a test there."""
    running = entrypoint.start(*recorder.command)
    running.wait_until_ready()
    running.wait_for(lambda: recorder.up)
    three = [signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH]
    for rounds in range(1, 301 if FULL else 31):
        for number in three:
            running.send(number)
            time.sleep(rounds % 3 * 10e-6)  # a trap runs for a millisecond
        running.wait_for(lambda: len(recorder.got) == 3 * rounds)  # noqa: B023
        assert sorted(recorder.got) == sorted(three * rounds)


def nothing_to_do(entrypoint: Entrypoint) -> str:
    """In Python's place, what ends at once, with the mark that proves it."""
    script = entrypoint.directory / "nothing-to-do"
    script.write_text('#!/bin/sh\n[ "$3" = _phase ] && echo "$4" >"$6/proof"\n')
    script.chmod(0o755)
    return str(script)


def test_an_end_that_is_near_is_seen_at_once(entrypoint: Entrypoint) -> None:
    """The module's and, once it was told to end, the app's; the quickest of some, since the machine may be busy.

    bash looks once a second while the app is alone: each would take as long.
    """
    boots, stops = [], []
    for _ in range(4):
        began = time.monotonic()
        running = entrypoint.start("sleep", "60", env={"STARTUP_PYTHON": nothing_to_do(entrypoint)})
        running.wait_until_ready()
        boots.append(time.monotonic() - began)
        began = time.monotonic()
        running.send(signal.SIGTERM)
        assert running.wait() == 143
        stops.append(time.monotonic() - began)
    assert min(boots) < 0.7 and min(stops) < 0.7, (boots, stops)


def test_by_default_only_the_apps_process_gets_the_signal(entrypoint: Entrypoint, tmp_path: Path) -> None:
    parent, child = start_family(entrypoint, tmp_path, {})
    assert parent.got == [signal.SIGHUP]
    assert child.got == []


def test_with_signal_group_the_whole_process_group_gets_it(entrypoint: Entrypoint, tmp_path: Path) -> None:
    parent, child = start_family(entrypoint, tmp_path, {"STARTUP_SIGNAL_GROUP": "true"})
    assert parent.got == [signal.SIGHUP]
    assert child.got == [signal.SIGHUP]


def start_family(entrypoint: Entrypoint, directory: Path, env: dict[str, str]) -> tuple[Recorder, Recorder]:
    """An app with a child in its process group; HUP is sent to the entrypoint, and waited for."""
    (directory / "one").mkdir()
    (directory / "two").mkdir()
    parent, child = Recorder(directory / "one"), Recorder(directory / "two")
    running = entrypoint.start("sh", "-c", f'{" ".join(child.command)} & exec "$@"', "sh", *parent.command, env=env)
    running.wait_until_ready()
    running.wait_for(lambda: parent.up and child.up)
    running.send(signal.SIGHUP)
    running.wait_for(lambda: parent.got and (child.got or not env))
    return parent, child


def test_what_the_app_leaves_behind_is_told_to_end_by_pid_1_alone(entrypoint: Entrypoint) -> None:
    """Elsewhere "everybody" would be the user's whole login."""
    left = entrypoint.directory / "left"
    child = "trap 'echo TERM >>left; exit' TERM; echo up >>left; while :; do sleep 0.02; done"
    done = entrypoint.start("sh", "-c", 'sh -c "$1" & while [ ! -s left ]; do sleep 0.02; done; exit 5', "sh", child)
    assert done.wait() == 5
    as_pid_1 = entrypoint.place == "pid1"
    assert left.read_text().split() == (["up", "TERM"] if as_pid_1 else ["up"])
    assert bool(session_members(done.process.pid)) is not as_pid_1, "who still runs"


#: In CI as many as fit into so many seconds.
COUNT, SECONDS = (1000, 900) if FULL else (1000, 4)


@pytest.mark.timeout(SECONDS + 180)
def test_a_signal_that_coincides_with_the_apps_exit_costs_no_exit_code(entrypoint: Entrypoint) -> None:
    """The module, long gone by then, is left out for speed: ``true`` stands in for Python."""
    codes: Counter[int] = Counter()
    deadline = time.monotonic() + SECONDS
    up = entrypoint.directory / "up"
    while codes.total() < COUNT and time.monotonic() < deadline:
        up.unlink(missing_ok=True)
        reader, writer = os.pipe()
        app = "trap '' USR1; : >up; read line; exit 7"
        running = entrypoint.start("sh", "-c", app, env={"STARTUP_PYTHON": nothing_to_do(entrypoint)}, stdin=reader)
        os.close(reader)
        running.wait_until_ready()
        running.wait_for(up.exists)
        assert running.pid  # found now: it may end any moment
        count = codes.total()
        if count % 2:
            os.write(writer, b"\n")
        else:
            running.send(signal.SIGUSR1)
        until = time.perf_counter() + count % 20 * 20e-6
        while time.perf_counter() < until:
            pass
        if count % 2:
            running.send(signal.SIGUSR1)
        else:
            os.write(writer, b"\n")
        code = running.wait()
        os.close(writer)
        codes[code] += 1
        assert code == 7, running.log
    assert codes[7]


def test_after_ready_only_the_shell_stays_and_sleeps(entrypoint: Entrypoint) -> None:
    """Less than 2 MB that it shares with nobody, no child but the app, and no wake-up (bash: one a second)."""
    running = entrypoint.start("sleep", "60")
    running.wait_until_ready()
    pid = running.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    running.wait_for(lambda: len(children.read_text().split()) == 1)
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
    assert private < 2048, "kB"

    def switches() -> int:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)

    running.wait_for(lambda: "S (sleeping)" in Path(f"/proc/{pid}/status").read_text())
    before = switches()
    time.sleep(1)
    assert switches() - before <= (8 if entrypoint.shell[0] == "bash" else 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_moment_a_command_starts_leaves_no_command_behind(startup: Startup, number: int) -> None:
    """The command sends it, as its first thing, when the module has not yet seen that it was started."""
    pid = startup.directory / "pid"
    command = f"echo $$ >pid; kill -{number} $PPID; exec sleep 60"
    for _ in range(3):
        process = startup.start("run", "hold@local", STARTUP_TASK_HOLD=command)
        assert process.wait(20) == 128 + number
        assert not Path(f"/proc/{pid.read_text().strip()}").exists()
        pid.unlink()
