"""The app sees what it would see without the entrypoint: each test runs a command both ways and compares."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from .conftest import PLACES, Entrypoint

ODD_WORDS = ("", " two  words ", "*", "$HOME", "`id`", "a\nb", "--", "-n", "ü", "'\"\\", "x=y")
ARGV = ("cat", "/proc/self/cmdline")
ENVIRON = ("cat", "/proc/self/environ")
#: Both ways to start the app are taken: GNU env, and launch.py where a name is not one that shells keep.
LAUNCHERS = {"env": {}, "python": {"spring.datasource.url": "x", "with-dash": "y"}}


@pytest.fixture(params=list(LAUNCHERS))
def launcher(request: pytest.FixtureRequest) -> Mapping[str, str]:
    return LAUNCHERS[request.param]


@pytest.fixture
def outside(entrypoint: Entrypoint) -> None:
    if entrypoint.place != "outside":
        pytest.skip(f"{PLACES[entrypoint.place][0]} holds the streams open, too")


def both(
    entrypoint: Entrypoint, *command: str, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run *command* through the entrypoint and without it; stdout and exit code agree. Returns the first."""
    through = entrypoint.run(*command, env=env, **options)
    alone = subprocess.run(
        command,
        env=entrypoint.environment(env or {}),
        **{"cwd": entrypoint.directory, "capture_output": True, "timeout": 30, **options},
        text=True,
        check=False,
    )
    code = 128 - alone.returncode if alone.returncode < 0 else alone.returncode
    assert (through.returncode, through.stdout) == (code, alone.stdout), through.stderr
    return through


def test_the_arguments_are_the_same(entrypoint: Entrypoint, launcher: Mapping[str, str]) -> None:
    code = "import sys; print(sys.argv)"
    assert "two  words" in both(entrypoint, sys.executable, "-c", code, *ODD_WORDS, env=launcher).stdout


def test_the_environment_is_the_same(entrypoint: Entrypoint, launcher: Mapping[str, str]) -> None:
    env = {**launcher, "EMPTY": "", "LINES": "a\nPWD=x", "TZ": "ü"}
    through = entrypoint.run(*ENVIRON, env=env).stdout.split("\0")
    assert sorted(through) == sorted(["", *(f"{k}={v}" for k, v in entrypoint.environment(env).items())])


#: What shells drop, change, or have variables of their own for.
ODD = {
    "spring.a": "it's \n'$HOME' `id` *",
    "with-dash": "y",
    "-u": "PATH",
    "ü": "ü",
    "EMPTY": "",
    "TZ": "ü",
    **dict.fromkeys(
        ["app", "code", "state", "stage", "uid", "group", "name", "signals", "python", "given", "options"], "7"
    ),
    "IFS": "7",
    "OPTIND": "7",
    "SHLVL": "7",
    "_": "7",
    "PPID": "7",
}


def pairs(environ: Mapping[str, str]) -> list[str]:
    return sorted(["", *(f"{name}={value}" for name, value in environ.items())])


@pytest.mark.parametrize("odd", [{}, {"EMPTY": "", "TZ": "ü"}, ODD], ids=["plain", "values", "names"])
def test_disabled_the_environment_is_the_same(entrypoint: Entrypoint, odd: Mapping[str, str]) -> None:
    env = {**odd, "STARTUP_ENABLED": "false"}
    through = entrypoint.run(*ENVIRON, env=env)
    assert sorted(through.stdout.split("\0")) == pairs(entrypoint.environment(env)), through.stderr


@pytest.mark.parametrize("odd", [{}, ODD], ids=["plain", "odd names"])
@pytest.mark.parametrize("command", [("sleep", "60"), ("startup", "init"), ("startup", "run", "see@local")])
def test_a_task_sees_the_environment_that_the_container_was_given(
    entrypoint: Entrypoint, command: tuple[str, ...], odd: Mapping[str, str]
) -> None:
    """No shell is in between, and Python looks at what it was given, not at what it makes of that."""
    hook = entrypoint.directory / "hooks" / "post_start.d" / "10-see.local.py"
    hook.parent.mkdir()
    hook.write_text(f"#!{sys.executable} -I\nimport shutil\nshutil.copy('/proc/self/environ', 'seen')\n")
    hook.chmod(0o755)
    (entrypoint.directory / "python.py").write_text(
        "import os\ndef see(context):\n"
        "    open('inside', 'wb').write(b'\\0'.join(n + b'=' + os.environb[n] for n in os.environb) + b'\\0')\n"
    )
    env = {**odd, "STARTUP_TASKS": "python:see@local", "STARTUP_DATABASE_URL": "sqlite:///own.db"}
    if command[0] == "startup":
        done = entrypoint.run(*command, env=env)
        assert done.returncode == 0, done.stderr
    else:
        entrypoint.start(*command, env=env).wait_until_ready()
    given = entrypoint.environment(env)
    hooks = {"STARTUP_TASK": "see", "STARTUP_PHASE": "post_start", "STARTUP_ENV": "prod"}
    seen = (entrypoint.directory / "seen").read_text().split("\0")
    assert sorted(seen) == pairs({**given, **hooks, "DATABASE_URL": "sqlite:///own.db"})
    if "run" not in command:
        assert sorted((entrypoint.directory / "inside").read_text().split("\0")) == pairs(given)


def test_what_a_python_that_is_a_script_sets_reaches_its_tasks(entrypoint: Entrypoint) -> None:
    python = entrypoint.directory / "python"
    python.write_text(f'#!/bin/sh\nexport TOKEN=new ADDED=1\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    env = {"STARTUP_PYTHON": str(python), "STARTUP_TASKS": "t@local", "TOKEN": "old", "stage": "prod"}
    task = 'echo "$TOKEN $ADDED $stage" >seen'
    entrypoint.start("sleep", "60", env={**env, "STARTUP_TASK_T": task}).wait_until_ready()
    assert (entrypoint.directory / "seen").read_text() == "new 1 prod\n"


@pytest.mark.parametrize(
    "name", ["PWD", "OLDPWD", "SHLVL", "_", "IFS", "PPID", "OPTIND", "PS1", "PS4", "LINENO", "COLUMNS", "UID"]
)
def test_a_variable_that_shells_set_themselves_reaches_the_app_as_it_was(entrypoint: Entrypoint, name: str) -> None:
    assert f"{name}=7" in entrypoint.run(*ENVIRON, env={name: "7"}).stdout.split("\0")


@pytest.mark.parametrize("name", ["app", "stage", "state", "code", "name", "helper", "here", "python", "SIGNALS"])
def test_a_variable_named_as_one_of_the_scripts_own_changes_nothing(entrypoint: Entrypoint, name: str) -> None:
    done = entrypoint.run(*ENVIRON, env={name: "prod"})
    assert done.returncode == 0
    assert f"{name}=prod" in done.stdout.split("\0"), done.stderr


def test_a_variable_by_which_shells_are_told_apart_may_be_anything(entrypoint: Entrypoint) -> None:
    """bash does what other shells cannot parse."""
    env = {"BASH_VERSION": "5.2", "BASHPID": "7", "POSIXLY_CORRECT": "y"}
    done = entrypoint.run(*ENVIRON, env=env)
    assert done.returncode == 0, done.stderr
    assert {f"{name}={value}" for name, value in env.items()} <= set(done.stdout.split("\0"))


def test_the_tasks_own_database_address_is_not_in_the_apps_environment(
    entrypoint: Entrypoint, launcher: Mapping[str, str]
) -> None:
    env = {**launcher, "STARTUP_DATABASE_URL": "sqlite:///tasks.db", "DATABASE_URL": "sqlite:///app.db"}
    names = entrypoint.run(*ENVIRON, env=env).stdout
    assert "app.db" in names
    assert "tasks.db" not in names


def test_a_dotenv_file_does_not_reach_the_app(entrypoint: Entrypoint) -> None:
    (entrypoint.directory / ".env").write_text("LEAKED=yes\n")
    assert "LEAKED" not in entrypoint.run(*ENVIRON, env={"STARTUP_ENV": "dev"}).stdout


def test_a_pipe_as_stdin_is_read_to_its_end(entrypoint: Entrypoint, launcher: Mapping[str, str]) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000)) + "no newline at the end"
    assert both(entrypoint, "cat", env=launcher, input=text).stdout == text


def test_a_file_as_stdin_is_read_from_where_it_stands(entrypoint: Entrypoint) -> None:
    path = entrypoint.directory / "input"
    path.write_text("first\nsecond\n")
    with path.open("rb", buffering=0) as file:
        file.seek(6)
        assert entrypoint.run("cat", stdin=file).stdout == "second\n"
        assert file.tell() == 13, "it is the same open file, not another one of the same name"


def test_a_socket_as_stdin_can_be_answered(entrypoint: Entrypoint) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"ping")
        entrypoint.run(sys.executable, "-c", "import os; os.write(0, os.read(0, 9) + b' pong')", stdin=theirs)
        assert ours.recv(99) == b"ping pong"


def test_dev_null_as_stdin_is_empty(entrypoint: Entrypoint) -> None:
    assert both(entrypoint, "cat", stdin=subprocess.DEVNULL).stdout == ""


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_stream_stays_closed(
    entrypoint: Entrypoint, closed: int, launcher: Mapping[str, str]
) -> None:
    out = entrypoint.directory / "fds"
    code = (
        "import os, sys\n"
        "open(sys.argv[1], 'w').write(repr([fd for fd in range(3) if os.path.exists(f'/proc/self/fd/{fd}')]))"
    )
    sh = f'exec "$@" {closed}{"<" if closed == 0 else ">"}&-'
    words = entrypoint.words(sys.executable, "-I", "-S", "-c", code, str(out))
    subprocess.run(
        ["sh", "-c", sh, "sh", *words], env=entrypoint.environment(launcher), cwd=entrypoint.directory, timeout=30
    )
    # Python itself opens /dev/null in the place of a closed stream; what was opened above 2 tells nothing
    assert out.exists()
    alone = entrypoint.directory / "alone"
    words = [sys.executable, "-I", "-S", "-c", code, str(alone)]
    subprocess.run(["sh", "-c", sh, "sh", *words], timeout=30)
    assert out.read_text() == alone.read_text()


def test_where_stderr_alone_is_closed_no_file_takes_its_place(
    entrypoint: Entrypoint, launcher: Mapping[str, str]
) -> None:
    """bash leaves its script open there."""
    done = entrypoint.run(
        *("sh", "-c", "[ -e /proc/$$/fd/2 ] || echo closed"),
        env=launcher,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.close(2),
    )
    assert (done.returncode, done.stdout) == (0, "closed\n")


def test_a_closed_stdin_ends_a_reader_as_it_does_alone(entrypoint: Entrypoint) -> None:
    done = entrypoint.run("cat", preexec_fn=lambda: os.close(0))
    assert done.returncode == 1
    assert "cat" in done.stderr


def test_stdout_and_stderr_stay_apart(entrypoint: Entrypoint) -> None:
    done = entrypoint.run("sh", "-c", "echo out; echo err >&2")
    assert done.stdout == "out\n"
    assert "err\n" in done.stderr


@pytest.mark.usefixtures("outside")
def test_the_reader_of_stdout_sees_its_end_when_the_app_closes_it(entrypoint: Entrypoint) -> None:
    running = entrypoint.start("sh", "-c", "echo done; exec >&-; exec sleep 100", stdout=subprocess.PIPE)
    assert running.process.stdout is not None
    assert running.process.stdout.read() == b"done\n"
    assert running.process.poll() is None


@pytest.mark.usefixtures("outside")
def test_the_writer_to_stdin_is_told_when_the_app_closes_it(entrypoint: Entrypoint) -> None:
    running = entrypoint.start("sh", "-c", "exec <&-; echo closed >&2; exec sleep 100", stdin=subprocess.PIPE)
    running.wait_until_ready()
    running.wait_for(lambda: "closed" in running.log)
    assert running.process.stdin is not None
    with pytest.raises(BrokenPipeError):  # noqa: PT012
        for _ in range(2):
            running.process.stdin.write(b"x")
            running.process.stdin.flush()
    running.process.stdin = None


@pytest.mark.parametrize("handed_in", [(), (3,), (3, 4, 5, 6, 7, 8), (3, 4, 5, 6, 7, 8, 9), (9,), (3, 11, 12)])
def test_the_app_has_the_descriptors_that_were_handed_in_and_no_others(
    entrypoint: Entrypoint, handed_in: tuple[int, ...], launcher: Mapping[str, str]
) -> None:
    """As with systemd's LISTEN_FDS, which counts from 3 on."""
    reader, writer = os.pipe()
    os.write(writer, b"x" * 20)
    code = (
        "import os\n"
        "fds = sorted(map(int, os.listdir('/proc/self/fd')))\n"
        "fds = [fd for fd in fds if os.path.exists(f'/proc/self/fd/{fd}')]\n"  # without the one that listed them
        "print(fds, [os.read(f, 1) for f in FDS], os.read(0, 9))"
    ).replace("FDS", str(list(handed_in)))
    source = os.dup2(reader, 100)

    def hand_in() -> None:
        for descriptor in range(3, 13):
            if descriptor in handed_in:
                os.dup2(source, descriptor)
            else:
                os.closerange(descriptor, descriptor + 1)
        os.closerange(13, 300)

    done = entrypoint.run(
        *(sys.executable, "-I", "-S", "-c", code),
        env=launcher,
        close_fds=False,
        preexec_fn=hand_in,
        stdout=subprocess.PIPE,
        input="in",
    )
    for descriptor in (reader, writer, source):
        os.close(descriptor)
    given = b"" if len(handed_in) == 7 else b"in"  # no room to carry stdin over
    assert done.stdout == f"{[0, 1, 2, *handed_in]} {[b'x'] * len(handed_in)} {given!r}\n"


def test_the_directory_the_umask_and_the_limits_are_the_same(
    entrypoint: Entrypoint, launcher: Mapping[str, str], tmp_path: Path
) -> None:
    def change() -> None:
        os.umask(0o27)
        resource.setrlimit(resource.RLIMIT_NOFILE, (321, 654))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.nice(3)

    code = (
        "import os, resource as r, sys; print(os.getcwd(), oct(os.umask(0)), os.nice(0), os.getuid(), os.getgroups(),"
        " [r.getrlimit(n) for n in range(16)], os.getpgid(0) == os.getpid(), sorted(os.sched_getaffinity(0)))"
    )
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    both(entrypoint, sys.executable, "-I", "-S", "-c", code, env=launcher, preexec_fn=change, cwd=tmp_path / "link")


def dispositions(status: str) -> dict[str, int]:
    names = ("SigPnd", "SigBlk", "SigIgn", "SigCgt")
    fields = (line.partition(":") for line in status.splitlines())
    return {name: int(mask, 16) for name, _, mask in fields if name in names}


@pytest.mark.parametrize(
    "ignored",
    [
        (),
        (signal.SIGHUP,),
        (signal.SIGINT, signal.SIGQUIT),
        (signal.SIGPIPE,),
        (signal.SIGTERM, signal.SIGUSR1, signal.SIGTSTP),
        (40,),
    ],
)
def test_every_signal_has_its_default_unless_it_was_ignored_before(
    entrypoint: Entrypoint, launcher: Mapping[str, str], ignored: tuple[int, ...]
) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    status = ("cat", "/proc/self/status")
    without = subprocess.run(status, capture_output=True, text=True, preexec_fn=ignore, restore_signals=False)
    expected = dispositions(without.stdout)
    assert all(expected["SigIgn"] >> (number - 1) & 1 for number in ignored)
    done = entrypoint.run(*status, env=launcher, preexec_fn=ignore, restore_signals=False)
    assert dispositions(done.stdout) == expected


def test_a_pipeline_into_head_ends_with_sigpipe_as_alone(entrypoint: Entrypoint, launcher: Mapping[str, str]) -> None:
    running = entrypoint.start("yes", env=launcher, stdout=subprocess.PIPE)
    assert running.process.stdout is not None
    assert running.process.stdout.read(4) == b"y\ny\n"
    running.process.stdout.close()
    assert running.wait() == 128 + signal.SIGPIPE


def test_the_app_lives_on_when_nobody_reads_our_stderr(entrypoint: Entrypoint) -> None:
    """Neither a line of ours into a pipe without a reader nor the module's are taken for the app's failure."""
    running = entrypoint.start(
        *("sh", "-c", "trap 'exit 9' PIPE; while [ ! -e state/ready ]; do sleep 0.05; done; exit 3"),
        env={"STARTUP_TASKS": "talk@local", "STARTUP_TASK_TALK": "true"},
        stderr=subprocess.PIPE,
    )
    assert running.process.stderr is not None
    running.process.stderr.close()
    assert running.wait() == 3
    assert running.told("result") == "the app ended by itself with exit code 3"
