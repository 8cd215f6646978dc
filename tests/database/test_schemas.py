"""What status, describe and the lines say in each state is what docs/schemas promises; each verb here is checked."""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import wait_for
from tests.database.homes import BOTH
from tests.database.test_tasks import App, app  # noqa: F401  # a fixture
from tests.schemas import check_verb


def status(app: App) -> dict[str, Any]:  # noqa: F811
    done = app.startup("status", "--json", **app.settings)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@BOTH
def test_every_state_is_told_in_the_form_that_is_promised(app: App) -> None:  # noqa: F811
    """Before any run, while one has the lock, after one that failed, was stopped, and has done all."""
    app.startup.write("migrations/0001_a.sql", "CREATE TABLE a (n int);")
    settings = {
        **app.settings,
        "STARTUP_TASKS": "migrate slow",
        "STARTUP_BEFORE_MIGRATE": "backup",
        "STARTUP_TASK_BACKUP": "true",
        "STARTUP_TASK_SLOW": "[ ! -e fail ] || exit 3; echo x >>ran; until [ -e go ]; do sleep 0.05; done",
        "STARTUP_LOG_FORMAT": "json",
        "STARTUP_RELEASE": "1.0",
        "TRACEPARENT": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    assert status(app)["run"] is None
    failed = app.startup("init", **{**settings, "STARTUP_TASK_BACKUP": "exit 3"})
    assert failed.returncode == 70
    assert status(app)["run"]["state"] == "failed"
    stopped = app.startup.start("init", **settings)
    wait_for(lambda: app.ran() == 1)
    assert status(app)["lock"]["node"] == "node-a"
    stopped.terminate()
    out, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 143
    check_verb(("init",), out, err)
    assert status(app)["run"]["state"] == "stopped"
    app.startup.write("go", "")
    assert app.startup("init", **settings).returncode == 0
    assert {entry["state"] for entry in status(app)["ledger"]} == {"done"}
    described = app.startup("describe", "--json", **settings)
    assert json.loads(described.stdout)["before_migrate"][0]["name"] == "backup"
