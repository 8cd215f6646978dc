"""Which tables and indexes a statement makes, and which it works on, as far as its first words say so."""

from __future__ import annotations

import re
from collections.abc import Callable

from startup.database.statement import COMMENT, Statement

#: A relation's name, unquoted, with its schema where one is written.
Name = tuple[str, ...]

_WORD = r"""(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)"""
_NAME = rf"(?P<name>{_WORD}(?: ?\. ?{_WORD})*)"
_NAMES = rf"(?P<name>{_WORD}(?: ?\. ?{_WORD})*(?: ?, ?{_WORD}(?: ?\. ?{_WORD})*)*)"
_TABLE = r"(?:foreign table|table|materialized view|view|sequence|index)"
_INDEX = rf"create (?:unique )?index (?:concurrently )?(?:(?P<unless>if not exists )?(?!on )(?P<index>{_WORD}) )?on "


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


_MADE = _pattern(
    r"create (?:(?:global |local )?(?:temporary |temp )|unlogged |or replace |recursive )*"
    rf"(?:foreign table|table|materialized view|view|sequence) (?P<unless>if not exists )?{_NAME}"
)
_INDEXED = _pattern(rf"{_INDEX}(?:only )?{_NAME}")
_WORKED_ON = (
    _INDEXED,
    _pattern(rf"alter {_TABLE} (?:if exists )?(?:only )?{_NAME}"),
    _pattern(rf"drop {_TABLE} (?:concurrently )?(?:if exists )?{_NAMES}"),
    _pattern(rf"truncate (?:table )?(?:only )?{_NAMES}"),
    _pattern(rf"reindex (?:\([^)]*\) ?)?(?:table|index) (?:concurrently )?{_NAME}"),
)


class Made:
    """The relations that statements have made, one after another."""

    def __init__(self) -> None:
        self._names: list[Name] = []

    def __contains__(self, name: Name) -> bool:
        """Is it one of these? A schema counts where both have one."""
        return any(one[-len(name) :] == name[-len(one) :] for one in self._names)

    def has_all(self, statement: Statement) -> bool:
        """Does *statement* work on relations of these alone?"""
        names = worked_on(statement)
        return bool(names) and all(name in self for name in names)

    def add(self, statement: Statement, is_there: Callable[[Name], bool] = lambda name: False) -> None:
        """What *statement* makes; IF NOT EXISTS makes nothing that *is_there*."""
        made, unless = _made(statement, self)
        if made and not (unless and is_there(made)):
            self._names.append(made)


def worked_on(statement: Statement) -> list[Name]:
    """The relations that *statement* makes, changes or drops; an index's is its table."""
    head = _head(statement)
    found = next((found for pattern in (_MADE, *_WORKED_ON) if (found := pattern.match(head))), None)
    return [_plain(name) for name in re.findall(rf"{_WORD}(?: ?\. ?{_WORD})*", found["name"])] if found else []


def _made(statement: Statement, here: Made) -> tuple[Name | None, bool]:
    """The relation that *statement* makes, if not IF NOT EXISTS; an index, where its table is *here* too."""
    head = _head(statement)
    if found := _MADE.match(head):
        return _plain(found["name"]), bool(found["unless"])
    found = _INDEXED.match(head)
    if found and found["index"] and _plain(found["name"]) in here:
        return _plain(found["index"]), bool(found["unless"])
    return None, False


def _head(statement: Statement) -> str:
    return " ".join(COMMENT.sub(" ", statement.text[:2000]).split())


def _plain(name: str) -> Name:
    """An identifier as the catalog has it."""
    return tuple(
        part[1:-1].replace('""', '"') if part.startswith('"') else part.lower() for part in re.findall(_WORD, name)
    )
