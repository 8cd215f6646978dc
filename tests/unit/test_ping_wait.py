"""Waiting for the app: when it ends, how it ends, what it says, what it costs. SPEC, sections 2, 3, 5 and 8."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from startup.errors import Interrupted
from startup.ping import attempt, kinds
from startup.ping import wait as ping
from startup.ping.attempt import App, Attempt, Ping


class Log:
    """What was said, and when."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def app() -> Iterator[subprocess.Popen[bytes]]:
    """An app that only lives."""
    process = subprocess.Popen(["sleep", "89"])
    yield process
    process.kill()
    process.wait()


def wait(
    value: str | Ping,
    app: int | None,
    log: Log,
    timeout: float = 20,
    interval: float = 1,
    port: str = "",
) -> ping.Outcome:
    one = kinds.parse(value, {**os.environ, "PORT": port}) if isinstance(value, str) else value
    return ping.wait(
        one,
        app=app,
        timeout=timeout,
        interval=interval,
        report=log.lines.append,
        warn=log.warnings.append,
    )


class Scripted(Ping):
    """Answers as it is told, by the seconds that it has been asked for."""

    def __init__(self, answer: Callable[[float], attempt.Answer]) -> None:
        super().__init__("told")
        self._answer = answer
        self._started = time.monotonic()
        self.asked: list[float] = []

    def answer(self, attempt: Attempt) -> attempt.Answer:
        self.asked.append(time.monotonic() - self._started)
        return self._answer(self.asked[-1])


# How it ends


def test_it_ends_when_the_app_answers(app: subprocess.Popen[bytes], log: Log, tmp_path: Path) -> None:
    path = tmp_path / "ready"
    threading.Timer(0.3, path.touch).start()
    outcome = wait(f"file://{path}", app.pid, log)
    assert (outcome.result, outcome.answer.text) == (ping.ANSWERED, "the file is there")
    assert 0.2 < outcome.seconds < 5
    assert (log.lines, log.warnings) == ([], [])  # what answers within a second is not worth a line


def test_none_is_answered_at_once(app: subprocess.Popen[bytes], log: Log) -> None:
    outcome = wait("none", app.pid, log)
    assert outcome.result == ping.ANSWERED and outcome.seconds < 2


@pytest.mark.parametrize("with_pidfd", [True, False])
@pytest.mark.parametrize("value", ["file:///nowhere/ready", "cmd: sleep 88", "auto", "tcp://127.0.0.1:1"])
def test_it_ends_at_once_when_the_app_dies_and_is_a_zombie(
    value: str, with_pidfd: bool, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_pidfd:
        monkeypatch.delattr(os, "pidfd_open")  # Linux before 5.3
    app = subprocess.Popen(["sleep", "0.5"])  # nobody waits for it meanwhile
    try:
        outcome = wait(value, app.pid, log, interval=60)
        assert outcome.result == ping.DIED
        assert outcome.seconds < 10
        assert not outcome.answer.ok
    finally:
        app.wait()


def test_an_app_that_is_gone_before_it_is_asked_for_has_died(log: Log) -> None:
    app = subprocess.Popen(["true"])
    app.wait()
    assert wait("none", app.pid, log).result == ping.DIED


def test_a_long_pause_is_cut_short_by_the_apps_end(log: Log) -> None:
    app = subprocess.Popen(["sleep", "0.7"])
    try:
        one = Scripted(lambda waited: attempt.Answer(False, "no"))
        one.first_pause = one.fast_pause = 60
        outcome = wait(one, app.pid, log, interval=60, timeout=0)
        assert outcome.result == ping.DIED and outcome.seconds < 20
        assert len(one.asked) == 1
    finally:
        app.wait()


def test_the_answer_of_an_app_that_died_is_the_last_one_that_it_gave(log: Log, free_port: int) -> None:
    app = subprocess.Popen(["sleep", "0.3"])
    try:
        outcome = wait(f"tcp://127.0.0.1:{free_port}", app.pid, log)
        assert (outcome.result, outcome.answer.text) == (ping.DIED, "connection refused")
    finally:
        app.wait()


def test_what_somebody_else_answers_does_not_hide_that_the_app_died(app: subprocess.Popen[bytes], log: Log) -> None:
    def answer(waited: float) -> attempt.Answer:
        app.kill()  # as an app does that finds its port taken
        os.waitid(os.P_PID, app.pid, os.WEXITED | os.WNOWAIT)
        return attempt.Answer(True, "status 200")

    assert wait(Scripted(answer), app.pid, log).result == ping.DIED


def test_an_explicit_ping_times_out(app: subprocess.Popen[bytes], log: Log, free_port: int) -> None:
    outcome = wait(f"tcp://127.0.0.1:{free_port}", app.pid, log, timeout=0.4)
    assert (outcome.result, outcome.answer.text) == (ping.TIMED_OUT, "connection refused")
    assert 0.4 <= outcome.seconds < 5


def test_a_try_does_not_outlast_the_time_limit(app: subprocess.Popen[bytes], log: Log) -> None:
    outcome = wait("cmd: sleep 87", app.pid, log, timeout=0.4)
    assert outcome.result == ping.TIMED_OUT and outcome.seconds < 4


@pytest.mark.parametrize("port", ["", "1"])
def test_auto_takes_alive_for_an_answer_at_the_time_limit_with_a_warning(
    app: subprocess.Popen[bytes], log: Log, port: str
) -> None:
    outcome = wait("auto", app.pid, log, timeout=0.4, port=port)
    assert (outcome.result, outcome.answer.ok, outcome.answer.text) == (ping.ANSWERED, True, "alive")
    (warning,) = log.warnings
    assert "alive after 0.4 s" in warning and "STARTUP_PING=none" in warning


def test_auto_without_an_app_that_is_known_times_out(log: Log, free_port: int) -> None:
    assert wait("auto", None, log, timeout=0.3, port=str(free_port)).result == ping.TIMED_OUT


def test_without_a_time_limit_it_waits_on(app: subprocess.Popen[bytes], log: Log) -> None:
    outcome = wait(Scripted(lambda waited: attempt.Answer(waited > 0.5, "so")), app.pid, log, timeout=0)
    assert outcome.result == ping.ANSWERED and outcome.seconds > 0.5


# How often it asks


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each pause is to be; none of them is made. How soon an answer is noticed then: ``make bench``, row 2."""
    found: list[float] = []
    monkeypatch.setattr(App, "pause", lambda self, seconds: found.append(seconds))
    return found


@pytest.mark.parametrize(("interval", "longest"), [(1, Ping.fast_pause), (0.01, 0.01), (0, Ping.fast_pause)])
def test_the_first_pings_come_fast_and_never_slower_than_the_interval(
    interval: float, longest: float, pauses: list[float], log: Log
) -> None:
    one = Scripted(lambda waited: attempt.Answer(len(one.asked) > 12, "so"))
    wait(one, None, log, interval=interval)
    assert pauses[0] == Ping.first_pause
    assert pauses == sorted(pauses) and pauses[-1] == longest


def test_a_command_is_not_run_again_and_again_in_no_time(
    app: subprocess.Popen[bytes], log: Log, tmp_path: Path
) -> None:
    wait(f"cmd: echo >> {tmp_path}/runs; false", app.pid, log, timeout=1)
    assert (tmp_path / "runs").read_text().count("\n") <= 7


def test_a_costly_ping_is_asked_less_often(app: subprocess.Popen[bytes], log: Log) -> None:
    def burn(waited: float) -> attempt.Answer:
        until = time.process_time() + 0.01
        while time.process_time() < until:
            pass
        return attempt.Answer(False, "no")

    before = time.process_time()
    outcome = wait(Scripted(burn), app.pid, log, timeout=2)
    assert time.process_time() - before < 0.06 * outcome.seconds


def burning(tries: Callable[[int], bool], last: int) -> Scripted:
    """A ping whose tries number so and so take 8 ms of processor time each; number *last* is answered."""

    def answer(waited: float) -> attempt.Answer:
        number = len(one.asked)
        until = time.thread_time() + (0.008 if tries(number) else 0)
        while time.thread_time() < until:
            pass
        return attempt.Answer(number == last, "no")

    one = Scripted(answer)
    return one


def test_one_costly_try_delays_none_that_follow(pauses: list[float], log: Log) -> None:
    wait(burning(lambda number: number == 1, last=2), None, log)
    assert pauses == [Ping.first_pause]


def test_cheap_tries_are_no_leave_to_be_costly_for_long(
    pauses: list[float], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(self: App, seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(0.005)

    monkeypatch.setattr(App, "pause", pause)
    wait(burning(lambda number: number > 60, last=64), None, log)
    assert pauses[-1] > 0.1


@pytest.mark.parametrize("value", ["tcp://127.0.0.1:{}", "http://localhost:{}/", "auto", "file:///nowhere/{}"])
def test_waiting_costs_next_to_nothing(value: str, app: subprocess.Popen[bytes], log: Log, free_port: int) -> None:
    wait(value.format(free_port), app.pid, log, timeout=0.1)  # imports
    before = time.process_time()
    wait(value.format(free_port), app.pid, log, timeout=3)
    assert time.process_time() - before < 0.5  # without pauses it would be all of the time


# What it says


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second for a second in the rules about lines."""
    monkeypatch.setattr(ping, "_QUIET", 0.1)
    monkeypatch.setattr(ping, "_LINE_EVERY", 1.0)


@pytest.mark.usefixtures("quick")
def test_one_line_when_waiting_starts_one_at_each_change_and_one_every_10_s(
    app: subprocess.Popen[bytes], log: Log
) -> None:
    def answer(waited: float) -> attempt.Answer:
        return attempt.Answer(waited > 2.8, "connection refused" if waited < 0.5 else "status 503")

    wait(Scripted(answer), app.pid, log)
    assert log.lines[:3] == [
        "waiting for the app to answer (told: connection refused)",
        "the app does not answer yet, but differently (told: status 503)",
        "still waiting for the app to answer after 2 s (told: status 503)",
    ]
    assert len(log.lines) <= 4  # one more at 2.5 to 2.8 s


@pytest.mark.usefixtures("quick")
def test_an_answer_that_flaps_is_told_once_a_second_at_most(app: subprocess.Popen[bytes], log: Log) -> None:
    flapping = iter(range(10**6))
    wait(Scripted(lambda waited: attempt.Answer(waited > 1, f"status {500 + next(flapping) % 2}")), app.pid, log)
    assert 3 <= len(log.lines) <= 11


@pytest.mark.usefixtures("quick")
def test_a_commands_output_that_changes_is_no_news(app: subprocess.Popen[bytes], log: Log) -> None:
    wait("cmd: date +%N; exit 4", app.pid, log, timeout=0.9, interval=0.05)
    (line,) = log.lines
    assert "exit status 4: " in line


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("port", ["", "1"])
def test_auto_says_after_10_s_what_to_set_and_once(app: subprocess.Popen[bytes], log: Log, port: str) -> None:
    wait("auto", app.pid, log, timeout=3.5, port=port)
    hints = [line for line in log.lines if "set STARTUP_PING=none" in line]
    assert len(hints) == 1 and log.lines.index(hints[0]) == 1
    assert len(log.lines) in (3, 4)


# A signal


class Alarm:
    """A signal at any moment, whose handler raises; another thread runs too, as in the module."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._old = signal.signal(signal.SIGALRM, self._raise)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._old)

    @staticmethod
    def _raise(number: int, frame: FrameType | None) -> None:
        raise Interrupted(128 + number)


def children() -> set[int]:
    """The children of this process."""
    found = set()
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            if int(Path(f"/proc/{int(name)}/stat").read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                found.add(int(name))
    return found


@pytest.fixture
def main_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals' handlers run in the main thread alone")


@pytest.mark.usefixtures("main_thread")
@pytest.mark.parametrize("value", ["tcp://127.0.0.1:1", "file:///nowhere/x", "cmd: sleep 85", "auto"])
def test_a_signals_handler_may_raise_and_nothing_stays_behind(
    value: str, app: subprocess.Popen[bytes], log: Log
) -> None:
    before = children()
    started = time.monotonic()
    with pytest.raises(Interrupted), Alarm(0.3):
        wait(value, app.pid, log)
    assert time.monotonic() - started < 4
    assert children() == before


@pytest.mark.usefixtures("main_thread")
@pytest.mark.parametrize("line", ["sleep 84", "sleep 84 & exit 0"])
def test_a_command_is_not_lost_at_whatever_moment_the_signal_comes(line: str, app: subprocess.Popen[bytes]) -> None:
    stop = threading.Event()
    threading.Thread(target=stop.wait, daemon=True).start()  # it may take the signal for the main thread
    before = children()
    one = kinds.parse(f"cmd: {line}", dict(os.environ))
    try:
        with App(app.pid) as watched:
            for number in range(400):
                with contextlib.suppress(Interrupted), Alarm(0.000_05 + number * 0.000_01):
                    one.attempt(watched)
        assert children() == before
    finally:
        stop.set()
        for pid in children() - before:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_pings_bear_running_side_by_side(app: subprocess.Popen[bytes], tmp_path: Path) -> None:
    outcomes: list[ping.Outcome] = []

    def one() -> None:
        outcomes.append(wait(f"cmd: test -e {tmp_path}/ready", app.pid, Log()))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    (tmp_path / "ready").touch()
    for thread in threads:
        thread.join(10)
    assert [outcome.result for outcome in outcomes] == [ping.ANSWERED] * 8
