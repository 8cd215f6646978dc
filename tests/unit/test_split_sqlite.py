"""SQLite's files are split where its own complete_statement() would split them, in one pass over the text."""

from __future__ import annotations

import re
import sqlite3

from hypothesis import given, settings
from hypothesis import strategies as st

from startup.database.sqlite import SQLITE

PIECES = [
    *(";", "'", '"', "`", "[", "]", "--", "\n", "/*", "*/", "\0", " ", "a", "select 1", "''", "é"),
    *("create", " temp", " trigger", " t", " begin ", " end", "explain ", "table", "query plan "),
]


def by_its_own_word(text: str) -> list[tuple[str, int]]:
    """The same, asking SQLite at each semicolon, so that a long string with many of them takes very long."""
    found = []
    start = 0
    for end in [*(one.end() for one in re.finditer(";", text)), len(text)]:
        candidate = text[start:end]
        if end < len(text) and ("\0" in candidate or not sqlite3.complete_statement(candidate)):
            continue
        blank = re.match(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*", candidate, re.DOTALL)
        first = blank.end() if blank else 0
        if first < len(candidate):
            found.append((candidate[first:], start + first))
        start = end
    return found


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_a_file_is_split_where_sqlite_says(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert [(one.text, one.offset) for one in SQLITE.split(text).statements] == by_its_own_word(text)
