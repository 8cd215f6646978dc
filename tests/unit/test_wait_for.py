"""STARTUP_WAIT_FOR: what it may hold, and waiting for it side by side. SPEC, sections 2, 3 and 5."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from startup import log
from startup.errors import NotThere, SettingError, Unreachable
from startup.settings.settings import Settings, load
from startup.state import State
from startup.verbs import wait_for
from startup.verbs.wait_for import until_there
from tests.conftest import PASSWORD, Server, WaitUntil, pick_port


def waited_for(value: str, **environ: str) -> list[str]:
    return [str(one) for one in load({"STARTUP_WAIT_FOR": value, **environ}).wait_for]


def faults(value: str, **environ: str) -> str:
    return log.redact("\n".join(load({"STARTUP_WAIT_FOR": value, **environ}).faults))


# --------------------------------------------------------------------------------------------------- the setting


@pytest.mark.parametrize("value", ["", "none", " "])
def test_nothing_is_waited_for_unless_something_is_named(value: str) -> None:
    assert waited_for(value) == [] and faults(value) == ""


def test_it_names_pings_and_the_word_database_separated_by_spaces_each_once() -> None:
    value = "tcp://a:1\tredis://:pw@b/0  http://c/x,y?z=1,2\nfile:///d unix:///e database rediss://f tcp://a:1"
    named = ["tcp://a:1", "redis://b/0", "http://c/x,y?z=1,2", "file:///d", "unix:///e", "database", "rediss://f"]
    assert waited_for(value, DATABASE_URL="sqlite:///x.db") == named


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("auto", "auto looks at the app, which is started only afterwards"),
        ("none", "none empties the list, so it stands alone"),
        ("cmd:true", "a command may hold spaces, which separate pings here: make it a task of STARTUP_PRE_START"),
        ("tcp://b:1,", "spaces separate pings here"),
        ("tcp://b:1,tcp://c:2", "spaces separate pings here"),
        ("http://b/x,database", "spaces separate pings here"),
        ("database,http://b/x", "spaces separate pings here"),
        ("b:6379", "right would be http://HOST:PORT/PATH, https://HOST:PORT/PATH, tcp://HOST:PORT, unix:///PATH, "),
        ("databse", "redis://HOST:PORT, rediss://HOST:PORT, or the word database"),
        ("tcp://b", "PORT is a number from 1 to 65535"),
    ],
)
def test_a_word_that_cannot_be_waited_for_is_told_with_why(word: str, why: str) -> None:
    told = faults(f"tcp://a:1 {word}")
    assert told.startswith(f"STARTUP_WAIT_FOR is 'tcp://a:1 {word}' (environment): '{word}': ") and why in told


def test_the_words_of_a_command_are_one_fault_and_what_follows_is_read() -> None:
    told = faults("cmd:pg_isready -h db -q tcp://b auto", STARTUP_WAIT_TIMEOUT="soon")
    assert told.count("': ") == 3 and "'cmd:pg_isready': " in told and "'tcp://b': " in told and "'auto': " in told
    assert "STARTUP_WAIT_TIMEOUT is 'soon'" in told


def test_database_needs_an_address_and_one_that_can_be_read() -> None:
    told = faults("auto database")
    assert "'auto': " in told
    assert "STARTUP_WAIT_FOR names the database, but no address is set: set DATABASE_URL" in told
    assert "names the database" not in faults("database", DATABASE_URL="mysql://h/x")
    assert "mysql" in faults("database", DATABASE_URL="mysql://h/x")
    assert faults("database", STARTUP_ENV="dev") == ""


@pytest.mark.parametrize(
    "value",
    [
        "redis://:{}@cache",
        "redis://app:{}@cache:0",
        "redis://{}@cache",
        "redis://:{}/x@cache database",
        "redis://:x {}@cache tcp://a:1",
        "REDIS://:{} y z@cache:1 tcp://a",
        "redis://:a@b tcp://a:1 rediss://:{}'@cache,",
    ],
)
def test_a_password_is_never_shown_whatever_is_wrong_with_its_address(value: str) -> None:
    settings = load({"STARTUP_WAIT_FOR": value.format("Kn1ghtsbr1dge")})
    shown = "\n".join([*settings.faults, settings.values["STARTUP_WAIT_FOR"], *map(str, settings.wait_for)])
    assert "Kn1ght" not in log.redact(shown)
    assert "cache" in log.redact(shown)


def test_not_even_a_short_part_of_a_password_that_holds_a_space_is_shown() -> None:
    told = faults("redis://:Kn1 g7 hts@cache")
    assert "STARTUP_WAIT_FOR is 'redis://:***@cache'" in told
    assert not [part for part in ("Kn1", "g7", "hts@") if part in told], told


def test_the_password_of_a_ping_of_the_app_is_never_shown_either() -> None:
    settings = load({"STARTUP_PING": "redis://:Th3Str4nd@cache"})
    assert "Th3Str4nd" not in log.redact(
        f"ERR unknown command 'AUTH', with args beginning with: 'Th3Str4nd' {settings.values}"
    )


def test_describe_and_plan_show_it_with_its_password_masked(tmp_path: Path) -> None:
    environ = {**os.environ, "STARTUP_WAIT_FOR": f"redis://app:{PASSWORD}@cache", "STARTUP_TASKS": "none"}
    for verb, shown in (
        ("describe", "STARTUP_WAIT_FOR=redis://app:***@cache"),
        ("describe --json", '"redis://app:***@cache"'),
        ("plan", "0. waits for redis://cache (STARTUP_WAIT_FOR)"),
    ):
        words = (sys.executable, "-m", "startup", *verb.split())
        done = subprocess.run(words, env=environ, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and shown in done.stdout, done.stdout + done.stderr
        assert PASSWORD not in done.stdout + done.stderr


def test_a_boot_without_it_loads_nothing_of_it(tmp_path: Path) -> None:
    words = (sys.executable, "-X", "importtime", "-m", "startup", "init")
    loaded = {}
    (tmp_path / "there").touch()
    for value in ("none", f"file://{tmp_path}/there"):
        environ = {**os.environ, "STARTUP_WAIT_FOR": value, "STARTUP_TASKS": "none"}
        told = subprocess.run(words, env=environ, capture_output=True, text=True, cwd=tmp_path).stderr
        loaded[value] = {line.rpartition("|")[2].strip() for line in told.splitlines() if "import time:" in line}
    without, with_it = loaded.values()
    assert not [name for name in without if "wait_for" in name or "redis" in name]
    assert {"startup.verbs.wait_for", "startup.settings.wait_for"} <= with_it


# ------------------------------------------------------------------------------------------------------- waiting


def sockets_and_pipes() -> int:
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sum(link.startswith(("socket:", "pipe:")) for link in links)


@pytest.fixture(autouse=True)
def no_thread_no_socket_and_no_pipe_is_left() -> Iterator[None]:
    threads, before = set(threading.enumerate()), sockets_and_pipes()
    yield
    left = [one for one in set(threading.enumerate()) - threads if one.name.startswith("wait for")]
    for one in left:
        assert one.name.startswith("wait for the database"), one.name
        one.join(10)  # it has a try under way, and no other after that
        assert not one.is_alive()
    assert sockets_and_pipes() <= before


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(log, "say", lambda message, *_, **__: lines.append(message))
    return lines


def settings_for(*words: str, **environ: str) -> Settings:
    settings = load({"STARTUP_WAIT_FOR": " ".join(words), **environ})
    assert settings.faults == []
    return settings


@contextlib.contextmanager
def listening(port: int = 0) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", port)) as listener:
        yield int(listener.getsockname()[1])


@contextlib.contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


def test_what_is_there_already_is_not_waited_for_and_told_in_one_line(said: list[str], sqlite_url: str) -> None:
    with listening() as port:
        until_there(settings_for(f"tcp://127.0.0.1:{port}", "database", DATABASE_URL=sqlite_url), State(""))
    (line,) = said
    assert line.startswith("there after 0.") and f"tcp://127.0.0.1:{port}, the database at sqlite:///" in line
    assert not Path(sqlite_url.removeprefix("sqlite:///")).exists()


def test_it_ends_when_the_last_is_there_and_tells_of_each_change(
    said: list[str], tmp_path: Path, wait_until: WaitUntil
) -> None:
    first, second, port = tmp_path / "1", tmp_path / "2", pick_port()
    settings = settings_for(f"file://{first}", f"tcp://127.0.0.1:{port}", f"file://{second}")

    def come() -> None:
        wait_until(lambda: len(said) == 1)
        second.touch()
        wait_until(lambda: len(said) == 2)
        first.touch()
        with listening(port):
            wait_until(lambda: said[-1].startswith("there"))

    with meanwhile(come):
        until_there(settings, State(str(tmp_path)))
    missing = f"tcp://127.0.0.1:{port} (connection refused)"
    file = f"file://{first} (no such file or directory)"
    assert said[0] == f"waiting for {file}, {missing}, file://{second} (no such file or directory)"
    assert said[1] == f"waiting for {file}, {missing}"
    assert said[-1].startswith("there after ")
    assert (tmp_path / "phase").read_text().startswith("waiting for ")


def test_what_was_there_once_is_not_asked_again(said: list[str], tmp_path: Path, wait_until: WaitUntil) -> None:
    port = pick_port()

    def come() -> None:
        with listening(port):
            wait_until(lambda: any("tcp" not in line for line in said))
        (tmp_path / "late").touch()

    with meanwhile(come):
        until_there(settings_for(f"tcp://127.0.0.1:{port}", f"file://{tmp_path}/late"), State(""))
    assert said[-1].startswith("there after ")


def test_all_are_asked_at_the_same_time_a_silent_one_keeps_no_other(said: list[str]) -> None:
    with listening() as silent, listening() as there:
        began = time.monotonic()
        words = [f"http://127.0.0.1:{silent}/{n}" for n in range(4)]
        with pytest.raises(NotThere) as error:
            until_there(settings_for(*words, f"tcp://127.0.0.1:{there}", STARTUP_WAIT_TIMEOUT="1"), State(""))
        assert time.monotonic() - began < 4
    assert str(error.value).startswith("not there within 1 s (STARTUP_WAIT_TIMEOUT): http://127.0.0.1:")
    assert str(error.value).count("no answer yet") == 4 and str(there) not in str(error.value)


def test_over_the_time_limit_each_that_is_missing_is_named_with_its_last_answer(tmp_path: Path, free_port: int) -> None:
    words = (f"file://{tmp_path}/late", f"redis://:pw@127.0.0.1:{free_port}/1", f"file://{tmp_path}")
    with pytest.raises(NotThere) as error:
        until_there(settings_for(*words, STARTUP_WAIT_TIMEOUT="0.3"), State(""))
    assert error.value.code == 124
    assert str(error.value) == (
        f"not there within 0.3 s (STARTUP_WAIT_TIMEOUT): file://{tmp_path}/late: no such file or directory; "
        f"redis://127.0.0.1:{free_port}/1: connection refused"
    )


def test_every_10_s_a_line_says_what_it_still_waits_for() -> None:
    lines = wait_for._Lines()
    missing = [("tcp://a:1", "refused")]
    told = [(second / 10, line) for second in range(250) if (line := lines.due(missing, second / 10))]
    assert told == [
        (1.0, "waiting for tcp://a:1 (refused)"),
        (11.0, "still waiting after 11 s for tcp://a:1 (refused)"),
        (21.0, "still waiting after 21 s for tcp://a:1 (refused)"),
    ]


def test_an_answer_that_changes_at_each_try_is_told_once_a_second_at_the_most() -> None:
    lines = wait_for._Lines()
    told = [line for tenth in range(101) if (line := lines.due([("a", str(tenth))], tenth / 10))]
    assert len(told) == 10


def test_a_wrong_setting_of_the_database_ends_it_at_once(tmp_path: Path, free_port: int) -> None:
    url = f"sqlite:///{tmp_path}/no/such/x.db"
    with pytest.raises(SettingError, match="there is no directory"):
        until_there(settings_for(f"tcp://127.0.0.1:{free_port}", "database", DATABASE_URL=url), State(""))
    (tmp_path / "x.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Unreachable, match="cannot be opened"):
        until_there(settings_for("database", DATABASE_URL=f"sqlite:///{tmp_path}/x.db"), State(""))


# ---------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.mark.parametrize("wrong", ["password", "database"])
def test_what_no_waiting_mends_ends_it_at_once_with_the_words_of_the_tasks(
    wrong: str, database_url: str, free_port: int
) -> None:
    url = database_url.replace(PASSWORD, "wr0ng-Pa55") if wrong == "password" else f"{database_url}_not"
    with pytest.raises(Unreachable, match=r"the password was rejected|the database does not exist") as error:
        until_there(settings_for(f"tcp://127.0.0.1:{free_port}", "database", DATABASE_URL=url), State(""))
    assert error.value.code == 69


def test_a_pooler_in_between_is_refused_at_once(
    database: str, pooler: Callable[..., str], wait_until: WaitUntil
) -> None:
    with pytest.raises(SettingError, match="a pooler"):
        until_there(settings_for("database", DATABASE_URL=pooler("transaction", database)), State(""))


def test_a_server_that_comes_late_is_waited_for_beyond_STARTUP_DATABASE_TIMEOUT(
    new_server: Callable[..., Server], said: list[str], wait_until: WaitUntil
) -> None:
    server = new_server()
    url = server.url(server.new_database())
    server.stop()

    settings = settings_for("database", DATABASE_URL=url, STARTUP_DATABASE_TIMEOUT="0.5")
    with meanwhile(lambda: until_there(settings, State(""))):
        wait_until(lambda: said)  # a second has passed
        server.start()  # not on the other thread, with which it would end
    assert said[0].endswith(f"@127.0.0.1:{server.port}/{url.rpartition('/')[2]} (the connection is refused)")
    assert said[-1].startswith("there after ")


def test_a_server_that_does_not_come_is_named_with_its_error(free_port: int) -> None:
    url = f"postgresql://app:{PASSWORD}@127.0.0.1:{free_port}/x"
    settings = settings_for("database", DATABASE_URL=url, STARTUP_WAIT_TIMEOUT="1", STARTUP_DATABASE_TIMEOUT="60")
    with pytest.raises(NotThere, match=r"x: the connection is refused \(connection to server at .* refused"):
        until_there(settings, State(""))


# ------------------------------------------------------------------------------------------------- init and run


@pytest.mark.parametrize("verb", [("init",), ("run", "greet")])
def test_init_and_run_wait_before_the_first_task(verb: tuple[str, ...], tmp_path: Path, wait_until: WaitUntil) -> None:
    environ = {
        **os.environ,
        "STARTUP_WAIT_FOR": f"file://{tmp_path}/late",
        "STARTUP_TASKS": "greet@local",
        "STARTUP_TASK_GREET": "test -e late && touch greeted",
        "DATABASE_URL": f"sqlite:///{tmp_path}/x.db",
    }
    words = (sys.executable, "-m", "startup", *verb)
    process = subprocess.Popen(words, env=environ, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("startup: waiting for file:///")
    assert not (tmp_path / "greeted").exists() and not (tmp_path / "x.db").exists()
    (tmp_path / "late").touch()
    told = process.communicate(timeout=30)[1]
    assert process.returncode == 0 and (tmp_path / "greeted").exists(), told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_of_init_at_once(number: signal.Signals, tmp_path: Path, free_port: int) -> None:
    environ = {
        **os.environ,
        "STARTUP_WAIT_FOR": f"file://{tmp_path}/late database http://127.0.0.1:{free_port}/",
        "DATABASE_URL": f"postgresql://app:{PASSWORD}@127.0.0.1:{free_port}/x",
    }
    words = (sys.executable, "-m", "startup", "init")
    process = subprocess.Popen(words, env=environ, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None and "waiting for" in process.stderr.readline()
    began = time.monotonic()
    process.send_signal(number)
    told = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + number and "stopped by SIG" in told
    assert time.monotonic() - began < 5
