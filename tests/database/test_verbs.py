"""Section 7 of the contract: each verb, in a process of its own, on PostgreSQL and on SQLite; lines and exit codes."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import psycopg
import pytest

from startup.database.postgres.session import lock_key
from tests.database.homes import BOTH


@pytest.fixture
def image(startup: Any, url: str) -> Any:
    """Two migrations, two users, a database of its own."""
    startup.write("migrations/0001_users.sql", "CREATE TABLE users (email text PRIMARY KEY, name text);\n")
    startup.write("migrations/0001_users.rollback.sql", "DROP TABLE users;\n")
    startup.write("migrations/0002_plans.sql", "CREATE TABLE plans (id int);\n")
    startup.write("migrations/0002_plans.rollback.sql", "DROP TABLE plans;\n")
    startup.write("seeds/users.csv", "email,name\na@example.com,A\n")
    startup.environ |= {"DATABASE_URL": url, "STARTUP_NODE": "node-a", "STARTUP_TASKS": "migrate insert_users"}
    return startup


def ok(image: Any, *verb: str, **environ: str) -> str:
    done = image(*verb, **environ)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def tables(image: Any, query: Any) -> set[str]:
    url = image.environ["DATABASE_URL"]
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        return {n for (n,) in query(url, "SELECT name FROM sqlite_master")} if os.path.exists(path) else set()
    return {name for (name,) in query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


# ------------------------------------------------------------------------------------------------------ init, run


@BOTH
@pytest.mark.parametrize("verb", [("init",), ()])
def test_init_which_is_the_default_runs_the_post_start_list_and_exits(image: Any, query: Any, verb: Any) -> None:
    done = image(*verb)
    assert done.returncode == 0 and done.stdout == ""
    assert query(image.environ["DATABASE_URL"], "SELECT email FROM users") == [("a@example.com",)]
    again = image(*verb)
    assert again.returncode == 0 and "nothing to do" in again.stderr


@BOTH
def test_run_runs_what_it_names_under_the_same_ledger(image: Any, query: Any) -> None:
    settings = {"STARTUP_TASK_ONE": "echo one >>ran", "STARTUP_TASK_TWO": "echo two >>ran"}
    for _ in range(2):
        ok(image, "run", "two@once", "One", **settings)
    assert (image.directory / "ran").read_text().split() == ["two", "one", "one"]
    assert "users" not in tables(image, query)
    assert "done already" in image("init", STARTUP_TASKS="two@once", **settings).stderr


@BOTH
def test_run_of_an_unknown_task_is_78_and_of_none_a_usage_error(image: Any) -> None:
    done = image("run", "migrat")
    assert done.returncode == 78 and "migrate" in done.stderr
    assert image("run").returncode == 2


def test_a_wrong_verb_is_a_usage_error_that_lists_the_verbs(startup: Any) -> None:
    done = startup("frobnicate")
    assert done.returncode == 2
    for verb in ("init", "run", "ping", "plan", "status", "health", "describe", "forget", "rollback"):
        assert verb in done.stderr
    assert startup("--version").stdout.startswith("startup-tasks ")


# ----------------------------------------------------------------------------------------------------------- ping


def test_ping_is_0_when_answered_and_1_when_not_yet(startup: Any, free_port: int) -> None:
    settings = {"STARTUP_PING": f"tcp://127.0.0.1:{free_port}"}
    done = startup("ping", **settings)
    assert done.returncode == 1 and "refused" in done.stdout
    with socket.create_server(("127.0.0.1", free_port)):
        assert startup("ping", **settings).returncode == 0
        assert startup("ping", "--wait", **settings).returncode == 0


def test_ping_wait_is_124_over_the_time_limit(startup: Any, free_port: int) -> None:
    settings = {"STARTUP_PING": f"tcp://127.0.0.1:{free_port}", "STARTUP_PING_TIMEOUT": "0.3"}
    assert startup("ping", "--wait", **settings).returncode == 124
    assert startup("ping", "--wait", STARTUP_PING="none").returncode == 0


# ----------------------------------------------------------------------------------------------------------- plan


@BOTH
def test_plan_says_what_would_run_and_why_not_the_rest_and_changes_nothing(image: Any, query: Any) -> None:
    settings = {
        "STARTUP_TASKS": "migrate insert_users seed@once warm@local skipped",
        "STARTUP_TASK_SEED": "touch ran",
        "STARTUP_TASK_WARM": "touch ran",
        "STARTUP_TASK_SKIPPED": "touch ran",
        "STARTUP_SKIP_TASKS": "skipped",
    }
    output = ok(image, "plan", **settings)
    for words in (
        *("1. migrate", "2 of 2 migrations are pending", "0001_users", "CREATE TABLE plans", "2. insert_users"),
        *("3. seed (once", "4. warm (local", "skipped is left out", "STARTUP_SKIP_TASKS"),
    ):
        assert words in output, words
    assert tables(image, query) == set() and not (image.directory / "ran").exists()
    if image.environ["DATABASE_URL"].startswith("sqlite"):
        assert not list(image.directory.glob("test.db*"))


@BOTH
def test_plan_after_init_says_that_all_is_done(image: Any) -> None:
    ok(image, "init")
    output = ok(image, "plan")
    assert "nothing is pending" in output and "insert_users" in output and "is done already" in output


@BOTH
def test_plan_shows_what_runs_after_migrations_and_what_was_interrupted(image: Any) -> None:
    image.write("migrations/post-apply.sql", "SELECT 'afterwards';\n")
    assert "SELECT 'afterwards'" in ok(image, "plan")
    ok(image, "init")
    assert "SELECT 'afterwards'" not in ok(image, "plan")
    image.write("migrations/0003_fill.sql", "-- transactional: false\nINSERT INTO plans VALUES (1);\nSELECT wrong;\n")
    assert image("init").returncode == 70
    done = image("plan")
    assert "interrupted: 0003_fill (started, 1 statements done, on node-a" in done.stdout
    assert done.returncode == 70 and "was interrupted" in done.stderr, "as init"


def check(image: Any, **environ: str) -> int:
    """The code of ``plan --check``, which prints what ``plan`` does."""
    done = image("plan", "--check", **environ)
    assert done.stdout == image("plan", **environ).stdout
    return int(done.returncode)


@BOTH
def test_plan_check_is_1_while_a_migration_or_a_task_is_to_do_0_when_none_is_and_changes_nothing(
    image: Any, query: Any
) -> None:
    assert check(image) == 1 and tables(image, query) == set()
    ok(image, "init")
    assert check(image) == 0
    image.write("migrations/0003_more.sql", "CREATE TABLE more (id int);\n")
    assert check(image) == 1 and "more" not in tables(image, query)
    assert check(image, STARTUP_SKIP_TASKS="migrate") == 0
    ok(image, "init")
    image.write("seeds/users.csv", "email,name\nb@example.com,B\n")
    assert check(image) == 1, "policy change"
    ok(image, "init")
    assert check(image) == 0


@BOTH
@pytest.mark.parametrize(("policy", "code"), [("once", 1), ("change", 1), ("release", 1), ("always", 0), ("local", 0)])
def test_plan_check_counts_what_runs_once_and_not_what_runs_on_every_boot(image: Any, policy: str, code: int) -> None:
    settings = {"STARTUP_TASKS": f"one@{policy}", "STARTUP_TASK_ONE": "true", "STARTUP_RELEASE": "1"}
    assert check(image, **settings) == code
    ok(image, "init", **settings)
    assert check(image, **settings) == 0


@BOTH
def test_plan_check_counts_a_post_apply_file_that_is_still_due(image: Any) -> None:
    ok(image, "init")
    image.write("migrations/0003_more.sql", "CREATE TABLE more (id int);\n")
    image.write("migrations/post-apply.sql", "SELECT wrong;\n")
    assert image("init").returncode == 70
    image.write("migrations/post-apply.sql", "SELECT 1;\n")
    assert check(image) == 1
    ok(image, "init")
    assert check(image) == 0


@BOTH
def test_plan_check_ends_with_what_init_would_be_refused_with(image: Any) -> None:
    image.write("migrations/0003_more.sql", "COMMIT;\n")
    assert check(image) == 70
    assert check(image, STARTUP_TASKS="nope") == 78
    (image.directory / "migrations/0003_more.sql").unlink()
    ok(image, "init")
    image.write("migrations/0001_users.sql", "CREATE TABLE others (id int);\n")
    assert check(image) == 70, "drift"
    assert image("plan", "--chekc").returncode == 2
    nobody = {"DATABASE_URL": "postgresql://u@127.0.0.1:1/x", "STARTUP_DATABASE_TIMEOUT": "0.5"}
    assert image("plan", "--check", **nobody).returncode == 69


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0003_bad.sql", "\\\\copy plans FROM plans.csv\n"),
        ("0003_bad.sql", "-- depends: 0000_nothing\nSELECT 1;\n"),
        ("0003_bad.sql", "COMMIT;\n"),
        ("0003_bad.py", "def up(): pass\n"),
    ],
)
def test_plan_ends_as_init_would_and_changes_nothing(image: Any, query: Any, name: str, content: str) -> None:
    image.write(f"migrations/{name}", content)
    planned = image("plan")
    assert tables(image, query) == set() or "users" not in tables(image, query)
    refused = image("init")
    assert planned.returncode == refused.returncode != 0, planned.stderr + refused.stderr
    assert planned.stderr.split(": ", 2)[2].partition("nothing has been")[0] in refused.stderr


def test_plan_of_a_database_that_is_not_there_ends_as_init_would(startup: Any, free_port: int) -> None:
    environ = {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port}/x", "STARTUP_DATABASE_TIMEOUT": "0.2"}
    startup.write("migrations/0001_a.sql", "SELECT 1;\n")
    done = startup("plan", **environ)
    assert done.returncode == 69 and "1. migrate" in done.stdout and "cannot be told" in done.stdout


def test_a_task_that_is_on_no_list_is_shown_with_what_may_have_been_meant(image: Any) -> None:
    image.write("tasks.py", "from startup import task\n@task\ndef never(context): pass\n")
    more = {"STARTUP_TASK_SEED": "true", "STARTUP_TASK_MIGRAT": "true", "STARTUP_MODULE": "tasks"}
    more |= {"STARTUP_TASK_DRAIN": "true", "STARTUP_PRE_STOP": "drain", "STARTUP_TASKS": "migrate"}
    line = "on no list, so not run: migrat (did you mean migrate?), never, seed"
    assert f"-  {line}\n" in ok(image, "plan", **more)
    assert line in ok(image, "describe", **more)
    assert line in json.loads(ok(image, "describe", "--json", **more))["notes"]
    assert f"startup: {line}\n" in image("init", **more).stderr
    assert "on no list" not in ok(image, "plan", **{**more, "STARTUP_TASKS": "migrate migrat never seed"})


def test_plan_of_a_follower_says_that_it_only_waits(image: Any) -> None:
    assert "only waits until others have done it" in ok(image, "plan", STARTUP_ROLE="follower")
    assert "only waits" not in ok(image, "plan")


def test_plan_of_nothing_says_so(startup: Any) -> None:
    assert "nothing would run" in ok(startup, "plan", STARTUP_TASKS="none")


# --------------------------------------------------------------------------------------------------------- status


@BOTH
def test_status_before_anything_ran_shows_what_is_pending_and_makes_nothing(image: Any, query: Any) -> None:
    output = ok(image, "status")
    assert "0 applied, 2 pending" in output and "0002_plans" in output and "free" in output
    assert tables(image, query) == set()
    report = json.loads(ok(image, "status", "--json"))
    assert report["migrations"]["pending"] == ["0001_users", "0002_plans"]
    assert report["lock"] is None and report["run"] is None and report["ledger"] == []
    assert not list(image.directory.glob("test.db*"))


@BOTH
def test_status_shows_migrations_ledger_and_the_last_run(image: Any) -> None:
    ok(image, "init", STARTUP_RELEASE="7")
    output = ok(image, "status")
    for words in ("2 applied, 0 pending", "insert_users", "change", "done", "node-a", "free"):
        assert words in output
    report = json.loads(ok(image, "status", "--json"))
    assert report["migrations"]["applied"] == ["0001_users", "0002_plans"]
    (entry,) = report["ledger"]
    assert (entry["task"], entry["policy"], entry["state"], entry["node"], entry["release"]) == (
        *("insert_users", "change", "done", "node-a", "7"),
    )
    assert report["run"]["state"] == "done" and report["run"]["node"] == "node-a"


def test_status_tells_every_time_in_utc_wherever_the_server_is(image: Any, url: str, database: str, query: Any) -> None:
    ok(image, "init")
    query(url, f"ALTER DATABASE {database} SET timezone = 'Asia/Tokyo'")
    report = json.loads(ok(image, "status", "--json"))
    times = [report["run"]["started_at"], report["run"]["changed_at"], report["ledger"][0]["finished_at"]]
    assert [moment[-6:] for moment in times] == ["+00:00"] * 3
    output = ok(image, "status")
    assert times[1][:19] in output and times[2][:19] in output


@BOTH
def test_status_shows_a_failure_and_its_error(image: Any) -> None:
    assert image("init", STARTUP_TASKS="bad", STARTUP_TASK_BAD="exit 3").returncode == 70
    report = json.loads(ok(image, "status", "--json"))
    assert report["run"]["state"] == "failed" and "exit code 3" in report["run"]["error"]
    assert report["ledger"][0]["state"] == "failed"
    assert "exit code 3" in ok(image, "status")


@BOTH
def test_status_shows_drift_and_what_the_image_does_not_know(image: Any) -> None:
    ok(image, "init")
    image.write("migrations/0001_users.sql", "CREATE TABLE users (other text);\n")
    (image.directory / "migrations/0002_plans.sql").unlink()
    report = json.loads(ok(image, "status", "--json"))["migrations"]
    assert report["drifted"] == ["0001_users"] and report["unknown"] == ["0002_plans"]


@pytest.fixture
def holding(image: Any, wait_until: Any) -> Any:
    """A node that holds the lock in a task named ``hold``, until the file ``go`` is there."""
    hold = "touch there; while [ ! -e go ]; do sleep 0.05; done"
    process = image.start("init", STARTUP_TASKS="hold", STARTUP_TASK_HOLD=hold, STARTUP_NODE="node-b")
    wait_until((image.directory / "there").exists)
    return process


@BOTH
def test_status_names_the_node_that_holds_the_lock_and_its_task(image: Any, holding: Any) -> None:
    report = json.loads(ok(image, "status", "--json"))
    assert report["lock"]["node"] == "node-b" and "pid" in report["lock"]["detail"]
    assert report["run"]["state"] == "running" and report["run"]["task"] == "hold"
    output = ok(image, "status")
    assert "node-b holds it" in output and "hold" in output


@BOTH
def test_status_tells_a_run_whose_node_vanished_from_one_that_goes_on(image: Any, wait_until: Any) -> None:
    image.write(
        "tasks.py",
        "import os, signal\nfrom startup import task\n"
        "@task\ndef die(context):\n    os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    assert image("init", STARTUP_TASKS="tasks:die").returncode == 70
    wait_until(lambda: json.loads(ok(image, "status", "--json"))["lock"] is None)
    assert json.loads(ok(image, "status", "--json"))["run"]["state"] == "vanished"


def test_status_shows_what_blocks_the_node_that_holds_the_lock(image: Any, query: Any, wait_until: Any) -> None:
    import psycopg

    ok(image, "init")
    with psycopg.connect(image.environ["DATABASE_URL"], application_name="blocking-app") as blocker:
        blocker.execute("LOCK TABLE plans")
        image.write(
            "tasks.py",
            "from startup import task\n@task\ndef wait(context):\n"
            "    context.connection.execute('INSERT INTO plans VALUES (1)')\n",
        )
        image.start("init", STARTUP_TASKS="tasks:wait")

        def blocked_by() -> Any:
            lock = json.loads(ok(image, "status", "--json"))["lock"]
            return lock and lock["blocked_by"]

        (line,) = wait_until(blocked_by)
        assert "blocking-app" in line and "LOCK TABLE plans" in line and "pid" in line
        assert "blocking-app" in ok(image, "status")


# --------------------------------------------------------------------------------------------------------- health


def test_health_without_an_entrypoint_is_1_and_says_so(startup: Any, tmp_path: Path) -> None:
    done = startup("health", STARTUP_STATE_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "not running\n")


def test_health_is_the_phase_in_one_line_and_0_only_when_ready(startup: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    since = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    (state / "pid").write_text(f"{os.getpid()} {since}\n")
    (state / "phase").write_text("running task 1 of 2, migrate,\n")
    done = startup("health", STARTUP_STATE_DIR=str(state))
    assert (done.returncode, done.stdout) == (1, "running task 1 of 2, migrate,\n")
    (state / "phase").write_text("ready\n")
    (state / "ready").touch()
    assert startup("health", STARTUP_STATE_DIR=str(state)).returncode == 0
    (state / "pid").write_text(f"{os.getpid()} 1\n")  # the pid is another process's by now
    assert startup("health", STARTUP_STATE_DIR=str(state)).returncode == 1


# ------------------------------------------------------------------------------------------------------- describe


def test_describe_shows_tasks_hooks_and_settings_with_where_they_came_from(image: Any) -> None:
    image.write("hooks/post_start.d/10-warm.local.sh", "#!/bin/sh\n# Warms the cache.\n", 0o755)
    image.write(".env", "STARTUP_RELEASE=7\n")
    settings = {
        "STARTUP_HOOKS_DIR": str(image.directory / "hooks"),
        "STARTUP_DOTENV": ".env",
        "STARTUP_PRE_STOP": "drain",
        "STARTUP_TASK_DRAIN": "sleep 1",
    }
    output = ok(image, "describe", **settings)
    for words in (
        *("migrate", "insert_users (change", "warm (local", "10-warm.local.sh", "Warms the cache."),
        *("drain", "STARTUP_TASK_DRAIN", "sleep 1", "STARTUP_RELEASE=7  (.env)", "STARTUP_ROLE=auto  (default)"),
        *("STARTUP_NODE=node-a  (environment)", "***"),
    ):
        assert words in output, words
    report = json.loads(ok(image, "describe", "--json", **settings))
    assert report["settings"]["STARTUP_RELEASE"] == {"value": "7", "from": ".env"}
    assert [task["name"] for task in report["tasks"]["post_start"]] == ["migrate", "insert_users", "warm"]
    assert report["tasks"]["pre_stop"][0]["policy"] == "local"
    assert "***" in report["settings"]["DATABASE_URL"]["value"]


def test_describe_needs_no_database_and_shows_faults(image: Any) -> None:
    ok(image, "describe", DATABASE_URL="postgresql://127.0.0.1:1/a")
    done = image("describe", "--json", STARTUP_TIMEOUT="soon", STARTUP_PRE_STOP="nope")
    assert done.returncode == 78
    assert len(json.loads(done.stdout)["faults"]) == 2
    done = image("describe", STARTUP_TIMEOUT="soon")
    assert done.returncode == 78 and "'soon'" in done.stderr and "STARTUP_ROLE=auto" in done.stdout


# --------------------------------------------------------------------------------------------------------- forget


@BOTH
def test_forget_takes_a_task_out_of_the_ledger_whatever_its_keys(image: Any, query: Any) -> None:
    for release in "12":
        ok(image, "run", "a@release", STARTUP_TASK_A="true", STARTUP_RELEASE=release)
    ok(image, "forget", "A")
    assert query(image.environ["DATABASE_URL"], "SELECT * FROM startup_ledger") == []


@BOTH
def test_forget_of_what_is_not_there_is_78_with_what_is(image: Any) -> None:
    assert image("forget", "a").returncode == 78
    ok(image, "run", "a", STARTUP_TASK_A="true")
    done = image("forget", "b")
    assert done.returncode == 78 and "'b'" in done.stderr and "a" in done.stderr
    done = image("forget", "migrate")
    assert done.returncode == 78 and "rollback" in done.stderr


@BOTH
def test_forget_keeps_to_its_namespace(image: Any, query: Any) -> None:
    for namespace in ("default", "other"):
        ok(image, "run", "a", STARTUP_TASK_A="true", STARTUP_NAMESPACE=namespace)
    ok(image, "forget", "a", STARTUP_NAMESPACE="other")
    assert query(image.environ["DATABASE_URL"], "SELECT namespace FROM startup_ledger") == [("default",)]


# ------------------------------------------------------------------------------------------------ migrate's settings


@BOTH
def test_an_edited_migration_stops_the_boot_or_is_named_as_startup_drift_says(image: Any, query: Any) -> None:
    ok(image, "init")
    image.write("migrations/0001_users.sql", "CREATE TABLE users (email text PRIMARY KEY, name text, age int);\n")
    image.write("migrations/0003_more.sql", "CREATE TABLE more (id int);\n")
    done = image("init")
    assert done.returncode == 70 and "changed since they were applied: migrations/0001_users.sql" in done.stderr
    assert "STARTUP_DRIFT=warn" in done.stderr and "more" not in tables(image, query)
    done = image("init", STARTUP_DRIFT="warn")
    assert done.returncode == 0 and "changed since they were applied: migrations/0001_users.sql" in done.stderr
    assert "more" in tables(image, query)


def test_startup_timeout_ends_the_tries_for_a_table(image: Any, query: Any, url: str) -> None:
    query(url, "CREATE TABLE busy (x int)")
    image.write("migrations/0003_busy.sql", "ALTER TABLE busy ADD y int;\n")
    with psycopg.connect(url, application_name="report") as reader:
        reader.execute("SELECT * FROM busy")
        done = image("init", STARTUP_TIMEOUT="3", STARTUP_TABLE_LOCK_TIMEOUT="0.2")
    assert done.returncode == 70 and "application report" in done.stderr
    assert query(url, "SELECT count(*) FROM _yoyo_migration") == [(2,)]


# ------------------------------------------------------------------------------------------------------- rollback


@BOTH
def test_rollback_takes_back_the_newest_migrations(image: Any, query: Any) -> None:
    ok(image, "init")
    done = image("rollback")
    assert done.returncode == 0 and "0002_plans" in done.stderr
    assert "plans" not in tables(image, query) and "users" in tables(image, query)
    ok(image, "init")
    done = image("rollback", "--count", "2")
    assert done.returncode == 0 and done.stderr.index("0002_plans") < done.stderr.index("0001_users")
    assert not {"users", "plans"} & tables(image, query)


@BOTH
@pytest.mark.parametrize("count", ["1", "3"])
def test_rollback_of_more_than_there_is_changes_nothing_and_says_how_many_there_are(
    image: Any, query: Any, count: str
) -> None:
    """One of none, three of two: what was asked for is wrong, nothing was tried."""
    if count == "3":
        ok(image, "init")
    before = tables(image, query)
    done = image("rollback", "--count", count)
    assert done.returncode == 78 and "Traceback" not in done.stderr
    says = "2 of this image's migrations are applied: 1 to 2" if count == "3" else "none of this image's migrations is"
    assert f"--count {count}: {says}" in done.stderr
    assert tables(image, query) == before


def test_rollback_waits_for_a_table_no_longer_than_the_setting(
    image: Any, query: Any, url: str, wait_until: Any
) -> None:
    ok(image, "init")
    with psycopg.connect(url) as blocker:
        blocker.execute("SELECT * FROM plans")
        process = image.start("rollback", STARTUP_TABLE_LOCK_TIMEOUT="0.2")
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP TABLE plans%'"
        wait_until(lambda: query(url, waiting))
        wait_until(lambda: not query(url, waiting), 3)  # the default is 5 s
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 0 and "a table was not free within 0.2 s (STARTUP_TABLE_LOCK_TIMEOUT)" in err


LONG = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000000000) SELECT count(*) FROM c;\n"


@BOTH
def test_rollback_heeds_a_signal_at_once(image: Any, query: Any, wait_until: Any) -> None:
    """Once when the statement was done, on SQLite."""
    image.write("migrations/0002_plans.rollback.sql", "DROP TABLE plans;\n" + LONG)
    ok(image, "init")
    process = image.start("rollback")

    def computes() -> bool:
        return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11]) > 300  # 3 s: no boot

    running = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%RECURSIVE c(n)%' AND pid <> "
    is_sqlite = image.environ["DATABASE_URL"].startswith("sqlite")
    wait_until(
        computes if is_sqlite else lambda: query(image.environ["DATABASE_URL"], f"{running}pg_backend_pid()"), 60
    )
    process.terminate()
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 143 and "stopped by SIGTERM" in err
    assert "plans" in tables(image, query), "nothing is half done"


@pytest.mark.parametrize("count", ["0", "-1", "all", "1.5"])
def test_a_wrong_count_is_a_usage_error(startup: Any, count: str) -> None:
    done = startup("rollback", "--count", count)
    assert done.returncode == 2 and count in done.stderr


@BOTH
@pytest.mark.parametrize("verb", [("forget", "hold"), ("rollback",)])
def test_what_changes_something_needs_the_lock_and_is_75_while_another_node_has_it(
    image: Any, holding: Any, verb: tuple[str, ...]
) -> None:
    done = image(*verb)
    assert done.returncode == 75 and "node-b" in done.stderr


@pytest.mark.parametrize("verb", [("forget", "hold"), ("rollback",)])
def test_who_holds_the_lock_is_told_of_another_program_too(image: Any, url: str, verb: tuple[str, ...]) -> None:
    ok(image, "init")
    with psycopg.connect(url, application_name="psql") as other:
        other.execute("SELECT pg_advisory_lock(%s)", [lock_key("default")])
        done = image(*verb)
    assert done.returncode == 75 and "another program holds it (pid " in done.stderr


@pytest.mark.parametrize("verb", [("forget", "hold"), ("rollback",)])
def test_on_a_standby_what_changes_something_is_69(startup: Any, new_server: Any, verb: tuple[str, ...]) -> None:
    server = new_server()
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()
    startup.write("migrations/0001_users.sql", "SELECT 1;\n")
    done = startup(*verb, DATABASE_URL=server.url("postgres"))
    assert done.returncode == 69 and "the server is a standby, which only reads" in done.stderr


# --------------------------------------------------------------------------------------- the database, exit codes


@pytest.mark.parametrize("verb", ["init", "status", "rollback"])
def test_a_database_that_does_not_answer_in_time_is_69(image: Any, free_port: int, verb: str) -> None:
    settings = {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port}/a", "STARTUP_DATABASE_TIMEOUT": "0.5"}
    done = image(verb, **settings)
    assert done.returncode == 69 and f"127.0.0.1:{free_port}" in done.stderr


@pytest.mark.parametrize("verb", ["status", "rollback", "forget x", "init", "plan"])
def test_no_database_where_one_is_needed_is_78(image: Any, verb: str) -> None:
    done = image(*verb.split(), DATABASE_URL="")
    assert done.returncode == 78 and "DATABASE_URL" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(image: Any) -> None:
    process = image.start("describe")
    process.stdout.close()
    assert process.wait(20) == 0
    assert process.stderr.read() == ""
