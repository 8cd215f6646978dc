"""The entrypoint as PID 1 of a real container, under each shell; and what proves that these tests can fail."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .first_process import (
    BUNDLE,
    FORWARDABLE,
    OTHERS,
    OURS,
    Box,
    attach,
    cost,
    exit_codes,
    goes_on_after_ctrl_z,
    ignored_signals,
    key,
    leftovers,
    missing,
    out_of_memory,
    shell_has_job_control,
    signals_that_arrive,
    stop,
    until,
    who_gets_a_signal,
    window_sizes,
    zombies,
)

if TYPE_CHECKING:
    from .conftest import Container, Docker

MakeBox = Callable[..., Box]
#: Takes every process that the limit leaves once the entrypoint needs none, and notes TERM; its children outlive it.
GREEDY = """
import os, signal, subprocess, sys, time
def stop(number, frame):
    open("told", "w").write(str(number))
    os._exit(3)
signal.signal(signal.SIGTERM, stop)
while len(open("/proc/1/task/1/children").read().split()) > 1:
    time.sleep(0.01)
try:
    while True:
        subprocess.Popen(["sleep", "88"])
except OSError:
    open("full", "w").close()
while True:
    signal.pause()
"""
APP = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture
def make_box(docker: Docker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeBox]:
    made = []
    tmp_path.chmod(0o777)  # for random users

    def make(name: str, *options: str) -> Box:
        init = (OURS | OTHERS)[name]
        if missing(init):
            pytest.skip(f"{missing(init)} is not installed")
        if name == "bundle":
            options = (f"--volume={request.getfixturevalue('bundle_directory')}:{BUNDLE}:ro", *options)
        made.append(Box(docker, init, tmp_path, options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(params=list(OURS))
def box(request: pytest.FixtureRequest, make_box: MakeBox) -> Box:
    return make_box(request.param)


def test_every_signal_that_can_be_forwarded_reaches_the_app(box: Box) -> None:
    numbers = [number for number in FORWARDABLE if number < 36 or number == 64]
    assert signals_that_arrive(box, numbers) == numbers


def test_a_signal_is_for_the_apps_process_alone_unless_its_group_is_asked_for(make_box: MakeBox) -> None:
    assert who_gets_a_signal(make_box("dash")) == ["the app"]
    assert who_gets_a_signal(make_box("dash", "--env=STARTUP_SIGNAL_GROUP=true")) == ["the app", "its child"]


def test_the_app_starts_with_no_signal_ignored_or_blocked(box: Box) -> None:
    assert ignored_signals(box) == []


def test_exit_codes_are_the_apps(box: Box) -> None:
    """All 256 as PID 1 are in tests/shell."""
    assert exit_codes(box, [0, 78, 255]) == [0, 78, 255]


def test_the_oom_killer_is_137_and_named(box: Box) -> None:
    code, line = out_of_memory(box)
    assert code == 137
    assert "out of memory" in line


@pytest.mark.parametrize("tasks", ["none", "a pre_stop task"])
def test_at_the_pids_limit_the_app_gets_its_term(make_box: MakeBox, box: Box, tasks: str) -> None:
    """Nothing is forked before the signal; where a pre_stop task must be, and cannot, the app is told all the same."""
    full = make_box(next(name for name, init in OURS.items() if init == box.init), "--pids-limit=30")
    if tasks != "none" and full.init[0] == "bash":
        pytest.skip("bash tries a fork again for 15 s, longer than docker stop waits")
    more = {} if tasks == "none" else {"STARTUP_PRE_STOP": "bye", "STARTUP_TASK_BYE": "true"}
    for _ in range(3):
        for name in ("told", "full"):
            (full.directory / name).unlink(missing_ok=True)
        container = full.start(sys.executable, "-I", "-S", "-c", GREEDY, **more)
        until((full.directory / "full").exists, "every process is taken")
        assert container.stop()[0] == 3, container.logs
        assert (full.directory / "told").read_text() == "15"


def test_where_no_process_can_be_made_the_end_is_no_success(make_box: MakeBox, box: Box) -> None:
    """`docker run --pids-limit 1`, once 0: an orchestrator took it for an app that had done its work."""
    if box.init[0] == "bash":
        pytest.skip("bash tries a fork again for 15 s before it gives up")
    alone = make_box(next(name for name, init in OURS.items() if init == box.init), "--pids-limit=1")
    container = alone.start("touch", "started")
    assert container.wait() == 70, container.logs
    assert not (alone.directory / "started").exists()


def started(box: Box) -> Container:
    """At so low a limit the engine's own first process may end for want of a thread, before it has executed ours."""
    for _ in range(5):
        try:
            return box.start("sleep", "60", STARTUP_TASKS="none")
        except AssertionError as refused:
            if "cannot start a stopped process" not in str(refused):
                raise
    pytest.skip("the engine itself can start nothing at this limit")


@pytest.mark.parametrize("limit", [2, 3, 4])
def test_where_few_processes_can_be_made_a_line_says_so(make_box: MakeBox, box: Box, limit: int) -> None:
    """Never a traceback. Shell, app, module and its threads, for signals and for the app's end, are five."""
    if box.init[0] == "bash":
        pytest.skip("bash tries a fork again for 15 s before it gives up")
    few = make_box(next(name for name, init in OURS.items() if init == box.init), f"--pids-limit={limit}")
    container = started(few)
    assert container.wait() == 70, container.logs
    assert "Traceback" not in container.logs
    assert (
        "annot fork" in container.logs
        or "right would be a higher one" in container.logs
        or "can't fork" in container.logs
    )


def test_zombies_are_reaped_those_of_docker_exec_too(box: Box) -> None:
    assert zombies(box) == 0


def test_zombies_stay_where_the_first_process_does_not_reap(make_box: MakeBox) -> None:
    """The negative control: the app alone."""
    assert zombies(make_box("none")) == 8


def test_what_the_app_leaves_behind_gets_term_and_time_to_clean_up(box: Box) -> None:
    seen = leftovers(box, stubborn=False)
    assert (seen.wrote, seen.code) == ("got TERM, cleaned up", 5)


def test_what_ignores_term_is_killed_after_a_second(box: Box) -> None:
    seen = leftovers(box, stubborn=True)
    assert (seen.wrote, seen.code) == ("", 5)
    assert 0.8 < seen.seconds < 5, "1 s, and what a busy machine needs"


def test_what_is_left_behind_gets_nothing_without_us(make_box: MakeBox) -> None:
    """The negative control: tini."""
    seen = leftovers(make_box("tini"), stubborn=False)
    assert (seen.wrote, seen.code) == ("", 5)


def test_only_the_shell_stays_small_and_asleep(box: Box) -> None:
    seen = cost(box)
    assert seen.private < 2048, "kB"
    assert seen.wakeups <= (120 if "bash" in box.init else 0), "a minute; bash looks once a second"
    assert seen.others == [], "a process of ours has stayed"


@pytest.fixture
def in_an_image(docker: Docker, base_image: str, tmp_path: Path) -> Callable[..., Box]:
    """The image that the Dockerfile makes, started with these options."""
    tmp_path.chmod(0o777)
    return lambda *options: Box(docker, (), tmp_path, options, base_image)


HEALTH = ("startup-entrypoint", "startup", "health")


def test_as_a_random_user_on_a_read_only_root_without_capabilities(in_an_image: MakeBox) -> None:
    box = in_an_image("--read-only", "--cap-drop=ALL", "--user=12345:12345")
    container = box.start("sh", "-c", APP)
    until(lambda: "up" in container.logs and "answers" in container.logs)
    until(lambda: container.exec(*HEALTH, check=False).stdout == "ready\n")
    assert box.docker("exec", "--user=4321", container.name, *HEALTH).stdout == "ready\n"
    assert container.stop()[0] == 3
    seen = leftovers(box, stubborn=False)
    assert (seen.wrote, seen.code) == ("got TERM, cleaned up", 5)


def test_under_dockers_own_init_it_is_a_faithful_child(in_an_image: MakeBox) -> None:
    box = in_an_image("--init")
    container = box.start("sh", "-c", f"trap 'echo HUP' HUP; {APP}")
    assert container.exec("cat", "/proc/1/comm").stdout == "docker-init\n"
    until(lambda: "up" in container.logs and "answers" in container.logs)
    until(lambda: container.exec(*HEALTH, check=False).stdout == "ready\n")
    box.docker("kill", "--signal=HUP", container.name)
    until(lambda: "HUP" in container.logs)
    assert container.stop()[0] == 3
    seen = leftovers(box, stubborn=False)
    assert (seen.wrote, seen.code) == ("", 5), "only as PID 1 is it our business"


# ------------------------------------------------------------------------------------------------ at a terminal


@pytest.mark.parametrize(("keys", "number"), [(b"\x03", 2), (b"\x1c", 3)], ids=["ctrl-c", "ctrl-backslash"])
def test_a_key_reaches_the_app_once(box: Box, keys: bytes, number: int) -> None:
    assert key(box, keys) == ([number], 40 + number)


def test_ctrl_z_stops_nothing(box: Box) -> None:
    assert goes_on_after_ctrl_z(box)


def test_a_shell_has_job_control(box: Box) -> None:
    assert shell_has_job_control(box)


def test_a_shell_has_none_under_a_script_by_hand(make_box: MakeBox) -> None:
    """The negative control."""
    assert not shell_has_job_control(make_box("by hand"))


def test_the_window_size_and_its_changes_reach_the_app(box: Box) -> None:
    assert window_sizes(box) == ["80 24", "132 50"]


def test_attached_detached_and_attached_again(box: Box) -> None:
    assert attach(box) == ("running", [2], 42)


@pytest.mark.parametrize("options", [(), ("--interactive",), ("--interactive", "--tty"), ("--tty",)], ids="".join)
def test_docker_stop_reaches_the_app_at_once(make_box: MakeBox, options: tuple[str, ...]) -> None:
    code, seconds = stop(make_box("busybox"), *options, command=("sh", "-c", APP))
    assert code == 3
    assert seconds < 5


def test_docker_stop_reaches_an_app_that_ctrl_z_has_stopped(box: Box) -> None:
    name = box.docker.claim_name()
    box.docker("run", "-dit", "--name", name, *box.words("sh", "-c", f"echo up; {APP}"))
    container = box.docker.container(name)
    until(lambda: "up" in container.logs and "answers" in container.logs)
    terminal = box.terminal("attach", name)
    until(lambda: terminal.is_raw, "attached")
    terminal.type(b"\x1a")
    until(lambda: "^Z" in terminal.shown, "the key has arrived")
    code, seconds = container.stop()
    assert code == 3
    assert seconds < 5


def test_pre_stop_runs_for_an_int_from_outside_and_not_for_ctrl_c(box: Box) -> None:
    """Fly.io stops with INT; a key at the terminal has reached the app already."""
    ran = box.directory / "ran"
    hook = {"STARTUP_PRE_STOP": "note@local", "STARTUP_TASK_NOTE": f": >{ran}"}
    terminal = box.at_terminal(*box.recorder(), **hook)
    box.wait_until_up()
    terminal.wait_until_shown("answers")
    terminal.type(b"\x03")
    assert terminal.wait() == 42
    assert not ran.exists()
    container = box.start(*box.recorder(), **hook)
    box.wait_until_up(container)
    box.docker("kill", "--signal=INT", container.name)
    assert container.wait() == 42
    assert ran.exists()


def test_disabled_the_app_is_the_first_process(box: Box) -> None:
    done = box.docker.run(*box.words("sh", "-c", "echo $$", STARTUP_ENABLED="false", STARTUP_PYTHON="/nowhere"))
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_bare_shell_at_a_terminal_is_the_first_process(box: Box) -> None:
    terminal = box.at_terminal("sh")
    terminal.type(b"echo I am $$; exit 6\n")
    terminal.wait_until_shown("I am 1\n")
    assert terminal.wait() == 6
