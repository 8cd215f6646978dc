"""11: reading SQL before any of it is sent, against psql, which reads what is in ``\\if false`` and sends nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.measure import Group, Verdict, interleave
from bench.things import Bench, timed

SPLIT = """
import sys
from startup.database.{module} import {dialect}
with open(sys.argv[1], encoding="utf-8") as file:
    {dialect}.split(file.read())
"""
ROW = "(1234, 'user1234@example.org', 'Miller; Anne', true, '2026-01-02 03:04:05'),\n"
STATEMENT = "INSERT INTO users (id, email, name) VALUES (1234, 'user1234@example.org', 'Miller; Anne');\n"
FUNCTION = """CREATE OR REPLACE FUNCTION f() RETURNS integer LANGUAGE plpgsql AS $body$
BEGIN -- it is one;
    RETURN 1;
END;
$body$;
"""
KINDS = {
    "rows of values": "INSERT INTO users VALUES\n" + ROW * 1000 + ROW.replace("),\n", ");\n"),
    "small statements": STATEMENT,
    "functions": FUNCTION,
}
DIALECTS = {"PostgreSQL": ("postgres.dialect", "POSTGRESQL"), "SQLite": ("sqlite", "SQLITE")}


def measure(bench: Bench) -> list[Group]:
    return [_kind(bench, kind, text) for kind, text in KINDS.items()]


def _kind(bench: Bench, kind: str, text: str) -> Group:
    directory = bench.new_directory()
    size = bench.n(10_000_000, 1_000_000)
    whole = text * (size // len(text) + 1)
    (directory / "file.sql").write_text(whole)
    (directory / "skipped.sql").write_text(f"\\if false\n{whole}\\endif\n")
    (directory / "empty.sql").write_text("")
    psql = [str(bench.server.programs / "psql"), "-X", bench.server.url("postgres"), "-f"]
    cases: dict[str, Callable[[], float]] = {}
    dialects = {name: of for name, of in DIALECTS.items() if kind != "functions" or name == "PostgreSQL"}
    for name, (module, dialect) in dialects.items():
        argv = [bench.product.python, "-I", "-c", SPLIT.format(module=module, dialect=dialect)]
        cases[f"startup-tasks, {name}"] = lambda argv=argv: _reading(argv, directory, "file.sql")  # type: ignore[misc]
    cases["psql"] = lambda: _reading(psql, directory, "skipped.sql")
    series = interleave(cases, bench.n(5), warm=False)
    speed = {name: len(whole) / 1e6 / series[f"startup-tasks, {name}"].median for name in dialects}
    found = ", ".join(f"{name} {value:.1f} MB/s" for name, value in speed.items())
    told = f"{found}; psql {len(whole) / 1e6 / series['psql'].median:.1f} MB/s"
    verdict = Verdict(f"reading SQL: {kind}", "20 MB/s", told, min(speed.values()) >= 20)
    note = f"{len(whole) / 1e6:.1f} MB, less what the process takes with an empty file."
    return Group("11", f"Reading SQL: {kind}", "s", series, "psql", [verdict], note)


def _reading(argv: list[str], directory: Path, file: str) -> float:
    return max(timed([*argv, file], {}, directory) - timed([*argv, "empty.sql"], {}, directory), 1e-4)
