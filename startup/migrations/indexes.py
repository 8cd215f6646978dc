"""CREATE and DROP INDEX CONCURRENTLY, which PostgreSQL can leave half done: an INVALID index, which is built again."""

from __future__ import annotations

import re
from collections.abc import Callable

from startup.database.session import Session
from startup.database.statement import COMMENT, Statement
from startup.records import dataclass

_NAME = r"""(?:"(?:[^"]|"")+"|[\w$]+)"""
_CREATE = re.compile(
    rf"create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?(?!on\s)(?P<index>{_NAME})\s+"
    rf"on\s+(?:only\s+)?(?P<table>{_NAME}(?:\s*\.\s*{_NAME})*)",
    re.IGNORECASE,
)
_DROP = re.compile(
    rf"drop\s+index\s+concurrently\s+(?:if\s+exists\s+)?(?P<index>{_NAME}(?:\s*\.\s*{_NAME})*)"
    r"\s*(?:restrict\s*|cascade\s*)?;?\s*$",
    re.IGNORECASE,
)
_FIND = """
    SELECT i.indexrelid::regclass::text, i.indisvalid
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_class t ON t.oid = pg_catalog.to_regclass(%s)
    WHERE c.relname = %s AND c.relnamespace = t.relnamespace
"""


@dataclass(frozen=True)
class IndexStatement:
    """CREATE or DROP INDEX CONCURRENTLY: the index as written, and the table it is made on (None for DROP)."""

    index: str
    table: str | None


def index_statement(statement: Statement) -> IndexStatement | None:
    """What a CREATE INDEX CONCURRENTLY name ON table, or a DROP INDEX CONCURRENTLY name, is about; None for others."""
    text = COMMENT.sub(" ", statement.text)
    if found := _CREATE.match(text):
        return IndexStatement(found["index"], found["table"])
    if found := _DROP.match(text):
        return IndexStatement(found["index"], None)
    return None


def run(
    session: Session, statement: Statement, execute: Callable[[], None], interrupted: bool, warn: Callable[[str], None]
) -> None:
    """*execute* the statement; one about an index not where an *interrupted* run has done it, and on no INVALID index.

    No limit for table locks may hold on the session.
    """
    index = index_statement(statement) if session.dialect.concurrent_indexes else None
    if index is None:
        execute()
    elif index.table is None:
        gone = session.execute("SELECT pg_catalog.to_regclass(%s) IS NULL", (index.index,))[0][0]
        if not (interrupted and gone):
            execute()
    elif not (_is_valid(session, index, warn) and interrupted):
        execute()
        if _is_valid(session, index, warn) is False:  # IF NOT EXISTS takes any index for one
            execute()


def _is_valid(session: Session, index: IndexStatement, warn: Callable[[str], None]) -> bool | None:
    """None where there is no such index. An INVALID one is dropped."""
    rows = session.execute(_FIND, (index.table, _plain(index.index)))
    if not rows:
        return None
    name, valid = rows[0]
    if not valid:
        warn(f"the index {name} is INVALID, left by an interrupted CREATE INDEX CONCURRENTLY: dropped, built again")
        session.execute(f"DROP INDEX CONCURRENTLY {name}")
    return bool(valid)


def warn_of_invalid(session: Session, warn: Callable[[str], None]) -> None:
    """Name what an interrupted statement has left, by whomever."""
    for index, table in session.invalid_indexes():
        warn(
            f"the index {index} on {table} is INVALID (an interrupted CREATE INDEX CONCURRENTLY or REINDEX left it): "
            f"no query uses it; DROP INDEX CONCURRENTLY {index} removes it"
        )


def _plain(name: str) -> str:
    """An identifier as the catalog has it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
