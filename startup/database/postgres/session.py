"""A PostgreSQL session that holds the lock and does the work: lose one and both are lost."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache

from startup import log, roots
from startup.database.postgres import activity
from startup.database.postgres.dialect import POSTGRESQL
from startup.database.postgres.home import Homes, decided_by, first_named
from startup.database.postgres.reach import (
    TRY,
    PoolIsFull,
    Silence,
    arguments,
    dead_peer_seconds,
    limit,
    of_the_statement,
    on_thread,
    one_line,
    reach,
    session_settings,
    sqlstate,
)
from startup.database.session import WATCH, Crowd, Holder, Query, Row, Session
from startup.database.tables import YOYOS, family_of
from startup.errors import EndedInside, LockLost, LockUnavailable, SettingError, StartupError, TaskFailed, Unreachable
from startup.patience import Announcer, Stopwatch, poll
from startup.settings.address import Address
from startup.sha256 import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from startup.database.statement import Statement

#: For a question on a second connection, in seconds.
ASIDE = 5.0
#: The advisory lock for making tables: held for a moment, by one who waits for nothing.
_CREATION = int.from_bytes(b"startup+", "big")
#: Seconds after which what a second client asks stands in the pooler's queue, if it is not answered.
QUEUED = 0.25
#: How long others' tables are waited for that are only looked at, in seconds.
ALTERED = 0.25
#: How often a pooler that is said to keep sessions apart is put to the test.
POOLER_PROBES = 10
#: Of tables by their names: what may be read of them without running anything of their owners'.
_READABLE = """
    SELECT name, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
    FROM pg_catalog.unnest(%s::text[]) name
    JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(name)
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND NOT c.relrowsecurity AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
"""
_RESTORE = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; "
#: What would end a COMMIT that has much to look at.
_LIMITS = ("statement_timeout", "lock_timeout", "transaction_timeout")
_DISCARD = "UNLISTEN *; CLOSE ALL; DEALLOCATE ALL; DISCARD SEQUENCES; DISCARD TEMP; "
_COMMITTED = (
    "the transaction was committed or rolled back from inside (COMMIT, ROLLBACK or the like), so its work and its "
    "ledger row cannot commit together: leave that out (connection.transaction() makes savepoints), "
    "or declare @task(transaction=False)"
)


class Driver:
    """psycopg: connects, and knows the session for that."""

    def __init__(self, address: Address) -> None:
        self._address = address
        #: For the connection that was made last.
        self.kind: type[PostgresSession] = PostgresSession

    def require(self) -> None:
        """SettingError where it is not installed."""
        import logging

        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise SettingError(
                f"DATABASE_URL is '{self._address.masked}', which needs psycopg, and {sys.executable} cannot import it "
                f"({error}): right would be {sys.executable} -m pip install 'psycopg[binary]>=3.2.2'"
            ) from error
        logging.getLogger("psycopg").addHandler(logging.NullHandler())

    def dial(self, connect_arguments: dict[str, Any], seconds: float | None) -> Any:
        """One try to connect, of at most *seconds* (None: until it gives up). Its own errors, or TimeoutError."""
        import psycopg

        limited = {"connect_timeout": limit(seconds), **connect_arguments}
        try:
            return on_thread(
                lambda: psycopg.connect(**limited, autocommit=True, prepare_threshold=None),
                seconds,
                lambda connection: connection.close(),
            )
        except psycopg.errors.ConnectionTimeout as error:
            raise TimeoutError(str(error)) from error


def connect(
    address: Address,
    *,
    namespace: str = "default",
    node: str = "",
    timeout: float = 60.0,
    pooler: bool = False,
    reads_only: bool = False,
    lock_timeout: float = 0.0,
    again: float | None = None,
    report: log.Report = log.say,
    failed: Callable[[str, str], None] | None = None,
    driver: Driver | None = None,
) -> PostgresSession:
    """Open the session; waits up to *timeout* seconds (0: for ever) for a server that is starting or failing over.

    *pooler* says that STARTUP_POOLER=session is set; *reads_only* that it does not matter who owns the tables;
    *lock_timeout* is STARTUP_LOCK_TIMEOUT, in seconds, and *again* what is left of it where this replaces a session
    that was there before; *failed* is told of each try that was in vain, and *report* not. Raises Unreachable when the
    server does not admit us or does not answer in time, SettingError when a pooler is in between and that is not said,
    or not true.
    """
    driver = driver or Driver(address)
    driver.require()
    connect_arguments = arguments(address, node)
    roots_named = (connect_arguments.get("sslrootcert"), os.environ.get("PGSSLROOTCERT"))

    known = again is not None  # what a session before has found out of the pooler

    def attempt(seconds: float | None) -> PostgresSession:
        connection = driver.dial(connect_arguments, seconds)
        silence = Silence(connection, TRY if seconds is None else min(TRY, seconds))
        try:
            with silence:
                return driver.kind(
                    connection, address, namespace, connect_arguments, pooler, reads_only, lock_timeout, report, known
                )
        except BaseException as error:
            connection.close()
            if silence.broken and isinstance(error, Exception):
                raise (PoolIsFull if pooler else TimeoutError)(f"no answer within {silence.seconds:.1f} s") from error
            raise

    last = again if again is not None else lock_timeout if pooler else 0.0
    with roots.known() if "system" in roots_named else nullcontext(True) as found:
        if not found:
            raise SettingError(f"DATABASE_URL is '{address.masked}' with sslrootcert=system, and {roots.MISSING}")
        return reach(attempt, lambda left: sqlstate(connect_arguments, left), address, timeout, report, last, failed)


def lock_key(name: str, kind: str = "startup-tasks") -> int:
    """An advisory lock's key, a signed 64-bit integer: advisory locks are the database's own, this is one in 2^64.

    *name* is a namespace, or, of the *kind* for migrations, the oid of the schema that yoyo's tables live in.
    """
    digest = sha256(f"{kind}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _is_lock(key: int) -> str:
    """The row of pg_locks: it shows a bigint key as two unsigned halves, objsubid 1 (PostgreSQL manual, 52.13)."""
    high, low = divmod(key & (2**64 - 1), 2**32)
    return (
        f"locktype = 'advisory' AND classid::bigint = {high} AND objid::bigint = {low} AND objsubid = 1 AND granted"
        " AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    )


#: What this session holds, which is always of its own database: pg_locks, without what a view costs each file.
_LOCKS = (
    "classid, objid, objsubid, mode FROM pg_catalog.pg_lock_status() WHERE locktype = 'advisory' AND granted"
    " AND pid = pg_catalog.pg_backend_pid()"
)


def _signed(number: int, bits: int) -> int:
    """What pg_locks shows as an unsigned *number*."""
    return number - (1 << bits) if number >> (bits - 1) else number


class PostgresSession(Session):
    """See :class:`startup.database.Session`."""

    dialect = POSTGRESQL

    def __init__(
        self,
        connection: Any,
        address: Address,
        namespace: str,
        connect_arguments: dict[str, Any],
        pooler: bool,
        reads_only: bool,
        lock_timeout: float,
        report: log.Report,
        known: bool,
    ) -> None:
        self.connection = connection
        self.address = address
        self.namespace = namespace
        self._arguments = connect_arguments
        self.lock_timeout = lock_timeout
        self._report = report
        self._held, self._why_not = False, "the lock is not held"
        key = lock_key(namespace)
        self._key = key
        self._is_lock = _is_lock(key)
        #: The migrations' lock, while it is held beside the other.
        self._second_key: int | None = None
        self._prepare()
        connection.add_notice_handler(_tell)
        #: As the server sees it: a pooler tells another.
        asked = pooler or not known
        self.backend = self._rows("SELECT pg_catalog.pg_backend_pid()")[0][0] if asked else connection.info.backend_pid
        self._pooled = connection.info.backend_pid != self.backend
        if not known:
            self._refuse_pooler(pooler)
        self._settings = self._set(session_settings(connection.info.server_version, connect_arguments, address.schema))
        #: Whatever this role's own limits are, to the end of a transaction.
        self._unlimited = "; ".join(f"SET LOCAL {name} = 0" for name in _LIMITS if f"'{name}'" in self._settings)
        parameters = connection.info.get_parameters()
        decided = address.schema
        if decided is None and decided_by(parameters):
            decided = first_named(self._rows("SELECT pg_catalog.current_setting('search_path')")[0][0])
        self.homes = Homes(decided, namespace, reads_only)
        self._dead_peer = dead_peer_seconds(connection.info.host, parameters)

    def _prepare(self) -> None:
        """What is set on the connection itself."""
        from psycopg import IsolationLevel

        self.connection.isolation_level = IsolationLevel.READ_COMMITTED

    def _second(self) -> Any:
        """One more connection, for a moment; its limit, ASIDE seconds, does not count the lookup of a name."""
        import psycopg

        second = {"connect_timeout": int(ASIDE), **self._arguments}
        return psycopg.connect(**second, autocommit=True, prepare_threshold=None)

    # What the session is

    def _refuse_pooler(self, allowed: bool) -> None:
        """A pooler shows a backend pid of its own making; one that shares sessions gives ours to a second client."""
        if self.connection.info.backend_pid == self.backend:
            return
        where = f"DATABASE_URL is '{self.address.masked}', which leads to a pooler (PgBouncer or the like)"
        right = "right would be STARTUP_DATABASE_URL with the server's own address"
        if not allowed:
            raise SettingError(
                f"{where}: the lock needs a server session of its own; {right}, "
                "or STARTUP_POOLER=session if the pooler keeps one server session per client (pool_mode=session)"
            )
        shared = False
        with suppress(Exception):  # there may be no second connection at all
            shared = self._is_shared()
        if shared:
            raise SettingError(
                f"STARTUP_POOLER is 'session', but {where} that gives one server session to several clients: {right}, "
                "or pool_mode=session in the pooler"
            )

    def _is_shared(self) -> bool:
        """Does a second client get our server session, or do we get another? Often: other nodes use the pool too.

        Where the pool is full the second waits. If we are answered meanwhile, we do not wait behind it: it is ours.
        """
        pid = "SELECT pg_catalog.pg_backend_pid()"
        connected, answered = threading.Event(), threading.Event()
        seen: list[Row] = []

        def ask() -> None:
            with suppress(Exception), self._second() as second:
                connected.set()
                for _ in range(POOLER_PROBES):
                    seen.extend(second.execute(pid))
                    answered.set()

        threading.Thread(target=ask, name="startup-second", daemon=True).start()
        connected.wait(ASIDE)
        answered.wait(QUEUED)
        ours = [self._rows(pid)[0] for _ in range(POOLER_PROBES)]
        return any(row != (self.backend,) for row in ours) or (self.backend,) in seen

    def _set(self, settings: dict[str, str]) -> str:
        """Apply *settings*, without those that this server refuses; the statement that does it again."""

        def statement(names: Sequence[str]) -> str:
            calls = (f"set_config('{name}', '{settings[name].replace(chr(39), chr(39) * 2)}', false)" for name in names)
            return "SELECT " + ", ".join(f"pg_catalog.{call}" for call in calls)

        def accepted(names: Sequence[str]) -> bool:
            try:
                self._rows(statement(names))
                return True
            except Exception as error:
                if not of_the_statement(error):
                    raise
                log.debug(f"the server refuses one of {', '.join(names)}: {one_line(error)}")
                return False

        names = list(settings)
        if not accepted(names):
            names = [name for name in names if accepted([name])]
        return statement(names)

    def _creation_schema(self) -> str:
        """Where tables would be made: the address's schema, or else the first of the search_path that is there."""
        homes: Homes = self.homes
        if homes.decided:
            return homes.decided
        ((schema,),) = self.execute("SELECT pg_catalog.current_schema()")
        return str(schema or "")

    def qualify(self, name: str) -> str:
        homes: Homes = self.homes
        home = homes.found.get(family_of(name))
        return ".".join(
            self.dialect.quote(part) for part in (home[0] if home else self._creation_schema(), name) if part
        )

    def ensure_home(self, name: str) -> None:
        """See :meth:`startup.database.session.Session.ensure_home`. SettingError when this role may not."""
        self._wait_for_creation()
        family = family_of(name)
        found = self.homes.found
        if not self.homes.look(self.execute, family, family.names):  # again, now that nobody else makes any
            found[family] = self._new_home(found[family][0] if family in found else self._creation_schema())
        path = self.dialect.quote(found[family][0])  # for yoyo's own statements
        self.execute("SELECT pg_catalog.set_config('search_path', %s, true)", [path])

    def _wait_for_creation(self) -> None:
        """Until the transaction's end. Any role of the database may hold an advisory lock, so it is polled and told."""
        announcer, waited = Announcer(self._report), Stopwatch(running=True)
        for _ in poll():
            if self.execute(f"SELECT pg_catalog.pg_try_advisory_xact_lock({_CREATION})")[0][0]:
                return
            rows = self.execute(activity.HOLDER.format(is_lock=_is_lock(_CREATION))) if announcer.due("") else []
            whom = activity.holder(*rows[0]).detail if rows else "another session"
            announcer.say("", f"waiting for the lock under which tables are made: {whom} holds it")
            if waited.over(self.lock_timeout):
                raise LockUnavailable(
                    f"the lock under which tables are made was not free within {self.lock_timeout:g} s "
                    f"(STARTUP_LOCK_TIMEOUT): {whom} holds it (pg_locks, locktype 'advisory')"
                )

    def _new_home(self, schema: str) -> tuple[str, int]:
        """*schema*, to make tables in; made too, where the address names it (an earlier try may be rolled back)."""
        import psycopg

        find = "SELECT oid::bigint FROM pg_catalog.pg_namespace WHERE nspname = %s"
        rows = self.execute(find, [schema])
        if not rows and schema and schema == self.address.schema:
            try:
                self.execute(f"CREATE SCHEMA {self.dialect.quote(schema)}")
            except psycopg.errors.InsufficientPrivilege as error:
                raise SettingError(
                    f"DATABASE_URL asks for the schema '{schema}', which is not there and which this role may not "
                    f"create ({one_line(error)}): right would be CREATE SCHEMA by the database's owner, "
                    "or another ?schema="
                ) from error
            rows = self.execute(find, [schema])
        if not rows:
            path = self.execute("SELECT pg_catalog.current_setting('search_path')")[0][0]
            missing = (
                f"the schema {schema} of the search_path, {path}, does not exist"
                if schema
                else f"none of {path} exists"
            )
            raise TaskFailed(f"no schema to keep tables in: {missing}: create it, or name one by ?schema=")
        return schema, rows[0][0]

    def tables(self, *names: str) -> dict[str, set[str]]:
        homes: Homes = self.homes
        return homes.look(self.execute, family_of(*names), names)

    def with_rows(self, *names: str) -> list[str]:
        """Plain tables without row security: others' code does not run. One that is being altered is not waited for."""
        with self.transaction(table_lock_timeout=ALTERED):
            queries = [
                (name, f"SELECT %s::text WHERE EXISTS (SELECT FROM ONLY {table})")
                for name, table in self.execute(_READABLE, [list(names)])
            ]
            sql, found = " UNION ALL ".join(query for _, query in queries), [name for name, _ in queries]
            return [name for (name,) in self.execute(sql, found)] if found else []

    def may_write(self, table: str) -> bool:
        rights = ("SELECT", "INSERT", "UPDATE")
        rows = self.execute(
            "SELECT pg_catalog.current_setting('transaction_read_only') = 'off'"
            + "".join(f" AND pg_catalog.has_table_privilege(%s, '{right}')" for right in rights),
            [self.qualify(table)] * len(rights),
        )
        return bool(rows[0][0])

    @property
    def read_only(self) -> str:
        ((standby, off),) = self.execute(
            "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on'"
        )
        if standby:
            return "the server is a standby, which only reads"
        return "default_transaction_read_only is on for this role or database" if off else ""

    @property
    def dead_peer_seconds(self) -> float:
        return self._dead_peer + 2 * WATCH

    # Work

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        from psycopg.rows import tuple_row

        with self.connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(sql, parameters or None)
            while cursor.nextset():
                pass
            return cursor.fetchall() if _has_rows(cursor) else []

    def _results(self, sql: str) -> list[list[Row]]:
        """The rows of each statement that has any to give, in one message."""
        from psycopg.rows import tuple_row

        found = []
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(sql, prepare=False)
            while True:
                if _has_rows(cursor):
                    found.append(cursor.fetchall())
                if not cursor.nextset():
                    return found

    def _text(self, queries: Sequence[Query]) -> str:
        """Several statements with their parameters in them, for one message."""
        from psycopg import ClientCursor

        with ClientCursor(self.connection) as cursor:
            return "; ".join(cursor.mogrify(sql, parameters) if parameters else sql for sql, parameters in queries)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement; its rows, or none. LockLost or Unreachable when the session is gone."""
        with self._alive():
            return self._rows(sql, parameters)

    def execute_all(self, statements: Sequence[Query]) -> None:
        """Run several statements that give no rows in one message; errors as of :meth:`execute`."""
        with self._alive():
            self._rows(self._text(statements))

    def execute_script(self, text: str, statements: Sequence[Statement]) -> None:
        """All of them in one message: no round trip and no savepoint for each. AtStatement for the one that fails."""
        if not statements:
            return
        import psycopg

        from startup.database.statement import AtStatement

        first, last = statements[0], statements[-1]
        with _counting()(self.connection) as cursor:
            try:
                cursor.execute(text[first.offset : last.offset + len(last.text)].encode(), prepare=False)
            except psycopg.Error as error:
                if error.diag.statement_position:
                    raise AtStatement(error, first.place(error)) from error
                if 0 < cursor.count <= len(statements):  # the result of the one that failed is the last
                    raise AtStatement(error, statements[cursor.count - 1].offset) from error
                raise

    @property
    def in_transaction(self) -> bool:
        from psycopg.pq import TransactionStatus

        return bool(self.connection.info.transaction_status != TransactionStatus.IDLE)

    @property
    def busy_with(self) -> str:
        from psycopg.pq import PipelineStatus, TransactionStatus

        if self.connection.pgconn.pipeline_status != PipelineStatus.OFF:
            return "a pipeline"
        return "a COPY or stream" if self.connection.info.transaction_status == TransactionStatus.ACTIVE else ""

    def limit_table_locks(self, seconds: float) -> None:
        """lock_timeout of the session, as of :meth:`reset` it is none."""
        self.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", [str(round(seconds * 1000))])

    @contextmanager
    def as_itself(self) -> Iterator[None]:
        """Without the role that was taken by SET ROLE; that is taken again."""
        role = self.execute("SELECT pg_catalog.current_setting('role')")[0][0]
        if role == "none":
            yield
            return
        self.execute("RESET ROLE")
        yield
        self.execute(f"SET ROLE {self.dialect.quote(role)}")

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Turn the end of the session, however it shows, into what it means for the lock."""
        try:
            yield
        except StartupError:
            raise
        except Exception as error:
            if self.connection.closed:
                raise self._gone(one_line(error)) from error
            raise

    def _gone(self, why: str) -> LockLost | Unreachable:
        if self._held:
            return self._lose(
                f"its database session is gone ({why}); what was not committed is rolled back, and another node may "
                "have taken over"
            )
        return Unreachable(f"the session with the database at {self.address.masked} is gone: {why}")

    @contextmanager
    def transaction(
        self, before_commit: Callable[[], None] | None = None, table_lock_timeout: float | None = None
    ) -> Iterator[None]:
        """See :meth:`startup.database.session.Session.transaction`; LockLost where the block let the lock go.

        In the block psycopg refuses ``commit()``, ``rollback()`` and ``with connection:``.
        """

        def commit(ours: int) -> None:
            if before_commit is not None:
                self._rows(_RESTORE + self._settings)  # what follows is not under the block's role or search_path
                before_commit()

        with self._guarded(self.connection.transaction(), lambda: self._begun(table_lock_timeout)[0], commit):
            yield

    @contextmanager
    def _guarded(
        self, transaction: AbstractContextManager[object], begin: Callable[[], int], commit: Callable[[int], None]
    ) -> Iterator[None]:
        """A block in *transaction*, whose id *begin* gives; *commit*, with that id, where block and lock are right."""
        import psycopg

        if self.in_transaction:
            raise RuntimeError("a transaction is open already")
        ours: int | None = None
        try:
            with self._alive(), transaction:
                ours = begin()
                try:
                    yield
                except psycopg.Rollback as error:
                    raise TaskFailed(_COMMITTED) from error
                except BaseException as error:
                    self._settle()
                    if isinstance(error, Exception) and not self.in_transaction:
                        _raise_ended_inside(error)
                    raise
                self._require_transaction(ours)
                commit(ours)
        except Exception as error:
            if ours is not None and self._has_committed(ours):  # and had begun another one
                _raise_ended_inside(error)
            raise

    def _begun(self, table_lock_timeout: float | None, begin: str = "", then: str = "") -> tuple[int, list[Row]]:
        """The id of the transaction that is open, or that *begin* opens, with that limit set in it; *then*'s rows."""
        import psycopg

        limit = "" if table_lock_timeout is None else f"SET LOCAL lock_timeout = {round(table_lock_timeout * 1000)}; "
        try:
            ((ours,),), *rows = self._results(f"{begin}{limit}SELECT pg_catalog.txid_current(){then}")
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise Unreachable(f"the database at {self.address.masked} cannot be written to: {error}") from error
        return int(ours), rows[0] if rows else []

    def run_script(
        self,
        text: str,
        statements: Sequence[Statement],
        table_lock_timeout: float | None,
        first: Query,
        begun: Callable[[list[Row]], None],
        last: Callable[[], Sequence[Query]],
    ) -> None:
        """See :meth:`startup.database.session.Session.run_script`: four messages, the *statements* one by themselves.

        The others: BEGIN with what is asked first; the guards, which are compared here; what is last, with COMMIT and
        what makes the session as it was.
        """
        locks: list[Row] | None = None

        def begin() -> int:
            isolated = "BEGIN ISOLATION LEVEL READ COMMITTED; "
            ours, rows = self._begun(table_lock_timeout, isolated, f"; {self._text([first])}")
            begun(rows)
            return ours

        def commit(ours: int) -> None:
            nonlocal locks
            now = self.connection.pgconn.parameter_status
            if (now(b"client_encoding"), now(b"standard_conforming_strings")) != (b"UTF8", b"on"):
                self._rows(_RESTORE + self._settings)  # or what is sent would be read in another way
            as_new = f"{self._as_new}; SELECT {_LOCKS}"
            queries = [(_RESTORE + self._unlimited, ()), *last(), ("COMMIT", ()), (as_new, ())]
            try:
                locks = self._rows(self._text(queries))
            except Exception:
                if not self._has_committed(ours):
                    raise

        with self._guarded(self._rolled_back(), begin, commit):
            self.execute_script(text, statements)
        if locks is None:  # what follows COMMIT has failed, and may do so again
            self.reset()
        else:
            with self._alive():
                self._unlock_others(locks)

    @contextmanager
    def _rolled_back(self) -> Iterator[None]:
        """After an error no transaction is open that was begun in the block, where no Python code could end it."""
        try:
            yield
        except BaseException:
            self._settle()
            with suppress(Exception):  # what failed stands
                if self.in_transaction:
                    self._rows("ROLLBACK")
            raise

    def _has_committed(self, transaction: int) -> bool:
        with suppress(Exception):  # what failed before stands
            return self._rows("SELECT pg_catalog.txid_status(%s)", [transaction]) == [("committed",)]
        return False

    def _require_transaction(self, ours: int) -> None:
        """The transaction that runs must be the one that was begun, and the lock, if it was had, still there."""
        from psycopg.pq import TransactionStatus

        status = self.connection.info.transaction_status
        if status == TransactionStatus.INERROR:
            raise TaskFailed("a statement failed and its error was swallowed: the transaction is rolled back")
        if status == TransactionStatus.IDLE:
            raise EndedInside(_COMMITTED)
        if self._all_is_ours(ours):
            return
        ours_still = self._lock_is_ours or "true"
        ((now, locked),) = self._rows(f"SELECT pg_catalog.txid_current_if_assigned(), {ours_still}")
        if now != ours:
            raise EndedInside(_COMMITTED)
        if not locked:
            raise self._let_go()

    def _all_is_ours(self, transaction: int) -> bool:
        """A short look, for which each file pays; where it is not content, the long one has the words."""
        rows = self._rows(f"SELECT pg_catalog.txid_current_if_assigned(), {_LOCKS}")
        held = {_signed(row[1] << 32 | row[2], 64) for row in rows if row[3:] == (1, "ExclusiveLock")}
        return bool(rows) and rows[0][0] == transaction and held.issuperset(self._held_keys)

    def _settle(self) -> None:
        """After an exception from outside (a signal handler's) a statement may still run: cancel it, read its end."""
        from psycopg.pq import TransactionStatus

        if self.connection.info.transaction_status == TransactionStatus.ACTIVE:
            with suppress(Exception):
                self.connection.cancel_safe(timeout=ASIDE)
                if _read_to_the_end(self.connection.pgconn):
                    return
            self.connection.close()

    def reset(self) -> None:
        """Undo what a task or migration did to the session, the lock aside.

        Not DISCARD ALL: that drops the lock. What it left of advisory locks of its own is let go one by one.
        """
        from psycopg.cursor import Cursor
        from psycopg.pq import TransactionStatus
        from psycopg.rows import tuple_row

        with self._alive():
            connection = self.connection
            self._settle()
            if connection.info.transaction_status != TransactionStatus.IDLE:
                self._rows("ROLLBACK")
            connection.autocommit = True
            self._prepare()
            connection.read_only = connection.deferrable = connection.prepare_threshold = None
            connection.row_factory, connection.cursor_factory = tuple_row, Cursor
            self._unlock_others(self._rows(f"{self._as_new}; SELECT {_LOCKS}"))

    @property
    def _as_new(self) -> str:
        """SQL that undoes what was done to the server's session, advisory locks aside; outside a transaction."""
        return f"{_DISCARD}{_RESTORE}{self._settings}"

    def _unlock_others(self, rows: list[Row]) -> None:
        """Of *rows* of _LOCKS let go what is not ours. A bigint key has objsubid 1, and a pair of integers 2."""
        while True:
            others = [row for row in rows if not (row[2] == 1 and _signed(row[0] << 32 | row[1], 64) in self._keys)]
            for first, second, kind, mode in others:
                pair = f"({_signed(first, 32)})::int, ({_signed(second, 32)})::int"
                key = f"({_signed(first << 32 | second, 64)})::bigint" if kind == 1 else pair
                shared = "_shared" if mode == "ShareLock" else ""
                self._rows(f"SELECT pg_catalog.pg_advisory_unlock{shared}({key})")
            if not others:
                return
            rows = self._rows(f"SELECT {_LOCKS}")

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """See Session."""
        self.connection.remove_notice_handler(_tell)
        try:
            yield
        finally:
            self.connection.add_notice_handler(_tell)

    def cancel(self) -> None:
        with suppress(Exception):
            self.connection.cancel_safe(timeout=ASIDE)

    def close(self) -> None:
        self._held = False
        self.connection.close()

    # The lock

    def try_lock(self) -> bool:
        """One try, never a blocking wait: a waiting statement's snapshot would block CREATE INDEX CONCURRENTLY.

        True also when it is ours already. False on a standby: a lock there binds nobody on the primary.
        """
        if self._held:
            self.require_lock()
            return True
        ((pid, self._held),) = self.execute(
            f"SELECT pg_catalog.pg_backend_pid(), CASE WHEN pg_catalog.pg_backend_pid() <> {self.backend}"
            f" OR pg_catalog.pg_is_in_recovery() THEN false ELSE pg_catalog.pg_try_advisory_lock({self._key}) END"
        )
        self._require_backend(pid)
        return self._held

    def unlock(self) -> None:
        ((released,),) = self.execute(f"SELECT pg_catalog.pg_advisory_unlock({self._key})")
        self._held = False
        if not released:
            raise self._let_go()

    def require_lock(self) -> None:
        if not self._held:
            raise LockLost(self._why_not)
        ((pid, locked),) = self.execute(f"SELECT pg_catalog.pg_backend_pid(), {self._lock_is_ours}")
        self._require_backend(pid)
        if not locked:
            raise self._let_go()

    def _require_backend(self, pid: int) -> None:
        if pid != self.backend:
            self._held = False
            raise LockLost(
                f"the database session changed under us (backend {self.backend}, then {pid}), so no lock holds: "
                "a pooler in between shares sessions; right would be STARTUP_DATABASE_URL with the server's own address"
            )

    def _let_go(self) -> LockLost:
        return self._lose(
            "something released it on this session (pg_advisory_unlock_all, DISCARD ALL); another node may have taken "
            "over"
        )

    def _lose(self, why: str) -> LockLost:
        """The lock is not ours any more; whoever asks for it later is told the same."""
        self._held = False
        self._why_not = f"the lock is lost: {why}; a restart goes on where the ledger stands"
        return LockLost(self._why_not)

    @property
    def _keys(self) -> list[int]:
        """Of the locks that this session may hold."""
        return [self._key] if self._second_key is None else [self._key, self._second_key]

    @property
    def _held_keys(self) -> list[int]:
        return self._keys if self._held else self._keys[1:]

    @property
    def _lock_is_ours(self) -> str:
        """SQL that is true while every lock that we took is still there."""
        return " AND ".join(
            f"EXISTS (SELECT FROM pg_catalog.pg_locks WHERE {_is_lock(key)} AND pid = pg_catalog.pg_backend_pid())"
            for key in self._held_keys
        )

    def _migrations_key(self) -> int:
        home = self.homes.found.get(YOYOS)
        assert home is not None, "yoyo's tables are there"
        return lock_key(str(home[1]), "startup-migrations")

    def try_lock_migrations(self) -> bool:
        """See :meth:`startup.database.session.Session.try_lock_migrations`."""
        key = self._migrations_key()
        ((pid, held),) = self.execute(
            f"SELECT pg_catalog.pg_backend_pid(), CASE WHEN pg_catalog.pg_backend_pid() <> {self.backend}"
            f" OR pg_catalog.pg_is_in_recovery() THEN false ELSE pg_catalog.pg_try_advisory_lock({key}) END"
        )
        self._require_backend(pid)
        self._second_key = key if held else None
        return bool(held)

    def unlock_migrations(self) -> None:
        """See :meth:`startup.database.session.Session.unlock_migrations`."""
        key, self._second_key = self._second_key, None
        if key is not None and not self.execute(f"SELECT pg_catalog.pg_advisory_unlock({key})")[0][0]:
            raise self._let_go()

    def holder(self, migrations: bool = False) -> Holder | None:
        """Who holds the lock, or that of the *migrations*, as far as this role may see it."""
        is_lock = _is_lock(self._migrations_key()) if migrations else self._is_lock
        rows = self.execute(activity.HOLDER.format(is_lock=is_lock))
        return activity.holder(*rows[0]) if rows else None

    def connected(self) -> set[str] | None:
        """The nodes that have a session now, this one aside, by what is kept of their names (63 bytes)."""
        return {name for (name,) in self.execute(activity.CONNECTED)}

    def crowd(self) -> Crowd:
        """A pooler does not tell how many it has to spare, so as good as none."""
        ((connected, spare),) = self.execute(activity.CROWD)
        return Crowd(connected, 0 if self._pooled else spare)

    @contextmanager
    def answered_within(self, seconds: float) -> Iterator[None]:
        """See :meth:`startup.database.session.Session.answered_within`: the socket is shut down beneath libpq."""
        with self._alive():
            silence = Silence(self.connection, seconds)
        try:
            with silence:
                yield
        except Unreachable as error:
            if silence.broken:
                raise Unreachable(
                    f"the database at {self.address.masked} has not answered for {seconds:.0f} s, though its "
                    "connection stands: it is given up"
                ) from error
            raise

    def blockers(self, pid: int | None = None) -> list[str]:
        """The sessions that this one (or process *pid*) waits for, each in words; asked on a second connection."""
        try:
            rows = self.aside(activity.BLOCKERS.format(pid=pid or self.backend))
        except Exception as error:
            log.debug(f"cannot see what blocks this session: {one_line(error)}")
            return []
        return [activity.blocker(*row) for row in rows]

    def progress(self) -> list[str]:
        """How far an index build is, and who waits for us; asked on a second connection."""
        lines = [activity.build(*row) for row in self.aside(activity.BUILDS.format(pid=self.backend))]
        for row in self.aside(activity.WAITERS.format(pid=self.backend)):
            lines += activity.waiter(*row)
        return lines

    def invalid_indexes(self) -> list[tuple[str, str]]:
        """Indexes that are INVALID and not being built, with their tables. None before PostgreSQL 12."""
        if self.connection.info.server_version < 120000:
            return []
        return [(index, table) for index, table in self.execute(activity.INVALID_INDEXES)]

    def aside(self, sql: str) -> list[Row]:
        """Ask *sql* on a short-lived connection of its own, within ASIDE seconds."""

        def ask() -> list[Row]:
            with self._second() as connection:
                connection.execute(self._settings)
                return list(connection.execute(sql))

        return on_thread(ask, ASIDE, lambda rows: None)


def _has_rows(cursor: Any) -> bool:
    """As its ``description`` tells, which is made anew for each question, column by column."""
    return bool(cursor.pgresult and cursor.pgresult.nfields)


@cache
def _counting() -> Any:
    """A cursor that knows how many results there were, that of an error included."""
    import psycopg

    class Counting(psycopg.Cursor[Row]):
        count = 0

        def _check_results(self, results: list[Any]) -> None:
            self.count = len(results)
            super()._check_results(results)

    return Counting


#: A BEGIN too many, a COMMIT or SET LOCAL without one: where it matters it is refused, in words of its own.
_OF_TRANSACTIONS = ("25001", "25P01")


def _tell(notice: Any) -> None:
    """What the server says beside its results: a WARNING as one, NOTICE and the like for STARTUP_LOG_LEVEL=debug."""
    warns = notice.severity_nonlocalized == "WARNING" and notice.sqlstate not in _OF_TRANSACTIONS
    (log.warn if warns else log.debug)(f"the database says: {notice.message_primary}")


def _read_to_the_end(pgconn: Any) -> bool:
    """What a statement still has to say, a COPY that was left open too, whose end must be asked for."""
    from psycopg.pq import ExecStatus

    for _ in range(100):
        result = pgconn.get_result()
        if result is None:
            return True
        if result.status == ExecStatus.COPY_IN:
            pgconn.put_copy_end(b"left open")
        while result.status == ExecStatus.COPY_OUT and pgconn.get_copy_data(0)[0] > 0:
            pass
    return False


def _raise_ended_inside(error: Exception) -> NoReturn:
    """For a block that ended its transaction and then failed with *error*, unless that says enough."""
    if isinstance(error, StartupError) and type(error) is not TaskFailed:  # a lost lock, or EndedInside
        raise error
    raise EndedInside(f"{_COMMITTED}; then it failed: {type(error).__name__}: {error}") from error
