"""insert_users: adds the rows of a CSV or JSON file, never changes one that is there."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from startup.database.session import Session
from startup.errors import SettingError, TaskFailed


@dataclass(frozen=True)
class Users:
    """Columns as the table has them, and the rows for them."""

    path: str
    columns: list[str]
    rows: list[list[Any]]


def read(path: str) -> Users:
    """Read *path*: CSV with a header (an empty cell is NULL), or a JSON list of objects. SettingError otherwise."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _json(path, file.read()) if path.endswith(".json") else _csv(path, file.read())
    except FileNotFoundError:
        raise SettingError(f"STARTUP_USERS is '{path}': there is no such file") from None
    except OSError as error:
        raise SettingError(f"STARTUP_USERS is '{path}': it cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingError(f"STARTUP_USERS is '{path}': it is not UTF-8 text") from None


def _csv(path: str, content: str) -> Users:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        if not columns or "" in columns or len(set(columns)) != len(columns):
            raise SettingError(f"STARTUP_USERS is '{path}': its first line must name the columns, each once")
        rows: list[list[Any]] = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                raise SettingError(
                    f"STARTUP_USERS is '{path}': line {reader.line_num} has {len(cells)} values, and the header "
                    f"{len(columns)} columns"
                )
            rows.append([cell if cell != "" else None for cell in cells])
    except csv.Error as error:
        raise SettingError(f"STARTUP_USERS is '{path}': line {reader.line_num}: {error}") from None
    return Users(path, columns, rows)


def _json(path: str, content: str) -> Users:
    try:
        objects = json.loads(content)
    except json.JSONDecodeError as error:
        raise SettingError(f"STARTUP_USERS is '{path}': line {error.lineno}: {error.msg}") from None
    if not isinstance(objects, list) or not all(isinstance(entry, dict) and entry for entry in objects):
        raise SettingError(f"STARTUP_USERS is '{path}': it must be a list of objects, one a user")
    columns = list(dict.fromkeys(name for entry in objects for name in entry))
    for number, entry in enumerate(objects, 1):
        if set(entry) != set(columns):
            raise SettingError(f"STARTUP_USERS is '{path}': entry {number} must have the columns {', '.join(columns)}")
    return Users(path, columns, [[_value(entry[name]) for name in columns] for entry in objects])


def _value(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def insert(session: Session, users: Users, table: str) -> str:
    """Insert the rows that are not there yet; what was done, in words. TaskFailed names table and row, no value."""
    if not users.rows:
        return "no rows"
    target = ".".join(map(_quote, table.split(".")))
    columns = ", ".join(map(_quote, users.columns))
    marks = ", ".join([session.dialect.placeholder] * len(users.columns))
    if session.dialect.placeholder == "%s":
        columns = columns.replace("%", "%%")
    statement = f"INSERT INTO {target} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING"
    cursor = session.connection.cursor()
    added = 0
    for number, row in enumerate(users.rows, 1):
        try:
            cursor.execute(statement, row)
        except Exception as error:
            diagnosis = getattr(error, "diag", None)
            # the server's DETAIL holds the row, and a row may hold a password; so may what it quotes in the message
            said = (diagnosis and diagnosis.message_primary) or str(error).partition("\n")[0]
            for value in row:
                said = said.replace(f'"{value}"', '"***"')
            raise TaskFailed(f"the table {table} did not take row {number} of {users.path}: {said}") from None
        added += max(cursor.rowcount, 0)
    there = len(users.rows) - added
    return f"{added} of {len(users.rows)} rows added" + (f", {there} there already" if there else "")


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
