"""The bundle in images that have no Python, no shell, an older C library, or all of their own: one COPY line each."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .first_process import BUNDLE, FORWARDABLE, Box, exit_codes, signals_that_arrive, until
from .images import IMAGES, Built

if TYPE_CHECKING:
    from .conftest import Container, Database, Docker

SHELL, PYTHON = f"{BUNDLE}/bin/sh", f"{BUNDLE}/bin/python3"
VERB, ENTRYPOINT = f"{BUNDLE}/bin/startup", f"{BUNDLE}/bin/startup-entrypoint"


@pytest.fixture(params=list(IMAGES))
def built(request: pytest.FixtureRequest, build: Callable[[str], Built]) -> Built:
    return build(request.param)


def is_ready(container: Container) -> bool:
    assert container.state["Running"], container.logs
    return container.exec(VERB, "health", check=False).stdout == "ready\n"


def test_it_starts_pings_migrates_runs_commands_and_hooks_and_stops(
    docker: Docker, built: Built, database: Database
) -> None:
    container = docker.start(*built.words(*database.options))
    until(lambda: is_ready(container), "ready")
    logs = container.logs
    assert "\nsaid of" in logs, logs
    assert "\nETC\n" in logs, "the shell finds its own programs in an image that has none"
    assert "\na hook of" in logs, logs
    assert database.query("SELECT price FROM shop") == "42"
    status = container.exec(VERB, "status").stdout
    assert "1 applied, 0 pending" in status
    assert container.exec(ENTRYPOINT, "startup", "health").stdout == "ready\n"
    code, seconds = container.stop()
    assert (code, seconds < 8) == (built.image.code, True), container.logs

    again = docker.start(*built.words(*database.options))
    until(lambda: is_ready(again), "ready")
    assert "applied in" not in again.logs, again.logs
    assert database.query("SELECT price FROM shop") == "42"


def test_a_task_imports_what_the_apps_own_python_has(docker: Docker, build: Callable[[str], Built]) -> None:
    done = docker.run(*build("a Python of its own").words(), "startup", "run", "warm@local")
    assert (done.returncode, "warmed by Python 3 11 at 42" in done.stderr) == (0, True), done.stderr
    assert "tabulate of owner 7" in done.stderr, "its own, not what our packages need"


def test_what_the_apps_own_python_has_not_is_named_with_the_cure(
    docker: Docker, build: Callable[[str], Built], database: Database
) -> None:
    done = docker.run(
        *build("a Python of its own").words("--env=STARTUP_PYTHON=/usr/bin/python3", *database.options),
        *("startup", "status"),
    )
    assert done.returncode == 78
    assert "/usr/bin/python3 cannot import it (No module named 'psycopg')" in done.stderr
    assert "right would be /usr/bin/python3 -m pip install 'psycopg[binary]>=3.2.2'" in done.stderr


def test_a_hook_whose_interpreter_is_not_there_is_told_of_the_bundles_shell_where_the_image_has_none(
    docker: Docker, build: Callable[[str], Built], tmp_path: Path
) -> None:
    (tmp_path / "post_start.d").mkdir()
    hook = tmp_path / "post_start.d" / "10-greet.sh"
    hook.write_text("#!/not/there\n")
    hook.chmod(0o755)
    for which, cure in (("scratch", "line: #!/bin/sh is run by the bundle's shell"), ("bash is /bin/sh", "line; or")):
        done = docker.run(f"--volume={tmp_path}:/hooks:ro", *build(which).words("--env=STARTUP_HOOKS_DIR=/hooks"))
        assert done.returncode == 78
        assert f"'/not/there', is not there: install it, or correct the first {cure}" in done.stderr, done.stderr


@pytest.fixture
def box(docker: Docker, built: Built, tmp_path: Path) -> Iterator[Box]:
    tmp_path.chmod(0o777)
    one = Box(docker, (), tmp_path, built.image.options, built.name, PYTHON, SHELL)
    if "warm" in "".join(built.image.options):
        one.options = ()
    yield one
    one.close()


def test_every_signal_that_can_be_forwarded_reaches_the_app(box: Box) -> None:
    assert signals_that_arrive(box, FORWARDABLE) == FORWARDABLE


def test_exit_codes_are_the_apps(box: Box) -> None:
    assert exit_codes(box, [0, 7, 78, 255]) == [0, 7, 78, 255]
    done = box.docker.run(*box.words("/not/there"))
    assert done.returncode == 127
    assert "there is no '/not/there'" in done.stderr


def test_the_image_is_as_it_is_without_us(docker: Docker, build: Callable[[str], Built]) -> None:
    """Its own programs, not applets of our shell's; LD_ variables as set; also where nothing of ours is to run."""
    image = build("LD_ variables").name
    look = ("env", "--version")
    for options in ((), ("--env=STARTUP_ENABLED=false",)):
        settings = ("--env=STARTUP_TASKS=none", "--env=STARTUP_PING=none", *options)
        assert docker.run(*settings, image, *look).stdout == docker.run("--entrypoint=env", image, *look[1:]).stdout
        ours = docker.run(*settings, image, "sh", "-c", "env; cat /proc/self/maps").stdout
        plain = docker.run(*settings, "--entrypoint=sh", image, "-c", "env; cat /proc/self/maps").stdout
        assert variables(ours) == variables(plain)
        assert "libjemalloc" in ours


def variables(shown: str) -> list[str]:
    lines = [line for line in shown.splitlines() if "=" in line and not line.startswith("HOSTNAME=")]
    return sorted(lines)


@pytest.mark.parametrize("which", ["LD_ variables", "LD_ variables on an older libc"])
def test_tasks_and_hooks_see_the_images_ld_variables(docker: Docker, build: Callable[[str], Built], which: str) -> None:
    container = docker.start(*build(which).words("--env=STARTUP_TASKS=say@local"))
    until(lambda: is_ready(container), "ready")
    assert "said of /jemalloc.so /libs\n" in container.logs
    assert "a hook of /jemalloc.so /libs: " in container.logs


def test_a_python_app_of_the_images_keeps_its_ld_variables(docker: Docker, build: Callable[[str], Built]) -> None:
    """Where env cannot launch it, and where there is no /proc for the module to read."""
    image = build("LD_ variables").name
    settings = ("--env=STARTUP_TASKS=none", "--env=STARTUP_PING=none", "--env=STARTUP_SIGNAL_GROUP=true")
    done = docker.run(*settings, image, "sh", "-c", "echo $LD_PRELOAD $LD_LIBRARY_PATH; env | grep STARTUP_LD")
    assert done.stdout == "/jemalloc.so /libs\n", done.stderr


# ------------------------------------------------------------------------------------------------------- what it is


def test_it_is_small(docker: Docker, bundle_image: str) -> None:
    assert docker.inspect(bundle_image)["Size"] < 45e6
    saved = subprocess.Popen(["docker", "save", bundle_image], stdout=subprocess.PIPE)
    packed = subprocess.run(["gzip", "-9"], stdin=saved.stdout, capture_output=True, check=True).stdout
    assert saved.wait() == 0
    assert len(packed) < 18e6


def test_nothing_in_it_can_be_led_astray_by_an_images_library_path(bundle_directory: Path) -> None:
    """RPATH comes before LD_LIBRARY_PATH, RUNPATH after it (ld.so(8))."""
    if shutil.which("readelf") is None:
        pytest.skip("readelf (binutils) is not installed")
    programs = [bundle_directory / "bin" / name for name in ("python3", "env")]
    for path in [*programs, *bundle_directory.rglob("*.so*")]:
        if path.read_bytes()[:4] == b"\x7fELF":
            shown = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
            assert "(RUNPATH)" not in shown, path
            assert path not in programs or "(RPATH)              Library rpath: [/opt/startup/lib]" in shown, shown


def test_it_has_the_same_code_as_the_base_image(docker: Docker, base_image: str, bundle_directory: Path) -> None:
    sums = "cd /opt/startup/lib/python3*/site-packages && find startup -name '*.py' -exec sha256sum {} +"
    there = docker.run("--entrypoint", "sh", base_image, "-c", sums).stdout.splitlines()
    found = bundle_directory / "lib" / "packages"
    here = subprocess.run(
        ["find", "startup", "-name", "*.py", "-exec", "sha256sum", "{}", "+"], cwd=found, capture_output=True, text=True
    ).stdout.splitlines()
    assert sorted(here) == sorted(there)
    assert len(here) > 50


def test_a_newer_one_copied_over_it_leaves_no_packages_metadata_twice(bundle_directory: Path) -> None:
    """With two of them importlib.metadata picks one, and psycopg compares versions."""
    found = [path.name for path in bundle_directory.rglob("*.dist-info")]
    assert "psycopg.dist-info" in found
    assert [name for name in found if "-" in name.removesuffix(".dist-info")] == []


def test_it_has_the_licences_of_what_it_is_made_of_and_says_where_the_sources_are(bundle_directory: Path) -> None:
    here = bundle_directory / "licences"
    found = {path.name for path in here.iterdir() if path.is_file()}
    assert {"busybox-static", "coreutils", "libc6", "python"} <= found
    texts = [(here / name).read_text(errors="replace") for name in found - {"python", "SOURCES"}]
    named = {name for text in texts for name in re.findall(r"/usr/share/common-licenses/([\w.+-]*\w)", text)}
    assert {"GPL-2", "GPL-3"} <= named
    assert [name for name in named if not (here / "common-licenses" / name).exists()] == []
    sources = (here / "SOURCES").read_text()
    assert re.search(r"\n  busybox-static: apt-get source busybox=\S+\n", sources)


def test_every_file_of_it_can_be_read_by_any_user(bundle_directory: Path) -> None:
    closed = [path for path in bundle_directory.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o4 == 0]
    assert closed == []
