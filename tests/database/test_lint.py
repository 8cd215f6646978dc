"""``startup lint`` and STARTUP_LINT: what the guards and squawk find in migration files, and what comes of it."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from startup.migrations import squawk

SQUAWK = pytest.mark.skipif(squawk.program() is None, reason="squawk is not installed here: pip install squawk-cli")
PLACE = re.compile(r"^(migrations/[^:]+):(\d+): ([\w-]+): ", re.MULTILINE)
OLD = "CREATE TABLE users (id bigint PRIMARY KEY, email text);\n"
INDEX = "CREATE INDEX users_email ON users (email);\n"
CONCURRENT = "-- transactional: false\nCREATE INDEX CONCURRENTLY users_email ON users (email);\n"
FOUND = "migrations/0002_b.sql:1: require-concurrent-index-creation: "


@pytest.fixture
def files(startup: Any) -> Any:
    """``files.write(...)``, ``files("lint")``: a directory with one migration that has nothing to be found."""
    startup.write("migrations/0001_a.sql", OLD)
    return startup


def write(files: Any, **contents: str) -> None:
    """``_0002_b="SQL"`` is written to migrations/0002_b.sql."""
    for name, content in contents.items():
        files.write(f"migrations/{name.removeprefix('_')}.sql", content)


def found(files: Any, *arguments: str, code: int = 1, **environ: str) -> list[tuple[str, int, str]]:
    """File, line and rule of each finding; what it ended with must be *code*."""
    done = files("lint", *arguments, **environ)
    assert done.returncode == code, done.stdout + done.stderr
    return [
        (name.removeprefix("migrations/"), int(line), rule)
        for name, line, rule in PLACE.findall(done.stdout)
        if f"style: {rule}" not in done.stdout
    ]


@pytest.fixture
def no_squawk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python with all that this one has but squawk, in its bin directory; one can be put there."""
    home = tmp_path / "python"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    library = Path(sysconfig.get_path("purelib"))
    place = home / library.relative_to(Path(sys.prefix))
    place.parent.mkdir(parents=True)
    place.symlink_to(library)
    (home / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    monkeypatch.setattr(sys, "executable", str(home / "bin" / "python"))
    return home / "bin"


@pytest.fixture
def without(files: Any, no_squawk: Path) -> Any:
    """``files``, where squawk is not installed."""
    files.environ["PATH"] = "/usr/bin:/bin"
    return files


@pytest.fixture
def fake(without: Any, no_squawk: Path) -> Callable[[str], None]:
    """``fake(lines of sh)``: what squawk is."""

    def make(body: str) -> None:
        (no_squawk / "squawk").write_text(f"#!/bin/sh\n{body}\n")
        (no_squawk / "squawk").chmod(0o755)

    return make


# ------------------------------------------------------------------------------------------------------- the verb


@SQUAWK
def test_lint_is_0_and_says_nothing_on_stdout_when_nothing_is_found_and_opens_no_database(files: Any) -> None:
    write(files, _0002_b=CONCURRENT, _0003_c="-- nothing but this\n", _0004_d="")
    done = files("lint", DATABASE_URL="postgresql://nobody@127.0.0.1:1/x")
    assert (done.returncode, done.stdout) == (0, "") and "nothing is found" in done.stderr


@SQUAWK
def test_lint_is_1_and_names_file_line_rule_why_and_the_safe_way(files: Any) -> None:
    write(files, _0002_b=INDEX)
    done = files("lint")
    assert done.returncode == 1
    assert done.stdout == (
        f"{FOUND}During normal index creation, table updates are blocked, but reads are still allowed. Safe: CREATE "
        "INDEX CONCURRENTLY, in a file of its own that begins with '-- transactional: false'\n"
    )


MANY = """\
-- depends: 0001_a
-- größe: ein Kommentar

/* one
   two */ ALTER TABLE users ADD COLUMN größe text; ALTER TABLE users
    ADD COLUMN must text NOT NULL;
UPDATE users SET größe = 'a;
b' ; CREATE INDEX i ON users (größe);
-- squawk-ignore ban-drop-column
ALTER TABLE users DROP COLUMN email;
ALTER TABLE users ADD CONSTRAINT c CHECK (id > 0);
ALTER TABLE users
    RENAME COLUMN größe TO size;
DROP TABLE users;
"""
RULES = {
    "adding-required-field": r"ADD COLUMN must",
    "require-concurrent-index-creation": r"CREATE INDEX i",
    "constraint-missing-not-valid": r"ADD CONSTRAINT c",
    "renaming-column": r"RENAME COLUMN",
    "ban-drop-table": r"DROP TABLE users",
}


@SQUAWK
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_are_those_of_the_file_whatever_stands_before_and_however_lines_end(
    files: Any, ends: str, mark: str
) -> None:
    write(files, _0002_b=mark + MANY.replace("\n", ends))
    places = {rule: line for name, line, rule in found(files) if name == "0002_b.sql"}
    lines = MANY.split("\n")
    assert places == {
        rule: next(number for number, line in enumerate(lines, 1) if re.search(text, line))
        for rule, text in RULES.items()
    }


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("SELECT 1;\n\\connect other\n", 2, "psql's own command (\\connect other)"),
        ("SELECT 1;\n-- transactional: false\n", 2, "put it on the file's first line"),
        ("-- transactional: maybe\n", 1, "the value must be true or false"),
        ("-- migrate:up\nSELECT 1;\n", 1, "is for another tool"),
        ("SELECT 1;\nCOMMIT;\nSELECT 2;\n", 2, "COMMIT: a migration runs in one transaction"),
        ("-- depends: 0001_b\nSELECT 1;\n", 1, "did you mean '0001_a'?"),
        ("COPY users FROM stdin;\n", 1, "COPY FROM stdin"),
        ("SELECT 'a;\n", 1, "never ends"),
    ],
)
@pytest.mark.parametrize("installed", [True, False])
def test_what_migrate_would_refuse_is_a_finding_with_squawk_and_without(
    files: Any, request: pytest.FixtureRequest, content: str, line: int, words: str, installed: bool
) -> None:
    if not installed:
        request.getfixturevalue("without")
    elif squawk.program() is None:
        pytest.skip("squawk is not installed here")
    write(files, _0002_b=content)
    done = files("lint")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"migrations/0002_b.sql:{line}: guard: " in done.stdout and words in done.stdout


def test_two_files_of_one_id_are_a_finding(without: Any) -> None:
    without.write("migrations/0001_a.py", "")
    done = without("lint")
    assert done.returncode == 1 and "are both the migration '0001_a'" in done.stdout


@SQUAWK
def test_a_file_that_cannot_be_read_is_70_and_the_others_are_looked_at_all_the_same(files: Any) -> None:
    write(files, _0002_b=INDEX)
    (files.directory / "migrations" / "0003_c.sql").write_bytes(b"SELECT 1;\nSELECT '\xff';\n")
    assert found(files, code=70) == [("0002_b.sql", 1, "require-concurrent-index-creation")]
    assert "migrations/0003_c.sql:2: not UTF-8" in files("lint").stdout
    write(files, _0003_c="SELECT 1;\nSELECT from where;\n")
    done = files("lint")
    assert done.returncode == 70 and "migrations/0003_c.sql:2: syntax-error: " in done.stdout and FOUND in done.stdout
    write(files, _0003_c="-- squawk-ignore-file\nSELECT from where;\n")
    assert found(files) == [("0002_b.sql", 1, "require-concurrent-index-creation")]


def test_a_python_file_that_is_no_python_is_70(without: Any) -> None:
    without.write("migrations/0002_b.py", "from yoyo import step\nstep(\n")
    done = without("lint")
    assert done.returncode == 70 and re.search(r"migrations/0002_b\.py:2: '\(' was never closed", done.stdout)
    without.write("migrations/0002_b.py", f"a = {'-' * 200_000}1\n")
    done = without("lint")
    assert done.returncode == 70 and "migrations/0002_b.py:1: it is nested too deeply" in done.stdout


@SQUAWK
def test_python_migrations_are_named_and_their_sql_is_not_looked_at_nor_are_rollbacks(files: Any) -> None:
    files.write("migrations/0002_b.py", f"from yoyo import step\nstep('''{INDEX}''')\nraise SystemExit\n")
    write(files, **{"0001_a.rollback": "DROP TABLE users;\n"})
    done = files("lint")
    assert (done.returncode, done.stdout) == (0, "")
    assert "of Python migrations the SQL is not looked at: 0002_b" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--snice", "0001_a"], 2, "unrecognized arguments"),
        (["--since"], 2, "expected one argument"),
        (["0001_a"], 2, "unrecognized arguments"),
        (["--since", "0001"], 78, "--since 0001: no migration here has this id or file name; did you mean 0001_a?"),
        (["--since", "x"], 78, "they are 0001_a to 0001_a"),
    ],
)
def test_a_wrong_command_line_is_2_and_an_id_that_no_file_has_78(
    without: Any, arguments: list[str], code: int, words: str
) -> None:
    done = without("lint", *arguments)
    assert done.returncode == code and words in done.stderr


def test_wrong_settings_are_78_and_no_migrations_are_no_fault(without: Any) -> None:
    assert without("lint", STARTUP_MIGRATIONS="none_here").returncode == 78
    done = without("lint", STARTUP_LINT="maybe")
    assert done.returncode == 78 and "STARTUP_LINT is 'maybe'" in done.stderr
    (without.directory / "migrations" / "0001_a.sql").unlink()
    (without.directory / "migrations").rmdir()
    done = without("lint")
    assert done.returncode == 0 and "no migrations" in done.stderr


@SQUAWK
def test_squawk_is_told_what_runs_in_a_transaction(files: Any) -> None:
    write(files, _0002_b=CONCURRENT.split("\n", 1)[1], _0003_c=f"{CONCURRENT}SELECT 1;\n")
    files.write(".squawk.toml", "assume_in_transaction = false\n")
    assert found(files) == [("0002_b.sql", 1, "ban-concurrent-index-creation-in-transaction")]
    files.write(".squawk.toml", "assume_in_transaction = true\n")
    assert found(files) == [("0002_b.sql", 1, "ban-concurrent-index-creation-in-transaction")]


@SQUAWK
def test_a_begin_and_commit_around_a_whole_file_are_no_finding(files: Any) -> None:
    write(files, _0002_b="BEGIN;\nCREATE TABLE b (x bigint);\nCREATE INDEX ON b (x);\nCOMMIT;\n")
    assert found(files, code=0) == []


@SQUAWK
def test_what_the_runner_makes_needless_is_left_out_and_matters_of_style_are_only_named(files: Any) -> None:
    write(
        files, _0002_b="ALTER TABLE users ADD COLUMN a int;\nCREATE TABLE b (id serial, c varchar(3), d timestamp);\n"
    )
    write(files, _0003_c="-- transactional: false\nALTER TABLE users ADD COLUMN z text;\nDROP INDEX CONCURRENTLY i;\n")
    done = files("lint")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [
        "style: prefer-bigint-over-int: migrations/0002_b.sql:1, migrations/0002_b.sql:2",
        "style: prefer-identity: migrations/0002_b.sql:2",
        "style: prefer-text-field: migrations/0002_b.sql:2",
        "style: prefer-timestamp-tz: migrations/0002_b.sql:2",
    ]


@SQUAWK
@pytest.mark.parametrize(
    "comment",
    [
        "-- squawk-ignore require-concurrent-index-creation\n",
        "-- squawk-ignore-file require-concurrent-index-creation\n",
        "-- squawk-ignore-file -- it is small\n",
        "-- squawk-ignore ban-drop-table, require-concurrent-index-creation -- it is small\n",
    ],
)
def test_squawks_own_ignore_comments_hold(files: Any, comment: str) -> None:
    write(files, _0002_b=comment + INDEX)
    assert found(files, code=0) == []


@SQUAWK
def test_squawks_own_settings_hold(files: Any) -> None:
    write(files, _0002_b=INDEX)
    files.write(".squawk.toml", 'excluded_rules = ["require-concurrent-index-creation"]\n')
    assert found(files, code=0) == []
    files.write(".squawk.toml", 'excluded_rules = ["nope"]\n')
    done = files("lint")
    assert done.returncode == 70 and "Configuration error: invalid rule name nope" in done.stderr


@SQUAWK
def test_since_looks_at_later_files_only_and_takes_them_for_one_run(files: Any) -> None:
    write(files, _0002_b=INDEX, _0003_c="CREATE TABLE c (x bigint);\n", _0004_d="CREATE INDEX c_x ON public.c (x);\n")
    each = [
        ("0002_b.sql", 1, "require-concurrent-index-creation"),
        ("0004_d.sql", 1, "require-concurrent-index-creation"),
    ]
    assert found(files) == each
    assert "findings about tables that an earlier file makes: 2;" in files("lint").stderr
    assert found(files, "--since", "0001_a") == each[:1]
    assert found(files, "--since", "0002_b.sql", code=0) == []
    assert found(files, "--since", "./migrations/0003_c.sql") == each[1:]
    assert found(files, "--since", "0004_d", code=0) == []


@SQUAWK
def test_files_come_in_the_order_in_which_they_are_applied(files: Any) -> None:
    write(files, _0002_b="-- depends: 0003_c\nCREATE INDEX ON c (x);\n", _0003_c="CREATE TABLE c (x bigint);\n")
    assert found(files, "--since", "0001_a", code=0) == []
    assert found(files, "--since", "0003_c") == [("0002_b.sql", 2, "require-concurrent-index-creation")]


@SQUAWK
@pytest.mark.parametrize(
    "content",
    [
        "DROP TABLE users;\nCREATE TABLE users (id bigint);\n",
        "CREATE TABLE IF NOT EXISTS users (id bigint);\nALTER TABLE users DROP COLUMN email;\n",
        "CREATE TABLE other.users (id bigint);\nALTER TABLE public.users DROP COLUMN email;\n",
    ],
)
def test_a_table_that_was_there_is_not_taken_for_new(files: Any, content: str) -> None:
    write(files, _0002_b=content)
    assert len(found(files, "--since", "0001_a")) == 1


@SQUAWK
def test_what_can_never_run_is_found_on_a_new_table_too(files: Any) -> None:
    write(files, _0002_b="CREATE TABLE b (x bigint);\nCREATE INDEX CONCURRENTLY i ON b (x);\n")
    assert found(files) == [("0002_b.sql", 2, "ban-concurrent-index-creation-in-transaction")]


@SQUAWK
def test_a_post_apply_file_is_looked_at_too(files: Any) -> None:
    files.write("migrations/post-apply.sql", "SELECT 1;\nTRUNCATE users CASCADE;\n")
    assert found(files, "--since", "0001_a") == [("post-apply.sql", 2, "ban-truncate-cascade")]


@SQUAWK
def test_with_sqlite_the_guards_look_alone_and_without_an_address_it_is_taken_for_postgresql(files: Any) -> None:
    write(files, _0002_b=INDEX)
    done = files("lint", DATABASE_URL="sqlite:///test.db")
    assert (done.returncode, done.stdout) == (0, "") and "squawk knows PostgreSQL" in done.stderr
    assert not (files.directory / "test.db").exists()
    write(files, _0003_c="COMMIT;\n")
    assert found(files, DATABASE_URL="sqlite:///test.db") == [("0003_c.sql", 1, "guard")]
    assert len(found(files, STARTUP_ENV="dev")) == 2


def test_without_squawk_a_line_says_so_and_the_guards_look_alone(without: Any) -> None:
    write(without, _0002_b=INDEX)
    done = without("lint")
    assert (done.returncode, done.stdout) == (0, "")
    assert "squawk is not installed: pip install 'startup-tasks[lint]'" in done.stderr


def test_a_squawk_that_fails_is_70_and_named(fake: Callable[[str], None], without: Any, no_squawk: Path) -> None:
    fake("kill -SEGV $$")
    done = without("lint")
    assert done.returncode == 70
    assert f"migrations/0001_a.sql: squawk ({no_squawk}/squawk) " in done.stderr and "SIGSEGV" in done.stderr


def test_a_password_in_a_file_is_not_shown_by_a_finding(fake: Callable[[str], None], without: Any) -> None:
    answer = '[{"line":0,"column":0,"rule_name":"r","message":"s3cr3t-Pa55","help":"a\\u001b"}]'
    fake(f"cat >/dev/null; printf %s '{answer}'")
    write(without, _0002_b="SELECT 1;\n")
    done = without("lint", DATABASE_URL="postgresql://app:s3cr3t-Pa55@127.0.0.1:1/x")
    assert done.returncode == 1 and "0002_b.sql:1: r: *** Safe: a" in done.stdout and "\x1b" not in done.stdout


PAGE = (Path(__file__).parents[2] / "docs" / "lint.md").read_text()
PAIRS = [
    (rules.split(", "), *re.findall(r"```sql\n(.*?)```", text, re.DOTALL))
    for rules, text in re.findall(r"^### (.*?)\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE)
]


@SQUAWK
@pytest.mark.parametrize(("rules", "bad", "good"), [(pair[0], pair[1], pair[2:]) for pair in PAIRS], ids=lambda one: "")
def test_of_the_pages_pairs_the_bad_one_is_found_and_the_good_one_is_not(
    files: Any, rules: list[str], bad: str, good: tuple[str, ...]
) -> None:
    write(files, _0002_b=bad)
    assert sorted(rule for _, _, rule in found(files)) == sorted(rules)
    (files.directory / "migrations" / "0002_b.sql").unlink()
    for number, text in enumerate(good):
        write(files, **{f"0003_{number}": text})
    assert found(files, code=0) == []


def test_the_page_has_the_commonest_five_at_least() -> None:
    assert len(PAIRS) >= 5


# ------------------------------------------------------------------------------------------------------- at boot


@pytest.fixture
def image(files: Any, database_url: str) -> Any:
    """``files`` with a database; migrate is what runs."""
    files.environ |= {"DATABASE_URL": database_url, "STARTUP_TASKS": "migrate"}
    return files


@pytest.fixture
def applied(image: Any) -> Any:
    """``image``, its first migration applied."""
    assert image("init").returncode == 0
    return image


def there(image: Any, query: Any) -> set[str]:
    """The tables and indexes that are not the runner's own."""
    rows = query(
        image.environ["DATABASE_URL"],
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')"
        " AND relname !~ '_pkey$|yoyo|startup_'",
    )
    return {name for (name,) in rows}


@SQUAWK
def test_fail_stops_the_run_before_anything_is_applied_and_an_ignore_comment_lets_it_pass(
    applied: Any, query: Any
) -> None:
    write(applied, _0002_b="CREATE TABLE b (x bigint);\n", _0003_c=f"SELECT 1;\n{INDEX}")
    done = applied("init", STARTUP_LINT="fail")
    assert done.returncode == 70
    assert "one finding in pending migrations, and STARTUP_LINT is 'fail': nothing has been applied" in done.stderr
    assert "migrations/0003_c.sql:2: require-concurrent-index-creation: " in done.stderr
    assert there(applied, query) == {"users"}
    write(applied, _0003_c=f"-- squawk-ignore require-concurrent-index-creation\n{INDEX}")
    done = applied("init", STARTUP_LINT="fail")
    assert done.returncode == 0 and "2 applied" in done.stderr
    assert there(applied, query) == {"users", "b", "users_email"}


@SQUAWK
def test_plan_ends_as_init_would_under_fail_and_names_what_is_found_under_warn(applied: Any) -> None:
    write(applied, _0002_b=INDEX)
    for check in ([], ["--check"]):
        done = applied("plan", *check, STARTUP_LINT="fail")
        assert done.returncode == 70 and FOUND in done.stderr and "1 of 2 migrations are pending" in done.stdout
    done = applied("plan", "--check", STARTUP_LINT="warn")
    assert done.returncode == 1 and FOUND in done.stderr


@SQUAWK
def test_a_database_without_any_applied_migration_passes_under_fail(image: Any, query: Any) -> None:
    write(image, _0002_b=INDEX, _0003_c="ALTER TABLE users DROP COLUMN email;\n")
    done = image("init", STARTUP_LINT="fail")
    assert done.returncode == 0 and "3 applied" in done.stderr
    assert there(image, query) == {"users"}, "its index is gone with the column"


@SQUAWK
def test_a_table_that_this_run_makes_passes_under_fail_also_when_a_later_file_indexes_it(
    applied: Any, query: Any
) -> None:
    write(applied, _0002_b="CREATE TABLE IF NOT EXISTS b (x bigint);\n", _0003_c="CREATE INDEX b_x ON public.b (x);\n")
    done = applied("init", STARTUP_LINT="fail")
    assert done.returncode == 0, done.stderr
    assert there(applied, query) == {"users", "b", "b_x"}
    write(applied, _0004_d="CREATE TABLE IF NOT EXISTS b (x bigint);\nDROP TABLE b;\n")
    done = applied("init", STARTUP_LINT="fail")
    assert done.returncode == 70 and "migrations/0004_d.sql:2: ban-drop-table: " in done.stderr, "it was there"


@SQUAWK
def test_warn_names_what_is_found_and_applies(applied: Any, query: Any) -> None:
    write(applied, _0002_b=f"{INDEX}ALTER TABLE users ADD COLUMN n int;\n")
    done = applied("init", STARTUP_LINT="warn")
    assert done.returncode == 0 and f"warning: {FOUND}" in done.stderr and "prefer-bigint" not in done.stderr
    assert there(applied, query) == {"users", "users_email"}


@SQUAWK
def test_the_guards_come_before_squawk(applied: Any) -> None:
    write(applied, _0002_b=INDEX, _0003_c="COMMIT;\n")
    done = applied("init", STARTUP_LINT="fail")
    assert done.returncode == 70 and "correct the files" in done.stderr and FOUND not in done.stderr


def test_without_squawk_warn_and_fail_are_78_with_the_way_to_get_it(
    without: Any, database_url: str, query: Any
) -> None:
    without.environ |= {"DATABASE_URL": database_url, "STARTUP_TASKS": "migrate"}
    for verb in ("init", "plan"):
        for value in ("warn", "fail"):
            done = without(verb, STARTUP_LINT=value)
            assert done.returncode == 78
            assert f"STARTUP_LINT is '{value}', but squawk is not installed: pip install" in done.stderr
            assert "with the bundle" in done.stderr
    assert there(without, query) == set()
    assert without("init", STARTUP_LINT="off").returncode == 0
    assert without("init", STARTUP_LINT="fail", STARTUP_ROLE="follower").returncode == 0, "it applies nothing"
    assert without("init", STARTUP_LINT="fail", STARTUP_TASKS="none").returncode == 0, "nor does a list without migrate"


@pytest.mark.parametrize("value", ["warn", "fail"])
def test_under_sqlite_no_squawk_is_needed_and_nothing_is_refused(without: Any, sqlite_url: str, value: str) -> None:
    without.environ |= {"DATABASE_URL": sqlite_url, "STARTUP_TASKS": "migrate", "STARTUP_LINT": value}
    assert without("init").returncode == 0
    write(without, _0002_b=INDEX)
    assert without("init").returncode == 0


def test_squawk_is_not_started_where_it_is_off_or_nothing_is_pending(
    fake: Callable[[str], None], without: Any, database_url: str
) -> None:
    without.environ |= {"DATABASE_URL": database_url, "STARTUP_TASKS": "migrate"}
    ran = without.directory / "ran"
    fake(f"cat >/dev/null; touch {ran}; echo '[]'")
    assert without("init", STARTUP_LINT="fail").returncode == 0
    assert without("init", STARTUP_LINT="fail").returncode == 0 and not ran.exists(), (
        "the first boot, and nothing pending"
    )
    write(without, _0002_b=INDEX)
    assert without("init").returncode == 0 and not ran.exists(), "off"
    write(without, _0003_c="SELECT 1;\n")
    assert without("init", STARTUP_LINT="fail").returncode == 0 and ran.exists()


@pytest.mark.parametrize("body", ["kill -KILL $$", "cat >/dev/null; echo garbage", "exit 3", "echo '[{}]'"])
@pytest.mark.parametrize("value", ["warn", "fail"])
def test_a_squawk_that_gives_no_answer_stops_the_run_before_anything_is_applied(
    fake: Callable[[str], None], without: Any, database_url: str, query: Any, body: str, value: str
) -> None:
    without.environ |= {"DATABASE_URL": database_url, "STARTUP_TASKS": "migrate"}
    assert without("init").returncode == 0
    write(without, _0002_b=INDEX)
    fake(body)
    done = without("init", STARTUP_LINT=value)
    assert done.returncode == 70
    assert "migrations/0002_b.sql: squawk (" in done.stderr and "or STARTUP_LINT=off" in done.stderr
    assert there(without, query) == {"users"}


def test_a_signal_ends_a_squawk_that_hangs_and_nothing_is_applied(
    fake: Callable[[str], None], without: Any, database_url: str, query: Any, wait_until: Any
) -> None:
    without.environ |= {"DATABASE_URL": database_url, "STARTUP_TASKS": "migrate"}
    assert without("init").returncode == 0
    write(without, _0002_b=INDEX)
    pid = without.directory / "pid"
    fake(f"echo $$ >{pid}; exec sleep 600")
    process = without.start("init", STARTUP_LINT="fail")
    wait_until(lambda: pid.exists() and pid.read_text().strip())
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 143
    wait_until(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists())
    assert there(without, query) == {"users"}
