"""``startup health``: entrypoint.sh answers it, in whichever way it is asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The directory of an environment's programs: Python and bin/startup; the package is not in a checkout."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    shutil.copytree(ROOT / "startup", tmp_path / "lib" / "startup", ignore=shutil.ignore_patterns("__pycache__"))
    (programs / "startup").write_text((ROOT / "bin" / "startup").read_text())
    return programs


def script(directory: Path) -> Path:
    """A startup-entrypoint that says how it was called."""
    path = directory / "startup-entrypoint"
    path.write_text('#!/bin/sh\necho "$0 $* ${STARTUP_NODE:-}"\nexit 1\n')
    path.chmod(0o755)
    return path


def run(*command: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        env={"PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


def as_module(programs: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return run(programs / "python", "-I", programs.parent / "lib" / "startup", "health", **environ)


def test_startup_health_is_the_script_beside_it_and_starts_no_second_python(installed: Path) -> None:
    shutil.rmtree(installed.parent / "lib")  # a second one would not find the package
    expected = script(installed)
    done = run(installed / "python", installed / "startup", "health", STARTUP_NODE="web")
    assert (done.returncode, done.stdout, done.stderr) == (1, f"{expected} startup health web\n", "")


def test_it_is_good_where_the_entrypoint_is_disabled(installed: Path) -> None:
    shutil.copy(ROOT / "entrypoint.sh", installed / "startup-entrypoint")
    done = run(installed / "python", installed / "startup", "health", STARTUP_ENABLED="false")
    assert (done.returncode, done.stdout, done.stderr) == (0, "disabled\n", "")


@pytest.mark.parametrize("given", [{}, {"LC_CTYPE": "POSIX"}], ids=["none", "its own"])
def test_the_program_hands_on_no_locale_that_python_has_made_up(installed: Path, given: dict[str, str]) -> None:
    """PEP 538: LC_CTYPE, which a task would see."""
    script(installed).write_text('#!/bin/sh\necho "${LC_CTYPE-none}"\n')
    done = run(installed / "python", installed / "startup", "health", **given)
    assert done.stdout == f"{given.get('LC_CTYPE', 'none')}\n"


def test_python_m_startup_health_is_the_script_beside_python(installed: Path) -> None:
    expected = script(installed)
    assert as_module(installed).stdout == f"{expected} startup health \n"


def test_python_m_startup_health_is_a_checkouts_own_script(installed: Path) -> None:
    script(installed)
    done = run(installed / "python", "-I", ROOT / "startup", "health", STARTUP_STATE_DIR=str(installed))
    assert (done.returncode, done.stderr) == (1, "") and "startup health" not in done.stdout


def test_python_m_startup_health_is_a_script_on_path_where_there_is_no_nearer_one(installed: Path) -> None:
    elsewhere = installed.parent / "elsewhere"
    elsewhere.mkdir()
    expected = script(elsewhere)
    assert as_module(installed, PATH=f"/usr/bin:{elsewhere}").stdout == f"{expected} startup health \n"


def test_a_script_that_is_not_there_is_named(installed: Path) -> None:
    done = as_module(installed)
    assert done.returncode == 70 and f"{installed}/startup-entrypoint" in done.stderr, done.stderr


def test_a_script_that_asks_back_is_told_so_and_not_asked_for_ever(installed: Path) -> None:
    path = script(installed)
    path.write_text(f"#!/bin/sh\nexec {installed}/python -I {installed.parent}/lib/startup health\n")
    done = as_module(installed)
    assert done.returncode == 70 and "asks us in turn" in done.stderr, done.stderr


@pytest.mark.parametrize(("enabled", "code"), [("false", 0), ("true", 1)])
def test_it_answers_where_the_entrypoint_would_execute_whatever_it_is_given(
    installed: Path, enabled: str, code: int
) -> None:
    shutil.copy(ROOT / "entrypoint.sh", installed / "startup-entrypoint")
    program = installed / "startup"
    program.write_text(program.read_text().replace("#!python", f"#!{installed}/python"))
    program.chmod(0o755)
    environ = {"PATH": f"{installed}:/usr/bin:/bin", "STARTUP_STATE_DIR": str(installed), "STARTUP_ENABLED": enabled}
    done = run(program, "health", **environ)
    assert (done.returncode, done.stderr) == (code, "") and len(done.stdout.splitlines()) == 1
