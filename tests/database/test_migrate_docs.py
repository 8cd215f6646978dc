"""docs/migrations.md: its files work as it shows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Query = Callable[[str, str], list[Any]]
PAGE = Path(__file__).parents[2] / "docs" / "migrations.md"
BLOCK = re.compile(r"```(?:sql|python)\n(?:--|#) migrations/(\S+)\n.*?```", re.DOTALL)


def test_the_files_on_the_page_are_applied_and_taken_back(bench: Any, query: Query) -> None:
    for found in BLOCK.finditer(PAGE.read_text()):
        content = found.group().split("\n", 1)[1].removesuffix("```")
        (bench.directory / found.group(1)).write_text(content)
    (bench.directory / "0002_users_email.rollback.sql").write_text("DROP INDEX CONCURRENTLY users_email;")
    assert bench.apply() == 3
    assert query(bench.url, "SELECT email, name FROM users") == [("first@example.com", "first")]
    assert query(bench.url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'users_email'::regclass") == [(True,)]
    assert bench.yoyo("list").count("\nA ") == 3
    assert bench.rollback(3) == ["0003_names", "0002_users_email", "0001_users"]
    assert query(bench.url, "SELECT to_regclass('users')") == [(None,)]


def test_the_messages_on_the_page_are_the_ones_that_are_printed(startup: Any, database_url: str) -> None:
    startup.environ |= {"DATABASE_URL": database_url, "STARTUP_TASKS": "migrate", "STARTUP_NODE": "web-1"}
    startup.write("migrations/0001_users.sql", "SELECT 1;")
    startup.write("migrations/0002_users_email.sql", "CREATE TABLE plans (name text);")
    startup.write("migrations/0003_plans.sql", "SELECT 1;\nSELECT nmae FROM plans;")
    assert errors(startup("init").stderr, 6) in PAGE.read_text()
    startup.write("migrations/0003_plans.sql", "SELECT 1;")
    startup.write("migrations/0004_fill.sql", "-- transactional: false\nCREATE TABLE fill ();\nSELECT nope;")
    startup("init")
    said = errors(startup("init").stderr, 2)
    assert re.sub(r"at 20\d\d-[\d-]+ [\d:]+ UTC", "at 2026-01-31 03:00:00 UTC", said) in PAGE.read_text()


def errors(stderr: str, count: int) -> str:
    """The error and the lines below it, as the page shows them."""
    lines = stderr.splitlines()
    first = next(number for number, line in enumerate(lines) if ": error: " in line)
    return "\n".join("    " + line for line in lines[first : first + count])
