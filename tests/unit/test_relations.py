"""Which relations a statement makes, and which it works on."""

from __future__ import annotations

import pytest

from startup.database.postgres.dialect import POSTGRESQL
from startup.database.statement import Statement
from startup.migrations.relations import Made, worked_on


def statements(text: str) -> list[Statement]:
    return POSTGRESQL.split(text).statements


def made(text: str) -> Made:
    found = Made()
    for statement in statements(text):
        found.add(statement)
    return found


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("CREATE INDEX i ON a (x)", ["a"]),
        ("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY s.a USING gin (x)", ["s.a"]),
        ("CREATE INDEX ON a (x)", ["a"]),
        ('create index "On" on "A b" (x)', ["A b"]),
        ("CREATE /* why */ INDEX i -- here\n ON\n a (x)", ["a"]),
        ("ALTER TABLE IF EXISTS ONLY s . a ADD COLUMN b int", ["s.a"]),
        ("ALTER INDEX i RENAME TO j", ["i"]),
        ("DROP TABLE IF EXISTS a, s.b CASCADE", ["a", "s.b"]),
        ("DROP INDEX CONCURRENTLY i", ["i"]),
        ("TRUNCATE a, b CASCADE", ["a", "b"]),
        ("REINDEX (VERBOSE) TABLE CONCURRENTLY a", ["a"]),
        ("CREATE UNLOGGED TABLE IF NOT EXISTS a (x int)", ["a"]),
        ("CREATE TEMP TABLE größe AS SELECT 1", ["größe"]),
        ("UPDATE a SET x = 1", []),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", []),
    ],
)
def test_what_a_statement_works_on_is_read_from_its_first_words(sql: str, names: list[str]) -> None:
    (statement,) = statements(sql)
    assert [".".join(name) for name in worked_on(statement)] == names


@pytest.mark.parametrize(
    ("before", "then"),
    [
        ("CREATE TABLE a (x int)", "CREATE INDEX ON a (x)"),
        ("CREATE TABLE public.A (x int)", "ALTER TABLE a ADD y int"),
        ("CREATE TABLE a (x int)", "ALTER TABLE s.a ADD y int"),
        ("CREATE TABLE a (x int); CREATE INDEX i ON a (x)", "DROP INDEX i"),
        ("CREATE MATERIALIZED VIEW a AS SELECT 1 AS x", "CREATE INDEX ON a (x)"),
        ("CREATE TABLE a (x int); CREATE TABLE b (x int)", "DROP TABLE b, a"),
    ],
)
def test_what_was_made_before_is_known_again(before: str, then: str) -> None:
    assert made(before).has_all(statements(then)[0])


@pytest.mark.parametrize(
    ("before", "then"),
    [
        ("CREATE TABLE a (x int)", "CREATE INDEX ON b (x)"),
        ("CREATE TABLE s.a (x int)", "ALTER TABLE t.a ADD y int"),
        ('CREATE TABLE "A" (x int)', "ALTER TABLE a ADD y int"),
        ("CREATE TABLE a (x int); CREATE INDEX i ON b (x)", "DROP INDEX i"),
        ("CREATE TABLE a (x int)", "DROP TABLE b, a"),
        ("SELECT 'CREATE TABLE a (x int)'", "DROP TABLE a"),
    ],
)
def test_what_was_not_made_is_not_taken_for_new(before: str, then: str) -> None:
    assert not made(before).has_all(statements(then)[0])


def test_if_not_exists_makes_nothing_that_is_there() -> None:
    there = made("CREATE TABLE a (x int)")
    (statement,) = statements("CREATE TABLE IF NOT EXISTS a (x int)")
    new, again = Made(), Made()
    new.add(statement)
    again.add(statement, there.__contains__)
    assert ("a",) in new and ("a",) not in again
