"""``startup lint [--since ID]``."""

from __future__ import annotations

from types import SimpleNamespace as Arguments

from startup import log
from startup.database.connect import dialect
from startup.errors import TASK_FAILED, TaskFailed
from startup.migrations import files, squawk
from startup.migrations.files import Catalog
from startup.migrations.lint import Report
from startup.migrations.lint import lint as look
from startup.process.interrupts import Interrupts
from startup.settings import settings
from startup.settings.settings import Settings
from startup.verbs import common

#: What it ends with when something was found.
FOUND = 1
_PLACES = 5


def lint(arguments: Arguments, interrupts: Interrupts) -> int:
    """The guards' faults, and what squawk finds, in the files of STARTUP_MIGRATIONS; opens no database."""
    loaded = common.load(warn=True)
    settings.require(loaded)
    try:
        catalog = files.load(loaded.migrations, given=loaded.given("STARTUP_MIGRATIONS"))
    except TaskFailed as error:  # two files of one id
        print(log.plain(log.redact(str(error))))
        return FOUND
    if catalog.note:
        log.say(catalog.note)
    kind = _kind(loaded)
    since = files.find(arguments.since, catalog, "--since") if arguments.since else None
    report = look(catalog, since, dialect(kind), _program(kind))
    for line in [*report.unread, *report.findings, *_style(report)]:
        print(log.plain(log.redact(line)))
    _say_the_rest(catalog, report)
    return TASK_FAILED if report.unread else FOUND if report.findings else 0


def _kind(loaded: Settings) -> str:
    """The database's; PostgreSQL where no address is set."""
    given = any(loaded.given(name) for name in settings.SECRETS)
    return loaded.address.dialect if given and loaded.address else "postgresql"


def _program(kind: str) -> str | None:
    if kind != "postgresql":
        log.say("the guards alone: squawk knows PostgreSQL, and the database is SQLite")
        return None
    program = squawk.program()
    if program is None:
        log.say(f"the guards alone: squawk is not installed: {squawk.HOW}")
    return program


def _style(report: Report) -> list[str]:
    """A line a rule, with its first places."""
    return [
        f"style: {rule}: {', '.join(places[:_PLACES])}"
        + (f" and {len(places) - _PLACES} more" if len(places) > _PLACES else "")
        for rule, places in sorted(report.style.items())
    ]


def _say_the_rest(catalog: Catalog, report: Report) -> None:
    if python := [migration.id for migration in catalog.migrations if not migration.is_sql]:
        log.say(f"of Python migrations the SQL is not looked at: {', '.join(python)}")
    if report.new_elsewhere:
        log.say(
            f"findings about tables that an earlier file makes: {report.new_elsewhere}; where that file is not applied "
            "yet either, they are new to '--since ID', with the last one that is applied"
        )
    if not report.findings and not report.unread:
        log.say("nothing is found")
