"""10: rows of insert_users, against psql's ``\\copy`` into a table and INSERT ... ON CONFLICT DO NOTHING from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from bench.measure import Group, Series, Verdict, interleave
from bench.things import Bench, timed
from tests.conftest import run_query

TABLE = "CREATE TABLE users (id integer PRIMARY KEY, email text UNIQUE, name text, admin boolean, joined timestamptz)"
COPY = """CREATE TEMPORARY TABLE new (LIKE users);
\\copy new FROM users.csv CSV HEADER
INSERT INTO users SELECT * FROM new ON CONFLICT DO NOTHING;
"""
PSQL = "psql \\copy, INSERT ... SELECT"


def measure(bench: Bench) -> list[Group]:
    count = bench.n(40_000, 4_000)
    directory = bench.new_directory()
    write(directory, count)
    cases: dict[str, Callable[[], float]] = {
        f"startup-tasks {ending}, {state}": lambda ending=ending, state=state: _insert(  # type: ignore[misc]
            bench, directory, ending, state
        )
        for ending in ("CSV", "JSON")
        for state in ("all new", "all there")
    }
    cases[PSQL] = lambda: _copy(bench, directory)
    series = interleave(cases, bench.n(10), warm=False)
    ours = series["startup-tasks CSV, all new"]
    took = Verdict(
        f"{count:,} users",
        "within 2 s",
        f"{ours.median:.2f} s, {_rate(count, ours)}; psql {_rate(count, series[PSQL])}",
        ours.median <= 2,
    )
    return [Group("10", f"{count:,} users of a file", "s", series, PSQL, [took], "Whole processes.")]


def _rate(count: int, series: Series) -> str:
    return f"{count / series.median:,.0f} rows/s"


def write(directory: Path, count: int) -> None:
    """users.csv and users.json, of *count* rows."""
    columns = ("id", "email", "name", "admin", "joined")
    rows = [(n, f"user{n}@example.org", f"User {n}", n % 7 == 0, "2026-01-02T03:04:05Z") for n in range(count)]
    lines = (",".join(map(str, row)) for row in rows)
    (directory / "users.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")
    (directory / "users.json").write_text(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
    (directory / "copy.sql").write_text(COPY)


def _insert(bench: Bench, directory: Path, ending: str, state: str) -> float:
    name = bench.server.new_database()
    url = bench.server.url(name)
    run_query(url, TABLE)
    env = {"DATABASE_URL": url, "STARTUP_USERS": f"users.{ending.lower()}"}
    argv = [bench.product.python, "-I", "-m", "startup", "run", "insert_users"]
    if state == "all there":
        timed(argv, env, directory)
        run_query(url, "DELETE FROM startup_ledger")  # or there would be nothing to do
    took = timed(argv, env, directory)
    bench.server.drop_database(name)
    return took


def _copy(bench: Bench, directory: Path) -> float:
    name = bench.server.new_database()
    url = bench.server.url(name)
    run_query(url, TABLE)
    took = timed(
        [str(bench.server.programs / "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-f", "copy.sql", url], {}, directory
    )
    bench.server.drop_database(name)
    return took
