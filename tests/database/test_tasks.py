"""Section 4 of the contract on one node, on PostgreSQL and on SQLite: how often, exactly once, what fails a task."""

from __future__ import annotations

import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.database.homes import BOTH


class App:
    """An image's tasks in ``tasks.py``, its settings, and its database."""

    def __init__(self, startup: Any, query: Any, url: str) -> None:
        self.startup, self._query, self.url = startup, query, url
        self.settings = {"DATABASE_URL": url, "STARTUP_MODULE": "tasks", "STARTUP_NODE": "node-a"}
        self.directory: Path = startup.directory
        self.tasks("")

    def tasks(self, text: str) -> None:
        self.startup.write("tasks.py", f"from startup import Context, task\nimport os, sys, time\n{text}")

    def init(self, listed: str = "", **settings: str) -> Any:
        return self.startup("init", **self.settings, **({"STARTUP_TASKS": listed} if listed else {}), **settings)

    def ok(self, listed: str = "", **settings: str) -> str:
        done = self.init(listed, **settings)
        assert done.returncode == 0, done.stderr
        return str(done.stderr)

    def fails(self, listed: str = "", code: int = 70, /, **settings: str) -> str:
        done = self.init(listed, **settings)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr and "defect" not in done.stderr
        return str(done.stderr)

    def query(self, sql: str) -> list[Any]:
        rows: list[Any] = self._query(self.url, sql)
        return rows

    def ledger(self) -> list[Any]:
        return self.query("SELECT task, policy, state FROM startup_ledger ORDER BY task, policy")

    def ran(self, file: str = "ran") -> int:
        """How many lines tasks have written to a file."""
        path = self.directory / file
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def app(startup: Any, query: Any, url: str) -> App:
    return App(startup, query, url)


COUNT = {"STARTUP_TASK_COUNT": "echo $STARTUP_TASK >>ran"}

# ------------------------------------------------------------------------------------------------ each policy's meaning


@BOTH
def test_always_runs_on_every_boot_and_keeps_a_row_in_the_ledger(app: App) -> None:
    for boot in (1, 2):
        app.ok("count", **COUNT)
        assert app.ran() == boot
        assert app.ledger() == [("count", "always", "done")]


@BOTH
def test_once_runs_once_per_database_and_namespace(app: App) -> None:
    app.ok("count@once", **COUNT)
    assert "done already" in app.ok("count@once", **COUNT)
    assert app.ran() == 1
    app.ok("count@once", **COUNT, STARTUP_NAMESPACE="other")
    assert app.ran() == 2
    assert "done already" in app.ok("count@once", STARTUP_TASK_COUNT="echo other >>ran")
    assert app.ran() == 2


@BOTH
def test_change_runs_once_for_each_content_and_not_again_when_an_old_one_comes_back(app: App) -> None:
    for text, runs in (("1", 1), ("1", 1), ("2", 2), ("2", 2), ("1", 2)):
        app.ok("count@change", STARTUP_TASK_COUNT=f"echo {text} >>ran")
        assert app.ran() == runs, text
    assert app.ledger() == [("count", "change", "done")] * 2


@BOTH
def test_change_watches_the_files_that_a_task_declares(app: App) -> None:
    app.tasks(
        "@task(policy='change', files=['plans.csv'])\ndef load(context):\n    print('ran', file=open('ran', 'a'))\n"
    )
    for content, runs in (("a", 1), ("a", 1), ("b", 2)):
        app.startup.write("plans.csv", content)
        app.ok("load")
        assert app.ran() == runs


@BOTH
def test_release_runs_once_per_release(app: App) -> None:
    for release, runs in (("1", 1), ("1", 1), ("2", 2), ("1", 2)):
        app.ok("count@release", **COUNT, STARTUP_RELEASE=release)
        assert app.ran() == runs
    assert app.query("SELECT release FROM startup_ledger ORDER BY release") == [("1",), ("2",)]


@BOTH
def test_local_runs_on_every_boot_and_knows_no_database(app: App) -> None:
    app.tasks("@task(policy='local')\ndef look(context):\n    context.connection\n")
    for boot in (1, 2):
        app.ok("count@local", **COUNT)
        assert app.ran() == boot
    assert "RuntimeError" in app.fails("look") and app.query(_TABLES[app.url[:6]]) == []


_TABLES = {
    "postgr": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
    "sqlite": "SELECT name FROM sqlite_master",
}


@BOTH
def test_tasks_run_in_the_order_of_the_list_whatever_their_policies(app: App) -> None:
    names = ["a@local", "b@once", "c@local", "d", "e@local"]
    settings = {f"STARTUP_TASK_{name[0].upper()}": f"echo {name[0]} >>ran" for name in names}
    app.ok(" ".join(names), **settings)
    assert (app.directory / "ran").read_text().split() == ["a", "b", "c", "d", "e"]
    app.ok(" ".join(names), **settings)
    assert (app.directory / "ran").read_text().split()[5:] == ["a", "c", "d", "e"]


@BOTH
def test_local_tasks_run_though_all_of_the_clusters_is_done(app: App) -> None:
    for boot in (1, 2):
        app.ok("one@once count@local two@once", **COUNT, STARTUP_TASK_ONE="true", STARTUP_TASK_TWO="true")
        assert app.ran() == boot


@BOTH
def test_one_that_fails_keeps_the_rest_from_running_and_runs_again_at_the_next_boot(app: App) -> None:
    said = app.fails("bad@once count@once", **COUNT, STARTUP_TASK_BAD="exit 3")
    assert "task bad failed" in said and "exit code 3" in said
    assert app.ran() == 0
    assert app.ledger() == [("bad", "once", "failed")]
    app.ok("bad@once count@once", **COUNT, STARTUP_TASK_BAD="true")
    assert app.ledger() == [("bad", "once", "done"), ("count", "once", "done")]


@BOTH
def test_a_task_that_was_forgotten_runs_again(app: App) -> None:
    app.ok("count@once", **COUNT)
    assert app.startup("forget", "Count", **{**app.settings, "STARTUP_MODULE": ""}).returncode == 0
    app.ok("count@once", **COUNT)
    assert app.ran() == 2


# -------------------------------------------------------------------------------- exactly once, in one transaction

WRITE = "context.connection.execute('INSERT INTO plans VALUES (1)')"


@pytest.fixture
def plans(app: App) -> App:
    app.query("CREATE TABLE plans (id int)")
    return app


def test_what_a_task_writes_and_its_ledger_row_are_one_transaction(plans: App) -> None:
    plans.tasks(f"@task(policy='once')\ndef load(context: Context) -> None:\n    {WRITE}\n")
    plans.ok("load")
    assert plans.query("SELECT (SELECT xmin::text FROM plans) = (SELECT xmin::text FROM startup_ledger)") == [(True,)]


@BOTH
@pytest.mark.parametrize("policy", ["once", "change", "release", "always"])
def test_what_a_task_that_raises_has_written_is_gone(plans: App, policy: str) -> None:
    plans.tasks(f"@task(policy='{policy}')\ndef load(context):\n    {WRITE}\n    raise ValueError('no luck')\n")
    said = plans.fails("load", STARTUP_RELEASE="1")
    assert "task load failed: ValueError: no luck" in said and "tasks.py, line 6" in said
    assert plans.query("SELECT * FROM plans") == []
    assert plans.ledger() == [("load", policy, "failed")]


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit(0)", "GeneratorExit"])
def test_whatever_a_task_raises_it_has_failed(plans: App, error: str) -> None:
    plans.tasks(f"@task(policy='once')\ndef load(context):\n    {WRITE}\n    raise {error}\n")
    assert f"task load failed: {error.partition('(')[0]}" in plans.fails("load")
    assert plans.ledger() == [("load", "once", "failed")]


@BOTH
def test_a_task_that_is_killed_at_any_point_inside_has_not_happened_and_happens_next_time(
    plans: App, wait_until: Any
) -> None:
    plans.tasks(
        f"@task(policy='once')\ndef load(context):\n    {WRITE}\n"
        "    if not os.path.exists('go'):\n        open('inside', 'w')\n        time.sleep(60)\n"
    )
    process = plans.startup.start("init", **plans.settings, STARTUP_TASKS="load")
    wait_until(lambda: (plans.directory / "inside").exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert plans.query("SELECT * FROM plans") == []
    (plans.directory / "go").touch()
    plans.ok("load")
    plans.ok("load")
    assert plans.query("SELECT * FROM plans") == [(1,)]


@BOTH
def test_a_signal_inside_a_task_ends_it_and_leaves_nothing(plans: App, wait_until: Any) -> None:
    plans.tasks(
        f"@task(policy='once')\ndef load(context):\n    {WRITE}\n    open('inside', 'w')\n"
        "    try:\n        time.sleep(60)\n    except Exception:\n        pass\n"
    )
    process = plans.startup.start("init", **plans.settings, STARTUP_TASKS="load")
    wait_until(lambda: (plans.directory / "inside").exists())
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143 and "SIGTERM" in said.splitlines()[-1]
    assert plans.query("SELECT * FROM plans") == []


POSTGRES_WAYS = [
    "execute('COMMIT')",
    "execute('ROLLBACK')",
    "execute('COMMIT; BEGIN')",
    "execute('COMMIT AND CHAIN')",
    "execute('ROLLBACK AND CHAIN')",
    "execute('END')",
    "execute('ABORT')",
    "execute('PREPARE TRANSACTION $$x$$')",
    "commit()",
    "rollback()",
    "__enter__().__exit__(None, None, None)",
    "cursor().execute('commit')",
    "pgconn.exec_(b'COMMIT; BEGIN')",
]
SQLITE_WAYS = [
    "execute('COMMIT')",
    "execute('ROLLBACK')",
    "execute('END')",
    "executescript('INSERT INTO plans VALUES (2)')",
    "executescript('COMMIT; BEGIN')",
    "commit()",
    "rollback()",
    "__enter__().__exit__(None, None, None)",
    "cursor().execute('commit')",
    "cursor().executescript('select 1')",
]


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize(
    ("url", "way"),
    [*(("postgresql", way) for way in POSTGRES_WAYS), *(("sqlite", way) for way in SQLITE_WAYS)],
    indirect=["url"],
)
def test_a_task_that_commits_or_rolls_back_by_itself_fails_and_is_not_done(
    plans: App, way: str, swallowed: bool
) -> None:
    text = f"@task(policy='once')\ndef load(context):\n    {WRITE}\n"
    call = f"context.connection.{way}"
    text += f"    try:\n        {call}\n    except Exception:\n        pass\n" if swallowed else f"    {call}\n"
    plans.tasks(text)
    done = plans.init("load")
    if done.returncode == 0:  # psycopg has refused it, and did nothing: all is as if it had not been called
        assert swallowed and way in ("commit()", "rollback()", "__enter__().__exit__(None, None, None)")
        assert plans.query("SELECT (SELECT xmin::text FROM plans) = (SELECT xmin::text FROM startup_ledger)") == [
            (True,)
        ]
    else:
        assert done.returncode == 70 and "task load failed" in done.stderr
        assert plans.ledger() == [("load", "once", "failed")]


def test_savepoints_and_nested_transactions_are_no_commits(plans: App) -> None:
    plans.tasks(
        f"@task(policy='once')\ndef load(context):\n    with context.connection.transaction():\n        {WRITE}\n"
        "    context.connection.execute('SAVEPOINT a')\n    context.connection.execute('ROLLBACK TO a')\n"
    )
    plans.ok("load")
    assert plans.query("SELECT * FROM plans") == [(1,)]


@BOTH
def test_an_error_of_the_database_that_a_task_swallows_does_not_pass_for_success(plans: App) -> None:
    plans.tasks(
        f"@task(policy='once')\ndef load(context):\n    {WRITE}\n    try:\n"
        "        context.connection.execute('SELECT * FROM nowhere')\n    except Exception:\n        pass\n"
    )
    done = plans.init("load")
    if "sqlite" in plans.url:  # a failed statement leaves SQLite's transaction as it was
        assert done.returncode == 0 and plans.query("SELECT * FROM plans") == [(1,)]
    else:
        assert done.returncode == 70 and plans.query("SELECT * FROM plans") == []


@BOTH
def test_transaction_false_gives_autocommit(plans: App, wait_until: Any) -> None:
    plans.tasks(f"@task(policy='once', transaction=False)\ndef load(context):\n    {WRITE}\n    raise ValueError\n")
    plans.fails("load")
    assert plans.query("SELECT * FROM plans") == [(1,)]
    assert plans.ledger() == [("load", "once", "failed")]


def test_transaction_false_lets_an_index_be_built_concurrently(plans: App) -> None:
    plans.tasks(
        "@task(policy='once', transaction=False)\ndef index(context):\n"
        "    context.connection.execute('CREATE INDEX CONCURRENTLY i ON plans (id)')\n"
        "    with context.connection.transaction():\n        context.connection.execute('SELECT 1')\n"
    )
    plans.ok("index")
    assert plans.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass") == [(True,)]


# ------------------------------------------------------------------------------- what a task does to the session

LEAKS = {
    "search_path": "SET search_path = pg_catalog",
    "no search_path": "SELECT set_config('search_path', '', false)",
    "statement_timeout": "SET statement_timeout = 1",
    "lock_timeout": "SET lock_timeout = 1",
    "role": "SET ROLE other",
    "session role": "SET SESSION AUTHORIZATION app",
    "read only": "SET default_transaction_read_only = on",
    "isolation": "SET default_transaction_isolation = 'serializable'",
    "temporary table": "CREATE TEMPORARY TABLE startup_ledger (x int)",
    "prepared": "PREPARE x AS SELECT 1",
    "own lock": "SELECT pg_advisory_lock(1), pg_advisory_lock(1, 2)",
    "listen": "LISTEN x",
    "cursor": "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "time zone": "SET TIME ZONE 'Asia/Tokyo'",
}
LOOK = """
    names = ("search_path", "role", "statement_timeout", "lock_timeout", "default_transaction_read_only", "TimeZone",
             "default_transaction_isolation", "session_authorization")
    rows = [context.connection.execute(f"SHOW {name}").fetchone() for name in names]
    rows.append(context.connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
                                           "AND pid = pg_backend_pid()").fetchone())
    rows.append(context.connection.execute("SELECT count(*) FROM pg_prepared_statements WHERE name = 'x'").fetchone())
    rows.append(context.connection.execute("SELECT count(*) FROM pg_cursors WHERE is_holdable").fetchone())
    rows.append(context.connection.execute("SELECT count(*) FROM pg_listening_channels()").fetchone())
    rows.append(context.connection.execute("SELECT count(*) FROM pg_class WHERE relpersistence = 't'").fetchone())
    rows.append(context.connection.autocommit)
    print(rows, file=open(context.task, "w"))
"""


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize("what", LEAKS)
def test_what_a_task_does_to_the_session_neither_leaks_nor_keeps_its_row_from_the_ledger(
    plans: App, server: Any, database: str, query: Any, what: str, transaction: bool
) -> None:
    role = f"other_{database}"
    statement = LEAKS[what].replace("other", role)
    plans.tasks(
        f"@task(policy='once')\ndef before(context):{LOOK}\n@task(policy='once')\ndef after(context):{LOOK}\n"
        f"@task(policy='once', transaction={transaction})\ndef leak(context):\n"
        f"    context.connection.execute('INSERT INTO plans VALUES (1)')\n"
        f"    context.connection.execute({statement!r})\n"
    )
    query(server.admin_url(database), f"CREATE ROLE {role}; GRANT {role} TO app")
    try:
        plans.ok("before leak after")
    finally:
        query(server.admin_url(database), f"DROP ROLE {role}")
    before, after = ((plans.directory / name).read_text() for name in ("before", "after"))
    assert before == after
    assert plans.ledger() == [(name, "once", "done") for name in ("after", "before", "leak")]
    assert plans.query("SELECT * FROM plans") == [(1,)]


def test_a_task_that_makes_its_transaction_read_only_fails_rather_than_being_lost(plans: App) -> None:
    plans.tasks(
        "@task(policy='once')\ndef load(context):\n    context.connection.execute('SET TRANSACTION READ ONLY')\n"
    )
    done = plans.init("load")
    assert done.returncode in (0, 70) and "Traceback" not in done.stderr
    assert plans.ledger() == [("load", "once", "done" if done.returncode == 0 else "failed")]


@pytest.mark.parametrize("way", ["SELECT pg_advisory_unlock_all()", "DISCARD ALL"])
@pytest.mark.parametrize("transaction", [True, False])
def test_a_task_that_lets_the_lock_go_is_75(plans: App, way: str, transaction: bool) -> None:
    if way == "DISCARD ALL" and transaction:
        pytest.skip("PostgreSQL refuses it in a transaction")
    plans.tasks(
        f"@task(policy='once', transaction={transaction})\ndef load(context):\n    {WRITE}\n"
        f"    context.connection.execute('{way}')\n"
    )
    assert "lock" in plans.fails("load", 75)
    assert plans.query("SELECT * FROM plans") == ([] if transaction else [(1,)])
    assert ("load", "once", "done") not in plans.ledger()


def test_what_a_task_does_to_sqlites_connection_does_not_leak(startup: Any, query: Any, sqlite_url: str) -> None:
    app = App(startup, query, sqlite_url)
    app.tasks(
        "import sqlite3\nPRAGMAS = ('foreign_keys', 'recursive_triggers', 'query_only')\n"
        "def look(context):\n"
        "    rows = [context.connection.execute(f'PRAGMA {p}').fetchone() for p in PRAGMAS]\n"
        "    rows += [tuple(r)[1] for r in context.connection.execute('PRAGMA database_list')]\n"
        "    rows += [type(r).__name__ for r in context.connection.execute('SELECT 1')]\n"
        "    print(rows, file=open(context.task, 'w'))\n"
        "@task\ndef before(context): look(context)\n@task\ndef after(context): look(context)\n"
        "@task(transaction=False)\ndef leak(context):\n"
        "    c = context.connection\n    c.row_factory = sqlite3.Row\n    c.execute('PRAGMA foreign_keys = on')\n"
        "    c.execute('PRAGMA recursive_triggers = on')\n    c.execute(\"ATTACH ':memory:' AS other\")\n"
        "    c.execute('CREATE TEMP TABLE startup_ledger (x)')\n"
    )
    app.ok("before leak after")
    assert (app.directory / "before").read_text() == (app.directory / "after").read_text()
    assert app.ledger() == [(name, "always", "done") for name in ("after", "before", "leak")]


# ----------------------------------------------------------------------------------------------- how a task fails


@BOTH
@pytest.mark.parametrize("code", ["0", "3", "", "'why'"])
@pytest.mark.parametrize("policy", ["once", "local"])
def test_a_python_task_that_calls_sys_exit_has_failed_whatever_the_code(app: App, code: str, policy: str) -> None:
    app.tasks(f"@task(policy='{policy}')\ndef leave(context):\n    sys.exit({code})\n")
    assert "SystemExit" in app.fails("leave count@local", **COUNT)
    assert app.ran() == 0


@BOTH
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "SIGKILL"),
        ("kill -TERM $$", "SIGTERM"),
        ("no_such_command", "exit code 127"),
    ],
)
@pytest.mark.parametrize("policy", ["once", "local"])
def test_a_command_succeeds_with_0_alone(app: App, command: str, words: str, policy: str) -> None:
    said = app.fails(f"bad@{policy}", STARTUP_TASK_BAD=command)
    assert "task bad failed" in said and words in said


@BOTH
def test_a_commands_output_goes_to_stderr_and_it_reads_nothing(app: App) -> None:
    done = app.init("talk", STARTUP_TASK_TALK="echo out; echo err >&2; cat; exit 0")
    assert done.returncode == 0 and done.stdout == ""
    assert {"out", "err"} <= set(done.stderr.splitlines())


@BOTH
def test_a_command_gets_the_settings_the_address_in_force_its_name_and_the_phase(app: App) -> None:
    show = 'echo "$STARTUP_TASK $STARTUP_PHASE $STARTUP_NODE $STARTUP_ENV $DATABASE_URL" >seen'
    app.init("show@local", STARTUP_TASK_SHOW=show)
    assert (app.directory / "seen").read_text() == f"show post_start node-a prod {app.url}\n"
    app.ok("show@local", STARTUP_TASK_SHOW=show, STARTUP_DATABASE_URL="sqlite:///other.db", STARTUP_ENV="test")
    assert (app.directory / "seen").read_text() == "show post_start node-a test sqlite:///other.db\n"


@BOTH
def test_a_python_task_gets_a_context(app: App) -> None:
    app.tasks(
        "@task(policy='release')\ndef show(context: Context):\n"
        "    import sqlite3, psycopg\n"
        "    kind = psycopg if context.environ['DATABASE_URL'][:4] == 'post' else sqlite3\n"
        "    assert isinstance(context.connection, kind.Connection)\n"
        "    assert (context.task, context.phase, context.node, context.release) == "
        "('show', 'post_start', 'node-a', '7')\n    context.log('hello')\n"
    )
    assert "startup: show: hello" in app.ok("show", STARTUP_RELEASE="7")


# ---------------------------------------------------------------------------------------------------- time limits


@BOTH
@pytest.mark.parametrize("policy", ["once", "local"])
def test_a_command_over_its_time_gets_term_and_can_end_cleanly(app: App, policy: str) -> None:
    slow = "trap 'echo cleaned up >>ran; exit 0' TERM; while :; do sleep 0.05; done"
    said = app.fails(f"slow@{policy}", STARTUP_TASK_SLOW=slow, STARTUP_TIMEOUT="0.5")
    assert "task slow" in said and "0.5 s" in said
    assert app.ran() == 1


@BOTH
def test_a_command_that_does_not_heed_term_is_killed_with_all_its_children(app: App, wait_until: Any) -> None:
    def ended(pid: int) -> bool:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    deaf = (
        "trap '' TERM; echo $$ >pid; sh -c 'trap \"\" TERM; echo $$ >child; while :; do sleep 0.05; done' & wait; wait"
    )
    started = time.monotonic()
    said = app.fails("deaf@once", STARTUP_TASK_DEAF=deaf, STARTUP_TIMEOUT="0.5", STARTUP_STOP_TIMEOUT="0.5")
    assert time.monotonic() - started < 10
    assert "task deaf" in said and "0.5 s" in said
    assert app.ledger() == [("deaf", "once", "failed")]
    for name in ("pid", "child"):
        wait_until(partial(ended, int((app.directory / name).read_text())))


@BOTH
def test_a_python_tasks_time_is_the_decorators_before_the_settings(app: App) -> None:
    app.tasks("@task(policy='once', timeout=0.3)\ndef slow(context):\n    time.sleep(30)\n")
    assert "0.3 s" in app.fails("slow", STARTUP_TIMEOUT="20")
    app.tasks("@task(policy='once', timeout=0)\ndef slow(context):\n    time.sleep(0.5)\n")
    app.ok("slow", STARTUP_TIMEOUT="0.1")


def test_a_statement_over_its_time_is_cancelled_not_abandoned(plans: App) -> None:
    plans.tasks(
        f"@task(policy='once')\ndef slow(context):\n    {WRITE}\n"
        "    context.connection.execute('SELECT pg_sleep(60)')\n"
    )
    started = time.monotonic()
    assert "0.5 s" in plans.fails("slow", STARTUP_TIMEOUT="0.5")
    assert time.monotonic() - started < 10
    assert plans.query(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND state = 'active'"
    ) == [(0,)]
    assert plans.query("SELECT * FROM plans") == [] and plans.ledger() == [("slow", "once", "failed")]


def test_a_statement_of_sqlites_over_its_time_is_ended_too(startup: Any, query: Any, sqlite_url: str) -> None:
    app = App(startup, query, sqlite_url)
    forever = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
    app.tasks(f"@task(policy='once')\ndef slow(context):\n    context.connection.execute('{forever}').fetchone()\n")
    assert "0.5 s" in app.fails("slow", STARTUP_TIMEOUT="0.5")


@BOTH
def test_a_python_task_that_does_not_heed_its_limit_ends_with_the_process_and_a_line_says_so(app: App) -> None:
    app.tasks(
        "@task(policy='once')\ndef deaf(context):\n    while True:\n        try:\n            time.sleep(30)\n"
        "        except BaseException:\n            pass\n"
    )
    said = app.fails("deaf", STARTUP_TIMEOUT="0.3", STARTUP_STOP_TIMEOUT="0.3")
    assert "deaf" in said.splitlines()[-1] and "0.3 s" in said.splitlines()[-1]


@BOTH
def test_a_signal_ends_a_command_with_term_and_its_code_is_the_signals(app: App, wait_until: Any) -> None:
    slow = "trap 'echo cleaned up >>ran; exit 0' TERM; touch there; while :; do sleep 0.05; done"
    process = app.startup.start(
        "init", **{**app.settings, "STARTUP_MODULE": "", "STARTUP_TASKS": "slow", "STARTUP_TASK_SLOW": slow}
    )
    wait_until(lambda: (app.directory / "there").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert app.ran() == 1
    assert app.query("SELECT state FROM startup_run") == [("stopped",)]


# ------------------------------------------------------------------------------------------ what shadows nothing


@BOTH
def test_an_apps_modules_shadow_nothing_and_are_seen_by_its_tasks(app: App) -> None:
    for name in ("startup", "dotenv", "log", "psycopg", "yoyo", "json", "settings"):
        app.startup.write(f"{name}.py", f"raise SystemExit('the app has a {name}.py')\n")
    app.startup.write("lib/helper.py", "ANSWER = 42\n")
    app.tasks("import helper, json\n@task(policy='once')\ndef use(context):\n    assert helper.ANSWER == 42\n")
    app.startup.write("migrations/0001_a.sql", "CREATE TABLE a (x int);")
    app.startup.write(".env", "A=1\n")
    app.ok("migrate use", PYTHONPATH=str(app.directory / "lib"), STARTUP_DOTENV=".env")
    app.ok("migrate use", PYTHONPATH="lib")


@BOTH
def test_a_module_that_does_not_import_is_78_with_file_and_line(app: App) -> None:
    app.tasks("import nowhere\n")
    said = app.fails("count@local", 78, **COUNT)
    assert "STARTUP_MODULE" in said and "nowhere" in said and re.search(r"tasks\.py, line 3", said)
    assert app.ran() == 0


def test_what_a_python_task_prints_goes_to_stderr_in_its_place(app: App) -> None:
    app.tasks("@task(policy='local')\ndef talk(context):\n    print('hello')\n")
    done = app.init("talk")
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert "talk, starts" in lines[lines.index("hello") - 1]


def test_an_error_names_the_users_line_and_no_librarys(app: App) -> None:
    app.tasks("import json\n@task(policy='local')\ndef load(context):\n    json.loads('{')\n")
    assert re.search(r"JSONDecodeError: .*\(.*/tasks\.py, line 6\)", app.fails("load"))
