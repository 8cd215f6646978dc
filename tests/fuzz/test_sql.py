"""Where PostgreSQL's files are split, against the server itself: what it takes as a whole it takes piece by piece."""

from __future__ import annotations

import random

import psycopg

from startup.database.postgres.dialect import POSTGRESQL

WHOLE = (
    "SELECT 1",
    "SELECT ';', ';;'",
    "SELECT E'\\';'",
    "SELECT 'a''; b'",
    "SELECT $$;$$",
    "SELECT $a$;$$;$a$",
    'SELECT 1 AS "a;"',
    'SELECT 1 AS "a"";"',
    "SELECT U&'\\0041;'",
    "SELECT 1 AS begin_, 2 AS a$b$c, 3 AS e",
    "SELECT (1), ((2)), (';')",
    "SELECT CASE WHEN true THEN 1 END",
    "VALUES (1, 'a'), (2, ';'), (3, E'\\n')",
    "DO $x$ BEGIN NULL; END $x$",
    "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END",
    "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END",
    "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1;'",
    "CREATE OR REPLACE PROCEDURE p() LANGUAGE plpgsql AS $$BEGIN NULL; END;$$",
    "CREATE TEMPORARY TABLE IF NOT EXISTS t (begin_ int, \"end\" text DEFAULT ';')",
)
BETWEEN = (" ", "\n", "\t", "-- ; ' $$\n", "/* ; ' */", "/* /* ; */ ' */", "\r\n", "--\n", "/**/", ";", ";;")
JUNK = (
    "'",
    '"',
    "$$",
    "$a$",
    "/*",
    "*/",
    "--",
    "(",
    ")",
    "e'",
    "\\",
    "é",
    "begin",
    "end",
    "case",
    "atomic",
    "1",
    "a$",
    ";",
)


def a_file(rng: random.Random) -> str:
    parts: list[str] = []
    for _ in range(rng.randrange(1, 6)):
        statement = rng.choice(WHOLE)
        if rng.random() < 0.3:
            at = rng.randrange(len(statement) + 1)
            statement = statement[:at] + rng.choice(JUNK) + statement[at:]
        parts += [*rng.choices(BETWEEN, k=rng.randrange(3)), statement, *rng.choices(BETWEEN, k=rng.randrange(2)), ";"]
    return "".join(parts[: -1 if rng.random() < 0.3 else None])


def results(connection: psycopg.Connection, text: str) -> int:
    """How many statements the server found in *text*."""
    cursor = connection.execute(text.encode())
    count = int(cursor.statusmessage is not None)
    while cursor.nextset():
        count += 1
    return count


def test_what_the_server_takes_as_a_whole_it_takes_statement_by_statement(
    rng: random.Random, cases: int, database_url: str
) -> None:
    taken = 0
    with psycopg.connect(database_url, autocommit=True) as connection:
        for _ in range(cases):
            text = a_file(rng)
            split = POSTGRESQL.split(text)
            last = 0
            for one in split.statements:  # nothing is lost between two statements but blanks and comments
                assert text[one.offset :].startswith(one.text) and one.offset >= last, text
                last = one.offset + len(one.text)
            try:
                count = results(connection, text)
            except psycopg.Error:  # something in it is wrong: that is no matter of splitting
                continue
            taken += 1
            assert not split.faults, (text, split.faults)
            assert [results(connection, one.text) for one in split.statements] == [1] * count, text
    assert taken > cases / 10, "the test's own check: what the server refuses shows nothing"
