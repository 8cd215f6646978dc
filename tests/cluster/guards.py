"""Takes guards out of a node, one by one: what a test of a guarantee must then see broken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from startup import log
from startup.builtin.migrate import Migrate
from startup.database import sqlite
from startup.database.postgres import home
from startup.database.postgres import reach as postgres_connect
from startup.database.postgres import session as postgres
from startup.ledger import ledger
from startup.migrations import apply, baseline, indexes, lock, tables
from startup.run import cluster, execution, runner, waiting

replace: Callable[[Any, str, Any], None] = setattr


def the_lock() -> None:
    """Everybody has it."""
    for session in (postgres.PostgresSession, sqlite.SqliteSession):
        for name in ("try_lock", "require_lock", "unlock"):
            replace(session, name, lambda self: True)
    replace(postgres.PostgresSession, "_lock_is_ours", property(lambda self: "true", lambda self, value: None))


def the_look_under_the_lock() -> None:
    """Done now?"""
    begin = runner.Runner._begin

    def blind(self: Any) -> None:
        self._cluster.done = lambda tasks: False
        begin(self)

    replace(runner.Runner, "_begin", blind)


def the_look_before_the_lock() -> None:
    """Done already? Then there is nothing to wait for."""
    replace(waiting.Waiting, "_all_done", lambda self, run: False)
    replace(cluster.Cluster, "look", lambda self, tasks: self.open())


def the_same_session() -> None:
    """A task works on another one than that which holds the lock."""
    call = execution.Execution._call

    def elsewhere(self: Any, task: Any, session: Any) -> None:
        import psycopg

        ours = session.connection
        with psycopg.connect(os.environ["DATABASE_URL"]) as session.connection:
            try:
                call(self, task, session)
            finally:
                session.connection.commit()
        session.connection = ours

    replace(execution.Execution, "_call", elsewhere)


def the_look_for_commits() -> None:
    """Is the transaction still the one that was begun?"""
    replace(postgres.PostgresSession, "_require_transaction", lambda self, ours: None)
    replace(sqlite.Connection, "guard", lambda self: None)


def raising_the_epoch() -> None:
    """Each run has the number of the one before."""
    begin = ledger.Ledger.begin

    def stay(self: Any, *arguments: Any) -> int:
        before = self.run().epoch or 1
        begin(self, *arguments)
        self._execute("UPDATE {startup_run} SET epoch = %s WHERE namespace = %s", (before, self._namespace))
        return int(before)

    replace(ledger.Ledger, "begin", stay)


def one_transaction() -> None:
    """A task's work commits before its ledger row does."""
    for session in (postgres.PostgresSession, sqlite.SqliteSession):
        whole = session.transaction

        @contextmanager
        def transaction(
            self: Any,
            before_commit: Callable[[], None] | None = None,
            table_lock_timeout: float | None = None,
            whole: Any = whole,
        ) -> Iterator[object]:
            with whole(self, None, table_lock_timeout) as number:
                yield number
            if before_commit:
                before_commit()

        replace(session, "transaction", transaction)


def the_lock_is_looked_up() -> None:
    """Before a commit and after each task."""
    replace(postgres.PostgresSession, "require_lock", lambda self: None)
    replace(postgres.PostgresSession, "_lock_is_ours", property(lambda self: "true", lambda self, value: None))


def the_watch() -> None:
    """Over the lock while a command runs."""

    @contextmanager
    def watch(self: Any, on_lost: Callable[[], None]) -> Iterator[None]:
        yield

    replace(postgres.PostgresSession, "watch", watch)


def the_wait_for_the_vanished() -> None:
    replace(waiting, "for_vanished", lambda cluster, say: None)


def failing_with_the_runner() -> None:
    replace(waiting.Waiting, "_fail_with", lambda self, run: None)


def the_memory_of_failures() -> None:
    """A run that follows hides the one that failed."""
    old = ledger.Run.failed_since
    replace(
        ledger.Run,
        "failed_since",
        lambda self, before: old(ledger.Run(**{**self.__dict__, "failed_epoch": 0, "failure": ""}), before),
    )


def polling() -> None:
    """pg_advisory_lock instead, by every node at once."""

    def try_lock(self: Any) -> bool:
        self.execute(f"SELECT pg_catalog.pg_advisory_lock({self._key})")
        self._held = True
        return True

    replace(postgres.PostgresSession, "try_lock", try_lock)
    replace(cluster.Cluster, "has_turn", lambda self: self.session.only_looks)


def the_reset() -> None:
    """After each task."""
    replace(postgres.PostgresSession, "reset", lambda self: None)
    postgres._RESTORE = ""


def the_pooler_check() -> None:
    replace(postgres.PostgresSession, "_refuse_pooler", lambda self, allowed: None)
    replace(postgres.PostgresSession, "_require_backend", lambda self, pid: None)


def keepalives() -> None:
    """TCP's own, of two hours."""
    settings = postgres_connect.session_settings
    replace(
        postgres,
        "session_settings",
        lambda *arguments: {name: value for name, value in settings(*arguments).items() if not name.startswith("tcp_")},
    )


def patience_with_what_runs() -> None:
    """What is not finished counts as interrupted, whoever is at it."""
    old = Migrate.is_done

    def is_done(self: Any, session: Any, warn: Any) -> bool:
        apply.review(session, self.catalog, tables.pending(session, self.catalog), drift="fail", warn=warn)
        return old(self, session, warn)

    replace(Migrate, "is_done", is_done)


def making_tables_one_by_one() -> None:
    """Two namespaces make the ledger at once."""
    execute = postgres.PostgresSession.execute

    def unserialised(self: Any, sql: str, parameters: Any = ()) -> Any:
        return [(True,)] if "pg_try_advisory_xact_lock" in sql else execute(self, sql, parameters)

    replace(postgres.PostgresSession, "execute", unserialised)


def yoyos_row() -> None:
    """Stock yoyo finds its lock free."""
    replace(lock.YoyosRow, "put", lambda self: None)
    replace(lock.YoyosRow, "require", lambda self: None)


def the_look_for_yoyos_row() -> None:
    """Before each file: has somebody broken it?"""
    replace(lock.YoyosRow, "require", lambda self: None)


def the_migrations_lock() -> None:
    """Of all namespaces that migrate the same tables."""
    replace(postgres.PostgresSession, "try_lock_migrations", lambda self: True)


def the_search_for_a_home() -> None:
    """Tables are wherever the search_path leads first."""

    def first(self: Any, execute: Any, family: Any, places: Any) -> Any:
        ((schema,),) = execute("SELECT current_schema()", [])
        return next((place for place in places if place.schema == schema), None)

    replace(home.Homes, "_choose", first)


def the_look_at_owners() -> None:
    """Whoever has made the tables."""
    replace(home.Homes, "_trusts", lambda self, execute, place: True)


def giving_up_a_silent_server() -> None:
    replace(postgres.PostgresSession, "answered_within", lambda self, seconds: nullcontext())


def letting_go_of_connections() -> None:
    """Each waiting node keeps its own."""
    replace(cluster.Cluster, "is_scarce", lambda self, crowd: False)


def clearing_a_stale_row() -> None:
    replace(lock, "clear_stale", lambda session: None)


def the_row_of_what_has_begun() -> None:
    """A file without a transaction starts without a trace."""
    put = tables.Marks.put

    def forget(self: Any, migration: Any, state: str, *arguments: Any) -> None:
        if state != tables.STARTED:
            put(self, migration, state, *arguments)

    replace(tables.Marks, "put", forget)


def the_transaction_of_a_baseline() -> None:
    """Each mark commits by itself."""
    take = baseline.baseline

    def apart(session: Any, *arguments: Any, **more: Any) -> Any:
        session.transaction = lambda *_, **__: nullcontext()
        return take(session, *arguments, **more)

    replace(baseline, "baseline", apart)


def the_look_for_what_came_later() -> None:
    """A baseline does not mind what is applied after it."""
    replace(baseline, "_refuse_later", lambda state, last, after: None)


def the_look_for_invalid_indexes() -> None:
    """IF NOT EXISTS takes any index for one."""
    replace(indexes, "run", lambda session, statement, execute, interrupted, warn: execute())


def the_look_for_a_standby() -> None:
    """What it locks binds nobody on the primary."""

    def try_lock(self: Any) -> bool:
        ((self._held,),) = self.execute(f"SELECT pg_catalog.pg_try_advisory_lock({self._key})")
        return bool(self._held)

    replace(postgres.PostgresSession, "try_lock", try_lock)


def connecting_again() -> None:
    def gone(self: Any) -> None:
        raise SystemExit(99)

    replace(waiting.Waiting, "_reconnect", gone)


def the_locks_descriptor() -> None:
    """SQLite: a command does not keep the lock."""
    old = execution.Execution._command
    replace(execution.Execution, "_command", lambda self, task, lock_fd=None: old(self, task))


def the_redaction() -> None:
    """Passwords in lines, errors and tracebacks."""
    replace(log, "redact", lambda text: text)


def take_out(name: str) -> None:
    """Take the guard *name* out of this process."""
    globals()[name]()
