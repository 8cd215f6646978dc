"""The state directory: whose it must be, what is never followed, and where it is looked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Entrypoint
from .test_script import alone

STRANGER = 10001
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")
FILES = ("phase", "ready", "result", "reason", "proof", "log", "failed", "stop_timeout")


@needs_root
def test_a_state_directory_of_another_user_is_refused_with_a_cure(entrypoint: Entrypoint) -> None:
    entrypoint.state.mkdir()
    os.chown(entrypoint.state, STRANGER, STRANGER)
    done = entrypoint.run("true")
    assert done.returncode == 78
    assert f"STARTUP_STATE_DIR is '{entrypoint.state}'" in done.stderr and "ours or root's" in done.stderr


@needs_root
def test_a_link_in_the_state_directory_is_never_written_through(entrypoint: Entrypoint) -> None:
    """By what was there before, and by what the app makes meanwhile, where everybody may write."""
    precious = entrypoint.directory / "precious"
    precious.write_text("untouched")
    entrypoint.state.mkdir()
    entrypoint.state.chmod(0o777)
    for name in FILES:
        (entrypoint.state / name).symlink_to(precious)
        (entrypoint.state / f"{name}.new").symlink_to(precious)
    plant = f'for f in {" ".join(FILES)}; do ln -sf "{precious}" "{entrypoint.state}/$f"; done'
    env = {"STARTUP_TASKS": "wait@local", "STARTUP_TASK_WAIT": plant, "STARTUP_PRE_START": "first@local"}
    done = entrypoint.run("sh", "-c", "exit 5", env={**env, "STARTUP_TASK_FIRST": "true"})
    assert done.returncode == 5, done.stderr
    assert precious.read_text() == "untouched"


@needs_root
@pytest.mark.parametrize("name", ["pid", "phase", "ready", "log", "reason", "proof"])
def test_a_fifo_in_the_state_directory_holds_nothing_up(entrypoint: Entrypoint, name: str) -> None:
    entrypoint.state.mkdir()
    os.mkfifo(entrypoint.state / name)
    assert entrypoint.run("sh", "-c", "exit 5").returncode == 5


@needs_root
def test_a_fifo_of_another_user_holds_nothing_up(entrypoint: Entrypoint, tmp_path: Path) -> None:
    """Where no directory is set, one that a stranger made is passed over."""
    state = tmp_path / "startup-0"
    state.mkdir()
    os.mkfifo(state / "pid")
    os.chown(state, STRANGER, STRANGER)
    seen = 'if is_live "$1"; then printf live; else printf dead; fi; claim_state_dir "$1" || printf " refused"'
    assert alone(entrypoint, seen, str(state)) == "dead refused"


@pytest.fixture
def spoofed(tmp_path: Path) -> Iterator[Path]:
    """A state that a stranger has made of a process of his own that runs; where it says "ready"."""
    process = subprocess.Popen(["sleep", "60"], user=STRANGER, group=STRANGER)
    state = tmp_path / "startup-00000"
    state.mkdir()
    started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    for name, text in (("pid", f"{process.pid} {started}"), ("phase", "spoofed"), ("ready", "1")):
        (state / name).write_text(f"{text}\n")
    os.chown(state, STRANGER, STRANGER)
    yield state
    process.kill()
    process.wait()


@needs_root
@pytest.mark.parametrize("setting", ["TMPDIR", "STARTUP_STATE_DIR"])
def test_health_believes_no_state_that_another_user_made(entrypoint: Entrypoint, spoofed: Path, setting: str) -> None:
    if entrypoint.place != "outside":
        pytest.skip("a process of this namespace is not seen in another")
    env = {"STARTUP_STATE_DIR": "unset"} | {setting: str(spoofed if setting != "TMPDIR" else spoofed.parent)}
    done = entrypoint.run("startup", "health", env=env)
    assert (done.returncode, done.stdout) == (1, "not running\n")
    os.chown(spoofed, 0, 0)
    assert entrypoint.run("startup", "health", env=env).stdout == "spoofed\n", "root may: the test's own check"


@needs_root
def test_health_follows_no_link_in_a_default_place(entrypoint: Entrypoint, spoofed: Path, tmp_path: Path) -> None:
    """The directory is root's and sticky; what is in it need not be."""
    if entrypoint.place != "outside":
        pytest.skip("a process of this namespace is not seen in another")
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    for file in spoofed.iterdir():
        file.rename(sticky / file.name)
    spoofed.rmdir()
    spoofed.symlink_to(sticky)
    env = {"STARTUP_STATE_DIR": "unset", "TMPDIR": str(tmp_path)}
    assert entrypoint.run("startup", "health", env=env).stdout == "not running\n"
    named = entrypoint.run("startup", "health", env={"STARTUP_STATE_DIR": str(sticky)})
    assert named.stdout == "spoofed\n", "it is found where it is meant: the test's own check"


@needs_root
def test_a_user_other_than_root_may_use_a_directory_of_roots(entrypoint: Entrypoint) -> None:
    """As Kubernetes mounts an emptyDir: of root, writable for everybody. Another pytest may close pytest's own anew."""
    seen = 'claim_state_dir "$1" && printf "%s" "$state"; if is_trusted "$1"; then printf " trusted"; fi'
    assert shutil.which("setpriv"), "setpriv(1), of util-linux, gives up root here"
    shell = (*("setpriv", f"--reuid={STRANGER}", "--clear-groups"), *entrypoint.shell)
    with tempfile.TemporaryDirectory() as state:
        os.chmod(state, 0o777)
        assert alone(Entrypoint(shell, Path(state)), seen, state) == f"{state} trusted"


def test_without_a_state_directory_no_file_of_the_images_root_is_read(entrypoint: Entrypoint) -> None:
    """`/log`, `/failed` and `/reason` are anybody's names."""
    assert alone(
        entrypoint, 'printf "%s" "$state"; tell phase x; has_tasks pre_stop none; [ "$has_tasks" ] || printf " none"'
    ) == ("/dev/null none")


@needs_root
def test_the_state_directory_of_our_own_name_is_for_us_alone(entrypoint: Entrypoint, tmp_path: Path) -> None:
    state = tmp_path / "startup-0"
    state.mkdir()
    state.chmod(0o777)
    assert alone(entrypoint, 'claim_state_dir "$1"', str(state)) == ""
    assert state.stat().st_mode & 0o777 == 0o755


def test_the_state_directory_of_an_entrypoint_that_runs_is_refused_and_left_as_it_is(entrypoint: Entrypoint) -> None:
    """`docker exec` of a second one, which has the same variable."""
    if entrypoint.place != "outside":
        pytest.skip("a second entrypoint here is in another namespace")
    running = entrypoint.start("sleep", "60")
    running.wait_for(lambda: running.told("ready"))
    before = {file.name: file.read_text() for file in entrypoint.state.iterdir()}
    done = entrypoint.run("touch", "started")
    assert done.returncode == 78, done.stderr
    assert f"STARTUP_STATE_DIR is '{entrypoint.state}'" in done.stderr and "another entrypoint" in done.stderr
    assert not (entrypoint.directory / "started").exists()
    assert {file.name: file.read_text() for file in entrypoint.state.iterdir()} == before
    assert entrypoint.run("startup", "health").stdout == "ready\n"
