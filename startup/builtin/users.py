"""insert_users: adds the rows of a CSV or JSON file, never changes one that is there."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import IO, Any, NamedTuple

from startup import log
from startup.builtin.builtin import Builtin
from startup.builtin.table import Table
from startup.database.session import Session
from startup.errors import SettingError, TaskFailed
from startup.records import dataclass

#: What goes to the database at once: so many rows, and characters.
ROWS, CHARACTERS = 5_000, 1 << 20
#: Seconds between two lines on how far it is.
PROGRESS = 10.0


class InsertUsers(Builtin):
    """The rows of STARTUP_USERS, for STARTUP_USERS_TABLE."""

    kind = "users"

    def prepare(self, asked_for: bool) -> str:
        """Read the file to its end, and keep none of it."""
        path = self.settings.users
        if not os.path.exists(path) and not asked_for and not self.settings.given("STARTUP_USERS"):
            return f"insert_users has nothing to do: there is no {path}"
        self._users = read(path)
        self.definition, self.files = self.settings.users_table, (path,)
        return ""

    def run(self, session: Session, seconds_left: Callable[[], float] | None, warn: Callable[[str], None]) -> str:
        """Insert what is not there yet."""
        return insert(session, self._users, self.settings.users_table, warn)


class Record(NamedTuple):
    """One row: its number in the file, its values in the order of the columns, and as a JSON object."""

    number: int
    values: list[Any]
    text: str


@dataclass(frozen=True)
class Users:
    """The file: columns as the table has them, and how its rows are read, anew each time."""

    path: str
    columns: list[str]
    records: Callable[[], Iterator[Record]]

    @property
    def rows(self) -> list[list[Any]]:
        """All values at once."""
        return [record.values for record in self.records()]

    @property
    def typed(self) -> bool:
        """Have its values a type of their own, as JSON's have? Else they are text."""
        return _is_json(self.path)


def read(path: str) -> Users:
    """Read *path*: CSV with a header (an empty cell is NULL), or a JSON list of objects. SettingError otherwise."""
    with _told(path):
        columns = next(_rows(path), None)
    if columns is None:
        raise SettingError(f"STARTUP_USERS is '{path}': its first line must name the columns, each once")

    def records() -> Iterator[Record]:
        with _told(path):
            for number, row in enumerate(_rows(path)):
                if number:
                    yield Record(number, *_read_row(path, number, row, names))

    names = _columns(path, columns)
    for _ in records():  # what is wrong is told before anything runs
        pass
    return Users(path, names, records)


def _is_json(path: str) -> bool:
    return path.lower().endswith(".json")


class _told:  # a context manager
    """Errors of reading *path* as what a person can correct, without a value of it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, SettingError):
            return
        if isinstance(error, FileNotFoundError):
            why = "there is no such file"
        elif isinstance(error, UnicodeDecodeError):
            why = "it is not UTF-8 text"
        elif isinstance(error, OSError):
            why = f"it cannot be read: {error.strerror}"
        elif isinstance(error, RecursionError):
            why = "it is nested too deeply"
        else:
            return
        raise SettingError(f"STARTUP_USERS is '{self._path}': {why}") from None


def _rows(path: str) -> Iterator[Any]:
    """First the columns, or the first object; then each row: a list of cells, or an object with its text."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        yield from _json_rows(path, file) if _is_json(path) else _csv_rows(path, file)


def _columns(path: str, first: Any) -> list[str]:
    if _is_json(path):
        return list(first)
    columns = [name.strip() for name in first]
    if not columns or "" in columns or len(set(columns)) != len(columns):
        raise SettingError(f"STARTUP_USERS is '{path}': its first line must name the columns, each once")
    return columns


def _read_row(path: str, number: int, row: Any, columns: list[str]) -> tuple[list[Any], str]:
    if not _is_json(path):
        values = [cell if cell != "" else None for cell in row]
        return values, json.dumps(dict(zip(columns, values, strict=True)))
    entry, text = row
    if entry.keys() != set(columns):
        raise SettingError(f"STARTUP_USERS is '{path}': entry {number} must have the columns {', '.join(columns)}")
    return [_value(entry[name]) for name in columns], text


def _value(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _csv_rows(path: str, file: IO[str]) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)
    first = file.readline()
    outside = re.sub(r'"[^"]*"', "", first)
    delimiter = next((one for one in ",;\t|" if one in outside), ",")
    reader = csv.reader(chain([first], file), strict=True, delimiter=delimiter)
    width = 0
    try:
        for cells in reader:
            width = width or len(cells)
            if not cells and width:
                continue
            if len(cells) != width:
                raise SettingError(
                    f"STARTUP_USERS is '{path}': line {reader.line_num} has {len(cells)} values, and the header "
                    f"{width} columns"
                )
            yield cells
    except csv.Error as error:
        raise SettingError(f"STARTUP_USERS is '{path}': line {reader.line_num}: {error}") from None


def _json_rows(path: str, file: IO[str]) -> Iterator[Any]:
    """Object by object, so that a long list never is in memory as a whole."""
    what = SettingError(f"STARTUP_USERS is '{path}': it must be a list of objects, one a user")
    decoder = json.JSONDecoder()
    text, line, size, begun, columns = file.read(1 << 16), 1, 1 << 16, False, False
    while True:
        gap = re.match(r"\s*,?\s*" if columns else r"\s*\[?\s*", text)
        at = gap.end() if gap else 0
        if not begun:
            begun = True
            if not re.match(r"\s*\[", text):
                try:
                    decoder.decode(text + file.read())
                except json.JSONDecodeError as error:
                    raise _malformed(path, error.lineno, "", error.msg) from None
                raise what
        elif columns and text[at : at + 1] not in ("]", "") and "," not in text[:at]:
            raise _malformed(path, line, text[:at], "Expecting ',' delimiter")
        try:
            entry, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if more := file.read(size):
                text, size = text + more, size * 2
                continue
            if text[at:].strip() == "]" and "," not in text[:at]:
                if not columns:
                    yield []
                return
            raise _malformed(path, line, text[: error.pos], error.msg) from None
        if end == len(text) and (more := file.read(size)):  # a number may go on
            text += more
            continue
        if not isinstance(entry, dict) or not entry:
            raise what
        if not columns:
            columns = True
            yield list(entry)
        yield entry, text[at:end]
        line += text.count("\n", 0, end)
        text, size = text[end:], 1 << 16


def _malformed(path: str, line: int, before: str, why: str) -> SettingError:
    return SettingError(f"STARTUP_USERS is '{path}': line {line + before.count(chr(10))}: {why}")


# ---------------------------------------------------------------------------------------------- into the table


def insert(session: Session, users: Users, table: str, warn: Callable[[str], None]) -> str:
    """Insert the rows that are not there yet; what was done, in words. TaskFailed names table and row, no value."""
    with session.quiet():
        total, added = _insert(session, users, table, warn)
    if not total:
        return "no rows"
    there = total - added
    return f"{added} of {total} rows added" + (f", {there} there already" if there else "")


def _insert(session: Session, users: Users, table: str, warn: Callable[[str], None]) -> tuple[int, int]:
    """How many rows there are, and how many were added."""
    total = added = 0
    target: Table | None = None
    told_at = time.monotonic()
    for batch in _batches(users.records()):
        target = target or Table.found(session, table, users.columns, users.typed, warn)
        added += _add(target, users.path, batch)
        total += len(batch)
        if time.monotonic() - told_at >= PROGRESS:
            told_at = time.monotonic()
            log.say(f"insert_users: {total} rows of {users.path} so far, {added} added")
    if target is not None and added:
        target.advance_sequences(warn)
    return total, added


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += len(record.text)
        if len(batch) >= ROWS or characters >= CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _add(target: Table, path: str, batch: Sequence[Record]) -> int:
    """How many were added. Of a batch that is not taken the row is found by halves."""
    try:
        return target.add([record.values for record in batch], [record.text for record in batch])
    except Exception as error:
        if len(batch) > 1:
            middle = len(batch) // 2
            return _add(target, path, batch[:middle]) + _add(target, path, batch[middle:])
        # the server's DETAIL holds the row, and a row may hold a password; so may its message
        diagnosis = getattr(error, "diag", None)
        reason = (diagnosis and diagnosis.message_primary) or str(error).partition("\n")[0]
        record = batch[0]
        values = [str(value) for value in record.values if value is not None]
        raise TaskFailed(
            f"the table {target.name} did not take row {record.number} of {path}: {log.without(reason, values)}"
        ) from None
