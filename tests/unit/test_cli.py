"""The command line's table of verbs: each is imported when it is asked for."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from startup import cli

ROOT = Path(__file__).parents[2]


VERBS = {**cli.VERBS, **cli.HIDDEN}
SHOW = """
import os, sys
sys.path.insert(0, sys.argv[1])
from startup import cli, launch, roots
os._exit = sys.exit
try:
    code = cli.main(sys.argv[2:])
finally:
    print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("name", VERBS)
def test_each_verb_is_where_the_table_says_and_takes_what_main_gives(name: str) -> None:
    module, _, function = VERBS[name][0].partition(".")
    verb = getattr(importlib.import_module(f"startup.verbs.{module}"), function or module)
    assert list(inspect.signature(verb).parameters) == ["arguments", "interrupts"]


#: What entrypoint.sh says, in its own words: for others argparse is needed.
(_WORDS,) = re.findall(r"^ *module (_phase .*?) </dev/null", (ROOT / "entrypoint.sh").read_text(), re.MULTILINE)
_MEANT = {"$@": "post_start", "$state": "", "$app": str(os.getpid()), "$$": "0"}
PHASE = tuple(_MEANT.get(word, word) for word in shlex.split(_WORDS))


def imported(*verb: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", SHOW, str(ROOT), *verb],
        env={"STARTUP_TASKS": "none", "STARTUP_PING": "none"} | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("verb", "modules"),
    [
        (("init",), {"common", "flow"}),
        (("_phase", "pre_start"), {"common", "flow"}),
        (("_phase", "post_start", "--app", str(os.getpid())), {"common", "flow", "ping"}),
        (("describe",), {"common", "describe"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_verb_imports_no_other_that_it_does_not_need(verb: tuple[str, ...], modules: set[str]) -> None:
    assert set(re.findall(r"startup\.verbs\.(\w+)", imported(*verb))) == modules


#: All of the standard library that a boot may import, by what each name begins with. More than half of a boot's time
#: are its imports: typing takes 4 ms, argparse, logging and urllib.parse 8, dataclasses 10, asyncio 70 (of Python: 9).
MAY_BE_IMPORTED = {
    *("collections", "contextlib", "contextvars", "errno", "functools", "future", "importlib", "itertools"),
    *("keyword", "locale", "operator", "reprlib", "select", "sha2", "sha256", "signal", "threading", "types"),
    *("warnings", "weakrefset"),
}
#: The same, where a database is asked. `re` and `signal` bring enum with them: 3 ms, which no boot without tasks has.
MAY_BE_IMPORTED_TO_LOOK = MAY_BE_IMPORTED | {
    "copyreg",
    "ctypes",
    "enum",
    "heapq",
    "math",
    "queue",
    "re",
    "sre",
    "struct",
}


def not_allowed(modules: list[str], allowed: set[str]) -> set[str]:
    """Those of *modules* that are neither ours, nor Python's own start's, nor *allowed*."""
    python = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    known = {*python.stdout.split(), "startup"}
    others = {name.partition(".")[0] for name in modules} - known
    return {name for name in others if name.lstrip("_").partition("_")[0] not in allowed}


def test_a_boot_imports_nothing_that_only_a_fault_or_a_task_needs(tmp_path: Path) -> None:
    (tmp_path / "post_start.d").mkdir()
    hook = tmp_path / "post_start.d" / "10-hook.local.sh"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    modules = imported(*PHASE, STARTUP_HOOKS_DIR=str(tmp_path)).split()
    assert {"difflib", "csv", "psycopg", "yoyo", "sqlite3"} & set(modules) == set()


@pytest.mark.parametrize("verb", [PHASE, ("init",)], ids=["_phase", "init"])
def test_a_boot_without_tasks_imports_no_more_than_is_listed_here(verb: tuple[str, ...]) -> None:
    modules = imported(*verb).splitlines()[-1].split()
    assert not_allowed(modules, MAY_BE_IMPORTED) == set()
    ours = {name.split(".")[1] for name in modules if name.startswith("startup.")}
    assert not ours & {"database", "ledger", "migrations"}
    assert not {"startup.run.runner", "startup.run.cluster"} & set(modules)


def test_only_a_boot_with_a_metrics_file_loads_what_writes_one(tmp_path: Path) -> None:
    loaded = {"startup.run.metrics", "startup.run.failed", "json", "tempfile"}
    assert not loaded & {*imported(*PHASE).split()}
    file = tmp_path / "startup.prom"
    assert "startup.run.metrics" in imported(*PHASE, STARTUP_METRICS_FILE=str(file)).split() and file.exists()


STOPPED_WHILE_IT_IMPORTS = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from startup import cli

class Told:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.SIGTERM)

def make_a_class(name):
    class Owner:
        field = Told()

cli.importlib.import_module = make_a_class
sys.exit(cli.main(["init"]))
"""


def test_a_stop_signal_while_a_verb_is_imported_is_no_defect() -> None:
    """A dataclass' fields have a __set_name__, and before Python 3.12 what that raises comes as a RuntimeError."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", STOPPED_WHILE_IT_IMPORTS, str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr == "startup: error: stopped by SIGTERM\n"
