"""What is wrong, or dangerous, in migration files: the guards' faults, and what squawk finds. Needs no database."""

from __future__ import annotations

import re
from collections.abc import Sequence

from startup.database.session import Dialect
from startup.database.statement import line_of
from startup.errors import TaskFailed
from startup.migrations import files, squawk
from startup.migrations.files import Catalog, Migration
from startup.migrations.relations import Made, Name
from startup.migrations.squawk import Violation
from startup.records import dataclass, field

#: Needless here: the runner limits how long a migration waits for a table, one that failed has left nothing, and BEGIN
#: and COMMIT are the guards' affair.
LEFT_OUT = (
    "require-lock-timeout",
    "require-statement-timeout",
    "require-timeout-settings",
    "prefer-robust-stmts",
    "transaction-nesting",
)
#: Matters of style: what is chosen for a column, not what it does to the others who use the database.
_STYLE = (
    "ban-char-field",
    "identifier-too-long",
    "require-enum-value-ordering",
    "require-table-schema",
    "unused-ignore",
)
#: What fails on a new table, too.
_NEVER_RUNS = (
    "ban-concurrent-index-creation-in-transaction",
    "ban-duplicate-column-assignments",
    "ban-uncommitted-transaction",
)
_ALONE = "in a file of its own that begins with '-- transactional: false'"
_TWO_FILES = "ADD CONSTRAINT ... NOT VALID, and VALIDATE CONSTRAINT in a later file"
_BY_INDEX = "CREATE UNIQUE INDEX CONCURRENTLY in a file before, then ADD CONSTRAINT ... USING INDEX"
_LATER = "once no running version of the app uses it any more"
#: The safe way, where squawk tells none or has another runner in mind.
WAYS = {
    "require-concurrent-index-creation": f"CREATE INDEX CONCURRENTLY, {_ALONE}",
    "require-concurrent-index-deletion": f"DROP INDEX CONCURRENTLY, {_ALONE}",
    "require-concurrent-reindex": f"REINDEX ... CONCURRENTLY, {_ALONE}",
    "require-concurrent-partition-detach": f"DETACH PARTITION ... CONCURRENTLY, {_ALONE}",
    "ban-concurrent-index-creation-in-transaction": f"the same, {_ALONE}",
    "constraint-missing-not-valid": f"{_TWO_FILES}; for UNIQUE and PRIMARY KEY {_BY_INDEX}",
    "adding-foreign-key-constraint": f"the column without REFERENCES, then {_TWO_FILES}",
    "adding-not-nullable-field": "CHECK (column IS NOT NULL) NOT VALID; VALIDATE CONSTRAINT and then SET NOT NULL in a "
    "later file",
    "adding-required-field": "a constant DEFAULT; or without NOT NULL, filled in batches by a later file",
    "adding-serial-primary-key-field": _BY_INDEX,
    "disallowed-unique-constraint": _BY_INDEX,
    "changing-column-type": f"a new column that is filled in batches; the old one dropped {_LATER}",
    "renaming-column": f"a new column beside it; the old one dropped {_LATER}",
    "renaming-table": f"a view of the new name; the rename {_LATER}",
    "ban-drop-not-null": "once every running version of the app can read NULL there",
    "ban-create-domain-with-constraint": "a CHECK of the table that uses it",
    "ban-alter-domain-with-add-constraint": "a CHECK of the table that uses it",
}
#: Of all rules: squawk need not even understand such a file.
_IGNORED = re.compile(r"--[ \t]*squawk-ignore-file[ \t]*(?:--.*)?$", re.MULTILINE)
_NEXT = "next: the safe way, or '-- squawk-ignore RULE' on a line before a statement that is meant so"


@dataclass
class Report:
    """What was found. Each finding is one line, ``path:line: rule: why. Safe: the safe way``."""

    findings: list[str] = field(default_factory=list)
    #: Files, or places in them, that could not be read.
    unread: list[str] = field(default_factory=list)
    #: The places, ``path:line``, of each rule that is a matter of style.
    style: dict[str, list[str]] = field(default_factory=dict)
    #: How many findings are about tables that an earlier one of the files makes, which is taken for applied.
    new_elsewhere: int = 0

    @property
    def lines(self) -> list[str]:
        """What is wrong, matters of style aside."""
        return [*self.unread, *self.findings]

    def require_none(self) -> None:
        """Raise TaskFailed with all that is wrong, if anything is."""
        if self.lines:
            many = "one finding" if len(self.lines) == 1 else f"{len(self.lines)} findings"
            first = f"{many} in pending migrations, and STARTUP_LINT is 'fail': nothing has been applied"
            raise TaskFailed("\n".join([first, *self.lines, _NEXT]))


def lint(catalog: Catalog, since: Migration | None, dialect: Dialect, program: str | None) -> Report:
    """All migrations of *catalog*, or those after *since*, which are then taken for one run; its post-apply files.

    *program* is squawk's path, None to do without.
    """
    report = Report()
    order = _ordered(catalog, report)
    first = order.index(since) + 1 if since else 0
    look = Look(catalog, dialect, program, report, order[:first]) if program else None
    for migration in [*order[first:], *catalog.post_apply]:
        if why := _why_unreadable(migration):
            report.unread.append(why)
            continue
        faults = files.faults_of(migration, catalog, dialect)
        report.findings += [_guards(fault) for fault in faults]
        if look:
            look.at(migration, one_run=since is not None, guarded=bool(faults))
    return report


def pending(catalog: Catalog, migrations: Sequence[Migration], dialect: Dialect, program: str) -> Report:
    """*migrations*, which are to be applied in one run and have passed the guards."""
    report, one_run = Report(), {migration.id for migration in migrations}
    applied = [migration for migration in catalog.migrations if migration.id not in one_run]
    look = Look(catalog, dialect, program, report, applied)
    for migration in migrations:
        look.at(migration, one_run=True)
    return report


def _ordered(catalog: Catalog, report: Report) -> list[Migration]:
    """As they would be applied; as they are named, where that cannot be told, for which the report has the reason."""
    if any(_why_unreadable(migration) for migration in catalog.migrations):
        return list(catalog.migrations)
    try:
        return files.in_order(catalog.migrations, catalog)
    except TaskFailed as error:
        report.findings.append(_guards(str(error)))
        return list(catalog.migrations)


def _why_unreadable(migration: Migration) -> str:
    """'' for a file that can be read as text and, if it is Python, parsed."""
    try:
        text = migration.text
    except TaskFailed as error:
        return str(error)
    if migration.is_sql:
        return ""
    import ast

    try:
        ast.parse(text, migration.path)
    except (SyntaxError, ValueError) as error:
        return f"{migration.path}:{getattr(error, 'lineno', None) or 1}: {getattr(error, 'msg', error)}"
    except (RecursionError, MemoryError):
        return f"{migration.path}:1: it is nested too deeply for Python's parser"
    return ""


def _guards(fault: str) -> str:
    """A fault that begins with its place, as a finding."""
    place, _, why = fault.partition(": ")
    return f"{place}: guard: {why}"


class Look:
    """Gives files to squawk, one after another, and sorts what it says into *report*.

    *applied* are those that the database has, or is taken to have.
    """

    def __init__(
        self, catalog: Catalog, dialect: Dialect, program: str, report: Report, applied: Sequence[Migration]
    ) -> None:
        self._catalog = catalog
        self._dialect = dialect
        self._program = program
        self._report = report
        self._applied = applied
        self._there: Made | None = None
        #: By this file and, in one run, by those before; by all that were looked at.
        self._new, self._all = Made(), Made()

    def at(self, migration: Migration, one_run: bool, guarded: bool = False) -> None:
        """One file; *guarded*: the guards have said already that it cannot be read."""
        if not migration.is_sql or _IGNORED.search(migration.text):
            return
        if not one_run:
            self._new = Made()
        script = self._catalog.script(migration, self._dialect)
        said = squawk.violations(self._program, migration.path, migration.text, script.transactional)
        if said and said[0].rule == squawk.SYNTAX:
            self._report.unread += [] if guarded else [_unread(migration, said)]
            said = []
        told = [one for one in said if one.rule not in LEFT_OUT]
        ends = [*(statement.offset for statement in script.statements[1:]), len(migration.text) + 1]
        for statement, end in zip(script.statements, ends, strict=False):  # a file of comments has no statement
            self._new.add(statement, self._is_there)
            self._all.add(statement)
            new, elsewhere = self._new.has_all(statement), self._all.has_all(statement)
            while told and told[0].offset < end:
                self._sort(migration, told.pop(0), new, elsewhere)

    def _sort(self, migration: Migration, one: Violation, new: bool, elsewhere: bool) -> None:
        place = f"{migration.path}:{line_of(migration.text, one.offset)}"
        if is_style(one.rule):
            self._report.style.setdefault(one.rule, []).append(place)
        elif not new or one.rule in _NEVER_RUNS:
            self._report.findings.append(f"{place}: {one.rule}: {_words(one)}")
            self._report.new_elsewhere += elsewhere and not new

    def _is_there(self, name: Name) -> bool:
        """Does one of the applied files make it?"""
        if self._there is None:
            self._there = Made()
            for migration in self._applied:
                for statement in self._catalog.script(migration, self._dialect).statements if migration.is_sql else ():
                    self._there.add(statement)
        return name in self._there


def is_style(rule: str) -> bool:
    """Is it a matter of style, that is only named?"""
    return rule in _STYLE or (rule.startswith("prefer-") and rule != "prefer-repack")


def _unread(migration: Migration, said: Sequence[Violation]) -> str:
    more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
    return (
        f"{migration.path}:{line_of(migration.text, said[0].offset)}: {squawk.SYNTAX}: {said[0].message}{more}; if the "
        "server takes it all the same, '-- squawk-ignore-file' keeps squawk from this file"
    )


def _words(one: Violation) -> str:
    """Why, with what it would lock, and the safe way."""
    way = WAYS.get(one.rule) or one.help or (f"drop it {_LATER}" if one.rule.startswith("ban-drop-") else "")
    return f"{one.message}{f' Safe: {way}' if way else ''}"
