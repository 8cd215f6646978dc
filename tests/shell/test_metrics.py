"""STARTUP_METRICS_FILE: in every flow a file that a collector can read, with numbers that are so."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from startup.run.metrics import METRICS
from startup.run.metrics import replace as replace_file
from tests.metrics import Series, labels, parse, value

from .conftest import Entrypoint
from .test_failed import APP, BAD, MODULE, NOBODY

FILE = "startup.prom"
ON = {"STARTUP_METRICS_FILE": FILE}


TWO = {**BAD, "STARTUP_TASKS": "bad@local next@local", "STARTUP_TASK_NEXT": "true"}
NEVER = {"STARTUP_PING": "tcp://127.0.0.1:1"}


def fails(
    name: str,
    code: int,
    results: dict[str, str],
    phase: str = "post_start",
    command: tuple[str, ...] = APP,
    /,
    **env: str,
) -> object:
    return pytest.param(command, {"STARTUP_TASK_GOOD": "true", **env}, code, phase, results, id=name)


def read(one: Any) -> dict[Series, float]:
    return parse((one.directory / FILE).read_text())


def test_when_ready_it_has_the_ping_the_tasks_of_both_phases_and_the_time_of_all(entrypoint: Entrypoint) -> None:
    env = {
        "STARTUP_PRE_START": "first@local",
        "STARTUP_PING": f"file://{entrypoint.directory}/up",
        "STARTUP_TASKS": "first@local last@local",
        "STARTUP_TASK_FIRST": "sleep 0.2",
        "STARTUP_TASK_LAST": "sleep 0.1",
        "STARTUP_NODE": "web-1",
        "STARTUP_NAMESPACE": "shop",
        "STARTUP_RELEASE": "1.2",
    }
    before = time.monotonic()
    running = entrypoint.start("sh", "-c", "sleep 1; : >up; exec sleep 60", env={**ON, **env})
    running.wait_until_ready()
    elapsed = time.monotonic() - before
    found = read(entrypoint)
    assert value(found, "startup_ready") == 1
    assert value(found, "startup_failed_here") == value(found, "startup_exit_code") == 0
    assert 0.1 < value(found, "startup_ping_seconds") < value(found, "startup_duration_seconds") <= elapsed + 0.02
    assert value(found, "startup_ping_attempts") >= 2
    for phase, task, least in (("pre_start", "first", 0.2), ("post_start", "first", 0.2), ("post_start", "last", 0.1)):
        assert least <= value(found, "startup_task_seconds", phase=phase, task=task, result="done") < elapsed
        assert value(found, "startup_task_attempts", phase=phase, task=task) == 1
    assert value(found, "startup_duration_seconds") > 1.4
    assert labels(found, "startup_info")[0].items() >= {
        *{"node": "web-1", "namespace": "shop", "release": "1.2", "phase": "post_start"}.items()
    }
    assert (entrypoint.directory / FILE).stat().st_mode & 0o777 == 0o644
    assert [path.name for path in entrypoint.directory.iterdir() if "prom" in path.name] == [FILE]


@pytest.mark.parametrize(
    ("command", "env", "code", "phase", "results"),
    [
        fails("task", 70, {"bad": "failed", "next": "skipped"}, **TWO),
        fails("killed", 70, {}, STARTUP_TASKS="x:killed@local"),
        fails("os._exit", 70, {"good": "done"}, STARTUP_PRE_START="good@local", STARTUP_TASKS="x:leaves@local"),
        fails(
            "pre_start", 70, {"bad": "failed"}, "pre_start", STARTUP_PRE_START="bad@local", STARTUP_TASK_BAD="exit 3"
        ),
        fails("ping", 124, {"bad": "skipped"}, **{**BAD, **NEVER}, STARTUP_PING_TIMEOUT="0.5"),
        fails("0 before its ping", 70, {}, "post_start", ("sleep", "0.3"), **NEVER),
        fails("setting", 78, {}, STARTUP_TIMEOUT="soon"),
        fails("not found", 127, {}, "pre_start", ("no-such-app",)),
    ],
)
def test_when_failed_it_says_so_and_what_is_known(
    entrypoint: Entrypoint,
    command: tuple[str, ...],
    env: dict[str, str],
    code: int,
    phase: str,
    results: dict[str, str],
) -> None:
    (entrypoint.directory / "x.py").write_text(MODULE)
    done = entrypoint.run(*command, env={**ON, **env})
    assert done.returncode == code, done.stderr
    found = read(entrypoint)
    assert value(found, "startup_ready") == 0
    assert value(found, "startup_failed_here") == 1
    assert value(found, "startup_exit_code") == code
    assert labels(found, "startup_info")[0]["phase"] == phase
    assert {one["task"]: one["result"] for one in labels(found, "startup_task_seconds")} == results
    assert 0 < value(found, "startup_duration_seconds") < 20
    if code == 124:
        assert 0.5 <= value(found, "startup_ping_seconds") < 20 and value(found, "startup_ping_attempts") >= 1


def test_with_on_failure_continue_it_is_not_ready(entrypoint: Entrypoint) -> None:
    running = entrypoint.start(*APP, env={**ON, **BAD, "STARTUP_ON_FAILURE": "continue"})
    running.wait_for((entrypoint.directory / FILE).exists)
    found = read(entrypoint)
    assert (value(found, "startup_ready"), value(found, "startup_exit_code")) == (0, 70)
    assert running.process.poll() is None


@pytest.mark.parametrize("how", ["a stop signal", "the app's own end"])
def test_neither_ready_nor_failed_writes_none(entrypoint: Entrypoint, how: str) -> None:
    env = {"STARTUP_TASKS": "long@local", "STARTUP_TASK_LONG": ": >begun; sleep 60"}
    app = APP if how == "a stop signal" else ("sh", "-c", "until [ -e begun ]; do sleep 0.02; done; exit 9")
    running = entrypoint.start(*app, env={**ON, **env})
    running.wait_for((entrypoint.directory / "begun").exists)
    running.send(signal.SIGTERM)
    assert running.wait() in (9, 55, 143)
    assert not (entrypoint.directory / FILE).exists()


def test_a_failed_hook_finds_it_written(entrypoint: Entrypoint) -> None:
    entrypoint.hook("failed", f"cp {FILE} seen")
    assert entrypoint.run(*APP, env={**ON, **BAD}).returncode == 70
    assert value(parse((entrypoint.directory / "seen").read_text()), "startup_ready") == 0


def test_one_that_a_dotenv_file_names_is_written_too(entrypoint: Entrypoint) -> None:
    (entrypoint.directory / "x.py").write_text(MODULE)
    (entrypoint.directory / ".env").write_text(f"STARTUP_METRICS_FILE={FILE}\n")
    for tasks in ("x:raises@local", "x:killed@local"):
        assert entrypoint.run(*APP, env={"STARTUP_TASKS": tasks, "STARTUP_ENV": "dev"}).returncode == 70
        assert value(read(entrypoint), "startup_ready") == 0
        (entrypoint.directory / FILE).unlink()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/no/such/place/startup.prom", "there is no directory '/no/such/place': make it"),
        ("/proc/startup.prom", "it could not be written: No such file or directory"),
        (".", "it could not be written: it is there, and no file"),
        ("/dev/null", "it could not be written: it is there, and no file"),
    ],
)
@pytest.mark.parametrize("tasks", ["none", "bad@local"])
def test_one_that_cannot_be_written_is_a_warning_that_names_it_and_no_failure(
    startup: Any, path: str, why: str, tasks: str
) -> None:
    done = startup("init", STARTUP_TASKS=tasks, STARTUP_TASK_BAD="exit 3", STARTUP_METRICS_FILE=path)
    assert done.returncode == (0 if tasks == "none" else 70)
    assert f"startup: warning: STARTUP_METRICS_FILE is '{path}': {why}" in done.stderr
    assert os.path.exists("/dev/null") and not Path("/dev/null").is_file()


@pytest.mark.parametrize(("tasks", "ready"), [("good@local", 1), ("bad@local", 0), ("x:leaves@local", 0)])
@pytest.mark.parametrize("verb", ["init", "run"])
def test_init_and_run_write_it_too(startup: Any, verb: str, tasks: str, ready: int) -> None:
    startup.write("x.py", MODULE)
    startup.write("app", "1")
    words = ["init"] if verb == "init" else ["run", tasks]
    env = {"STARTUP_TASKS": tasks, "STARTUP_TASK_GOOD": "sleep 0.1", "STARTUP_TASK_BAD": "sleep 0.1; exit 3"}
    done = startup(*words, **ON, **env)
    found = read(startup)
    assert value(found, "startup_ready") == ready
    assert value(found, "startup_exit_code") == done.returncode == (0 if ready else 70)
    if tasks != "x:leaves@local":
        assert 0.1 <= value(found, "startup_task_seconds") <= value(found, "startup_duration_seconds") < 20


def test_a_verb_within_a_task_leaves_that_of_the_boot_alone(entrypoint: Entrypoint) -> None:
    root = Path(__file__).parents[2]
    inner = f'"$STARTUP_PYTHON" -I {root}/startup run other@local; cp {FILE} seen; true'
    env = {"STARTUP_TASKS": "outer@local", "STARTUP_TASK_OUTER": inner, "STARTUP_TASK_OTHER": "true"}
    running = entrypoint.start(*APP, env={**ON, **env})
    running.wait_until_ready()
    assert not (entrypoint.directory / "seen").exists()
    assert [one["task"] for one in labels(read(entrypoint), "startup_task_seconds")] == ["outer"]


def test_the_migrations_that_were_applied_and_that_are_pending_are_counted(startup: Any, database_url: str) -> None:
    for number, sql in enumerate(("CREATE TABLE a (x int)", "CREATE TABLE b (x int)", "SELECT 1/0"), 1):
        startup.write(f"migrations/000{number}.sql", sql)
    env = {**ON, "STARTUP_TASKS": "migrate", "DATABASE_URL": database_url}
    assert startup("init", **env).returncode == 70
    found = read(startup)
    assert (value(found, "startup_migrations_pending"), value(found, "startup_migrations_applied")) == (1, 2)
    startup.write("migrations/0003.sql", "CREATE TABLE c (x int)")
    for applied, result in ((1, "done"), (0, "skipped")):
        assert startup("init", **env).returncode == 0
        found = read(startup)
        assert (value(found, "startup_migrations_pending"), value(found, "startup_migrations_applied")) == (0, applied)
        assert labels(found, "startup_task_seconds") == [{"phase": "post_start", "task": "migrate", "result": result}]


def test_waiting_for_the_node_that_holds_the_lock_is_measured(startup: Any, database_url: str, wait_until: Any) -> None:
    startup.write("migrations/0001.sql", "SELECT 1")
    env = {"STARTUP_TASKS": "migrate slow@once", "DATABASE_URL": database_url}
    env["STARTUP_TASK_SLOW"] = ": >begun; until [ -e go ]; do sleep 0.02; done"
    runner = startup.start("init", **env)
    wait_until((startup.directory / "begun").exists)
    waiting = startup.start("init", **ON, **env, STARTUP_NODE="other")
    said = waiting.stderr.readline()
    assert "waiting for the lock" in said
    began = time.monotonic()
    time.sleep(0.5)  # what is to be measured
    (startup.directory / "go").touch()
    assert runner.wait(20) == waiting.wait(20) == 0
    found = read(startup)
    assert 0.5 <= value(found, "startup_wait_seconds", **{"for": "lock"}) <= time.monotonic() - began + 1
    assert {one["result"] for one in labels(found, "startup_task_seconds")} == {"skipped"}


def test_labels_are_escaped_and_no_secret_stands_in_one(startup: Any) -> None:
    odd = 'a"b\\c\nd\x1b é'
    done = startup(
        "init", **ON, STARTUP_TASKS="none", STARTUP_NODE=odd, STARTUP_RELEASE="s3cr3t-Pa55", DATABASE_URL=NOBODY
    )
    assert done.returncode == 0
    text = (startup.directory / FILE).read_text()
    assert "s3cr3t-Pa55" not in text
    (info,) = labels(parse(text), "startup_info")
    assert info["node"] == 'a"b\\c\nd\\x1b é'
    assert info["release"] == "***"


def test_a_reader_never_sees_a_part_of_it(tmp_path: Path) -> None:
    path, texts = tmp_path / FILE, {f"{'x' * 200_000}{number}\n" for number in range(2)}
    first, second = texts
    replace_file(str(path), first)
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(200):
        replace_file(str(path), second)
        replace_file(str(path), first)
    over.set()
    reader.join()
    assert seen <= texts and seen


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / FILE).symlink_to(tmp_path / "there" / FILE)
    replace_file(str(tmp_path / FILE), "new\n")
    assert (tmp_path / FILE).is_symlink() and (tmp_path / "there" / FILE).read_text() == "new\n"


def test_the_page_has_every_metric_with_its_help() -> None:
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    rows = dict(re.findall(r"^\| `(startup_\w+)[^`]*` \| (.+?) \|$", page, re.MULTILINE))
    assert rows == METRICS
