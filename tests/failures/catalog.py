# ruff: noqa: E501  # the lines are what a user sees
"""The failures: what a person sees, the line word for word, why it happens, what to do, and how it is staged.

tests/failures/test_failures.py stages each for real and compares the line; docs/troubleshooting.md is made from this.
In a line ``<name>`` stands for what differs from one machine or run to the next: exactly what the stage tells, or else
what :data:`PATTERNS` says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.failures.stage import Stage

PATTERNS = {
    "pid": r"\d+",
    "seconds": r"\d+(\.\d+)?",
    "clock": r"\d\d:\d\d:\d\d UTC",
    "time": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC",
    "resolver": r"[^;]+",
}
APP = ("sleep", "60")
UNTIL_READY = "until [ -e state/ready ]; do sleep 0.1; done"
#: Until the ping loop has begun: the module writes this file just before.
PINGED = "until [ -e state/log ]; do sleep 0.1; done; sleep 2; "


@dataclass(frozen=True)
class Failure:
    """``code`` is the exit code; ``app`` the command; ``env`` the settings, where ``{name}`` is a value of the stage."""

    name: str
    chapter: str
    symptom: str
    line: str
    code: int
    cause: str
    cure: str
    env: Mapping[str, str] = field(default_factory=dict)
    app: tuple[str, ...] = APP
    files: Mapping[str, str] = field(default_factory=dict)
    stage: Callable[[Stage], None] = lambda stage: None

    def pattern(self, known: Mapping[str, str]) -> re.Pattern[str]:
        """What the lines must be, from the first to the last character."""
        parts = re.split(r"<(\w+)>", self.line)
        for number in range(1, len(parts), 2):
            name = parts[number]
            parts[number] = re.escape(known[name]) if name in known else PATTERNS[name]
        return re.compile("".join(one if number % 2 else re.escape(one) for number, one in enumerate(parts)))


APP_FAILS, DATABASE, TASKS, CLUSTER, SETTINGS = (
    "The app does not come up",
    "The database cannot be reached or used",
    "A task fails",
    "Several nodes",
    "Settings",
)
SQL = {"migrations/0001_plans.sql": "CREATE TABLE plans (\n    id int PRIMARY KEY\n);\n"}


def _close_database(stage: Stage) -> None:
    stage.admin(f"ALTER DATABASE {stage.database} CONNECTION LIMIT 0")


def _read_only(stage: Stage) -> None:
    stage.admin(f"ALTER DATABASE {stage.database} SET default_transaction_read_only = on")


def _no_create(stage: Stage) -> None:
    stage.admin(f"ALTER DATABASE {stage.database} OWNER TO postgres")
    stage.query("SELECT 1")
    stage.admin("REVOKE CREATE ON SCHEMA public FROM PUBLIC", stage.database)


def _pooler(stage: Stage) -> None:
    stage.known["address"] = stage.pooler()


def _dangerous(stage: Stage) -> None:
    stage.need_squawk()
    stage.ok("init")
    stage.write("migrations/0002_name.sql", "ALTER TABLE plans RENAME COLUMN id TO plan_id;\n")


def _edited(stage: Stage) -> None:
    stage.ok("init")
    stage.write("migrations/0001_plans.sql", "CREATE TABLE plans (id bigint PRIMARY KEY);\n")


def _made_before(stage: Stage) -> None:
    stage.query("CREATE TABLE plans (id int PRIMARY KEY)")
    stage.query("CREATE TABLE alembic_version AS SELECT '0001'::text AS version_num")


def _interrupted(stage: Stage) -> None:
    process = stage.start("init", STARTUP_NODE="web-1")
    stage.until(lambda: stage.query("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"))
    process.kill()
    process.wait()
    stage.until(lambda: not stage.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))


def _another_node_holds_the_lock(stage: Stage) -> None:
    stage.start("init", STARTUP_TASKS="hold", STARTUP_TASK_HOLD="sleep 60", STARTUP_NODE="web-1")
    stage.until(lambda: stage.has_table("startup_run") and stage.query("SELECT 1 FROM startup_run WHERE task = 'hold'"))


def _terminate_the_runner(stage: Stage) -> None:
    def kill() -> object:
        return (stage.directory / "runs").exists() and stage.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity, startup_run "
            "WHERE application_name = 'startup/web-2' AND task = 'slow' AND pg_stat_activity.state = 'idle'"
        )

    stage.meanwhile(kill)


def _another_node_fails(stage: Stage) -> None:
    stage.start(
        "init",
        STARTUP_TASKS="load",
        STARTUP_TASK_LOAD="until [ -e go ]; do sleep 0.05; done; exit 3",
        STARTUP_NODE="web-1",
    )
    stage.until(lambda: stage.has_table("startup_run") and stage.query("SELECT 1 FROM startup_run WHERE task = 'load'"))
    waits = "SELECT 1 FROM startup_node WHERE node = 'web-2' AND state = 'waiting'"

    def go() -> object:
        return stage.query(waits) and stage.write("go", "")

    stage.meanwhile(go)


def _writable(stage: Stage) -> None:
    (stage.directory / "hooks/post_start.d/10-seed.sh").chmod(0o777)


def _executable(stage: Stage) -> None:
    for hook in (stage.directory / "hooks/post_start.d").iterdir():
        hook.chmod(0o755)


def _users_table(stage: Stage) -> None:
    stage.query("CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL)")


CSV = {"users.csv": "id,email\n1,anna@example.org\n2,\n"}
USERS = {"STARTUP_TASKS": "insert_users", "STARTUP_USERS": "users.csv"}

FAILURES = (
    # ------------------------------------------------------------------------------------------------ the app
    Failure(
        "app_died",
        APP_FAILS,
        "The container ends at once, with the app's own exit code.",
        "startup: the app ended by itself with exit code 1, before it answered its ping (last: connection refused); "
        "these tasks did not run: migrate; the app's own output says why it ended",
        1,
        "The app crashed while it booted. The ping ends with it: no time limit is waited for.",
        "Read the app's last lines, above this one. An app that cannot boot without its tables wants "
        "`STARTUP_PRE_START=migrate`.",
        app=("sh", "-c", PINGED + "exit 1"),
        env={"STARTUP_PING": "tcp://127.0.0.1:{port}"},
    ),
    Failure(
        "app_killed",
        APP_FAILS,
        "Exit code 137.",
        "startup: the app ended by itself with exit code 137 (SIGKILL: out of memory, or kill -9), before it answered "
        "its ping (last: it does not listen on a TCP port); these tasks did not run: migrate; the app's own output says "
        "why it ended",
        137,
        "The kernel killed the app for its memory, or somebody sent KILL.",
        "Compare the container's memory limit with what the app needs; `docker inspect` shows `OOMKilled`.",
        app=("sh", "-c", PINGED + "kill -KILL $$"),
    ),
    Failure(
        "app_ended_with_0",
        APP_FAILS,
        "Exit code 70, although the app ended without an error.",
        "startup: error: the app ended with exit code 0, before it answered its ping (last: connection refused); these "
        "tasks did not run: migrate; the app's own output says why it ended (exit code 70)",
        70,
        "A server that puts itself into the background, or a command that is no server, while a ping was asked for.",
        "Keep the server in the foreground (`daemon off;`, `--nodaemon`); for a worker or a job set `STARTUP_PING=none`.",
        app=("sh", "-c", PINGED),
        env={"STARTUP_PING": "tcp://127.0.0.1:{port}"},
    ),
    Failure(
        "wrong_port",
        APP_FAILS,
        "Exit code 124 after `STARTUP_PING_TIMEOUT`.",
        "startup: error: the app did not answer within 2 s (STARTUP_PING_TIMEOUT): http://127.0.0.1:<other>/: "
        "connection refused; the app listens on tcp://127.0.0.1:<port>, so ping that; the app was stopped "
        "(exit code 124)",
        124,
        "The ping asks a port where the app does not listen.",
        "Set `STARTUP_PING` to the address that the line names, or the app's port to the one that is pinged.",
        app=("python3", "app.py", "{port}", "200"),
        env={"STARTUP_PING": "http://127.0.0.1:{other}/", "STARTUP_PING_TIMEOUT": "2"},
    ),
    Failure(
        "wrong_status",
        APP_FAILS,
        "Exit code 124, although the app runs.",
        "startup: error: the app did not answer within 2 s (STARTUP_PING_TIMEOUT): http://127.0.0.1:<port>/: status 503; "
        "the app's own output may say why; if it only needs longer, raise the limit; the app was stopped "
        "(exit code 124)",
        124,
        "The app answers, but with a status of 500 or above: it is up and says that it is not well.",
        "Find out why in the app's log, or ping a path that does not depend on what is missing. Any status below 500 is "
        "an answer.",
        app=("python3", "app.py", "{port}", "503"),
        env={"STARTUP_PING": "http://127.0.0.1:{port}/", "STARTUP_PING_TIMEOUT": "2"},
    ),
    Failure(
        "silent",
        APP_FAILS,
        "Exit code 124; the port is open.",
        "startup: error: the app did not answer within 2 s (STARTUP_PING_TIMEOUT): http://127.0.0.1:<port>/: no answer "
        "within <seconds> s; the app's own output may say why; if it only needs longer, raise the limit; the app was "
        "stopped (exit code 124)",
        124,
        "The connection is accepted and nothing comes back: a worker that hangs, or a port that does not speak HTTP.",
        "`docker exec` a request of your own; ping `tcp://` where the port has another protocol.",
        app=("python3", "app.py", "{port}", "0"),
        env={"STARTUP_PING": "http://127.0.0.1:{port}/", "STARTUP_PING_TIMEOUT": "2"},
    ),
    Failure(
        "never_listens",
        APP_FAILS,
        "A warning at each start, after `STARTUP_PING_TIMEOUT`; then all goes on.",
        "startup: warning: no sign of the app but that it is alive after 1 s, which is taken for an answer: the app "
        "listens on no TCP port yet; where it never will, set STARTUP_PING=none; where it says in another way that it is "
        "up, STARTUP_PING=unix:///PATH, file:///PATH or cmd:COMMAND",
        0,
        "`auto` waits for a TCP port, and a worker has none.",
        "`STARTUP_PING=none`, or a ping that fits.",
        app=("sh", "-c", UNTIL_READY),
        env={"STARTUP_PING_TIMEOUT": "1", "STARTUP_TASKS": "none"},
    ),
    Failure(
        "wrong_PORT",
        APP_FAILS,
        "A warning at each start, after `STARTUP_PING_TIMEOUT`; then all goes on.",
        "startup: warning: no sign of the app but that it is alive after 4 s, which is taken for an answer: PORT is "
        "<other>, but the app listens on tcp://127.0.0.1:<port>; set STARTUP_PING=tcp://127.0.0.1:<port>",
        0,
        "The variable `PORT` is set, and the app does not heed it.",
        "Make the app listen on `$PORT`, or set `STARTUP_PING` to where it does listen.",
        app=("sh", "-c", "python3 app.py {port} 200 & " + UNTIL_READY + "; kill $!"),
        env={"PORT": "{other}", "STARTUP_PING_TIMEOUT": "4", "STARTUP_TASKS": "none"},
    ),
    Failure(
        "not_found",
        APP_FAILS,
        "Exit code 127 at once.",
        "startup: error: the app was not found: there is no 'gunicron' in PATH, which is <path> (exit code 127)",
        127,
        "The command (CMD) is misspelt, or its package is not in the image.",
        "Correct the command; `docker run --rm --entrypoint sh IMAGE -c 'ls $(echo $PATH | tr : \" \")'` shows what is "
        "there.",
        app=("gunicron",),
    ),
    Failure(
        "not_executable",
        APP_FAILS,
        "Exit code 126 at once.",
        "startup: error: the app cannot be executed: './run.sh' is not an executable file (exit code 126)",
        126,
        "The file has lost its executable bit, often by a COPY from Windows.",
        "`RUN chmod +x run.sh`, or `COPY --chmod=755`.",
        app=("./run.sh",),
        files={"run.sh": "#!/bin/sh\n"},
    ),
    Failure(
        "no_command",
        APP_FAILS,
        "Exit code 78 at once.",
        "startup: error: no command was given: an image that sets ENTRYPOINT loses the CMD of its base image and must "
        "repeat it (exit code 78)",
        78,
        "Docker drops the base image's CMD where a Dockerfile or compose file sets ENTRYPOINT.",
        "Repeat CMD below ENTRYPOINT; in a compose file, give `command:` too.",
        app=(),
    ),
    # ------------------------------------------------------------------------------------------- the database
    Failure(
        "refused",
        DATABASE,
        "Exit code 69 after `STARTUP_DATABASE_TIMEOUT`.",
        "startup: error: the database at postgresql://app:***@127.0.0.1:<port>/shop could not be reached within 1 s "
        "(STARTUP_DATABASE_TIMEOUT): the connection is refused; is it running, are host and port of DATABASE_URL right? "
        'The last error: connection to server at "127.0.0.1", port <port> failed: Connection refused Is the server '
        "running on that host and accepting TCP/IP connections?; the app was stopped (exit code 69)",
        69,
        "No server listens there: it is not up, or host or port are wrong. In a container `localhost` is the container.",
        "Correct `DATABASE_URL`; raise `STARTUP_DATABASE_TIMEOUT` for a server that needs longer.",
        env={"DATABASE_URL": "postgresql://app:{password}@127.0.0.1:{port}/shop", "STARTUP_DATABASE_TIMEOUT": "1"},
    ),
    Failure(
        "dns",
        DATABASE,
        "Exit code 69 after `STARTUP_DATABASE_TIMEOUT`.",
        "startup: error: the database at postgresql://app:***@databse.invalid/shop could not be reached within 5 s "
        "(STARTUP_DATABASE_TIMEOUT): the host name cannot be resolved; is the host of DATABASE_URL spelt right, and on "
        "this network? The last error: failed to resolve host 'databse.invalid': <resolver>; the app was stopped "
        "(exit code 69)",
        69,
        "The name is misspelt, or the service is on another network. It is tried until the limit: a service that starts "
        "has no name yet.",
        "Correct the host; in compose, both services need a network in common.",
        env={"DATABASE_URL": "postgresql://app:{password}@databse.invalid/shop", "STARTUP_DATABASE_TIMEOUT": "5"},
    ),
    Failure(
        "wrong_password",
        DATABASE,
        "Exit code 69 at once.",
        "startup: error: the database at postgresql://app:***@127.0.0.1:<server>/<database> cannot be reached: the "
        "password was rejected, or is missing; check user and password in DATABASE_URL. The error: connection to server "
        'at "127.0.0.1", port <server> failed: FATAL: password authentication failed for user "app"; the app was '
        "stopped (exit code 69)",
        69,
        "The server is there and rejects the password. Waiting is no use, so nothing is waited for.",
        "Correct it. PostgreSQL's image sets `POSTGRES_PASSWORD` when its volume is made, not later. A character like "
        "`/ ? # @ %` in a password is percent-encoded in an address.",
        env={"DATABASE_URL": "postgresql://app:wrong-{password}@127.0.0.1:{server}/{database}"},
    ),
    Failure(
        "no_database",
        DATABASE,
        "Exit code 69 at once.",
        "startup: error: the database at postgresql://app:***@127.0.0.1:<server>/shpo cannot be reached: the database "
        "does not exist; create it, or correct its name. The error: connection to server at "
        '"127.0.0.1", port <server> failed: FATAL: database "shpo" does not exist; the app was stopped (exit code 69)',
        69,
        "The server has no database of this name.",
        "`CREATE DATABASE`, or correct the name in `DATABASE_URL`.",
        env={"DATABASE_URL": "postgresql://app:{password}@127.0.0.1:{server}/shpo"},
    ),
    Failure(
        "tls",
        DATABASE,
        "Exit code 69 at once.",
        "startup: error: the database at postgresql://app:***@127.0.0.1:<server>/<database>?sslmode=require cannot be "
        "reached: no TLS connection could be agreed on; check sslmode, sslrootcert and the server's certificate. The "
        'error: connection to server at "127.0.0.1", port <server> failed: server does not support SSL, but SSL was '
        "required; the app was stopped (exit code 69)",
        69,
        "The address asks for TLS and the server has none (or a certificate that does not fit).",
        "Turn TLS on in the server, or take `sslmode` out where the network is trusted.",
        env={"DATABASE_URL": "{url}?sslmode=require"},
    ),
    Failure(
        "too_many_connections",
        DATABASE,
        "Exit code 69 after `STARTUP_DATABASE_TIMEOUT`.",
        "startup: error: the database at postgresql://app:***@127.0.0.1:<server>/<database> could not be reached within "
        "1 s (STARTUP_DATABASE_TIMEOUT): the server has too many connections; is the limit (max_connections, CONNECTION "
        "LIMIT) high enough for the apps and one more for each node? The last error: connection to server at "
        '"127.0.0.1", port <server> failed: FATAL: too many connections for database "<database>"; the app was stopped '
        "(exit code 69)",
        69,
        "All connections are taken. A waiting node holds one, a runner up to three.",
        "Raise the limit, or lower the apps' pools; look into `pg_stat_activity` for who has them.",
        env={"STARTUP_DATABASE_TIMEOUT": "1"},
        stage=_close_database,
    ),
    Failure(
        "read_only",
        DATABASE,
        "Exit code 69.",
        "startup: error: there is work to do, but nothing can be written: default_transaction_read_only is on for this "
        "role or database; right would be STARTUP_DATABASE_URL with the primary's address and a role that may write; the "
        "app was stopped (exit code 69)",
        69,
        "The address leads to a replica, or to a role or database that may only read. With nothing to do it is enough.",
        "`STARTUP_DATABASE_URL` with the primary's address.",
        stage=_read_only,
        files=SQL,
    ),
    Failure(
        "pooler",
        DATABASE,
        "Exit code 78.",
        "startup: error: DATABASE_URL is 'postgresql://app:***@127.0.0.1:<port>/<database>', which leads to a pooler "
        "(PgBouncer or the like): the lock needs a server session of its own; right would be STARTUP_DATABASE_URL with "
        "the server's own address, or STARTUP_POOLER=session if the pooler keeps one server session per client "
        "(pool_mode=session); the app was stopped (exit code 78)",
        78,
        "A pooler gives one server session to several clients, and a lock is bound to a session.",
        "`STARTUP_DATABASE_URL` with the server's own address. The app keeps the pooler's.",
        env={"DATABASE_URL": "{address}"},
        stage=_pooler,
    ),
    Failure(
        "no_right_to_create",
        DATABASE,
        "Exit code 70 at the first start.",
        "startup: error: the ledger's tables could not be made: permission denied for schema public; the role of "
        "DATABASE_URL must be allowed to CREATE in its schema, or STARTUP_DATABASE_URL must name one that is; the app "
        "was stopped (exit code 70)",
        70,
        "Since PostgreSQL 15 only a database's owner may make tables in the schema `public`.",
        "`GRANT CREATE ON SCHEMA public TO ...`, or a role of its own for tasks in `STARTUP_DATABASE_URL`.",
        env={"STARTUP_TASKS": "seed@once", "STARTUP_TASK_SEED": "true"},
        stage=_no_create,
    ),
    # ---------------------------------------------------------------------------------------------- the tasks
    Failure(
        "command",
        TASKS,
        "Exit code 70.",
        "startup: error: task seed failed: it ended with exit code 3; its own output says why; the app was stopped "
        "(exit code 70)",
        70,
        "The command of the task did not end with 0. The tasks behind it did not run.",
        "Read what it wrote, above; try it with `docker compose run --rm SERVICE startup run seed`.",
        env={"STARTUP_TASKS": "seed@local", "STARTUP_TASK_SEED": "exit 3"},
    ),
    Failure(
        "failed_task",
        TASKS,
        "A startup that failed, and nobody was told: a line says why the `failed` task did not.",
        "startup: error: failed: task alert was not done within <seconds> s, its time limit (STARTUP_HOOK_TIMEOUT, for the phase, "
        "STARTUP_TIMEOUT, or the task's own): let it do less, or give it more time\n"
        "startup: error: task seed failed: it ended with exit code 3; its own output says why; the app was stopped "
        "(exit code 70)",
        70,
        "The tasks of STARTUP_FAILED and failed.d/ have STARTUP_HOOK_TIMEOUT together, so that the app is stopped soon.",
        "Give the request a time limit of its own (`curl --max-time 2`); raise STARTUP_HOOK_TIMEOUT, and the platform's grace.",
        env={
            "STARTUP_TASKS": "seed@local",
            "STARTUP_TASK_SEED": "exit 3",
            "STARTUP_FAILED": "alert",
            "STARTUP_TASK_ALERT": "sleep 60",
            "STARTUP_HOOK_TIMEOUT": "0.2",
        },
    ),
    Failure(
        "python",
        TASKS,
        "Exit code 70.",
        "startup: error: task tasks:load failed: KeyError: 'PLANS' (<directory>/tasks.py, line 2); the app was stopped "
        "(exit code 70)",
        70,
        "The Python task raised. In one with a transaction nothing of it is kept.",
        "Go to the file and line; `STARTUP_LOG_LEVEL=debug` shows the traceback.",
        env={"STARTUP_TASKS": "tasks:load@once"},
        files={"tasks.py": "def load(context):\n    return context.environ['PLANS']\n"},
    ),
    Failure(
        "time_limit",
        TASKS,
        "Exit code 70.",
        "startup: error: task seed was not done within 1 s, its time limit (STARTUP_TIMEOUT, or the task's own): let it "
        "do less, or give it more time; the app was stopped (exit code 70)",
        70,
        "The task was ended: a command with TERM and then KILL, a statement by cancelling it.",
        "Raise `STARTUP_TIMEOUT` or the decorator's `timeout`; what takes hours belongs into a job of its own.",
        env={"STARTUP_TASKS": "seed@local", "STARTUP_TASK_SEED": "sleep 60", "STARTUP_TIMEOUT": "1"},
    ),
    Failure(
        "retries",
        TASKS,
        "Exit code 70, after warnings.",
        "startup: error: task seed failed: it ended with exit code 3; its own output says why (try 2 of 2); the app was "
        "stopped (exit code 70)",
        70,
        "The task failed as often as `STARTUP_RETRIES` or `@task(retries=N)` lets it; a warning has each try's error.",
        "Read what it wrote at each try, above; more tries bridge more: 4 retries wait for 15 s in all, 6 for a minute.",
        env={"STARTUP_TASKS": "seed@local", "STARTUP_TASK_SEED": "exit 3", "STARTUP_RETRIES": "1"},
    ),
    Failure(
        "before_migrate",
        TASKS,
        "Exit code 70.",
        "startup: error: task backup failed: it ended with exit code 3; its own output says why; it must run before "
        "migrations (STARTUP_BEFORE_MIGRATE), so none was applied; the app was stopped (exit code 70)",
        70,
        "A migration is pending, and the backup before it failed. Nothing is changed.",
        "Read what it wrote, above. In an emergency `STARTUP_SKIP_TASKS=backup` migrates without.",
        env={"STARTUP_BEFORE_MIGRATE": "backup", "STARTUP_TASK_BACKUP": "exit 3"},
        files={"migrations/0001_users.sql": "CREATE TABLE users (id int);\n"},
    ),
    Failure(
        "migration",
        TASKS,
        "Exit code 70, and the place in the file.",
        'startup: error: task migrate failed: migrations/0001_plans.sql:2: type "itn" does not exist (SQLSTATE 42704)\n'
        "startup:     2 |     id itn PRIMARY KEY\n"
        "startup:       |        ^\n"
        "startup:   committed: nothing; nothing of this file\n"
        "startup:   next: correct the file, or the data that it met, and start again\n"
        'startup: error: task migrate failed: migrations/0001_plans.sql:2: type "itn" does not exist (SQLSTATE 42704); '
        "the app was stopped (exit code 70)",
        70,
        "The statement is wrong, or the data that it met.",
        "Correct the file: nothing of it was applied, so it is not an edit of history.",
        files={"migrations/0001_plans.sql": "CREATE TABLE plans (\n    id itn PRIMARY KEY\n);\n"},
    ),
    Failure(
        "made_by_another_tool",
        TASKS,
        "Exit code 70 at the first boot on a database that was there before.",
        "startup: warning: the database has the table alembic_version of Alembic, with rows: if that has made what the "
        "pending migrations make, startup baseline ID takes those up to ID for applied, without running them\n"
        'startup: error: task migrate failed: migrations/0001_plans.sql:1: relation "plans" already exists '
        "(SQLSTATE 42P07)\n"
        "startup:     1 | CREATE TABLE plans (\n"
        "startup:       | ^\n"
        "startup:   hint: if this database was made by another tool, or by hand, and has all that this file makes: "
        "startup baseline 0001_plans takes the migrations up to it for applied, without running them\n"
        "startup:   committed: nothing; nothing of this file\n"
        "startup:   next: correct the file, or the data that it met, and start again\n"
        'startup: error: task migrate failed: migrations/0001_plans.sql:1: relation "plans" already exists '
        "(SQLSTATE 42P07); the app was stopped (exit code 70)",
        70,
        "Another tool, or a hand, has made what the migration makes.",
        "`startup baseline 0001_plans`, once: [adopt.md](adopt.md).",
        files=SQL,
        stage=_made_before,
    ),
    Failure(
        "drift",
        TASKS,
        "Exit code 70 after a migration was edited.",
        "startup: error: changed since they were applied: migrations/0001_plans.sql; a new migration "
        "would carry the change to this database; restore the content, or set STARTUP_DRIFT=warn. Nothing has been "
        "applied; the app was stopped (exit code 70)",
        70,
        "The database has what the file said when it was applied; other databases would get what it says now.",
        "Restore the file and write a new migration.",
        files=SQL,
        stage=_edited,
    ),
    Failure(
        "lint",
        TASKS,
        "Exit code 70 under `STARTUP_LINT=fail`.",
        "startup: error: task migrate failed: one finding in pending migrations, and STARTUP_LINT is 'fail': nothing has been applied\n"
        "startup:   migrations/0002_name.sql:1: renaming-column: Renaming a column may break existing clients. Safe: a new column "
        "beside it; the old one dropped once no running version of the app uses it any more\n"
        "startup:   next: the safe way, or '-- squawk-ignore RULE' on a line before a statement that is meant so\n"
        "startup: error: task migrate failed: one finding in pending migrations, and STARTUP_LINT is 'fail': nothing has been applied; "
        "the app was stopped (exit code 70)",
        70,
        "squawk found a statement that locks out the app, or breaks the version that still runs.",
        "Take the safe way ([lint.md](lint.md)), or say with `-- squawk-ignore renaming-column` above it that it is meant so.",
        env={"STARTUP_LINT": "fail"},
        files=SQL,
        stage=_dangerous,
    ),
    Failure(
        "interrupted",
        TASKS,
        "Exit code 70 after a node was killed.",
        "startup: error: task migrate failed: migrations/0002_backfill.sql: was interrupted on web-1 at <time>: 0 of its "
        "statements are known to have run, the next one may have. Nothing has been applied\n"
        "startup:   next: it is not run again by itself. Either finish it by hand and then mark it: yoyo mark --match "
        "'^0002_backfill$'; or undo what it did, and then DELETE FROM startup_migration WHERE id = '0002_backfill'\n"
        "startup: error: task migrate failed: migrations/0002_backfill.sql: was interrupted on web-1 at <time>: 0 of its "
        "statements are known to have run, the next one may have. Nothing has been applied; the app was stopped "
        "(exit code 70)",
        70,
        "A file marked `-- transactional: false` was under way when its node died: nobody can know what it has done.",
        "Do what the line says.",
        files={
            **SQL,
            "migrations/0002_backfill.sql": "-- transactional: false\nSELECT pg_sleep(60);\nDELETE FROM plans;\n",
        },
        stage=_interrupted,
    ),
    # --------------------------------------------------------------------------------------------- many nodes
    Failure(
        "lock_time_limit",
        CLUSTER,
        "Exit code 75.",
        "startup: error: the lock was not free within 1 s (STARTUP_LOCK_TIMEOUT): web-1 holds it, at task 1 of 1, hold, "
        "since <clock> (pid <pid>, user app, from 127.0.0.1, connected for <seconds> s); look at that node, or wait "
        "longer; the app was stopped (exit code 75)",
        75,
        "Another node is at work for longer than this one may wait.",
        "`startup status` shows what it runs and what blocks it. Without `STARTUP_LOCK_TIMEOUT` a node waits as long as "
        "the other one lives.",
        env={"STARTUP_TASKS": "hold", "STARTUP_TASK_HOLD": "true", "STARTUP_LOCK_TIMEOUT": "1"},
        stage=_another_node_holds_the_lock,
    ),
    Failure(
        "lock_lost",
        CLUSTER,
        "Exit code 75 in the middle of a task.",
        "startup: error: the lock was lost while task slow ran, so that was stopped: its database session ended, and "
        "another node may have taken over; a restart goes on where the ledger stands; the app was stopped "
        "(exit code 75)",
        75,
        "The session that holds the lock ended: the server restarted or failed over, or an administrator ended it.",
        "Restart the node (an orchestrator does). A command that was stopped runs again: at least once.",
        env={"STARTUP_TASKS": "slow@once", "STARTUP_TASK_SLOW": "touch runs; sleep 60"},
        stage=_terminate_the_runner,
    ),
    Failure(
        "runner_failed",
        CLUSTER,
        "Exit code 70 on all nodes at once.",
        "startup: error: task load failed: it ended with exit code 3; its own output says why (on web-1), which this "
        "node was waiting for; the app was stopped (exit code 70)",
        70,
        "The node that ran the task failed, and this one was waiting for it.",
        "Read the log of the node that the line names.",
        env={"STARTUP_TASKS": "load", "STARTUP_TASK_LOAD": "true"},
        stage=_another_node_fails,
    ),
    Failure(
        "nobody_runs",
        CLUSTER,
        "Exit code 75 on a follower.",
        "startup: error: nobody has run migrate for 1 s (STARTUP_FOLLOW_TIMEOUT): start the job that does (startup "
        "init), or leave STARTUP_ROLE at auto; the app was stopped (exit code 75)",
        75,
        "`STARTUP_ROLE=follower` waits for others, and there are none.",
        "Start the job, or leave the role at `auto`.",
        env={"STARTUP_ROLE": "follower", "STARTUP_FOLLOW_TIMEOUT": "1"},
        files=SQL,
    ),
    # ----------------------------------------------------------------------------------------------- settings
    Failure(
        "wrong_value",
        SETTINGS,
        "Exit code 78.",
        "startup: error: STARTUP_TIMEOUT is '5m' (environment): it must be a number of seconds, such as 30 or 0.5 (0: no "
        "limit)\n"
        "startup: error: STARTUP_TASKS names 'migrat', which is no task: did you mean migrate? known are insert_users, "
        "migrate, and a STARTUP_TASK_MIGRAT or module:function\n"
        "startup: error: STARTUP_TIMEOUT is '5m' (environment): it must be a number of seconds, such as 30 or 0.5 (0: no "
        "limit); STARTUP_TASKS names 'migrat', which is no task: did you mean migrate? known are insert_users, migrate, "
        "and a STARTUP_TASK_MIGRAT or module:function; the app was stopped (exit code 78)",
        78,
        "Settings cannot be read. All faults are told at once.",
        "Correct each; `startup describe` shows every setting, and where it came from.",
        env={"STARTUP_TIMEOUT": "5m", "STARTUP_TASKS": "migrat"},
    ),
    Failure(
        "no_address",
        SETTINGS,
        "Exit code 78.",
        "startup: error: task migrate works on the database and so needs a database: set DATABASE_URL; the app was "
        "stopped (exit code 78)",
        78,
        "There are migrations, and no address.",
        "Set `DATABASE_URL` or `DATABASE_URL_FILE`; `STARTUP_TASKS=none` where there is no database.",
        env={"DATABASE_URL": ""},
        files=SQL,
    ),
    Failure(
        "no_secret",
        SETTINGS,
        "Exit code 78.",
        "startup: error: DATABASE_URL_FILE is '/run/secrets/address': it cannot be read: No such file or directory; the "
        "app was stopped (exit code 78)",
        78,
        "The secret is not mounted, or under another name.",
        "Name the secret in the service's `secrets:`; `docker exec ... ls /run/secrets` shows what is there.",
        env={"DATABASE_URL": "", "DATABASE_URL_FILE": "/run/secrets/address"},
        files=SQL,
    ),
    Failure(
        "writable_hook",
        SETTINGS,
        "Exit code 78.",
        "startup: error: STARTUP_HOOKS_DIR: everybody may write <directory>/hooks/post_start.d/10-seed.sh: take that "
        "right away (chmod o-w); the app was stopped (exit code 78)",
        78,
        "What everybody may write, an intruder may have written.",
        "`COPY --chmod=755`.",
        files={"hooks/post_start.d/10-seed.sh": "#!/bin/sh\n"},
        stage=_writable,
    ),
    # ------------------------------------------------------------------------------------------------ the first day
    Failure(
        "no_python",
        APP_FAILS,
        "Exit code 78, and nothing was started.",
        "startup: error: STARTUP_PYTHON is '/no/python': '/no/python' is not there; set it to a Python 3.10 or newer (exit code 78)",
        78,
        "`STARTUP_PYTHON`, or `python3`, is no program in this image.",
        "Take the image's own Python's path (`command -v python3` in a container of it).",
        env={"STARTUP_PYTHON": "/no/python"},
    ),
    Failure(
        "enabled",
        SETTINGS,
        "Exit code 78, and nothing was started.",
        "startup: error: STARTUP_ENABLED is 'maybe': it must be true, false, 1, 0, yes, no, on or off (exit code 78)",
        78,
        "A word that is neither yes nor no.",
        "`STARTUP_ENABLED=true` or `false`.",
        env={"STARTUP_ENABLED": "maybe"},
    ),
    Failure(
        "ping_scheme",
        SETTINGS,
        "Exit code 78.",
        "startup: error: STARTUP_PING is 'htp://127.0.0.1/' (environment): a ping is one of http://HOST:PORT/PATH, https://HOST:PORT/PATH, tcp://HOST:PORT, unix:///PATH, file:///PATH, redis://HOST:PORT, rediss://HOST:PORT, cmd:COMMAND, none or auto; the app was stopped (exit code 78)",
        78,
        "A kind of ping that there is not.",
        "One of the kinds that the line names.",
        env={"STARTUP_PING": "htp://127.0.0.1/"},
    ),
    Failure(
        "wait_for",
        APP_FAILS,
        "Exit code 124, and the app was never started.",
        "startup: error: not there within 1 s (STARTUP_WAIT_TIMEOUT): redis://127.0.0.1:<port>: connection refused; the app was not started (exit code 124)",
        124,
        "Nothing listens there, or not yet.",
        "Start it, or correct its address in STARTUP_WAIT_FOR; `STARTUP_WAIT_TIMEOUT` longer than it needs to start.",
        env={"STARTUP_WAIT_FOR": "redis://127.0.0.1:{port} database", "STARTUP_WAIT_TIMEOUT": "1"},
    ),
    Failure(
        "wait_for_database",
        APP_FAILS,
        "Exit code 69 at once, and the app was never started.",
        'startup: error: the database at postgresql://app:***@127.0.0.1:<server>/nowhere cannot be reached: the database does not exist; create it, or correct its name. The error: connection to server at "127.0.0.1", port <server> failed: FATAL: database "nowhere" does not exist; the app was not started (exit code 69)',
        69,
        "What no waiting mends is not waited for, here a database that is not there.",
        "As the line says.",
        env={"STARTUP_WAIT_FOR": "database", "DATABASE_URL": "postgresql://app:{password}@127.0.0.1:{server}/nowhere"},
    ),
    Failure(
        "wait_for_what",
        SETTINGS,
        "Exit code 78.",
        "startup: error: STARTUP_WAIT_FOR is 'tcp://cache:6379,database auto' (environment): 'tcp://cache:6379,database': spaces separate pings here, since a URL may hold a comma; 'auto': auto looks at the app, which is started only afterwards; the app was not started (exit code 78)",
        78,
        "What was named there cannot be waited for.",
        "Pings as the line has them, with spaces in between, and the word `database`.",
        env={"STARTUP_WAIT_FOR": "tcp://cache:6379,database auto"},
    ),
    Failure(
        "ping_command",
        APP_FAILS,
        "Exit code 124, although the app runs.",
        "startup: error: the app did not answer within 1 s (STARTUP_PING_TIMEOUT): the command 'no-such-curl': exit status 127: /bin/sh: 1: no-such-curl: not found; the app's own output may say why; if it only needs longer, raise the limit; the app was stopped (exit code 124)",
        124,
        "The ping's command is not in the image, which often has no curl.",
        "`http://...` needs no program; or install it.",
        env={"STARTUP_PING": "cmd:no-such-curl", "STARTUP_PING_TIMEOUT": "1"},
    ),
    Failure(
        "ping_file",
        APP_FAILS,
        "Exit code 124, although the app runs.",
        "startup: error: the app did not answer within 1 s (STARTUP_PING_TIMEOUT): file:///run/app-is-up: no such file or directory; the app's own output may say why; if it only needs longer, raise the limit; the app was stopped (exit code 124)",
        124,
        "The app does not make the file that was asked for, or somewhere else.",
        "An absolute path, in a directory that the app's user may write.",
        env={"STARTUP_PING": "file:///run/app-is-up", "STARTUP_PING_TIMEOUT": "1"},
    ),
    Failure(
        "not_encoded",
        DATABASE,
        "Exit code 78.",
        "startup: error: DATABASE_URL cannot be read: a user name or password ends before its last @: a character like / ? # @ or % in a user name or password is written as %2F %3F %23 %40 %25; the app was stopped (exit code 78)",
        78,
        "The password has a character that means something in an address.",
        "Percent-encode it: `@` is `%40`, `/` is `%2F`, `:` is `%3A`, `#` is `%23`.",
        env={"DATABASE_URL": "postgresql://app:p@ss@db/app"},
        files=SQL,
    ),
    Failure(
        "other_database",
        DATABASE,
        "Exit code 78.",
        "startup: error: DATABASE_URL cannot be read: it begins with 'mysql://', which is not supported: right would be postgresql://USER:PASSWORD@HOST:5432/NAME or sqlite:///FILE. Keep it for the app, and let a command do the migrations, with STARTUP_TASK_MIGRATE='...' and STARTUP_TASKS=migrate@local (no lock); the app was stopped (exit code 78)",
        78,
        "Migrations on another database than PostgreSQL and SQLite.",
        "Let a command do them, as the line says.",
        env={"DATABASE_URL": "mysql://app@db/app"},
        files=SQL,
    ),
    Failure(
        "parameter",
        DATABASE,
        "Exit code 78.",
        'startup: error: DATABASE_URL is \'postgresql://app:***@127.0.0.1:<server>/<database>?options=-c%20serch_path%3Dx\', whose serch_path in options is wrong: connection to server at "127.0.0.1", port <server> failed: FATAL: unrecognized configuration parameter "serch_path"; the app was stopped (exit code 78)',
        78,
        "A parameter of the address is misspelt.",
        "Correct it; libpq's manual lists them.",
        env={"DATABASE_URL": "postgresql://app:{password}@127.0.0.1:{server}/{database}?options=-c%20serch_path%3Dx"},
        files=SQL,
    ),
    Failure(
        "pg_variable",
        DATABASE,
        "Exit code 78.",
        'startup: error: PGOPTIONS has a wrong serch_path in options for the database at postgresql://app:***@127.0.0.1:<server>/<database>: connection to server at "127.0.0.1", port <server> failed: FATAL: unrecognized configuration parameter "serch_path"; the app was stopped (exit code 78)',
        78,
        "A PG variable of libpq, not the address, has what the server does not know.",
        "Correct the variable that the line names.",
        env={"PGOPTIONS": "-c serch_path=x"},
        files=SQL,
    ),
    Failure(
        "no_role",
        DATABASE,
        "Exit code 69.",
        'startup: error: the database at postgresql://stranger:***@127.0.0.1:<server>/<database> cannot be reached: the password was rejected, or is missing; check user and password in DATABASE_URL. The error: connection to server at "127.0.0.1", port <server> failed: FATAL: password authentication failed for user "stranger"; the app was stopped (exit code 69)',
        69,
        "The server has no such role, or the password is another's.",
        "`CREATE ROLE`, or correct the user in the address.",
        env={"DATABASE_URL": "postgresql://stranger:x@127.0.0.1:{server}/{database}"},
        files=SQL,
    ),
    Failure(
        "no_service",
        DATABASE,
        "Exit code 78.",
        "startup: error: DATABASE_URL is 'postgresql:///?service=nope', whose service is wrong: connection is bad: definition of service \"nope\" not found; the app was stopped (exit code 78)",
        78,
        "The address names a service that no service file has.",
        "Mount the file, and name it in `PGSERVICEFILE`.",
        env={"DATABASE_URL": "postgresql://?service=nope"},
        files=SQL,
    ),
    Failure(
        "sqlite_directory",
        DATABASE,
        "Exit code 78.",
        "startup: error: DATABASE_URL is 'sqlite:////no/such/app.db', but there is no directory /no/such: create it; the app was stopped (exit code 78)",
        78,
        "The directory of the SQLite file is not there: the volume is not mounted.",
        "Mount it, or make it in the Dockerfile.",
        env={"DATABASE_URL": "sqlite:////no/such/app.db"},
        files=SQL,
    ),
    Failure(
        "both_addresses",
        SETTINGS,
        "Exit code 78.",
        "startup: error: DATABASE_URL and DATABASE_URL_FILE are both set: keep one of them; the app was stopped (exit code 78)",
        78,
        "The address is set twice, and it is not known which is meant.",
        "Keep one of the two.",
        env={"DATABASE_URL_FILE": "{directory}/address"},
        files={
            "migrations/0001_plans.sql": "CREATE TABLE plans (\n    id int PRIMARY KEY\n);\n",
            "address": "postgresql://db/x\n",
        },
    ),
    Failure(
        "empty_secret",
        SETTINGS,
        "Exit code 78.",
        "startup: error: DATABASE_URL_FILE is '<directory>/address': the file is empty; it must hold a database address; the app was stopped (exit code 78)",
        78,
        "The secret was made of an empty value.",
        "Make it again; `docker exec ... wc -c FILE` shows its size.",
        env={"DATABASE_URL": "", "DATABASE_URL_FILE": "{directory}/address"},
        files={"migrations/0001_plans.sql": "CREATE TABLE plans (\n    id int PRIMARY KEY\n);\n", "address": ""},
    ),
    Failure(
        "command_not_found",
        TASKS,
        "Exit code 70.",
        "startup: error: task seed failed: it ended with exit code 127, a command was not found (PATH is <path>); its own output says which; the app was stopped (exit code 70)",
        70,
        "The task's program is not in the image, or not on PATH.",
        "Its whole path, or install it.",
        env={"STARTUP_TASKS": "seed@local", "STARTUP_TASK_SEED": "no-such-tool --all"},
    ),
    Failure(
        "no_module",
        TASKS,
        "Exit code 78.",
        "startup: error: STARTUP_MODULE is 'no_such_tasks': there is no module 'no_such_tasks' in the working directory (<directory>), in PYTHONPATH (not set) or among the packages of <python>; the app was stopped (exit code 78)",
        78,
        "Python does not find the module from the working directory.",
        "Set `WORKDIR`, or `PYTHONPATH`, so that it does.",
        env={"STARTUP_MODULE": "no_such_tasks"},
    ),
    Failure(
        "no_function",
        TASKS,
        "Exit code 78.",
        "startup: error: tasks:sed: the module 'tasks' has no function 'sed'; the app was stopped (exit code 78)",
        78,
        "The module has no function of that name.",
        "Correct the name after the colon.",
        env={"STARTUP_TASKS": "tasks:sed"},
        files={"tasks.py": "def seed(context):\n    pass\n"},
    ),
    Failure(
        "ended_by_task",
        TASKS,
        "Exit code 70.",
        "startup: error: the startup module was ended with exit code 0 by a task (os._exit, exec), while running task 1 of 1, tasks:seed; the app was stopped (exit code 70)",
        70,
        "Code of the task ended the whole Python process.",
        "Return, or raise; start what must end so as a command.",
        env={"STARTUP_TASKS": "tasks:seed@local"},
        files={"tasks.py": "import os\n\n\ndef seed(context):\n    os._exit(0)\n"},
    ),
    Failure(
        "no_users_table",
        TASKS,
        "Exit code 70.",
        'startup: error: task insert_users failed: the table users cannot be filled: relation "users" does not exist; the app was stopped (exit code 70)',
        70,
        "No migration has made the table, or it is in another schema.",
        "Make it in a migration; `STARTUP_USERS_TABLE` names another.",
        env=USERS,
        files=CSV,
    ),
    Failure(
        "users_row",
        TASKS,
        "Exit code 70.",
        'startup: error: task insert_users failed: the table users did not take row 2 of users.csv: null value in column "email" of relation "users" violates not-null constraint; the app was stopped (exit code 70)',
        70,
        "A row breaks a rule of the table. None was added.",
        "Correct that row.",
        env=USERS,
        files=CSV,
        stage=_users_table,
    ),
    Failure(
        "users_ragged",
        TASKS,
        "Exit code 78, before anything ran.",
        "startup: error: STARTUP_USERS is 'users.csv': line 2 has 3 values, and the header 2 columns; the app was stopped (exit code 78)",
        78,
        "A comma too many, or a value that must be in quotes.",
        "Put values with commas in double quotes.",
        env=USERS,
        files={"users.csv": "id,email\n1,anna@example.org,x\n"},
    ),
    Failure(
        "users_json",
        TASKS,
        "Exit code 78, before anything ran.",
        "startup: error: STARTUP_USERS is 'users.json': it must be a list of objects, one a user; the app was stopped (exit code 78)",
        78,
        "The JSON file is no list of objects.",
        '`[{"id": 1, "email": "anna@example.org"}]`.',
        env={"STARTUP_TASKS": "insert_users", "STARTUP_USERS": "users.json"},
        files={"users.json": '{"id": 1}\n'},
    ),
    Failure(
        "commit_inside",
        TASKS,
        "Exit code 70.",
        "startup: error: task migrate failed: migrations/0001_plans.sql:2: COMMIT: a migration runs in one transaction with its mark; take it out, or write '-- transactional: false' on the file's first line; the app was stopped (exit code 70)",
        70,
        "The file ends the transaction in which it runs: half of it could stay.",
        "Leave BEGIN and COMMIT out.",
        files={"migrations/0001_plans.sql": "CREATE TABLE plans (id int);\nCOMMIT;\n"},
    ),
    Failure(
        "concurrently",
        TASKS,
        "Exit code 70.",
        "startup: error: task migrate failed: migrations/0001_plans.sql:1: CREATE INDEX CONCURRENTLY cannot run inside a transaction block (SQLSTATE 25001); the app was stopped (exit code 70)",
        70,
        "The statement cannot run in a transaction.",
        "`-- transactional: false` as the file's first line, and that statement alone in the file.",
        files={"migrations/0001_plans.sql": "CREATE INDEX CONCURRENTLY plans_id ON plans (id);\n"},
    ),
    Failure(
        "meta_command",
        TASKS,
        "Exit code 70.",
        "startup: error: task migrate failed: migrations/0001_plans.sql:1: psql's own command (\\connect app) means nothing to the server: write it as SQL; the app was stopped (exit code 70)",
        70,
        "The file is one for psql, which does such lines itself.",
        "Leave them out; a dump is made without them by `pg_dump --no-owner` and a look at its head.",
        files={"migrations/0001_plans.sql": "\\connect app\nCREATE TABLE plans (id int);\n"},
    ),
    Failure(
        "copy_stdin",
        TASKS,
        "Exit code 70.",
        "startup: error: task migrate failed: migrations/0001_plans.sql:1: COPY FROM stdin / TO stdout is for psql, which feeds it: write INSERT, or COPY in a Python migration; the app was stopped (exit code 70)",
        70,
        "`pg_dump` writes data as COPY, which psql feeds.",
        "`pg_dump --inserts`.",
        files={"migrations/0001_plans.sql": "COPY plans FROM stdin;\n"},
    ),
    Failure(
        "depends",
        TASKS,
        "Exit code 70.",
        "startup: error: migrations/0001_plans.sql:1: depends on '0000_base', which no file here has; the app was stopped (exit code 70)",
        70,
        "A migration depends on one that is not there.",
        "Correct the name: it is the file's without its ending.",
        files={"migrations/0001_plans.sql": "-- depends: 0000_base\nSELECT 1;\n"},
    ),
    Failure(
        "hook_mode",
        SETTINGS,
        "Exit code 78.",
        "startup: error: the hook <directory>/hooks/post_start.d/10-seed.sh cannot run: it is not executable: chmod +x (git update-index --chmod=+x, COPY --chmod=755, a volume's defaultMode); or begin its name with _, if it is none; the app was stopped (exit code 78)",
        78,
        "The hook lost its right to be executed: on Windows, in a ConfigMap, in git.",
        "`COPY --chmod=755`; `defaultMode: 0755`.",
        files={"hooks/post_start.d/10-seed.sh": "#!/bin/sh\n"},
    ),
    Failure(
        "hook_crlf",
        SETTINGS,
        "Exit code 78.",
        "startup: error: the hook <directory>/hooks/post_start.d/10-seed.sh cannot run: its lines end in CRLF, so the system looks for an interpreter that is not there: dos2unix, or eol=lf; or begin its name with _, if it is none; the app was stopped (exit code 78)",
        78,
        "The file was written on Windows.",
        "`.gitattributes` with `*.sh eol=lf`.",
        files={"hooks/post_start.d/10-seed.sh": "#!/bin/sh\r\ntrue\r\n"},
        stage=_executable,
    ),
    Failure(
        "hook_interpreter",
        SETTINGS,
        "Exit code 78.",
        "startup: error: the hook <directory>/hooks/post_start.d/10-seed.sh cannot run: its interpreter, '/bin/no-such-bash', is not there: install it, or correct the first line; or begin its name with _, if it is none; the app was stopped (exit code 78)",
        78,
        "The image has no bash, as Alpine's has not.",
        "Write it for `#!/bin/sh`, or install what it names.",
        files={"hooks/post_start.d/10-seed.sh": "#!/bin/no-such-bash\n"},
        stage=_executable,
    ),
    Failure(
        "hook_env",
        SETTINGS,
        "Exit code 78.",
        "startup: error: the hook <directory>/hooks/post_start.d/10-seed.sh cannot run: its first line makes 'sh -e' one word, as which env looks for it: right would be #!/usr/bin/env -S sh -e; or begin its name with _, if it is none; the app was stopped (exit code 78)",
        78,
        "The kernel gives `env` all that follows as one word.",
        "`#!/usr/bin/env -S sh -e`.",
        files={"hooks/post_start.d/10-seed.sh": "#!/usr/bin/env sh -e\n"},
        stage=_executable,
    ),
    Failure(
        "hook_twice",
        SETTINGS,
        "Exit code 78.",
        "startup: error: the hooks <directory>/hooks/post_start.d/10-seed.sh and <directory>/hooks/post_start.d/20-seed.sh have the same name, 'seed': rename one; the app was stopped (exit code 78)",
        78,
        "A hook's name is what follows its number.",
        "Rename one of the two.",
        files={"hooks/post_start.d/10-seed.sh": "#!/bin/sh\n", "hooks/post_start.d/20-seed.sh": "#!/bin/sh\n"},
        stage=_executable,
    ),
    Failure(
        "no_hooks_dir",
        SETTINGS,
        "Exit code 78.",
        "startup: error: STARTUP_HOOKS_DIR is '/no/hooks': it cannot be read: No such file or directory; the app was stopped (exit code 78)",
        78,
        "The directory that was set is not in the container.",
        "Mount it, or correct the path.",
        env={"STARTUP_HOOKS_DIR": "/no/hooks"},
    ),
    Failure(
        "skipped",
        SETTINGS,
        "Exit code 78.",
        "startup: error: STARTUP_SKIP_TASKS names 'migrat', which is no task: did you mean migrate? known are insert_users, migrate, and a STARTUP_TASK_MIGRAT or module:function; the app was stopped (exit code 78)",
        78,
        "A misspelt name would let that very task run.",
        "Correct the name.",
        env={"STARTUP_SKIP_TASKS": "migrat"},
        files=SQL,
    ),
    Failure(
        "no_release",
        SETTINGS,
        "Exit code 78.",
        "startup: error: task seed has the policy release, but STARTUP_RELEASE is not set: set it to this image's version; the app was stopped (exit code 78)",
        78,
        "The policy `release` needs the image's version.",
        "`ENV STARTUP_RELEASE=1.2.3` at build time.",
        env={"STARTUP_TASKS": "seed@release", "STARTUP_TASK_SEED": "true"},
    ),
    Failure(
        "stop_list",
        SETTINGS,
        "Exit code 78.",
        "startup: error: STARTUP_PRE_STOP has migrate: no task takes the lock while the app is being stopped; the app was stopped (exit code 78)",
        78,
        "A task that needs the lock would keep the app from ending.",
        "Put it on another list.",
        env={"STARTUP_PRE_STOP": "migrate"},
        files=SQL,
    ),
    Failure(
        "failed_list",
        SETTINGS,
        "Exit code 78.",
        "startup: error: STARTUP_FAILED has migrate: no task takes the lock when the startup has failed; the app was stopped (exit code 78)",
        78,
        "A task that waits for the lock would keep the app from being stopped.",
        "Name what tells somebody: a command, or a hook in failed.d/.",
        env={"STARTUP_FAILED": "migrate"},
        files=SQL,
    ),
    Failure(
        "metrics_file",
        SETTINGS,
        "The collector has no numbers of a boot.",
        "startup: warning: STARTUP_METRICS_FILE is '/no/such/place/startup.prom': there is no directory '/no/such/place': make it, or mount one there",
        0,
        "The file is written beside where it is to be, and renamed: its directory must be there and writable.",
        "Mount the directory that the collector reads.",
        app=("sh", "-c", UNTIL_READY),
        env={"STARTUP_PING": "none", "STARTUP_METRICS_FILE": "/no/such/place/startup.prom"},
    ),
    Failure(
        "dotenv_missing",
        SETTINGS,
        "Exit code 78.",
        "startup: error: STARTUP_DOTENV is 'config/.env': there is no such file; the app was stopped (exit code 78)",
        78,
        "The file that was set is not there.",
        "Correct the path, or copy the file into the image.",
        env={"STARTUP_DOTENV": "config/.env"},
    ),
    Failure(
        "dotenv_line",
        SETTINGS,
        "Exit code 78.",
        "startup: error: settings.env, line 2: it must be NAME=VALUE, or a comment; the app was stopped (exit code 78)",
        78,
        "A line of the dotenv file is no assignment.",
        "Correct the line.",
        env={"STARTUP_DOTENV": "settings.env"},
        files={"settings.env": "A=1\nthis is no assignment\n"},
    ),
    Failure(
        "follower",
        CLUSTER,
        "Exit code 78.",
        "startup: error: STARTUP_ROLE is 'follower', but task seed has the policy always, for which nobody else can do the work: say seed@local, another policy, or leave it out (STARTUP_SKIP_TASKS); the app was stopped (exit code 78)",
        78,
        "A follower never runs tasks, and this one would have to run on each start.",
        "Another policy, or `@local`.",
        env={"STARTUP_ROLE": "follower", "STARTUP_TASKS": "seed", "STARTUP_TASK_SEED": "true"},
    ),
    Failure(
        "lock_given_up",
        CLUSTER,
        "Exit code 75.",
        "startup: error: the lock is lost: something released it on this session (pg_advisory_unlock_all, DISCARD ALL); another node may have taken over; a restart goes on where the ledger stands; the app was stopped (exit code 75)",
        75,
        "A migration, or a task on our connection, gave the lock up: what came next would not be alone.",
        "Leave the statement out of the migration.",
        files={"migrations/0001_plans.sql": "-- transactional: false\nDISCARD ALL;\n"},
    ),
    Failure(
        "no_address_that_is_one",
        SETTINGS,
        "Exit code 78.",
        "startup: error: DATABASE_URL cannot be read: it is not an address: right would be postgresql://USER:PASSWORD@HOST:5432/NAME or sqlite:///FILE; the app was stopped (exit code 78)",
        78,
        "A host and a port are no address.",
        "`postgresql://USER:PASSWORD@HOST:5432/DATABASE`.",
        env={"DATABASE_URL": "db:5432"},
        files=SQL,
    ),
)
