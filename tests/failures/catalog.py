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


def _edited(stage: Stage) -> None:
    stage.ok("init")
    stage.write("migrations/0001_plans.sql", "CREATE TABLE plans (id bigint PRIMARY KEY);\n")


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
        return stage.has_table("startup_run") and stage.query(
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
        env={"STARTUP_TASKS": "slow@once", "STARTUP_TASK_SLOW": "sleep 60"},
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
)
