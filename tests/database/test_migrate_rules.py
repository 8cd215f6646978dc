"""Where an image and a database differ, and what else yoyo documents: Python files, rollbacks, post-apply, schemas."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from startup.database.postgres import session as postgres
from startup.errors import LockLost, SettingError, TaskFailed
from startup.migrations import apply, files, rollback, tables
from startup.settings import address

Query = Callable[[str, str], list[Any]]

# ---------------------------------------------------------------------------------- an image against a database


def test_changed_content_of_an_applied_file_stops_the_run_or_is_named_as_the_setting_says(
    bench: Any, query: Query
) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.apply()
    bench.write(_0001_a="CREATE TABLE a (x int, y int);", _0002_b="CREATE TABLE b (x int);")
    assert [m.id for m in bench.state.drifted] == ["0001_a"]
    said = bench.fails()
    assert "0001_a.sql" in said and "STARTUP_DRIFT=warn" in said
    assert query(bench.url, "SELECT to_regclass('b')") == [(None,)]
    assert bench.apply(drift="warn") == 1
    assert any("changed since" in line and "0001_a.sql" in line for line in bench.said)


def test_line_ends_a_byte_order_mark_and_white_space_at_the_end_are_no_change(bench: Any) -> None:
    bench.write(_0001_a="CREATE TABLE a (\n  x int);\n")
    bench.apply()
    (bench.directory / "0001_a.sql").write_bytes(b"\xef\xbb\xbfCREATE TABLE a (\r\n  x int);\r\n\r\n")
    assert bench.state.drifted == []


def test_a_file_that_stock_yoyo_took_back_and_applied_again_with_other_content_has_not_drifted(
    bench: Any, query: Query
) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);", _0001_a__rollback="DROP TABLE a;")
    bench.apply()
    bench.yoyo("rollback")
    bench.write(_0001_a="CREATE TABLE a (x int, y int);")
    bench.yoyo("apply")
    assert bench.state.drifted == [] and [m.id for m in bench.state.unrecorded] == ["0001_a"]


def test_an_older_image_names_what_the_database_has_more_and_changes_nothing(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);", _0002_b="CREATE TABLE b (x int);")
    bench.apply()
    (bench.directory / "0002_b.sql").unlink()
    everything = "SELECT (SELECT count(*) FROM _yoyo_log), (SELECT max(xmin::text::bigint) FROM startup_migration)"
    before = query(bench.url, everything)
    assert bench.state.unknown == ["0002_b"] and bench.state.nothing_to_do
    assert bench.apply() == 0
    assert any("ahead of this image" in line and "0002_b" in line for line in bench.said)
    assert query(bench.url, everything) == before


def test_a_file_that_sorts_before_applied_ones_is_applied_and_named(bench: Any) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);", _0003_c="CREATE TABLE c (x int);")
    bench.apply()
    bench.write(_0002_b="CREATE TABLE b (x int);", _0004_d="CREATE TABLE d (x int);")
    assert [m.id for m in bench.state.out_of_order] == ["0002_b"]
    assert bench.apply() == 2
    assert any("though later ones are: 0002_b" in line for line in bench.said)


def test_applied_files_may_be_broken_since_and_only_pending_ones_are_guarded(bench: Any) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.yoyo("apply")
    bench.write(_0001_a="\\connect nowhere\n", _0002_b="CREATE TABLE b (x int);")
    assert bench.apply() == 1


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        ("SELECT 1;\n\\set x 1\n", 2, "psql"),
        ("CREATE TABLE t (x int);\nCOPY t FROM stdin;\n1\n\\.\n", 2, "COPY"),
        ("SELECT 1;\n-- transactional: false\n", 2, "first line"),
        ("-- Transactional: no\nSELECT 1;", 1, "not read"),
        ("-- transactional: no\nSELECT 1;", 1, "true or false"),
        ("/* licence */\n-- depends: 0001_a\nSELECT 1;", 2, "first line"),
        ("-- depends: 0001_b\nSELECT 1;", 1, "did you mean '0001_a'"),
        ("SELECT 1;\nSELECT 'x;\n", 2, "never ends"),
        ("SELECT 1;\n\n/* and\n", 3, "never ends"),
        ("-- migrate:up\nCREATE TABLE t ();\n-- migrate:down\nDROP TABLE t;", 1, "another tool"),
        ("CREATE TABLE b (x int);\nSELECT \0;", 2, "NUL"),
    ],
)
def test_all_pending_files_are_read_before_any_is_applied(
    bench: Any, query: Query, content: str, line: int, word: str
) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);", _0002_b=content)
    said = bench.fails()
    assert f"{bench.directory}/0002_b.sql:{line}: " in said and word in said
    assert query(bench.url, "SELECT to_regclass('a'), to_regclass('_yoyo_migration')") == [(None, None)]


def test_a_statement_that_cannot_run_in_a_transaction_is_told_how_to(bench: Any) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);\nCREATE INDEX CONCURRENTLY a_x ON a (x);")
    said = bench.fails()
    assert "SQLSTATE 25001" in said and "-- transactional: false" in said


# ----------------------------------------------------------------------------------------------------- Python files

MODULE = """
from yoyo import group, step

__depends__ = {"0003_c"}

def fill(connection):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO a VALUES (%s)", (2,))

steps = [step("CREATE TABLE a (x int)", "DROP TABLE a"), step("INSERT INTO a VALUES (1)", "")]
group(steps)
step(fill, lambda connection: connection.execute("DELETE FROM a"))
step("SELECT x, '%' FROM a", "SELECT 1")
step("INSERT INTO nowhere VALUES (1)", "SELECT 1", ignore_errors="apply")
"""


def test_python_files_run_as_yoyo_documents_them_and_print_nothing_on_stdout(
    bench: Any, query: Query, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write(_0002_b_py=MODULE, _0003_c="CREATE TABLE c (x int);")
    assert bench.apply() == 2
    assert query(bench.url, "SELECT migration_id FROM _yoyo_migration ORDER BY applied_at_utc") == [
        ("0003_c",),
        ("0002_b",),
    ]
    assert query(bench.url, "SELECT x FROM a ORDER BY x") == [(1,), (2,)]
    assert capsys.readouterr().out == ""
    assert bench.rollback(1) == ["0002_b"]
    assert query(bench.url, "SELECT to_regclass('a')") == [(None,)]


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        ("from yoyo import step\n\nstep('SELECT 1'\n", 3, "was never closed"),
        ("from yoyo import step\nimport nothing_of_this_name\n", 2, "ModuleNotFoundError"),
        ("from yoyo import step\nraise SystemExit(0)\n", 2, "SystemExit"),
        ("from yoyo import step\ndef up(c):\n    raise ValueError('no plan')\nstep(up)\n", 3, "ValueError: no plan"),
        ("from yoyo import step\nimport sys\ndef up(c):\n    sys.exit(0)\nstep(up)\n", 4, "sys.exit(0)"),
        ("from yoyo import step\nstep('SELECT 1')\nstep('''SELECT 1,\n  nope''')\n", 4, "SQLSTATE 42703"),
        ("from yoyo import step\n__depends__ = ['x']\nstep('SELECT 1')\n", 2, "depends on 'x'"),
    ],
)
def test_a_python_file_that_fails_is_told_with_its_line_and_no_traceback(
    bench: Any, query: Query, capfd: pytest.CaptureFixture[str], content: str, line: int, word: str
) -> None:
    bench.write(_0002_b_py=content)
    said = bench.fails()
    assert f"{bench.directory}/0002_b.py:{line}: " in said and word in said
    assert "Traceback" not in said + capfd.readouterr().err


def test_a_python_file_that_swallows_an_error_of_the_database_is_rolled_back(bench: Any, query: Query) -> None:
    bench.write(
        _0001_a_py="from yoyo import step\ndef up(connection):\n    connection.execute('CREATE TABLE a (x int)')\n"
        "    try:\n        connection.execute('SELECT nope')\n    except Exception:\n        pass\nstep(up)\n"
    )
    assert "swallowed" in bench.fails()
    assert query(bench.url, "SELECT to_regclass('a')") == [(None,)]


def test_no_user_name_is_needed(bench: Any, query: Query, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random user id has no passwd entry, and the environment may not name one."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)
    bench.write(_0001_a="CREATE TABLE a (x int);")
    assert bench.apply() == 1
    assert query(bench.url, "SELECT username FROM _yoyo_log")[0][0].startswith("uid")


# --------------------------------------------------------------------------------------- order, directories, schemas


def test_directories_are_concatenated_in_the_order_given_then_dependencies_count(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "0009_z.sql").write_text("-- depends: 0001_a\nCREATE TABLE z (x int);")
    bench.write(_0001_a="CREATE TABLE a (x int);", _0002_b="CREATE TABLE b (x int);")
    catalog = files.load([str(tmp_path / "z"), str(bench.directory)], given=True)
    pending = tables.pending(bench.session, catalog).pending
    assert [m.id for m in pending] == ["0001_a", "0009_z", "0002_b"]


def test_a_schema_in_the_address_is_made_and_everything_goes_there(
    new_bench: Any, database_url: str, query: Query
) -> None:
    bench = new_bench(database_url + "?schema=Shop")
    bench.write(_0001_a="CREATE TABLE a (x int);", _0002_b="SET search_path = public; SELECT 1;")
    assert bench.state.applied == []
    assert bench.apply() == 2
    tables = query(database_url, "SELECT DISTINCT schemaname FROM pg_tables WHERE tableowner = 'app'")
    assert tables == [("Shop",)]
    assert bench.state.nothing_to_do


def test_a_role_that_may_only_read_can_tell_what_is_pending(
    bench: Any, query: Query, server: Any, database: str
) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    bench.apply()
    bench.write(_0002_b="CREATE TABLE b (x int);")
    role = f"reader_{database}"
    query(server.admin_url(database), f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT pg_read_all_data TO {role}")
    try:
        session = postgres.connect(address.parse(bench.url.replace("app:s3cr3t-Pa55", f"{role}:x")))
        assert [m.id for m in tables.pending(session, bench.catalog).pending] == ["0002_b"]
        session.close()
    finally:
        query(server.admin_url(database), f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_that_may_not_create_the_tables_is_told_what_to_grant(
    new_bench: Any, bench: Any, query: Query, server: Any, database: str
) -> None:
    role = f"poor_{database}"
    query(server.admin_url(database), f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    bench.session.close()
    try:
        poor = new_bench(bench.url.replace("app:s3cr3t-Pa55", f"{role}:x"))
        poor.write(_0001_a="SELECT 1;")
        assert "GRANT CREATE ON SCHEMA" in poor.fails()
        poor.session.close()
    finally:
        query(server.admin_url(database), f"DROP ROLE {role}")


def test_nothing_pending_costs_two_queries_and_neither_yoyo_nor_a_write(bench: Any, query: Query) -> None:
    bench.write(**{f"_{n:04}": "SELECT 1;" for n in range(30)})
    bench.apply()
    program = (
        "import sys\nfrom startup.settings import address\nfrom startup.migrations import files, tables\n"
        "from startup.database.postgres import session as postgres\n"
        "session = postgres.connect(address.parse(sys.argv[1]))\nasked = []\nexecute = session.execute\n"
        "session.execute = lambda *a: asked.append(a) or execute(*a)\n"
        "state = tables.pending(session, files.load([sys.argv[2]], given=True))\n"
        "print(state.nothing_to_do, len(asked), 'yoyo' in sys.modules, 'sqlparse' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, bench.url, str(bench.directory)], capture_output=True, text=True
    )
    assert done.stdout == "True 2 False False\n", done.stderr


# ------------------------------------------------------------------------------------------------- post-apply


def test_post_apply_files_run_after_something_was_applied_and_not_otherwise(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    (bench.directory / "post-apply.sql").write_text("INSERT INTO a VALUES (1);")
    assert bench.apply() == 1 and bench.apply() == 0
    bench.write(_0002_b="SELECT 1;")
    assert bench.apply() == 1
    assert query(bench.url, "SELECT count(*) FROM a") == [(2,)]
    assert query(bench.url, "SELECT count(*) FROM _yoyo_migration") == [(2,)]


def test_a_post_apply_file_that_failed_is_due_until_it_has_run(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    (bench.directory / "post-apply.sql").write_text("SELECT nope;")
    said = bench.fails()
    assert "post-apply.sql:1: " in said and "committed: all 1 migrations of this run" in said
    assert not bench.state.nothing_to_do
    (bench.directory / "post-apply.sql").write_text("INSERT INTO a VALUES (1);")
    assert bench.apply() == 0
    assert query(bench.url, "SELECT count(*) FROM a") == [(1,)]
    assert bench.state.nothing_to_do


# ------------------------------------------------------------------------------------------------------ rollback


def test_rollback_takes_the_newest_back_first_each_with_its_mark(bench: Any, query: Query) -> None:
    bench.write(
        _0001_a="CREATE TABLE a (x int);",
        _0001_a__rollback="DROP TABLE a;",
        _0002_b="CREATE TABLE b (x int);\nINSERT INTO a VALUES (1);",
        _0002_b__rollback="DELETE FROM a;\nDROP TABLE b;",
    )
    bench.apply()
    assert bench.rollback(2) == ["0002_b", "0001_a"]
    assert query(bench.url, "SELECT to_regclass('a'), to_regclass('b')") == [(None, None)]
    assert query(bench.url, "SELECT count(*) FROM startup_migration") == [(0,)]
    assert bench.yoyo("list").count("\nU ") == 2
    assert bench.apply() == 2


def test_rollback_refuses_as_a_whole_when_one_of_them_cannot_be_taken_back(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);", _0002_b="SELECT 1;", _0002_b__rollback="SELECT 1;")
    bench.apply()
    with pytest.raises(TaskFailed, match=r"0001_a\.rollback\.sql"):
        bench.rollback(2)
    assert len(bench.state.applied) == 2
    bench.write(_0003_c_py="from yoyo import step\nstep('SELECT 1', 'SELECT 1')\nstep('SELECT 1')\n")
    bench.apply()
    with pytest.raises(TaskFailed, match="step 2 has no rollback"):
        bench.rollback(1)
    with pytest.raises(SettingError, match="--count 9: 3 of"):
        bench.rollback(9)


def test_rollback_refuses_when_the_database_has_newer_ones_than_the_image(bench: Any) -> None:
    bench.write(_0001_a="SELECT 1;", _0001_a__rollback="SELECT 1;", _0002_b="SELECT 1;")
    bench.apply()
    (bench.directory / "0002_b.sql").unlink()
    with pytest.raises(TaskFailed, match="applied later, and not in this image: 0002_b"):
        bench.rollback(1)


def test_a_rollback_that_fails_leaves_the_migration_as_it_was_and_says_where(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);", _0001_a__rollback="DROP TABLE a;\nDROP TABLE nope;")
    bench.apply()
    with pytest.raises(TaskFailed, match=r"0001_a\.rollback\.sql:2: ") as caught:
        bench.rollback(1)
    assert "committed: nothing" in str(caught.value)
    assert query(bench.url, "SELECT to_regclass('a')::text, (SELECT count(*) FROM _yoyo_migration)") == [("a", 1)]


def test_a_rollback_without_transaction_that_stops_half_way_is_reported_and_not_repeated(
    bench: Any, query: Query
) -> None:
    bench.write(
        _0001_a="-- transactional: false\nCREATE TABLE a (x int);", _0001_a__rollback="DROP TABLE a;\nDROP TABLE nope;"
    )
    bench.apply()
    with pytest.raises(TaskFailed, match="statement 1 of 2 has run"):
        bench.rollback(1)
    with pytest.raises(TaskFailed, match="interrupted before"):
        bench.rollback(1)
    assert "while it was taken back" in bench.fails()


def test_what_would_run_is_shown_without_running_it(bench: Any, query: Query) -> None:
    bench.write(_0001_a="-- why\nCREATE TABLE a (x int);", _0002_b_py=MODULE, _0003_c="SELECT 1;")
    catalog = bench.catalog
    assert rollback.sql(catalog.by_id["0001_a"], catalog) == "-- why\nCREATE TABLE a (x int);"
    shown = rollback.sql(catalog.by_id["0002_b"], catalog)
    assert "CREATE TABLE a (x int)" in shown and "-- Python: fill(connection)" in shown
    assert query(bench.url, "SELECT count(*) FROM pg_tables WHERE tableowner = 'app'") == [(0,)]


def test_a_role_with_a_single_connection_migrates(bench: Any, query: Query, server: Any, database: str) -> None:
    query(server.admin_url(database), f"ALTER DATABASE {database} CONNECTION LIMIT 1")
    bench.write(_0001_a="CREATE TABLE a (x int);")
    assert bench.apply() == 1


# ------------------------------------------------------------------------- errors as what they are

ALEMBIC = (
    '"""x"""\nfrom alembic import op\n\nrevision = "1a"\ndown_revision = None\n\n'
    'def upgrade():\n    op.execute("SELECT 1")\n'
)


def test_a_python_file_without_a_step_is_an_error_with_file_and_cure(bench: Any) -> None:
    bench.write(_0001_a="SELECT 1;", _0002_b_py="def upgrade():\n    pass\n")
    assert "0002_b.py: it has no step, so it would do nothing: right would be step(" in bench.fails()
    assert len(bench.state.pending) == 2


def test_another_tools_file_among_ours_is_known_by_itself(bench: Any) -> None:
    bench.write(_0001_a="SELECT 1;", _0002_b_py=ALEMBIC.replace("from alembic import op", "op = None"))
    said = bench.fails()
    assert "0002_b.py: it is a migration of Alembic's" in said and "alembic upgrade head" in said


def test_alembics_versions_are_left_alone_and_told(tmp_path: Path) -> None:
    (tmp_path / "1a_first.py").write_text(ALEMBIC)
    catalog = files.load([str(tmp_path)], given=False)
    assert not catalog.migrations and "Alembic" in (catalog.note or "")


def test_a_node_name_that_is_too_long_for_yoyos_tables_is_cut(bench: Any, query: Query) -> None:
    bench.write(_0001_a="CREATE TABLE a (x int);")
    applied = apply.apply(
        bench.session, bench.catalog, table_lock_timeout=5.0, drift="fail", deadline=None, node="n" * 300,
        report=print, warn=print,
    )  # fmt: skip
    assert applied == 1
    assert query(bench.url, "SELECT length(applied_by) FROM startup_migration") == [(255,)]


def test_a_file_whose_mark_alone_is_missing_is_told_so(bench: Any, query: Query) -> None:
    bench.write(_0001_a="-- transactional: false\nCREATE TABLE a (x int);\nDELETE FROM yoyo_lock;")
    with pytest.raises(LockLost):
        bench.apply()
    said = bench.fails()
    assert "all of its statements have run, and only its mark is missing" in said and "may have" not in said


@pytest.mark.parametrize("transactional", ["true", "false"])
@pytest.mark.parametrize("copy", ["COPY (SELECT 'a') TO STDOUT", "COPY a FROM STDIN"])
def test_a_copy_from_or_to_the_client_is_an_error_of_its_file(bench: Any, transactional: str, copy: str) -> None:
    bench.write(_0001_a="CREATE TABLE a (x text);")
    bench.write(_0002_b=f"-- transactional: {transactional}\nSELECT 1;\n{copy};\nSELECT 2;")
    said = bench.fails()
    assert "0002_b.sql:3: " in said, said
    bench.session.require_lock()


@pytest.mark.parametrize("copy", ["COPY (SELECT 'a') TO STDOUT", "COPY a FROM STDIN"])
def test_a_copy_in_a_python_step_is_an_error_of_its_file(bench: Any, copy: str) -> None:
    bench.write(_0001_a="CREATE TABLE a (x text);")
    bench.write(_0002_b_py=f'from yoyo import step\nstep(lambda c: c.execute("{copy}"))\n')
    assert "0002_b.py:2: " in bench.fails()
    bench.session.require_lock()
