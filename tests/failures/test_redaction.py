"""No password and no content of a ``_FILE`` in anything that is written: lines, errors, verbs, state, process list.

What every other test of the suite writes is looked through as well, see tests/leaks.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.cluster.nodes import Project, Zygote
from tests.conftest import Server, run_query
from tests.forms import FORMS
from tests.leaks import MARKS, in_line, leaks

ROOT = Path(__file__).parents[2]
#: Each part of it shows in whatever form the rest is quoted.
PASSWORD = MARKS[-1]
PARTS = ("xLeft7", "xRight7")
TASKS = """
import json, os, psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

def url(context): raise ValueError(context.environ['DATABASE_URL'])
def conninfo(context): raise ValueError(make_conninfo(**conninfo_to_dict(context.environ['DATABASE_URL'])))
def as_repr(context): raise ValueError(repr(conninfo_to_dict(context.environ['DATABASE_URL'])))
def as_json(context): raise ValueError(json.dumps(conninfo_to_dict(context.environ['DATABASE_URL'])))
def wrong_option(context): psycopg.connect(context.environ['DATABASE_URL'], nonsense=1)
def cannot_connect(context): psycopg.connect(context.environ['DATABASE_URL'], port=1)
def chained(context):
    try:
        url(context)
    except ValueError as error:
        raise RuntimeError('cannot') from error
"""
RAISE = ("url", "conninfo", "as_repr", "as_json", "wrong_option", "cannot_connect", "chained")


@pytest.fixture
def url(server: Server, database: str) -> Iterator[str]:
    """The address of a role whose password needs every kind of quoting."""
    role = f"role_{uuid.uuid4().hex[:8]}"
    escaped = PASSWORD.replace("'", "''")
    admin = server.admin_url(database)
    run_query(admin, f"CREATE ROLE {role} LOGIN PASSWORD '{escaped}'; GRANT CREATE ON SCHEMA public TO {role}")
    yield f"postgresql://{role}:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/{database}"
    run_query(admin, f"DROP OWNED BY {role}; DROP ROLE {role}")


def entrypoint(directory: Path, **environ: str) -> tuple[str, subprocess.CompletedProcess[str]]:
    """All that a start of the container writes, the state directory included."""
    state = directory / "state"
    (directory / "hooks").mkdir(exist_ok=True)
    done = subprocess.run(
        ["sh", str(ROOT / "entrypoint.sh"), "sleep", "30"],
        cwd=directory,
        env={
            "PATH": os.environ["PATH"],
            "STARTUP_PYTHON": sys.executable,
            "STARTUP_STATE_DIR": str(state),
            "STARTUP_HOOKS_DIR": str(directory / "hooks"),
            "STARTUP_PING": "none",
            **environ,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    kept = "".join(file.read_text() for file in state.iterdir() if file.is_file())
    return done.stdout + done.stderr + kept, done


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("task", RAISE)
def test_a_password_in_a_tasks_error_is_masked_in_lines_traceback_state_and_ledger(
    tmp_path: Path, url: str, server: Server, database: str, task: str, form: str
) -> None:
    (tmp_path / "steps.py").write_text(TASKS)
    settings = {"STARTUP_TASKS": f"steps:{task}@once", "STARTUP_LOG_LEVEL": "debug", "STARTUP_LOG_FORMAT": form}
    written, done = entrypoint(tmp_path, DATABASE_URL=url, **settings)
    assert done.returncode == 70 and "Traceback" in written
    written += str(run_query(server.admin_url(database), "SELECT * FROM startup_ledger, startup_run, startup_node"))
    assert [part for part in PARTS if part in written] == [], written


@pytest.mark.parametrize("verb", ["init", "plan", "status", "status --json", "describe", "describe --json", "run nope"])
@pytest.mark.parametrize("given", ["DATABASE_URL", "DATABASE_URL_FILE", "STARTUP_DATABASE_URL_FILE", "PGPASSWORD"])
def test_no_verb_shows_it_wherever_it_comes_from(startup: Any, url: str, verb: str, given: str) -> None:
    environ = {given: url}
    if given.endswith("_FILE"):
        environ = {given: str(startup.write("secret", url + "\n"))}
    elif given == "PGPASSWORD":
        start, _, end = url.partition("@")
        environ = {"DATABASE_URL": f"{start.rpartition(':')[0]}@{end}", "PGPASSWORD": PASSWORD}
    settings = {"STARTUP_TASKS": "seed@once", "STARTUP_TASK_SEED": "true", "STARTUP_LOG_LEVEL": "debug"}
    done = startup(*verb.split(), **settings, **environ)
    assert done.returncode == (78 if verb == "run nope" else 0), done.stderr
    assert [part for part in PARTS if part in done.stdout + done.stderr] == []


@pytest.mark.parametrize("content", ["{0} is no address", "postgresql://a:{0}@127.0.0.1:port/a", "a\n{0}"])
def test_the_content_of_a_file_that_is_no_address_is_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content.format("xLeft7-xRight7"))
    written, done = entrypoint(
        tmp_path, DATABASE_URL_FILE=str(file), STARTUP_TASKS="migrate seed", STARTUP_TASK_SEED="true"
    )
    assert done.returncode == 78 and "DATABASE_URL_FILE" in written
    assert [part for part in PARTS if part in written] == []


def test_no_process_ever_has_it_on_its_command_line(tmp_path: Path, url: str) -> None:
    """Looked at by a task, while the entrypoint, the module and the app run, and by the app once they are done."""
    look = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' >>{tmp_path}/seen"
    written, done = entrypoint(
        tmp_path, DATABASE_URL=url, STARTUP_TASKS="look fail", STARTUP_TASK_LOOK=look, STARTUP_TASK_FAIL="exit 3"
    )
    assert done.returncode == 70
    seen = (tmp_path / "seen").read_text()
    assert "_phase post_start" in seen and "sleep 30" in seen, written
    assert [part for part in PARTS if part in seen] == []


@pytest.fixture
def node(tmp_path: Path, database_url: str) -> Iterator[Project]:
    zygote = Zygote()
    project = Project(tmp_path, database_url, zygote)
    (tmp_path / "steps.py").write_text("def tell(context):\n    raise ValueError(context.environ['DATABASE_URL'])\n")
    yield project
    project.close()
    zygote.close()


def test_the_suites_own_look_sees_a_password_as_soon_as_the_redaction_is_taken_out(node: Project) -> None:
    leaks.take()
    node.run("with", "steps:tell@once", STARTUP_MODULE="")
    assert leaks.recorded > 0 and leaks.take() == []
    node.run("without", "steps:tell@once", without="the_redaction", STARTUP_MODULE="")
    (found,) = leaks.take()
    assert "without: startup: error: task steps:tell failed: ValueError: postgresql://app:s3cr3t-Pa55@" in found


@pytest.mark.parametrize("form", [name for name in FORMS if FORMS[name](PASSWORD) != PASSWORD])
def test_the_suites_own_search_knows_each_form_and_misses_it_when_that_is_left_out(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    written = f"x {FORMS[form](PASSWORD)}"
    others = {name: FORMS[name] for name in FORMS if FORMS[name](PASSWORD) not in written}
    assert in_line(written)
    monkeypatch.setattr("tests.leaks.FORMS", others)
    assert not in_line(written)
