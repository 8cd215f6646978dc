"""200 malformed files for each kind of database: a clear error or it works; never a traceback, never half applied."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from startup.errors import LockLost, TaskFailed

Query = Callable[[str, str], list[Any]]
TOP = (
    "",
    "-- transactional: false\n",
    "-- transactional: true\n",
    "-- Transactional: false\n",
    "-- depends: nope\n",
    "/* x */\n",
)
PIECES = (
    *(
        "CREATE TABLE {} (x int);",
        "CREATE TABLE {} (x int)",
        "INSERT INTO t0 VALUES (1);",
        "DROP TABLE t0;",
        "SELECT 1/0;",
    ),
    *(
        "BEGIN;",
        "COMMIT;",
        "ROLLBACK;",
        "END",
        "SAVEPOINT s;",
        "ROLLBACK TO s;",
        "ABORT;",
        "START TRANSACTION;",
        "COMMIT AND CHAIN;",
    ),
    *(
        "'",
        '"',
        "$$",
        "$a$",
        "E'\\'",
        "/*",
        "*/",
        "--",
        "\\",
        "\\i x.sql",
        "\\.",
        "(",
        ")",
        ";",
        ";;",
        "\n",
        "%",
        "%s",
        ":x",
        "\0",
    ),
    *(
        "COPY t0 FROM stdin;",
        "COPY t0 TO STDOUT;",
        "VACUUM;",
        "CREATE INDEX CONCURRENTLY i ON t0 (x);",
        "REINDEX TABLE t0;",
    ),
    *(
        "-- transactional: false",
        "-- depends: m",
        "SET ROLE nope;",
        "SET search_path = '';",
        "DISCARD ALL;",
        "SELEC 1;",
        "é",
        "\r",
    ),
    *("DO $$ BEGIN CREATE TABLE {} (); COMMIT; END $$;", "SET TRANSACTION READ ONLY;", "DROP SCHEMA public CASCADE;"),
    *(
        "PREPARE TRANSACTION 'x';",
        "LISTEN x;",
        "SELECT pg_cancel_backend(pg_backend_pid());",
        "RELEASE startup_migration;",
    ),
)
#: Read well, and yet: half of the files are made of these, or nearly all would be refused for their letters alone.
STATEMENTS = st.one_of(
    st.sampled_from(PIECES[:3]),
    st.sampled_from(
        ("COMMIT;", "COMMIT;", "BEGIN;", "ROLLBACK;", "COMMIT AND CHAIN;", "START TRANSACTION;", "SAVEPOINT s;")
    ),
    st.sampled_from(("SELECT 1/0;", "VACUUM;", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;", "SELECT 1;")),
)
ANYTHING = st.one_of(st.sampled_from(PIECES), st.sampled_from(PIECES[:3]), st.text(max_size=8))
FILES = st.builds(
    lambda top, pieces: top + "\n".join(p.replace("{}", f"t{n}") for n, p in enumerate(pieces)),
    st.sampled_from(TOP),
    st.one_of(st.lists(STATEMENTS, max_size=6), st.lists(ANYTHING, max_size=7)),
)
WHATEVER = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


def applies_or_says_why(bench: Any, content: str, tables: Callable[[], set[str]]) -> None:
    (bench.directory / "m.sql").write_bytes(content.encode("utf-8", "replace"))
    failed = ""
    transactional = bench.catalog.script(bench.catalog.by_id["m"], bench.session.dialect).transactional
    try:
        bench.apply(table_lock_timeout=0.5)
    except TaskFailed as error:
        failed = str(error)
    except LockLost:  # it gives up the session's advisory locks; whatever came before it is on record
        event("gave the lock up")
        assert "DISCARD ALL" in content and not transactional
        bench.session.close()
        bench.reopen()
        assert bench.state.applied == []
        assert [record.state for record in bench.state.interrupted] == ["started"]
        return
    made = tables()
    event("applied" if not failed else "refused unread" if "nothing has been applied" in failed else "failed")
    if not failed:
        assert bench.state.applied == ["m"] and bench.state.nothing_to_do
        return
    assert "m.sql" in failed and "Traceback" not in failed, failed
    (bench.directory / "m.sql").write_text("")  # a broken dependency would stop the question too
    state = bench.state
    assert state.applied == []
    begun = [record.state for record in state.interrupted]
    # only without a transaction, and then it is on record
    assert not made or (begun == ["started"] and not transactional), failed


@WHATEVER
@given(content=FILES)
@example(content="CREATE TABLE t0 (x int);\nCOMMIT;\nSELECT 1/0;")
@example(content="-- transactional: false\nCREATE TABLE t0 (x int);\nSELEC 1;")
@example(content="-- transactional: false\nCREATE TABLE t0 (x int);\nDISCARD ALL;")
def test_any_file_works_on_postgresql_or_is_refused_as_a_whole(bench: Any, query: Query, content: str) -> None:
    def tables() -> set[str]:
        return {name for (name,) in query(bench.url, "SELECT tablename FROM pg_tables WHERE tablename ~ '^t[0-9]'")}

    query(bench.url, "DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public")
    if bench.session.connection.closed:
        bench.reopen()
    applies_or_says_why(bench, content, tables)


@WHATEVER
@given(content=FILES)
@example(content="CREATE TABLE t0 (x int);\nCOMMIT;\nSELECT 1/0;")
@example(content="-- transactional: false\nCREATE TABLE t0 (x int);\nSELEC 1;")
def test_any_file_works_on_sqlite_or_is_refused_as_a_whole(sqlite_bench: Any, query: Query, content: str) -> None:
    def tables() -> set[str]:
        return {name for (name,) in query(sqlite_bench.url, "SELECT name FROM sqlite_master WHERE name GLOB 't[0-9]*'")}

    path = sqlite_bench.url.removeprefix("sqlite:///")
    sqlite_bench.session.reset()
    if os.path.exists(path):
        os.unlink(path)
    applies_or_says_why(sqlite_bench, content, tables)
