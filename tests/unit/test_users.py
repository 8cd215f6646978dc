"""`insert_users`: which files are read, which are refused, what is inserted, and that no value is ever printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from startup.builtin import users
from startup.errors import SettingError

SECRET = "hunter2-and-more"


def write(path: Path, content: str, name: str = "users.csv") -> str:
    (path / name).write_bytes(content.encode())
    return str(path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("users.csv", "email,name\na@example.com,A\nb@example.com,\n"),
        ("users.csv", "\ufeffemail,name\r\na@example.com,A\r\n\r\nb@example.com,\r\n"),
        ("users.csv", '"email", name\n"a@example.com","A"\nb@example.com,'),
        ("users.json", '[{"email": "a@example.com", "name": "A"}, {"name": null, "email": "b@example.com"}]'),
    ],
)
def test_csv_with_a_header_and_json_are_read_and_an_empty_cell_is_null(tmp_path: Path, name: str, content: str) -> None:
    found = users.read(write(tmp_path, content, name))
    assert found.columns == ["email", "name"]
    assert found.rows == [["a@example.com", "A"], ["b@example.com", None]]


def test_a_value_may_hold_commas_quotes_line_ends_and_every_character(tmp_path: Path) -> None:
    found = users.read(write(tmp_path, 'a,b\n"x,""y""\nz",one\u2028two\x0bthree\x85\n'))
    assert found.rows == [['x,"y"\nz', "one\u2028two\x0bthree\x85"]]


def test_json_values_keep_their_kind_and_structures_become_json(tmp_path: Path) -> None:
    found = users.read(write(tmp_path, '[{"id": 1, "admin": true, "tags": ["a"], "more": {"b": 1.5}}]', "u.json"))
    assert found.rows == [[1, True, '["a"]', '{"b": 1.5}']]


def test_a_file_without_rows_is_no_error(tmp_path: Path) -> None:
    assert users.read(write(tmp_path, "email\n")).rows == []
    assert users.read(write(tmp_path, "[]", "u.json")).rows == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("u.csv", "", ("first line", "columns")),
        ("u.csv", "email,\na,b\n", ("first line", "columns")),
        ("u.csv", "email,email\na,b\n", ("first line", "each once")),
        ("u.csv", f"email,password\na,{SECRET},x\n", ("line 2", "3 values", "2 columns")),
        ("u.csv", f"email,password\na,b\n{SECRET}\n", ("line 3", "1 value", "2 columns")),
        ("u.csv", f'email,password\na,"{SECRET}\n', ("line 2",)),
        ("u.json", f'[{{"password": "{SECRET}",}}]', ("line 1",)),
        ("u.json", f'{{"password": "{SECRET}"}}', ("list of objects",)),
        ("u.json", f'["{SECRET}"]', ("list of objects",)),
        ("u.json", f'[{{"a": 1, "b": 2}}, {{"a": "{SECRET}"}}]', ("entry 2", "a, b")),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place_and_no_value(
    tmp_path: Path, name: str, content: str, words: tuple[str, ...]
) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(SettingError) as caught:
        users.read(path)
    said = str(caught.value)
    for word in (f"STARTUP_USERS is '{path}'", *words):
        assert word in said
    assert SECRET not in said


def test_a_missing_file_a_directory_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"name\n\xe9\n")
    for path, word in (("nowhere.csv", "no such file"), ("", "cannot be read"), ("latin.csv", "UTF-8")):
        with pytest.raises(SettingError, match=word):
            users.read(str(tmp_path / path))


# ---------------------------------------------------------------------------------------------- into a real table


@pytest.fixture
def urls(database_url: str, sqlite_url: str) -> dict[str, str]:
    return {"postgresql": database_url, "sqlite": sqlite_url}


BOTH = pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
ONLY_USERS = {"STARTUP_TASKS": "insert_users"}


@BOTH
def test_rows_are_added_and_one_that_is_there_is_never_changed(
    startup: Any, urls: dict[str, str], query: Any, kind: str
) -> None:
    url = urls[kind]
    query(url, "CREATE TABLE users (email text PRIMARY KEY, name text); INSERT INTO users VALUES ('a@x', 'kept')")
    startup.write("seeds/users.csv", "email,name\na@x,changed\nb@x,added\n")
    done = startup("init", DATABASE_URL=url, **ONLY_USERS)
    assert done.returncode == 0, done.stderr
    assert query(url, "SELECT * FROM users ORDER BY email") == [("a@x", "kept"), ("b@x", "added")]
    assert "1 of 2 rows added, 1 there already" in done.stderr


@BOTH
def test_it_runs_again_when_the_file_changes_and_not_before(
    startup: Any, urls: dict[str, str], query: Any, kind: str
) -> None:
    url = urls[kind]
    query(url, "CREATE TABLE users (email text PRIMARY KEY)")
    startup.write("seeds/users.csv", "email\na@x\n")
    assert startup("init", DATABASE_URL=url, **ONLY_USERS).returncode == 0
    query(url, "DELETE FROM users")
    assert "done already" in startup("init", DATABASE_URL=url, **ONLY_USERS).stderr
    assert query(url, "SELECT * FROM users") == []
    startup.write("seeds/users.csv", "email\nb@x\n")
    assert startup("init", DATABASE_URL=url, **ONLY_USERS).returncode == 0
    assert query(url, "SELECT * FROM users") == [("b@x",)]


@BOTH
def test_the_table_may_be_named_and_odd_column_names_are_no_trouble(
    startup: Any, urls: dict[str, str], query: Any, kind: str
) -> None:
    url = urls[kind]
    schema = "main" if kind == "sqlite" else "public"
    query(url, 'CREATE TABLE people ("a%b" text, "c ""d" text)')
    startup.write("seeds/users.json", '[{"a%b": "1 %s", "c \\"d": null}]')
    settings = {"STARTUP_USERS": "seeds/users.json", "STARTUP_USERS_TABLE": f"{schema}.people"}
    done = startup("init", DATABASE_URL=url, **ONLY_USERS, **settings)
    assert done.returncode == 0, done.stderr
    assert query(url, "SELECT * FROM people") == [("1 %s", None)]


@BOTH
def test_a_row_that_the_table_does_not_take_fails_the_task_and_adds_none(
    startup: Any, urls: dict[str, str], query: Any, kind: str
) -> None:
    url = urls[kind]
    query(url, "CREATE TABLE users (email text PRIMARY KEY, password text NOT NULL)")
    startup.write("seeds/users.csv", f"email,password\na@x,{SECRET}1\n{SECRET}2,\n")
    done = startup("init", DATABASE_URL=url, STARTUP_LOG_LEVEL="debug", **ONLY_USERS)
    assert done.returncode == 70
    assert "users" in done.stderr and "row 2 of seeds/users.csv" in done.stderr and "password" in done.stderr
    assert SECRET not in done.stderr
    assert query(url, "SELECT * FROM users") == []


def test_a_value_that_the_server_quotes_in_its_error_is_not_printed(
    startup: Any, database_url: str, query: Any
) -> None:
    query(database_url, "CREATE TABLE users (email text PRIMARY KEY, password uuid)")
    startup.write("seeds/users.csv", f"email,password\na@x,{SECRET}\n")
    done = startup("init", DATABASE_URL=database_url, STARTUP_LOG_LEVEL="debug", **ONLY_USERS)
    assert done.returncode == 70 and "uuid" in done.stderr
    assert SECRET not in done.stderr
    status = startup("status", "--json", DATABASE_URL=database_url)
    assert "failed" in status.stdout and SECRET not in status.stdout + status.stderr
    assert SECRET not in str(query(database_url, "SELECT * FROM startup_ledger"))


@BOTH
def test_a_missing_table_or_column_is_70_with_its_name(
    startup: Any, urls: dict[str, str], query: Any, kind: str
) -> None:
    startup.write("seeds/users.csv", "email\na@x\n")
    done = startup("init", DATABASE_URL=urls[kind], **ONLY_USERS)
    assert done.returncode == 70 and "users" in done.stderr
    query(urls[kind], "CREATE TABLE users (mail text)")
    done = startup("init", DATABASE_URL=urls[kind], **ONLY_USERS)
    assert done.returncode == 70 and "email" in done.stderr


def test_the_users_that_are_shipped_hold_no_password() -> None:
    shipped = Path(__file__).parents[2] / "seeds/users.csv"
    assert "pass" not in shipped.read_text().lower()
