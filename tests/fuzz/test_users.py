"""Users' files against real tables: each row is there as it was meant, or its place is told and none of its values."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from startup.builtin import users
from startup.database.connect import connect
from startup.errors import SettingError, TaskFailed
from startup.settings.settings import load

TEXT = "aZ9 ,;\t|\"'\\{}[]()%s$1\n\r\u2028é☃😀\ufeff"


def a_value(rng: random.Random) -> Any:
    text = "".join(rng.choices(TEXT, k=rng.randrange(1, 8)))
    return rng.choice([text, text, rng.randrange(-99, 10**12), None, True, ["x", text], {"k": text}])


def as_file(rng: random.Random, path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    if path.suffix == ".json":
        text = json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=rng.choice([None, 2]))
    else:
        stream = io.StringIO(newline="")
        delimiter = rng.choice(",;\t|")
        writer = csv.writer(stream, csv.excel, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        if "\\r" not in str(rows):  # which only the newest Python puts into quotes by itself
            writer = csv.writer(stream, delimiter=delimiter, lineterminator=rng.choice(["\n", "\r\n"]))
        writer.writerow(columns)
        writer.writerows([["" if cell is None else as_text(cell) for cell in row] for row in rows])
        text = rng.choice(["", "\ufeff"]) + stream.getvalue()
    path.write_bytes(text.encode())


def as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


def as_meant(cell: Any) -> Any:
    """What a text column holds of a structure or a boolean may be written in more than one way."""
    text = cell if cell is None else as_text(cell)
    try:
        read = json.loads(text) if text is not None else None
    except (ValueError, TypeError):
        return text
    return 1 if read is True else read if isinstance(read, list | dict) else text if text != "1" else 1


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
@pytest.mark.parametrize("ending", ["csv", "json"])
def test_every_row_is_in_the_table_as_it_is_in_the_file(
    rng: random.Random, cases: int, database_url: str, sqlite_url: str, tmp_path: Path, kind: str, ending: str
) -> None:
    settings = load({"DATABASE_URL": database_url if kind == "postgresql" else sqlite_url})
    session = connect(settings)
    columns = ["id", 'o"d%s', "c"]
    session.connection.execute('CREATE TABLE users (id integer PRIMARY KEY, "o""d%s" text, c text)')
    try:
        for _ in range(max(3, cases // 20)):
            path = tmp_path / f"users.{ending}"
            rows = [[number, a_value(rng), a_value(rng)] for number in range(rng.randrange(1, 30))]
            as_file(rng, path, columns, rows)
            with session.transaction():
                session.connection.execute("DELETE FROM users")
                users.insert(session, users.read(str(path)), "users", lambda text: None)
                found = session.connection.execute("SELECT * FROM users ORDER BY id").fetchall()
            assert [[as_meant(cell) for cell in row] for row in found] == [
                [as_meant(cell) for cell in row] for row in rows
            ]
    finally:
        session.close()


def test_a_file_that_is_damaged_anywhere_is_told_of_without_a_value(
    rng: random.Random, cases: int, tmp_path: Path
) -> None:
    for _ in range(cases):
        path = tmp_path / f"users.{rng.choice(['csv', 'json'])}"
        as_file(rng, path, ["email", "password"], [[f"a{n}@x", "Kq7Zw9x"] for n in range(rng.randrange(1, 5))])
        content = bytearray(path.read_bytes())
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(content))
            content[at : at + rng.randrange(3)] = bytes(rng.choices(b'"{}[],:;\n\\\xff\0 x', k=rng.randrange(3)))
            if not content:
                break
        path.write_bytes(content)
        said = ""
        try:
            users.read(str(path))
        except (SettingError, TaskFailed) as error:
            said = str(error)
        assert "Kq7Zw9x" not in said and "@x" not in said, said
