"""What a database remembers of migrations: yoyo's tables, as yoyo 9 makes and reads them, and one of our own.

``startup_migration`` keeps what yoyo does not: each file's checksum, how far one that runs statement by statement
has come, and who applied it in what time. It only ever gains columns, so that older and newer images share it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from startup.database.session import Query, Row, Session
from startup.database.tables import Table
from startup.errors import StartupError
from startup.migrations import files
from startup.migrations.files import Catalog, Migration
from startup.records import dataclass, field
from startup.sha256 import sha256

OURS = Table(
    "startup_migration",
    {
        "id": "varchar(255)",
        "checksum": "varchar(64)",
        "state": "varchar(16)",
        "statements_done": "integer NOT NULL DEFAULT 0",
        "applied_by": "varchar(255)",
        "duration": "double precision",
        "applied_at": "timestamp",
    },
    key="id",
)
YOYOS = "_yoyo_migration"
YOYOS_LOG, YOYOS_VERSION, YOYOS_LOCK = "_yoyo_log", "_yoyo_version", "yoyo_lock"

#: States of a row of ours: applied; begun without a transaction; being taken back without one; a post-apply file due.
DONE, STARTED, ROLLBACK, OWED = "done", "started", "rollback", "owed"


@dataclass(frozen=True)
class Record:
    """A row of ours."""

    id: str
    state: str
    checksum: str | None = None
    statements_done: int = 0
    node: str | None = None
    at: str = ""

    def __str__(self) -> str:
        return f"{self.id} ({self.state}, {self.statements_done} statements done, on {self.node}, {self.at[:19]} UTC)"


@dataclass(frozen=True)
class State:
    """An image's migrations against a database's."""

    #: The ids that the database has, in the order in which they were applied.
    applied: Sequence[str] = ()
    #: What is to be applied, in yoyo's order.
    pending: Sequence[Migration] = ()
    #: Ids that the database has and the image has not: the database is ahead of the image.
    unknown: Sequence[str] = ()
    #: Applied, and its content is another now.
    drifted: Sequence[Migration] = ()
    #: Begun without a transaction and not finished.
    interrupted: Sequence[Record] = ()
    #: Pending ones that sort before one that is applied already.
    out_of_order: Sequence[Migration] = ()
    #: Applied by stock yoyo: without a checksum so far.
    unrecorded: Sequence[Migration] = ()
    #: Post-apply files that have not run since the last migration.
    owed: Sequence[Migration] = ()
    records: Mapping[str, Record] = field(default_factory=dict)
    #: Is there a lock row of ours? Of one who is at work, or was killed.
    locked: bool = False

    @property
    def nothing_to_do(self) -> bool:
        """Is everything of the image applied, so that the lock is not needed?"""
        return not (self.pending or self.owed)

    @property
    def odd(self) -> bool:
        """Would a review say anything?"""
        return bool(self.unknown or self.out_of_order or self.interrupted or self.drifted)


def all_as_recorded(session: Session, catalog: Catalog) -> bool:
    """Are exactly *catalog*'s migrations applied, each as its file is now, and nothing else is to be told of any?

    False says nothing, :func:`pending` does. One row instead of thousands: the server's digest of what stands in it and
    in yoyo's table now, against the files' own.
    """
    there = session.tables(OURS.name, YOYOS, YOYOS_LOCK)
    if not session.dialect.digest or len(there) < 3 or "migration_id" not in there[YOYOS]:
        return False
    ours, yoyos, lock = map(session.qualify, (OURS.name, YOYOS, YOYOS_LOCK))
    recorded = f"o.state = '{DONE}' AND o.checksum IS NOT NULL AND o.applied_at >= y.applied_at_utc"
    digest = session.dialect.digest.format(line="(y.migration_id || ' ' || o.checksum)")
    try:
        ((rows, known, locked, found),) = session.execute(
            f"SELECT {session.dialect.count}, {session.dialect.count} FILTER (WHERE {recorded}),"
            f" EXISTS (SELECT FROM {lock} WHERE pid < 0), {digest}"
            f" FROM {yoyos} y FULL JOIN {ours} o ON o.id = y.migration_id"
        )
    except Exception as error:
        if isinstance(error, StartupError):
            raise
        return False  # whatever it is (a right that is missing, an old server), it is told there
    if locked or not rows == known == len(catalog.migrations):
        return False
    # As many rows as lines, so none has two; and a line ends in 64 digits, behind its last blank: it has one meaning.
    lines = sorted(f"{one.id} {one.checksum}".encode(errors="replace") for one in catalog.migrations)
    if any(b"\n" in line for line in lines):
        return False
    return bool(found == sha256(b"\n".join(lines)).hexdigest())


def pending(session: Session, catalog: Catalog) -> State:
    """Compare *catalog* with the database: two cheap queries that need no lock and no right but to read.

    Raises TaskFailed when pending files depend on one that is missing, or on each other in a circle.
    """
    marks, records, locked = _read(session)
    applied = sorted(marks, key=marks.__getitem__)
    done = set(applied)
    waiting = [migration for migration in catalog.migrations if migration.id not in done]
    interrupted = [
        record
        for record in records.values()
        if record.state == ROLLBACK or (record.state == STARTED and record.id not in done)
    ]
    here = [migration for migration in catalog.migrations if migration.id in done]
    # A mark that is newer than our row: stock yoyo has taken the migration back and applied it again since.
    checksums = {name: r.checksum for name, r in records.items() if r.checksum and r.at >= marks.get(name, r.at)}
    last = catalog.migrations.index(here[-1]) if here else -1
    late = {migration.id for migration in catalog.migrations[: last + 1]} - done
    return State(
        applied=applied,
        pending=files.in_order(waiting, catalog),
        unknown=[name for name in applied if name not in catalog.by_id],
        drifted=[m for m in here if m.id in checksums and checksums[m.id] != m.checksum],
        interrupted=interrupted,
        out_of_order=[migration for migration in waiting if migration.id in late],
        unrecorded=[migration for migration in here if migration.id not in checksums],
        owed=[m for m in catalog.post_apply if m.id in records and records[m.id].state == OWED],
        records=records,
        locked=locked,
    )


def _read(session: Session) -> tuple[dict[str, str], dict[str, Record], bool]:
    """When each applied id was marked, our rows, and whether there is a lock row of ours."""
    there = session.tables(OURS.name, YOYOS, YOYOS_LOCK)
    queries = []
    if columns := there.get(YOYOS):
        name, moment = ("migration_id", "applied_at_utc") if "migration_id" in columns else ("id", "ctime")  # yoyo 5
        queries.append(
            f"SELECT {name} AS id, NULL AS state, NULL AS checksum, 0 AS statements_done, NULL AS applied_by, "
            f"{moment} AS moment FROM {session.qualify(YOYOS)}"
        )
    if OURS.name in there:
        ours = "id, state, checksum, statements_done, applied_by, applied_at"
        queries.append(f"SELECT {ours} FROM {session.qualify(OURS.name)}")
    if YOYOS_LOCK in there:
        queries.append(f"SELECT NULL, NULL, NULL, pid, NULL, NULL FROM {session.qualify(YOYOS_LOCK)} WHERE pid < 0")
    if not queries:
        return {}, {}, False
    try:
        rows = session.execute(" UNION ALL ".join(queries))
    except Exception as error:
        if YOYOS_LOCK not in there or getattr(error, "sqlstate", None) != "42501":  # insufficient_privilege
            raise
        rows = session.execute(" UNION ALL ".join(queries[:-1])) if queries[:-1] else []  # a follower needs no lock
    marks = {row[0]: str(row[5] or "") for row in rows if row[0] and row[1] is None}
    records = {row[0]: _record(row) for row in rows if row[1] is not None}
    return marks, records, any(row[0] is None for row in rows)


def _record(row: Row) -> Record:
    name, state, checksum, statements, node, moment = row
    return Record(name, state, checksum, statements, node, str(moment or ""))


def now() -> str:
    """In UTC without a zone, as yoyo stores it in both kinds of database."""
    from datetime import datetime, timezone

    return datetime.now(timezone.utc).replace(tzinfo=None).isoformat(" ")


def _user() -> str:
    """Who runs this, by name where the system knows one (a random user id has none)."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid{os.getuid()}"


def log_row(
    node: str, operation: str, migration: Migration | None = None, user: str | None = None
) -> dict[str, str | None]:
    """A row of yoyo's log, without yoyo's DNS query for the host's full name."""
    import uuid

    return {
        "id": str(uuid.uuid1()),
        "migration_id": migration.id if migration else None,
        "migration_hash": _hash(migration) if migration else None,
        "username": (user or _user())[:255],
        "hostname": node[:255],
        "created_at_utc": now(),
        "operation": operation,
    }


class Marks:
    """Writes the rows, inside the caller's transaction, or tells the statements that do."""

    def __init__(self, session: Session, node: str) -> None:
        self.session = session
        self.node = node
        self._user = _user()
        self.ours, self.yoyos = session.qualify(OURS.name), session.qualify(YOYOS)

    def applied(self, migration: Migration, statements: int, seconds: float, owed: Iterable[Migration]) -> list[Query]:
        """yoyo's mark and our row; the post-apply files are *owed* now."""
        return [
            self._mark(migration),
            self._log(migration, "apply"),
            self._row(migration, DONE, statements, seconds),
            *(self._row(hook, OWED) for hook in owed),
        ]

    def taken(self, migration: Migration) -> list[Query]:
        """The same for one that was not run, as ``yoyo mark`` has it."""
        return [self._mark(migration), self._log(migration, "mark"), self._row(migration, DONE)]

    def ran(self, migration: Migration) -> list[Query]:
        """A post-apply file: in yoyo's log, and not due any more."""
        return [self._log(migration, "apply"), self._no_row(migration)]

    def taken_back(self, migration: Migration) -> list[Query]:
        """Neither mark nor row."""
        mark = f"DELETE FROM {self.yoyos} WHERE migration_hash = %s"
        return [(mark, (_hash(migration),)), self._log(migration, "rollback"), self._no_row(migration)]

    def put(self, migration: Migration, state: str, statements: int = 0, seconds: float | None = None) -> None:
        """Our row, new or changed."""
        self.session.execute(*self._row(migration, state, statements, seconds))

    def _mark(self, migration: Migration) -> Query:
        mark = f"INSERT INTO {self.yoyos} (migration_hash, migration_id, applied_at_utc) VALUES (%s, %s, %s)"
        return mark, (_hash(migration), migration.id, now())

    def _log(self, migration: Migration, operation: str) -> Query:
        """yoyo's own log: *operation* is ``apply``, ``rollback`` or ``mark``."""
        row = log_row(self.node, operation, migration, self._user)
        places = ", ".join(["%s"] * len(row))
        table = self.session.qualify(YOYOS_LOG)
        return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values())

    def _row(self, migration: Migration, state: str, statements: int = 0, seconds: float | None = None) -> Query:
        row = {
            "id": migration.id,
            "checksum": migration.checksum,
            "state": state,
            "statements_done": statements,
            "applied_by": self.node[:255],
            "duration": seconds,
            "applied_at": now(),
        }
        return self.session.dialect.upsert(self.ours, dict.fromkeys(row, "%s"), OURS.key), list(row.values())

    def _no_row(self, migration: Migration) -> Query:
        return f"DELETE FROM {self.ours} WHERE id = %s", (migration.id,)

    def state(self, migration: Migration) -> str | None:
        """The state of our row, if there is one."""
        rows = self.session.execute(f"SELECT state FROM {self.ours} WHERE id = %s", (migration.id,))
        return str(rows[0][0]) if rows else None

    def is_applied(self, migration: Migration) -> bool:
        """Is yoyo's mark there?"""
        return bool(self.session.execute(f"SELECT 1 FROM {self.yoyos} WHERE migration_id = %s", (migration.id,)))

    def progress(self, migration: Migration, statements: int) -> None:
        """How many statements of a file without a transaction have run."""
        self.session.execute(f"UPDATE {self.ours} SET statements_done = %s WHERE id = %s", (statements, migration.id))

    def forget(self, migration: Migration) -> None:
        """No row of ours."""
        self.session.execute(*self._no_row(migration))

    def adopt(self, migrations: Iterable[Migration]) -> None:
        """Record what stock yoyo applied, with the content that it has now."""
        rows = list(migrations)
        columns = dict.fromkeys(("id", "checksum", "state", "applied_at"), "%s")
        for some in (rows[i : i + 100] for i in range(0, len(rows), 100)):
            self.session.execute(
                self.session.dialect.upsert(self.ours, columns, OURS.key, rows=len(some)),
                [value for migration in some for value in (migration.id, migration.checksum, DONE, now())],
            )


def _hash(migration: Migration) -> str:
    """yoyo's key of a migration: the id's hash, not the content's."""
    return sha256(migration.id.encode()).hexdigest()
