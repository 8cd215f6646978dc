"""Errors told as a compiler tells them: file and line, the line, the server's words, what is committed, what next."""

from __future__ import annotations

import re
from typing import Any

from startup.database.statement import AtStatement, line_at, line_of
from startup.errors import LockLost, StartupError, TaskFailed
from startup.migrations import yoyos
from startup.migrations.files import Migration

_HINTS = {
    "25001": "such a statement runs outside a transaction only: write '-- transactional: false' on the first line",
    "25006": "the session is read-only: is this address a standby's?",
    "25P02": "a statement before it failed, and its error was swallowed",
}


#: duplicate_table (an index, a view, a sequence too), duplicate_column, duplicate_object, duplicate_schema,
#: duplicate_function: what a file makes is there.
_THERE = ("42P07", "42701", "42710", "42P06", "42723")
_THERE_ON_SQLITE = re.compile(r"already exists|duplicate column name|there is already", re.IGNORECASE)

_SET_TRANSACTION = re.compile(r"set\s+transaction\b", re.IGNORECASE)
_ISOLATION = (
    "the transaction has begun before: for another isolation level write '-- transactional: false' on the first line, "
    "and BEGIN ISOLATION LEVEL ... and COMMIT around the statements"
)


def driver_error(error: BaseException) -> BaseException:
    """The driver's own error inside *error*."""
    return error.error if isinstance(error, AtStatement) else error


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's five characters, or SQLite's name for the error, if it is a database's at all."""
    error = driver_error(error)
    state: str | None = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    return state


def before_savepoints(error: BaseException) -> BaseException:
    """What came first, where *error* is only that yoyo's savepoints were gone with their transaction."""
    while sqlstate(error) in ("25P01", "3B001") and (earlier := driver_error(error).__context__) is not None:
        error = earlier
    return error


def reason(error: BaseException, limit: float) -> str:
    """Why it was the wrong moment, in words; *limit* is STARTUP_TABLE_LOCK_TIMEOUT in seconds."""
    state = sqlstate(error)
    if state == "55P03" and limit:  # lock_not_available
        return f"a table was not free within {limit:g} s (STARTUP_TABLE_LOCK_TIMEOUT)"
    return _message(driver_error(error))


def _sqlite(error: BaseException) -> str:
    error = driver_error(error)
    return str(error) if type(error).__module__ == "sqlite3" else ""


def session_is_gone(connection: Any) -> bool:
    """Has the server ended the session, or the network?"""
    return bool(getattr(connection, "closed", False))


def told(error: BaseException, path: str, text: str, committed: str, following: str, adopt: str = "") -> StartupError:
    """The StartupError for *error*, which the file at *path* with the content *text* met.

    *adopt*: up to which migration a baseline would be the way, where it is only that everything is there already.
    """
    if isinstance(error, StartupError):
        return error
    cause = driver_error(error)
    offset = error.offset if isinstance(error, AtStatement) else None
    if offset is not None and 0 <= offset <= len(text):
        where = f"{path}:{line_of(text, offset)}"
        shown = _shown(text, offset)
        hint = _ISOLATION if _SET_TRANSACTION.match(text, offset) else None
    else:
        where, shown, hint = yoyos.python_line(path, cause), [], None
    more = _more(cause, hint)
    if adopt and (sqlstate(cause) in _THERE or _THERE_ON_SQLITE.search(_sqlite(cause))):
        more.append(
            "hint: if this database was made by another tool, or by hand, and has all that this file makes: startup "
            f"baseline {adopt} takes the migrations up to it for applied, without running them"
        )
    return TaskFailed("\n".join([f"{where}: {_message(cause)}", *shown, *more, committed, following]))


def lost(migration: Migration, error: BaseException) -> LockLost:
    """The session ended while *migration* ran, and the lock with it."""
    return LockLost(
        f"the database session ended during the migration {migration.id}: {_message(driver_error(error))}; "
        "the server rolls back what was not committed; a restart goes on from there"
    )


def _message(error: BaseException) -> str:
    state = sqlstate(error)
    diagnosis = getattr(error, "diag", None)
    primary = getattr(diagnosis, "message_primary", None)
    if state is None:
        return yoyos.words(error)
    return f"{primary or str(error).splitlines()[0]} (SQLSTATE {state})" if primary else f"{error} ({state})"


def _shown(text: str, offset: int) -> list[str]:
    """The line, and a caret under the place, long lines cut."""
    line = line_at(text, offset)
    column = offset - (text.rfind("\n", 0, offset) + 1)
    number = str(line_of(text, offset))
    first = max(0, column - 100)
    cut = line[first : first + 160].replace("\t", " ")
    return [f"  {number} | {cut}", f"  {' ' * len(number)} | {' ' * (column - first)}^"]


def _more(error: BaseException, own_hint: str | None) -> list[str]:
    diagnosis = getattr(error, "diag", None)
    lines = []
    for name, field in (("detail", "message_detail"), ("hint", "message_hint"), ("context", "context")):
        if value := getattr(diagnosis, field, None):
            lines.append(f"{name}: {value}")
    state = sqlstate(error) or ""
    if hint := own_hint or _HINTS.get(state):
        lines.append(f"hint: {hint}")
    if "within a transaction" in _sqlite(error) and not state.startswith("SQLITE_BUSY"):
        lines.append(f"hint: {_HINTS['25001']}")
    return lines
