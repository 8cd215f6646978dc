"""What an image brings: the migration files of its directories, as yoyo finds, names and sorts them.

Nothing here opens a database or imports yoyo: a boot with nothing to do pays for neither.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property

from startup.errors import SettingError, TaskFailed
from startup.records import dataclass, field
from startup.sha256 import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.database.session import Dialect
    from startup.migrations import sqltext

VARIABLE = "STARTUP_MIGRATIONS"
#: Characters of a file that is kept parsed.
SMALL = 4000


@dataclass(frozen=True)
class Migration:
    """One file. Its *id* is its name without the ending, as yoyo's is; *directory* is the one it was found in."""

    id: str
    path: str
    directory: str

    @property
    def is_sql(self) -> bool:
        """SQL, or else Python."""
        return self.path.endswith(".sql")

    @property
    def is_post_apply(self) -> bool:
        """Does it run after the migrations, and is none?"""
        return self.id.startswith("post-apply")

    @property
    def rollback_path(self) -> str:
        """Where yoyo looks for the SQL that takes this file back (for SQL files alone)."""
        return os.path.splitext(self.path)[0] + ".rollback.sql"

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the content, whatever its line ends, byte order mark and trailing white space."""
        try:
            with open(self.path, "rb", buffering=0) as file:  # there may be thousands: half of what a Path costs
                content = file.read()
        except OSError as error:
            raise TaskFailed(f"{self.path}: cannot be read: {error.strerror}") from None
        content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").rstrip()
        return sha256(content).hexdigest()

    @cached_property
    def text(self) -> str:
        """The content, with line ends as Python's text files have them. Raises TaskFailed if it is not UTF-8."""
        return read(self.path)


@dataclass(frozen=True)
class Catalog:
    """All migrations of an image in yoyo's order, dependencies aside; its post-apply files; a remark for the log."""

    migrations: Sequence[Migration] = ()
    post_apply: Sequence[Migration] = ()
    note: str | None = None
    _small: dict[tuple[str, Dialect], sqltext.Script] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _large: dict[tuple[str, Dialect], sqltext.Script] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def script(self, migration: Migration, dialect: Dialect) -> sqltext.Script:
        """The statements and directives of an SQL migration, guards aside.

        Those of small files are kept, and the last large one: each is parsed once, unless that takes too much memory.
        """
        from startup.migrations import sqltext

        parsed = self._small if len(migration.text) <= SMALL else self._large
        if (migration.path, dialect) not in parsed:
            script = sqltext.parse(migration.text, dialect, known=self.by_id)
            if parsed is self._large:
                parsed.clear()
            parsed[migration.path, dialect] = script
        return parsed[migration.path, dialect]

    @cached_property
    def by_id(self) -> dict[str, Migration]:
        """Each migration under its id."""
        return {migration.id: migration for migration in self.migrations}


def read(path: str) -> str:
    """The text of the file at *path*. Raises TaskFailed, with the line, if it is not UTF-8 or cannot be read."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise TaskFailed(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise TaskFailed(f"{path}:{number}: not UTF-8 (byte 0x{error.object[error.start]:02x}): save it so") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def load(directories: Sequence[str], *, given: bool) -> Catalog:
    """Find the migrations of *directories*: paths, glob patterns, or ``package:NAME:DIRECTORY``, as yoyo has them.

    *given* tells whether STARTUP_MIGRATIONS was set. If so, a directory that is missing or holds no migrations
    raises SettingError. The default may be missing, or be another tool's: the catalog is then empty, with a note.
    Raises TaskFailed for two files of one id.
    """
    migrations: list[Migration] = []
    post_apply: list[Migration] = []
    faults: list[str] = []
    seen: set[str] = set()
    for wanted in directories:
        found = _expand(wanted, given)
        if isinstance(found, str):
            faults.append(found)
            continue
        if (fault := _not_yoyos(wanted, found, given)) is not None:
            faults.append(fault)
            continue
        for directory, paths in found:
            if (real := os.path.realpath(directory)) in seen:
                continue
            seen.add(real)
            for path in paths:
                one = Migration(os.path.splitext(os.path.basename(path))[0], path, directory)
                (post_apply if one.is_post_apply else migrations).append(one)
    if faults and given:
        raise SettingError(*faults)
    _refuse_duplicates(migrations)
    return Catalog(migrations, post_apply, "; ".join(faults) or None)


def _not_yoyos(wanted: str, found: list[tuple[str, list[str]]], given: bool) -> str | None:
    """Why nothing of *found* can be applied: another tool's, or empty."""
    for directory, paths in found:
        if (tool := other_tool(paths, directory)) is not None:
            return f"{VARIABLE}={wanted!r}: {tool.note(directory)}" if given else tool.note(directory)
    if any(paths for _, paths in found):
        return None
    where = ", ".join(repr(directory) for directory, _ in found)
    if given:
        return f"{VARIABLE}={wanted!r}: no migrations (*.sql, *.py) in {where}: put them there, or name others"
    return f"no migrations: no *.sql or *.py in {where}"


def _expand(wanted: str, given: bool) -> list[tuple[str, list[str]]] | str:
    """The directories that *wanted* means, each with its migration files, sorted; or why there are none."""
    if package := re.fullmatch(r"package:([^\s/:]+):(.*)", wanted):
        return _in_package(wanted, *package.groups())
    found: list[tuple[str, list[str]]] = []
    for directory in _matching(wanted):
        if not os.path.isdir(directory):
            return f"{VARIABLE}={wanted!r}: {directory!r} is not a directory"
        try:
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries if _is_migration(entry.name) and entry.is_file()]
        except OSError as error:
            return f"{VARIABLE}={wanted!r}: {directory!r} cannot be read: {error.strerror}"
        found.append((directory, sorted(os.path.join(directory, name) for name in names)))
    if found:
        return found
    if not given:
        tool = next((tool for mark, tool in MARKS.items() if os.path.exists(mark)), None)
        hint = f". To run {tool.name}'s at startup set STARTUP_TASK_MIGRATE='{tool.command}'" if tool else ""
        return f"no migrations: no directory {wanted!r} here ({VARIABLE} would name another){hint}"
    return f"{VARIABLE}={wanted!r}: no such directory (the working directory is {os.getcwd()})"


def _matching(wanted: str) -> list[str]:
    """What is there of the name or pattern, sorted."""
    if not re.search(r"[*?[]", wanted):
        return [wanted] if os.path.lexists(wanted) else []
    import glob

    return sorted(glob.glob(wanted))


def _in_package(wanted: str, package: str, directory: str) -> list[tuple[str, list[str]]] | str:
    import atexit
    from contextlib import ExitStack
    from importlib import resources

    try:
        folder = resources.files(package).joinpath(directory)
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and _is_migration(entry.name))
    except ImportError as error:
        return f"{VARIABLE}={wanted!r}: the package cannot be imported: {error}"
    except OSError:
        return f"{VARIABLE}={wanted!r}: no directory {directory!r} in the package {package!r}"
    keep = ExitStack()
    atexit.register(keep.close)
    paths = [str(keep.enter_context(resources.as_file(folder.joinpath(name)))) for name in names]
    return [(wanted, paths)]


def _is_migration(name: str) -> bool:
    ending = os.path.splitext(name)[1]
    return ending in (".py", ".sql") and not name.endswith(".rollback.sql") and not name.startswith("_tmp_yoyonew")


def _refuse_duplicates(migrations: Iterable[Migration]) -> None:
    first: dict[str, Migration] = {}
    for migration in migrations:
        other = first.setdefault(migration.id, migration)
        if other is not migration:
            raise TaskFailed(
                f"{migration.path} and {other.path} are both the migration {migration.id!r}: yoyo tells migrations "
                "apart by the file's name alone, without its directory and ending; rename the newer one"
            )


@dataclass(frozen=True)
class OtherTool:
    """Another migration tool, and the command that would run its migrations as a startup task."""

    name: str
    command: str

    def note(self, directory: str) -> str:
        """What to tell the person."""
        return (
            f"the directory {directory!r} holds {self.name}'s migrations, not yoyo's: they are left alone. "
            f"To run them at startup set STARTUP_TASK_MIGRATE='{self.command}'"
        )


ALEMBIC = OtherTool("Alembic", "alembic upgrade head")
FLASK_MIGRATE = OtherTool("Flask-Migrate", "flask db upgrade")
DJANGO = OtherTool("Django", "python manage.py migrate --noinput")
PRISMA = OtherTool("Prisma", "npx prisma migrate deploy")
DBMATE = OtherTool("dbmate", "dbmate --migrations-dir migrations up")
GOOSE = OtherTool("goose", "goose -dir migrations up")
SQL_MIGRATE = OtherTool("sql-migrate", "sql-migrate up")
UP_DOWN = OtherTool("golang-migrate or sqlx", 'migrate -path migrations -database "$DATABASE_URL" up')
#: By what lies in the working directory of a project that has its migrations elsewhere.
MARKS = {
    "manage.py": DJANGO,
    "alembic.ini": ALEMBIC,
    "prisma/schema.prisma": PRISMA,
    "prisma/schema": PRISMA,
    "drizzle.config.ts": OtherTool("Drizzle", "npx drizzle-kit migrate"),
    "knexfile.js": OtherTool("Knex", "npx knex migrate:latest"),
    "knexfile.ts": OtherTool("Knex", "npx knex migrate:latest"),
    ".sequelizerc": OtherTool("Sequelize", "npx sequelize-cli db:migrate"),
    "bin/rails": OtherTool("Rails", "bin/rails db:migrate"),
    "artisan": OtherTool("Laravel", "php artisan migrate --force"),
    "bin/console": OtherTool("Doctrine", "php bin/console doctrine:migrations:migrate --no-interaction"),
    "mix.exs": OtherTool("Ecto", "mix ecto.migrate"),
    "flyway.toml": OtherTool("Flyway", "flyway migrate"),
    "flyway.conf": OtherTool("Flyway", "flyway migrate"),
    "liquibase.properties": OtherTool("Liquibase", "liquibase update"),
    "atlas.hcl": OtherTool("Atlas", "atlas migrate apply --env production"),
    "sqitch.plan": OtherTool("Sqitch", "sqitch deploy"),
}
_NEARLY = r"(?i)\.sql(\.txt)?$"
_WITHOUT_COLON = r"(?m)[^\S\n]*--[^\S\n]*depends[^\S\n]+([^\n:]+)$"


def overlooked(catalog: Catalog) -> list[str]:
    """Warnings: files that are nearly migrations."""
    found = []
    for directory in dict.fromkeys(migration.directory for migration in catalog.migrations):
        with suppress(OSError):
            for name in sorted(os.listdir(directory)):
                if name.endswith(".sql") and not name.startswith((".", "_")):  # one, or what takes one back
                    continue
                if re.search(_NEARLY, name) and not _is_migration(name) and not name.endswith(".rollback.sql"):
                    path = os.path.join(directory, name)
                    found.append(f"{path} is no migration, so it is left out: its name would have to end in .sql")
    return found


def without_colon(migration: Migration, catalog: Catalog) -> str:
    """A warning: a line that is nearly a directive; '' where there is none."""
    from startup.migrations import sqltext

    line = re.match(_WITHOUT_COLON, migration.text) if migration.is_sql else None
    if line is None or not sqltext.names_one(line[1], catalog.by_id):
        return ""
    return f"{migration.path}: '-- depends {line[1]}' is read as a comment: right would be -- depends: {line[1]}"


FLYWAY = OtherTool("Flyway or refinery", "flyway migrate")


def other_tool(paths: Sequence[str], directory: str) -> OtherTool | None:
    """The tool, other than yoyo, whose *directory* of migrations this is; None if it may well be yoyo's."""
    if os.path.exists(os.path.join(directory, "script.py.mako")):
        flask = os.path.exists(os.path.join(directory, "alembic.ini"))
        return FLASK_MIGRATE if flask else ALEMBIC
    if os.path.exists(os.path.join(directory, "migration_lock.toml")):
        return PRISMA
    names = [os.path.basename(path) for path in paths]
    if any(name.endswith(".up.sql") and name[:-7] + ".down.sql" in names for name in names):
        return UP_DOWN
    if names and all(re.match(r"[VUR][\d._]*__\w+\.sql$", name) for name in names):
        return FLYWAY
    for path in paths:
        if os.path.basename(path) == "__init__.py":
            continue
        head = _head(path)  # of one file: these tools mark each of theirs
        if path.endswith(".py"):
            if re.search(rb"^(down_revision\b|from alembic import)", head, re.MULTILINE):
                return ALEMBIC
            return DJANGO if b"from django.db import" in head and b"migrations.Migration" in head else None
        for mark, tool in ((b"migrate:up", DBMATE), (b"+goose up", GOOSE), (b"+migrate up", SQL_MIGRATE)):
            if re.search(rb"^\s*--\s*" + re.escape(mark), head, re.MULTILINE | re.IGNORECASE):
                return tool
        return None
    return None


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except OSError:
        return b""


def depends(migration: Migration) -> tuple[str, ...]:
    """The ids that *migration* says it needs, without running it: a Python file's ``__depends__`` is read as text.

    Raises TaskFailed when a Python file cannot be parsed, or ``__depends__`` is not written out.
    """
    if migration.is_sql:
        from startup.migrations import sqltext

        return sqltext.depends(migration.text)
    import ast

    try:
        tree = ast.parse(migration.text, migration.path)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise TaskFailed(f"{migration.path}:{line}: {getattr(error, 'msg', error)}") from None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__depends__" for target in targets):
            value = getattr(node, "value", None)
            try:
                ids = ast.literal_eval(value) if value is not None else ()
            except (ValueError, TypeError):
                if isinstance(value, ast.Call) and not value.args:  # set()
                    return ()
                raise TaskFailed(
                    f"{migration.path}:{node.lineno}: __depends__ must be written out, like {{'0001.first'}}"
                ) from None
            return (ids,) if isinstance(ids, str) else tuple(ids)
    return ()


def in_order(migrations: Sequence[Migration], catalog: Catalog) -> list[Migration]:
    """*migrations*, each after those it depends on, otherwise as they come: the order that yoyo gives them.

    Raises TaskFailed for a dependency that no file has, or a circle.
    """
    if not migrations:
        return []
    import heapq

    position = {migration.id: number for number, migration in enumerate(migrations)}
    waits_for: dict[str, set[str]] = {}
    needed_by: dict[str, list[str]] = {}
    for migration in migrations:
        needs = depends(migration)
        for need in needs:
            if need not in catalog.by_id:
                raise TaskFailed(_missing(migration, need, catalog))
        waits_for[migration.id] = {need for need in needs if need in position}
        for need in waits_for[migration.id]:
            needed_by.setdefault(need, []).append(migration.id)
    ready = [position[name] for name, needs_ids in waits_for.items() if not needs_ids]
    heapq.heapify(ready)
    ordered: list[Migration] = []
    while ready:
        migration = migrations[heapq.heappop(ready)]
        ordered.append(migration)
        for name in needed_by.get(migration.id, ()):
            waits_for[name].discard(migration.id)
            if not waits_for[name]:
                heapq.heappush(ready, position[name])
    if len(ordered) < len(migrations):
        raise TaskFailed(_circle(waits_for, catalog))
    return ordered


def _missing(migration: Migration, need: str, catalog: Catalog) -> str:
    import difflib

    near = difflib.get_close_matches(need, [name for name in catalog.by_id if name != migration.id], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{_depends_line(migration, need)}: depends on {need!r}, which no file here has{hint}"


def _circle(waits_for: dict[str, set[str]], catalog: Catalog) -> str:
    name = next(name for name, needs in waits_for.items() if needs)
    path: list[str] = []
    while name not in path:
        path.append(name)
        name = min(waits_for[name])
    circle = [*path[path.index(name) :], name]
    where = _depends_line(catalog.by_id[circle[0]], circle[1])
    return f"{where}: migrations depend on each other in a circle: {' -> '.join(circle)}"


def _depends_line(migration: Migration, need: str) -> str:
    from startup.database.statement import line_of

    offset = migration.text.find(need)
    return f"{migration.path}:{line_of(migration.text, offset)}" if offset >= 0 else migration.path


_TAKES_BACK = ("rollback", "down", "undo", "revert")


def check(migrations: Iterable[Migration], catalog: Catalog, dialect: Dialect) -> None:
    """Guards: what is wrong with *migrations* that can be told before anything is applied, all of it at once.

    Raises TaskFailed; each fault names file and line.
    """
    faults = [fault for migration in migrations for fault in faults_of(migration, catalog, dialect)]
    if faults:
        raise TaskFailed("\n".join([*faults, "nothing has been applied; correct the files and start again"]))


def faults_of(migration: Migration, catalog: Catalog, dialect: Dialect) -> list[str]:
    """The guards: what is wrong with one file, each with its place. TaskFailed if it is not UTF-8 or cannot be read."""
    from startup.database.statement import line_of

    faults = _named_by_mistake(migration, catalog)
    if migration.is_sql:
        for fault in catalog.script(migration, dialect).faults:
            faults.append(f"{migration.path}:{line_of(migration.text, fault.offset)}: {fault.message}")
    return faults


def _named_by_mistake(migration: Migration, catalog: Catalog) -> list[str]:
    name = os.path.basename(migration.path)
    if migration.id in ("__init__", "__main__", "conftest", "setup") or name.startswith("."):
        return [f"{migration.path}:1: yoyo takes this file for a migration called {migration.id!r}: move it elsewhere"]
    stem, _, last = migration.id.rpartition(".")
    if stem and (stem in catalog.by_id or f"{stem}.up" in catalog.by_id):
        import difflib

        near = difflib.get_close_matches(last.lower(), _TAKES_BACK, 1, 0.75)
        if near:
            return [
                f"{migration.path}:1: yoyo takes this file for a migration of its own; if it takes back {stem!r}, "
                f"it must be called {stem}.rollback.sql"
            ]
    return []


def find(wanted: str, catalog: Catalog, what: str) -> Migration:
    """The migration that *wanted* names: its id, its file's name or its path. SettingError with the nearest one.

    *what* asks for it, "baseline" or an option, and stands in front of the error.
    """
    for migration in catalog.migrations:
        path = migration.path
        if wanted in (migration.id, os.path.basename(path)) or os.path.normpath(wanted) == os.path.normpath(path):
            return migration
    if not catalog.migrations:
        raise SettingError(f"{what} {wanted}: {catalog.note or 'there are no migrations'}")
    if any(wanted in (one.id, os.path.basename(one.path)) for one in catalog.post_apply):
        why = "runs after the migrations and is none itself: right would be the last migration's id"
    else:
        why = f"no migration here has this id or file name; {_nearest(wanted, catalog)}"
    raise SettingError(f"{what} {wanted}: {why}")


def _nearest(wanted: str, catalog: Catalog) -> str:
    """What may have been meant: an id that begins so, as a number does, or that is written nearly so."""
    from difflib import get_close_matches

    name = os.path.basename(wanted)
    ids = [migration.id for migration in catalog.migrations]
    begin = [one for one in ids if one.startswith(name) or name.startswith(f"{one}.")]
    near = begin or get_close_matches(name, ids, 1, 0.4)
    return f"did you mean {near[0]}?" if near else f"they are {ids[0]} to {ids[-1]}"
