"""Waiting for the app: when it ends, how it ends, what it says, what it costs. SPEC, sections 2, 3, 5 and 8."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from startup.ping import kinds
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

    def __init__(self, answer: Callable[[float], ping.Answer]) -> None:
        super().__init__("told")
        self._answer = answer
        self._started = time.monotonic()
        self.asked: list[float] = []

    def answer(self, attempt: Attempt) -> ping.Answer:
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
        one = Scripted(lambda waited: ping.Answer(False, "no"))
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
    def answer(waited: float) -> ping.Answer:
        app.kill()  # as an app does that finds its port taken
        os.waitid(os.P_PID, app.pid, os.WEXITED | os.WNOWAIT)
        return ping.Answer(True, "status 200")

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
    outcome = wait(Scripted(lambda waited: ping.Answer(waited > 0.5, "so")), app.pid, log, timeout=0)
    assert outcome.result == ping.ANSWERED and outcome.seconds > 0.4


# How often it asks


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each pause is to be; none of them is made."""
    found: list[float] = []

    def note(self: App, wanted: dict[int, int], seconds: float) -> set[int]:
        found.append(seconds)
        return set()

    monkeypatch.setattr(App, "wait", note)
    return found


def test_the_first_pings_come_fast_and_never_slower_than_the_interval(pauses: list[float], log: Log) -> None:
    def ask_ten_times(interval: float) -> list[float]:
        one = Scripted(lambda waited: ping.Answer(len(one.asked) == 10, "so"))
        pauses.clear()
        wait(one, None, log, interval=interval)
        return pauses

    assert ask_ten_times(1)[::8] == [Ping.first_pause, Ping.fast_pause]
    assert pauses == sorted(pauses)
    assert max(ask_ten_times(0.01)) == 0.01


@pytest.mark.parametrize("kind", ["tcp", "auto"])
def test_an_app_that_listens_after_a_while_answers(kind: str, log: Log, free_port: int) -> None:
    code = """
import socket, sys, time
time.sleep(0.3)
s = socket.create_server(("127.0.0.1", int(sys.argv[1]))); time.sleep(86)"""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code, str(free_port)]) as app:
        outcome = wait("auto" if kind == "auto" else f"tcp://127.0.0.1:{free_port}", app.pid, log)
        app.kill()
    assert outcome.result == ping.ANSWERED


def test_a_command_is_not_run_again_and_again_in_no_time(
    app: subprocess.Popen[bytes], log: Log, tmp_path: Path
) -> None:
    wait(f"cmd: echo >> {tmp_path}/runs; false", app.pid, log, timeout=1)
    assert 3 <= (tmp_path / "runs").read_text().count("\n") <= 7


def burning(tries: Callable[[int], bool], last: int) -> Scripted:
    """A ping whose tries number so and so take 8 ms of processor time each; number *last* is answered."""

    def answer(waited: float) -> ping.Answer:
        number = len(one.asked)
        until = time.thread_time() + (0.008 if tries(number) else 0)
        while time.thread_time() < until:
            pass
        return ping.Answer(number == last, "no")

    one = Scripted(answer)
    return one


def test_one_costly_try_delays_none_that_follow(pauses: list[float], log: Log) -> None:
    wait(burning(lambda number: number == 1, last=2), None, log)
    assert pauses == [Ping.first_pause]


def test_cheap_tries_are_no_leave_to_be_costly_for_long(
    pauses: list[float], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(self: App, wanted: dict[int, int], seconds: float) -> set[int]:
        pauses.append(seconds)
        time.sleep(0.005)
        return set()

    monkeypatch.setattr(App, "wait", pause)
    wait(burning(lambda number: number > 60, last=64), None, log)
    assert pauses[-1] > 0.1


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
    def answer(waited: float) -> ping.Answer:
        return ping.Answer(waited > 2.8, "connection refused" if waited < 0.5 else "status 503")

    wait(Scripted(answer), app.pid, log)
    assert log.lines[:3] == [
        "waiting for the app to answer (told: connection refused)",
        "the app does not answer yet, but differently (told: status 503)",
        "still waiting for the app to answer after 2 s (told: status 503)",
    ]
    assert len(log.lines) <= 4  # one more at 2.5 to 2.8 s


@pytest.mark.usefixtures("quick")
def test_what_has_not_changed_is_not_asked_again_but_said(log: Log) -> None:
    class Unchanged(Scripted):
        def unchanged(self, app: App) -> bool:
            return bool(self.asked) and time.monotonic() - self._started < 1.3

    one = Unchanged(lambda waited: ping.Answer(waited > 1, "connection refused"))
    assert wait(one, None, log).result == ping.ANSWERED
    assert len(one.asked) == 2
    assert log.lines[:2] == [
        "waiting for the app to answer (told: connection refused)",
        "still waiting for the app to answer after 1 s (told: connection refused)",
    ]


@pytest.mark.usefixtures("quick")
def test_an_answer_that_flaps_is_told_once_a_second_at_most(app: subprocess.Popen[bytes], log: Log) -> None:
    flapping = iter(range(10**6))
    wait(Scripted(lambda waited: ping.Answer(waited > 1, f"status {500 + next(flapping) % 2}")), app.pid, log)
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


# Several at once


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
