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


def test_json_values_are_what_their_columns_types_want(startup: Any, database_url: str, query: Any) -> None:
    query(
        database_url,
        "CREATE TABLE users (id int PRIMARY KEY, tags text[], a jsonb, b jsonb, c jsonb, d json, ok boolean, "
        "n numeric, name varchar(3), day date, more text)",
    )
    entry = '{"id": 1, "tags": ["x", "y,z"], "a": "text", "b": 1.50, "c": true, "d": {"k": [1, null]}, "ok": 1, '
    entry += '"n": 12345678901234567890.10, "name": 7, "day": "2024-02-29", "more": {"z": 1}}'
    startup.write("seeds/users.json", f"[{entry}]")
    done = startup("init", DATABASE_URL=database_url, STARTUP_USERS="seeds/users.json", **ONLY_USERS)
    assert done.returncode == 0, done.stderr
    assert query(
        database_url, "SELECT tags, a::text, b::text, c::text, d::text, ok, n::text, name, day::text FROM users"
    ) == [
        (["x", "y,z"], '"text"', "1.50", "true", '{"k": [1, null]}', True, "12345678901234567890.10", "7", "2024-02-29")
    ]


def test_cells_of_a_csv_file_are_read_as_their_columns_types_read_text(
    startup: Any, database_url: str, query: Any
) -> None:
    query(database_url, "CREATE TABLE users (id uuid PRIMARY KEY, tags text[], a jsonb, ok boolean, name varchar(3))")
    one = "5b1e1f0e-0000-4000-8000-000000000001"
    startup.write("seeds/users.csv", f'id,tags,a,ok,name\n{one},"{{x,y}}","{{""k"": 1}}",t,abc\n')
    assert startup("init", DATABASE_URL=database_url, **ONLY_USERS).returncode == 0
    assert query(database_url, "SELECT tags, a, ok, name FROM users") == [(["x", "y"], {"k": 1}, True, "abc")]
    startup.write("seeds/users.csv", "id,name\n5b1e1f0e-0000-4000-8000-000000000002,abcd\n")
    done = startup("init", DATABASE_URL=database_url, **ONLY_USERS)
    assert done.returncode == 70 and "too long" in done.stderr, "never cut in silence"


@pytest.mark.parametrize(
    "column",
    [
        "serial PRIMARY KEY",
        "int GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        "int PRIMARY KEY DEFAULT nextval('numbers')",
    ],
)
def test_a_sequence_is_left_behind_the_highest_id_that_was_written(
    startup: Any, database_url: str, query: Any, column: str
) -> None:
    query(database_url, f"CREATE SEQUENCE numbers; CREATE TABLE users (id {column}, name text)")
    startup.write("seeds/users.csv", "id,name\n7,a\n3,b\n")
    assert startup("init", DATABASE_URL=database_url, **ONLY_USERS).returncode == 0
    query(database_url, "INSERT INTO users (name) VALUES ('the app')")
    assert query(database_url, "SELECT id FROM users WHERE name = 'the app'") == [(8,)]
    query(database_url, "SELECT setval(pg_get_serial_sequence('users', 'id'), 50), setval('numbers', 50)")
    startup.write("seeds/users.csv", "id,name\n9,c\n")
    assert startup("init", DATABASE_URL=database_url, **ONLY_USERS).returncode == 0
    query(database_url, "INSERT INTO users (name) VALUES ('later')")
    assert query(database_url, "SELECT id FROM users WHERE name = 'later'") == [(51,)], "never backwards"


@BOTH
@pytest.mark.parametrize(
    ("definition", "warned"),
    [
        ("id integer PRIMARY KEY, email text", True),
        ("email text", True),
        ("email text UNIQUE", False),
        ("email text, name text, UNIQUE (email, name)", True),
    ],
)
def test_a_table_that_tells_no_rows_apart_is_said_before_they_are_added(
    startup: Any, urls: dict[str, str], query: Any, kind: str, definition: str, warned: bool
) -> None:
    query(urls[kind], f"CREATE TABLE users ({definition})")
    startup.write("seeds/users.csv", "email\na@x\n")
    done = startup("init", DATABASE_URL=urls[kind], **ONLY_USERS)
    assert ("has no unique constraint over columns of the file (email)" in done.stderr) == warned, done.stderr
    assert done.returncode in (0, 70)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["users.csv", "users.CSV", "users"])
def test_a_spreadsheets_delimiter_is_seen_in_the_header(tmp_path: Path, delimiter: str, name: str) -> None:
    content = f'email{delimiter}"na,me"{delimiter}c\r\na@x{delimiter}"x;y,z"{delimiter}\r\n'
    found = users.read(write(tmp_path, content, name))
    assert (found.columns, found.rows) == (["email", "na,me", "c"], [["a@x", "x;y,z", None]])


def test_a_cell_may_be_long_an_ending_in_capitals_and_a_list_deep(tmp_path: Path) -> None:
    assert users.read(write(tmp_path, f"a\n{'x' * 200_000}\n")).rows == [["x" * 200_000]]
    assert users.read(write(tmp_path, '[{"a": 1}]', "USERS.JSON")).rows == [[1]]
    long = ", ".join(f'{{"a": "{n}{"x" * 3000}"}}' for n in range(200))
    assert [row[0].rstrip("x") for row in users.read(write(tmp_path, f"[{long}]", "long.json")).rows] == [
        str(n) for n in range(200)
    ]
    with pytest.raises(SettingError, match="nested too deeply"):
        users.read(write(tmp_path, '[{"a": ' + "[" * 100_000 + "]" * 100_000 + "}]", "deep.json"))


@BOTH
def test_the_row_that_is_not_taken_is_found_in_a_long_file_and_nothing_is_added(
    startup: Any, urls: dict[str, str], query: Any, kind: str
) -> None:
    query(urls[kind], "CREATE TABLE users (id integer PRIMARY KEY, name text NOT NULL)")
    lines = [f"{number},{'' if number == 7777 else SECRET}" for number in range(1, 12_001)]
    startup.write("seeds/users.csv", "id,name\n" + "\n".join(lines) + "\n")
    done = startup("init", DATABASE_URL=urls[kind], **ONLY_USERS)
    assert done.returncode == 70 and "row 7777 of seeds/users.csv" in done.stderr and SECRET not in done.stderr
    assert query(urls[kind], "SELECT count(*) FROM users") == [(0,)]


@pytest.mark.parametrize("value", [SECRET, "Kq7'Zw9x", "a", "12", "tr\\u00fcb"])
def test_what_a_trigger_says_of_a_row_shows_no_value_of_it(
    startup: Any, database_url: str, query: Any, value: str
) -> None:
    query(
        database_url,
        "CREATE TABLE users (email text PRIMARY KEY, password text); CREATE FUNCTION refuse() RETURNS trigger AS "
        "$$ BEGIN RAISE 'weak password % for %', NEW.password, quote_literal(NEW.email); END $$ LANGUAGE plpgsql; "
        "CREATE TRIGGER refuse BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    startup.write("seeds/users.csv", f"email,password\n{value}@x,{value}\n")
    done = startup("init", DATABASE_URL=database_url, STARTUP_LOG_LEVEL="debug", **ONLY_USERS)
    assert done.returncode == 70 and "weak password *** for" in done.stderr, done.stderr
    assert f"{value}@x" not in done.stderr and (len(value) < 3 or value not in done.stderr)


def test_the_users_that_are_shipped_hold_no_password() -> None:
    shipped = Path(__file__).parents[2] / "seeds/users.csv"
    assert "pass" not in shipped.read_text().lower()
