"""Section 3 of the contract, row by row: defaults, what is taken, what is refused and in which words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from startup import log
from startup.settings.parsers import Item
from startup.settings.settings import NAMES, Settings, load


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log, "_secrets", set())


def good(**environ: str) -> Settings:
    """The settings, which must be without a fault."""
    settings = load(environ)
    assert settings.faults == []
    return settings


def faults(**environ: str) -> list[str]:
    return list(load(environ).faults)


# -------------------------------------------------------------------------------------------- each row's default

ROWS: list[tuple[str, str, Any]] = [
    ("STARTUP_ENV", "env", "prod"),
    ("STARTUP_TASKS", "tasks", [Item("migrate")]),
    ("STARTUP_PRE_START", "pre_start", []),
    ("STARTUP_PRE_STOP", "pre_stop", []),
    ("STARTUP_POST_STOP", "post_stop", []),
    ("STARTUP_WAIT_FOR", "wait_for", []),
    ("STARTUP_WAIT_TIMEOUT", "wait_timeout", 60),
    ("STARTUP_FAILED", "failed", []),
    ("STARTUP_BEFORE_MIGRATE", "before_migrate", []),
    ("STARTUP_SKIP_TASKS", "skip", frozenset()),
    ("STARTUP_MODULE", "module", ""),
    ("STARTUP_HOOKS_DIR", "hooks_dir", "/etc/startup/hooks"),
    ("STARTUP_TIMEOUT", "timeout", 0),
    ("STARTUP_RETRIES", "retries", 0),
    ("STARTUP_ON_FAILURE", "on_failure", "stop"),
    ("STARTUP_PING_TIMEOUT", "ping_timeout", 300),
    ("STARTUP_PING_INTERVAL", "ping_interval", 1),
    ("DATABASE_URL", "database_url", ""),
    ("STARTUP_DATABASE_TIMEOUT", "database_timeout", 60),
    ("STARTUP_POOLER", "pooler", ""),
    ("STARTUP_MIGRATIONS", "migrations", ["migrations"]),
    ("STARTUP_TABLE_LOCK_TIMEOUT", "table_lock_timeout", 5),
    ("STARTUP_LINT", "lint", "off"),
    ("STARTUP_DRIFT", "drift", "fail"),
    ("STARTUP_USERS", "users", "seeds/users.csv"),
    ("STARTUP_USERS_TABLE", "users_table", "users"),
    ("STARTUP_NAMESPACE", "namespace", "default"),
    ("STARTUP_NODE", "node", os.uname().nodename),
    ("STARTUP_ROLE", "role", "auto"),
    ("STARTUP_RELEASE", "release", ""),
    ("STARTUP_LOCK_TIMEOUT", "lock_timeout", 0),
    ("STARTUP_FOLLOW_TIMEOUT", "follow_timeout", 600),
    ("STARTUP_STOP_TIMEOUT", "stop_timeout", 10),
    ("STARTUP_HOOK_TIMEOUT", "hook_timeout", 3),
    ("STARTUP_SIGNAL_GROUP", "signal_group", False),
    ("STARTUP_METRICS_FILE", "metrics_file", ""),
    ("STARTUP_LOG_FORMAT", "log_format", "text"),
    ("STARTUP_LOG_LEVEL", "log_level", "info"),
]


@pytest.mark.parametrize(("name", "field", "default"), ROWS)
def test_unset_is_the_default_and_so_is_empty(name: str, field: str, default: object) -> None:
    assert getattr(good(), field) == default
    empty = good(**{name: ""})
    assert getattr(empty, field) == default
    assert not empty.given(name)


def test_the_default_ping_is_auto() -> None:
    assert not good().ping.explicit
    assert good(STARTUP_PING="tcp://localhost:80").ping.explicit


def test_every_setting_of_the_table_is_known_and_none_is_warned_of() -> None:
    table = {name for name, _, _ in ROWS} | {
        *("STARTUP_ENABLED", "STARTUP_DOTENV", "STARTUP_PING", "STARTUP_DATABASE_URL", "DATABASE_URL_FILE"),
        *("STARTUP_DATABASE_URL_FILE", "STARTUP_STATE_DIR", "STARTUP_PYTHON"),
    }
    assert set(NAMES) == table


# ------------------------------------------------------------------------------------------------- what is taken

TAKEN: list[tuple[str, str, str, Any]] = [
    ("STARTUP_ENV", "staging-2", "env", "staging-2"),
    ("STARTUP_TASKS", "a, b@once,c@local", "tasks", [Item("a"), Item("b", "once"), Item("c", "local")]),
    ("STARTUP_TASKS", "Seed-Plans", "tasks", [Item("seed_plans")]),
    ("STARTUP_TASKS", "app.tasks:load_Plans@change", "tasks", [Item("app.tasks:load_Plans", "change")]),
    ("STARTUP_TASKS", "none", "tasks", []),
    ("STARTUP_PRE_START", "migrate", "pre_start", [Item("migrate")]),
    ("STARTUP_PRE_STOP", "drain", "pre_stop", [Item("drain")]),
    ("STARTUP_POST_STOP", "sweep", "post_stop", [Item("sweep")]),
    ("STARTUP_FAILED", "alert", "failed", [Item("alert")]),
    ("STARTUP_SKIP_TASKS", "insert-users", "skip", frozenset({"insert_users"})),
    ("STARTUP_MODULE", "app.tasks", "module", "app.tasks"),
    ("STARTUP_HOOKS_DIR", "/hooks", "hooks_dir", "/hooks"),
    ("STARTUP_TIMEOUT", "0.5", "timeout", 0.5),
    ("STARTUP_TIMEOUT", "90", "timeout", 90),
    ("STARTUP_ON_FAILURE", "continue", "on_failure", "continue"),
    ("STARTUP_PING_TIMEOUT", "0", "ping_timeout", 0),
    ("STARTUP_PING_INTERVAL", ".25", "ping_interval", 0.25),
    ("STARTUP_DATABASE_TIMEOUT", "5", "database_timeout", 5),
    ("STARTUP_POOLER", "session", "pooler", "session"),
    ("STARTUP_POOLER", "none", "pooler", ""),
    ("STARTUP_MIGRATIONS", "a/migrations b/migrations", "migrations", ["a/migrations", "b/migrations"]),
    ("STARTUP_TABLE_LOCK_TIMEOUT", "2.5", "table_lock_timeout", 2.5),
    ("STARTUP_LINT", "fail", "lint", "fail"),
    ("STARTUP_DRIFT", "warn", "drift", "warn"),
    ("STARTUP_USERS", "users.json", "users", "users.json"),
    ("STARTUP_USERS_TABLE", "auth.users", "users_table", "auth.users"),
    ("STARTUP_NAMESPACE", "shop", "namespace", "shop"),
    ("STARTUP_NODE", "web-1", "node", "web-1"),
    ("STARTUP_ROLE", "follower", "role", "follower"),
    ("STARTUP_RELEASE", "1.2.3", "release", "1.2.3"),
    ("STARTUP_LOCK_TIMEOUT", "30", "lock_timeout", 30),
    ("STARTUP_FOLLOW_TIMEOUT", "30", "follow_timeout", 30),
    ("STARTUP_STOP_TIMEOUT", "1", "stop_timeout", 1),
    ("STARTUP_HOOK_TIMEOUT", "1", "hook_timeout", 1),
    ("STARTUP_SIGNAL_GROUP", "true", "signal_group", True),
    ("STARTUP_STATE_DIR", "/state", "state_dir", "/state"),
    ("STARTUP_LOG_FORMAT", "json", "log_format", "json"),
    ("STARTUP_LOG_LEVEL", "debug", "log_level", "debug"),
]


@pytest.mark.parametrize(("name", "value", "field", "expected"), TAKEN)
def test_a_right_value_is_taken(name: str, value: str, field: str, expected: object) -> None:
    settings = good(**{name: value})
    assert getattr(settings, field) == expected
    assert settings.given(name)


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "false", "0", "no", "off"])
def test_eight_words_are_booleans(word: str) -> None:
    assert good(STARTUP_SIGNAL_GROUP=word).signal_group is (word in ("true", "1", "yes", "on"))


# ----------------------------------------------------------------------------------------------- what is refused

TIMES = [name for name in NAMES if name.endswith(("_TIMEOUT", "_INTERVAL"))]
LISTS = [
    "STARTUP_TASKS",
    "STARTUP_PRE_START",
    "STARTUP_PRE_STOP",
    "STARTUP_POST_STOP",
    "STARTUP_FAILED",
    "STARTUP_SKIP_TASKS",
]
REFUSED: list[tuple[str, str, str]] = [
    *((name, value, "seconds") for name in TIMES for value in ("soon", "-1", "5s", "1e3", "inf", "nan", "1,5", "٣")),
    *(("STARTUP_TIMEOUT", "9" * 400, "seconds") for _ in range(1)),
    *((n, v, "true") for n in ("STARTUP_SIGNAL_GROUP", "STARTUP_ENABLED") for v in ("True", "y", "2", "enabled")),
    *((name, "seed@sometimes", "always, change, release, once, local") for name in LISTS),
    *((name, "seed@", "always, change, release, once, local") for name in LISTS),
    *((name, "se/ed", "module:function") for name in LISTS),
    *((name, "seed seed@once", "twice") for name in LISTS),
    ("STARTUP_ENV", "de v", "word"),
    ("STARTUP_ENV", "../x", "word"),
    ("STARTUP_ON_FAILURE", "ignore", "stop or continue"),
    ("STARTUP_PING", "smoke://signal", "http://"),
    ("STARTUP_POOLER", "transaction", "none or session"),
    ("STARTUP_LINT", "on", "off, warn or fail"),
    ("STARTUP_DRIFT", "ignore", "fail or warn"),
    ("STARTUP_USERS_TABLE", "users; drop", "users"),
    ("STARTUP_ROLE", "leader", "auto or follower"),
    ("STARTUP_LOG_FORMAT", "xml", "text or json"),
    ("STARTUP_LOG_LEVEL", "loud", "debug, info, warning or error"),
    ("STARTUP_DOTENV", "missing.env", "no such file"),
]


@pytest.mark.parametrize(("name", "value", "right"), REFUSED)
def test_a_wrong_value_is_a_fault_that_names_variable_value_and_what_is_right(
    name: str, value: str, right: str
) -> None:
    (fault,) = faults(**{name: value})
    assert name in fault and value in fault and right in fault


def test_a_wrong_value_is_78_whatever_the_verb_is(startup: Any) -> None:
    for verb in ("init", "ping", "plan", "status", "describe"):
        done = startup(verb, STARTUP_TIMEOUT="soon")
        assert done.returncode == 78, (verb, done.stderr)
        assert "STARTUP_TIMEOUT" in done.stderr and "'soon'" in done.stderr and "seconds" in done.stderr


@pytest.mark.parametrize("value", ["loud", ""])
def test_a_log_level_that_is_wrong_or_empty_breaks_nothing_else(startup: Any, value: str) -> None:
    done = startup("init", STARTUP_LOG_LEVEL=value, STARTUP_LOG_FORMAT=value, STARTUP_TASKS="none")
    assert done.returncode == (78 if value else 0)
    assert "Traceback" not in done.stderr
    assert ("STARTUP_LOG_LEVEL is 'loud'" in done.stderr) == bool(value)


def test_all_faults_are_told_at_once_those_of_the_plan_too(startup: Any) -> None:
    done = startup(
        "init", STARTUP_TIMEOUT="soon", STARTUP_DRIFT="no", STARTUP_PING="x", STARTUP_TASKS="sed", STARTUP_MODULE="nope"
    )
    assert done.returncode == 78
    for word in ("'soon'", "'no'", "STARTUP_PING is 'x'", "'sed'", "'nope'"):
        assert word in done.stderr
    assert len(done.stderr.splitlines()) == 5


def test_one_wrong_name_on_a_list_hides_none_of_the_others_nor_those_of_other_phases(startup: Any) -> None:
    done = startup("init", STARTUP_TASKS="nosuch lost@sometimes one/two", STARTUP_PRE_STOP="gone", DATABASE_URL="")
    assert done.returncode == 78
    for word in ("names 'nosuch'", "names 'lost'", "'lost@sometimes'", "'one/two'", "STARTUP_PRE_STOP names 'gone'"):
        assert word in done.stderr


@pytest.mark.parametrize("value", ["none", " none", "none\n"])
def test_none_empties_a_list_whatever_is_around_it(value: str) -> None:
    assert good(STARTUP_TASKS=value, STARTUP_MIGRATIONS=value).tasks == []


# ------------------------------------------------------------------------------------------------- unknown names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("STARTUP_MIGRATION", "STARTUP_MIGRATIONS"),
        ("STARTUP_TIMOUT", "STARTUP_TIMEOUT"),
        ("STARTUP_PRESTART", "STARTUP_PRE_START"),
        ("STARTUP_DATABASEURL", "STARTUP_DATABASE_URL"),
        ("STARTUP_LOGLEVEL", "STARTUP_LOG_LEVEL"),
        ("STARTUP_SKIP", "STARTUP_SKIP_TASKS"),
        ("STARTUP_FOLLOWTIMEOUT", "STARTUP_FOLLOW_TIMEOUT"),
    ],
)
def test_an_unknown_name_is_a_warning_with_the_nearest_known_one(name: str, nearest: str) -> None:
    (warning,) = good(**{name: "1"}).warnings
    assert name in warning and f"{nearest}?" in warning


def test_an_unknown_name_that_is_like_nothing_still_gets_the_nearest() -> None:
    (warning,) = good(STARTUP_QQQ="1").warnings
    assert "STARTUP_QQQ" in warning and warning.count("STARTUP_") == 2


def test_no_warning_for_an_empty_name_a_task_or_what_command_tasks_are_given() -> None:
    assert good(STARTUP_QQQ="", STARTUP_TASK_X="true", STARTUP_TASK="x", STARTUP_PHASE="post_start").warnings == []


def test_warnings_end_nothing_and_are_on_stderr(startup: Any) -> None:
    done = startup("init", STARTUP_TIMOUT="5", STARTUP_TASKS="none")
    assert done.returncode == 0
    assert "startup: warning: STARTUP_TIMOUT" in done.stderr


# --------------------------------------------------------------------------------------------------- the database


def test_the_database_of_dev_and_test_is_a_file_and_prod_has_none() -> None:
    assert good(STARTUP_ENV="dev").database_url == good(STARTUP_ENV="test").database_url == "sqlite:///startup.db"
    assert good().address is None


def test_the_tasks_of_dev_and_test_are_two() -> None:
    for env in ("dev", "test"):
        assert good(STARTUP_ENV=env).tasks == [Item("migrate"), Item("insert_users")]
    assert good(STARTUP_ENV="dev", STARTUP_TASKS="a").tasks == [Item("a")]


def test_app_env_is_the_default_of_the_environment() -> None:
    assert good(APP_ENV="dev").env == "dev"
    assert good(APP_ENV="dev", STARTUP_ENV="prod").env == "prod"
    assert good(APP_ENV="").env == "prod"
    assert good(APP_ENV="dev").origins["STARTUP_ENV"] == "APP_ENV"
    assert good(APP_ENV="Some thing of the app's own").tasks == [Item("migrate")]


def test_a_wrong_startup_env_is_a_fault_whatever_app_env_is() -> None:
    (fault,) = faults(STARTUP_ENV="de v", APP_ENV="Some thing of the app's own")
    assert "STARTUP_ENV is 'de v'" in fault


def test_startup_database_url_wins_over_database_url() -> None:
    settings = good(DATABASE_URL="postgresql://pooler/a", STARTUP_DATABASE_URL="postgresql://direct/a")
    assert settings.database_url == "postgresql://direct/a"
    assert settings.task_environ("t", "post_start")["DATABASE_URL"] == "postgresql://direct/a"


def write(name: str, content: str) -> str:
    Path(name).write_bytes(content.encode())
    return name


@pytest.mark.parametrize("name", ["DATABASE_URL", "STARTUP_DATABASE_URL"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_address_may_come_from_a_file_whose_one_trailing_newline_is_dropped(name: str, end: str) -> None:
    settings = good(**{f"{name}_FILE": write("secret", f"postgresql://u:pw@h/a{end}")})
    assert settings.database_url == "postgresql://u:pw@h/a"
    assert settings.address is not None and settings.address.conninfo["dbname"] == "a"


@pytest.mark.parametrize("name", ["DATABASE_URL", "STARTUP_DATABASE_URL"])
def test_both_forms_a_missing_file_and_an_empty_one_are_errors(name: str) -> None:
    file = write("secret", "postgresql://h/a")
    (fault,) = faults(**{name: "postgresql://h/b", f"{name}_FILE": file})
    assert f"{name} and {name}_FILE" in fault
    (fault,) = faults(**{f"{name}_FILE": "nowhere"})
    assert f"{name}_FILE is 'nowhere'" in fault and "No such file" in fault
    (fault,) = faults(**{f"{name}_FILE": write("empty", "\n")})
    assert f"{name}_FILE" in fault and "empty" in fault
    (fault,) = faults(**{f"{name}_FILE": write("binary", "\0")}) or [""]
    assert f"{name}_FILE" in fault


def test_only_one_trailing_newline_is_dropped() -> None:
    done = faults(STARTUP_DATABASE_URL_FILE=write("secret", "postgresql://h/a\n\n"))
    assert "STARTUP_DATABASE_URL_FILE" in done[0]


def test_an_empty_file_variable_is_unset() -> None:
    assert good(DATABASE_URL="postgresql://h/a", DATABASE_URL_FILE="").database_url == "postgresql://h/a"


def test_an_own_address_that_cannot_be_read_is_a_fault_without_its_password() -> None:
    (fault,) = faults(STARTUP_DATABASE_URL="mysql://u:hunter2@h/a")
    assert "STARTUP_DATABASE_URL" in fault and "mysql" in fault and "postgresql://" in fault
    assert "hunter2" not in fault


@pytest.mark.parametrize("verb", ["init", "plan", "describe", "status"])
def test_an_apps_address_of_another_kind_is_78_only_where_something_needs_a_database(startup: Any, verb: str) -> None:
    mysql = {"DATABASE_URL": "mysql://u:hunter2@h/a"}
    done = startup(verb, **mysql)  # no migrations directory: nothing to do, as in an image that knows nothing of us
    assert done.returncode == (78 if verb == "status" else 0), done.stderr
    Path("migrations").mkdir()
    Path("migrations/0001.sql").write_text("SELECT 1")
    done = startup(verb, **mysql)
    assert done.returncode == 78
    assert "DATABASE_URL" in done.stderr and "mysql" in done.stderr and "hunter2" not in done.stderr + done.stdout


def test_no_address_where_one_is_needed_is_78_and_says_so(startup: Any) -> None:
    done = startup("init", STARTUP_TASKS="seed", STARTUP_TASK_SEED="true")
    assert done.returncode == 78 and "DATABASE_URL" in done.stderr and "seed@local" in done.stderr


def test_the_database_is_not_opened_where_nothing_on_the_list_needs_it(startup: Any) -> None:
    done = startup(
        "init", STARTUP_TASKS="seed@local", STARTUP_TASK_SEED="true", DATABASE_URL="postgresql://127.0.0.1:1/a"
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------------- dotenv


def test_dotenv_is_read_by_default_in_dev_and_test_alone_and_may_be_missing_there() -> None:
    write(".env", "STARTUP_NODE=from-file\n")
    assert good(STARTUP_ENV="dev").node == good(STARTUP_ENV="test").node == "from-file"
    assert good().node != "from-file"
    assert good(STARTUP_ENV="dev", STARTUP_DOTENV="none").node != "from-file"
    Path(".env").unlink()
    good(STARTUP_ENV="dev")


def test_a_dotenv_file_that_was_set_is_read_in_every_environment() -> None:
    assert good(STARTUP_DOTENV=write("my.env", "STARTUP_NODE=from-file\n")).node == "from-file"


def test_the_environments_own_file_wins_over_the_general_one_and_the_real_environment_over_both() -> None:
    write(".env", "STARTUP_NODE=general\nSTARTUP_RELEASE=general\nSTARTUP_NAMESPACE=general\n")
    write(".env.dev", "STARTUP_NODE=own\nSTARTUP_RELEASE=own\n")
    settings = good(STARTUP_ENV="dev", STARTUP_NODE="real")
    assert (settings.node, settings.release, settings.namespace) == ("real", "own", "general")
    assert settings.origins["STARTUP_RELEASE"] == ".env.dev" and settings.origins["STARTUP_NODE"] == "environment"


def test_an_empty_variable_of_the_real_environment_is_unset_and_wins_over_nothing() -> None:
    write(".env", "STARTUP_NODE=general\n")
    assert good(STARTUP_ENV="dev", STARTUP_NODE="").node == "general"


def test_dotenv_files_are_read_without_interpolation() -> None:
    write(".env", "STARTUP_RELEASE=${HOME}-$HOME\nSTARTUP_NODE='${HOME}'\nexport STARTUP_NAMESPACE=\"a b\" # why\n")
    settings = good(STARTUP_ENV="dev", HOME="/root")
    assert (settings.release, settings.node, settings.namespace) == ("${HOME}-$HOME", "${HOME}", "a b")


@pytest.mark.parametrize(
    "name",
    ["ENABLED", "ENV", "PRE_START", "STATE_DIR", "HOOKS_DIR", "PYTHON"],
)
def test_a_dotenv_file_cannot_set_what_the_shell_reads(name: str) -> None:
    write(".env", f"STARTUP_{name}=false\n")
    settings = good(STARTUP_ENV="dev")
    assert settings.values[f"STARTUP_{name}"] != "false"
    assert any(f"STARTUP_{name} in .env" in warning for warning in settings.warnings)


def test_a_line_of_a_dotenv_file_that_cannot_be_read_is_a_fault_with_its_place_and_without_its_content() -> None:
    write(".env", "A=1\nthis is hunter2 not a line\n")
    (fault,) = faults(STARTUP_ENV="dev")
    assert ".env, line 2" in fault and "hunter2" not in fault


@pytest.mark.parametrize(
    "content", [b"Read me first.\nThis file is prose.\n", b"\xff\xfe=\n", b"A=1\nit is prose\n", None]
)
def test_a_default_file_that_is_no_dotenv_file_is_a_warning_and_one_that_was_set_a_fault(content: bytes | None) -> None:
    """The app, whose APP_ENV it is, worked before."""
    if content is None:
        if os.geteuid() == 0:
            pytest.skip("root reads everything")
        write(".env", "A=1\n")
        os.chmod(".env", 0)
    else:
        with open(".env", "wb") as file:
            file.write(content)
    settings = good(APP_ENV="dev")
    (warning,) = settings.warnings
    assert ".env" in warning and "STARTUP_DOTENV=none" in warning and "prose" not in warning
    assert faults(APP_ENV="dev", STARTUP_DOTENV=".env")


def test_a_byte_order_mark_is_no_part_of_the_first_name_and_a_nul_byte_is_a_fault() -> None:
    write(".env", "\ufeffSTARTUP_RELEASE=7\n")
    assert good(STARTUP_ENV="dev").release == "7"
    write(".env", "A=1\nSTARTUP_REL\0EASE=7\nB=\0\n")
    assert all("NUL" in one for one in faults(STARTUP_ENV="dev")) and len(faults(STARTUP_ENV="dev")) == 2


@pytest.mark.parametrize(
    "name",
    [
        *("STARTUP_PORT", "STARTUP_SERVICE_HOST", "STARTUP_SERVICE_PORT", "STARTUP_SERVICE_PORT_HTTP"),
        *("STARTUP_PORT_5432_TCP", "STARTUP_PORT_5432_TCP_ADDR", "STARTUP_PORT_5432_TCP_PROTO"),
        *("STARTUP_DB_PORT", "STARTUP_DB_SERVICE_HOST", "STARTUP_DB_PORT_80_TCP_PORT"),
    ],
)
def test_what_kubernetes_sets_for_a_service_of_that_name_is_known_as_what_it_is(name: str) -> None:
    links = {"STARTUP_PORT": "tcp://10.0.0.1:5432", "STARTUP_DB_PORT": "tcp://10.0.0.2:80"}
    assert good(**{name: "10.0.0.1", **links}).warnings == []
    assert len(good(STARTUP_PORTS="80", STARTUP_SERVICE_HOST="x").warnings) == 2, "nothing says that it is a link"


def test_a_dotenv_files_fault_names_the_file() -> None:
    write(".env", "STARTUP_TIMEOUT=soon\n")
    (fault,) = faults(STARTUP_ENV="dev")
    assert "STARTUP_TIMEOUT is 'soon'" in fault and ".env" in fault


@pytest.mark.parametrize("form", ["DATABASE_URL", "STARTUP_DATABASE_URL"])
def test_one_form_of_an_address_in_the_real_environment_beats_the_other_form_in_a_dotenv_file(form: str) -> None:
    file = write("secret", "postgresql://file/a")
    write(".env", f"{form}=postgresql://dotenv/a\n")
    assert good(STARTUP_ENV="dev", **{f"{form}_FILE": file}).database_url == "postgresql://file/a"
    write(".env", f"{form}_FILE={file}\n")
    assert good(STARTUP_ENV="dev", **{form: "postgresql://real/a"}).database_url == "postgresql://real/a"


def test_the_environments_own_dotenv_file_may_name_the_other_form_of_an_address() -> None:
    write(".env", "DATABASE_URL=postgresql://general/a\n")
    write(".env.dev", f"DATABASE_URL_FILE={write('secret', 'postgresql://file/a')}\n")
    assert good(STARTUP_ENV="dev").database_url == "postgresql://file/a"


def test_other_names_that_end_in_file_are_left_alone() -> None:
    write(".env", "SECRET_KEY=a\nLOG_FILE=b\n")
    environ = good(STARTUP_ENV="dev", SECRET_KEY_FILE="x", LOG="y").environ
    assert (environ["SECRET_KEY"], environ["LOG_FILE"]) == ("a", "b")


def test_a_dotenv_file_reaches_command_tasks_and_python_tasks_and_their_modules(startup: Any) -> None:
    write(".env", "GREETING=hello from file\n")
    write("tasks.py", "import os\nAT_IMPORT = os.environ['GREETING']\ndef show(context):\n    print(AT_IMPORT + '!')\n")
    done = startup(
        *("init",),
        STARTUP_ENV="dev",
        STARTUP_TASKS="echo@local tasks:show@local",
        STARTUP_TASK_ECHO='echo "$GREETING?"',
    )
    assert done.returncode == 0, done.stderr
    assert "hello from file?" in done.stderr and "hello from file!" in done.stderr + done.stdout


def test_the_port_of_a_dotenv_file_which_the_app_never_sees_is_not_what_auto_asks() -> None:
    write(".env", "PORT=1\n")
    assert type(good(STARTUP_ENV="dev").ping) is type(good().ping) is not type(good(PORT="1").ping)


# --------------------------------------------------------------------------------------------- tasks by variables


def test_task_names_are_lower_case_with_dash_and_underline_alike() -> None:
    settings = load({"STARTUP_TASK_SEED_PLANS": "one", "STARTUP_TASK_Warm-Cache": "two"})
    assert settings.definitions == {"seed_plans": "one", "warm_cache": "two"}


def test_a_task_that_two_variables_define_is_an_error() -> None:
    (fault,) = faults(STARTUP_TASK_SEED="one", STARTUP_TASK_seed="two")
    assert "STARTUP_TASK_SEED" in fault and "STARTUP_TASK_seed" in fault


def test_a_command_task_gets_the_environment_as_it_is_and_what_the_contract_adds() -> None:
    settings = good(STARTUP_ENV="", APP_ENV="dev", EMPTY="", DATABASE_URL="", A="1")
    environ = settings.task_environ("seed", "pre_start")
    assert (environ["EMPTY"], environ["A"]) == ("", "1")
    assert (environ["STARTUP_TASK"], environ["STARTUP_PHASE"]) == ("seed", "pre_start")
    assert environ["DATABASE_URL"] == "sqlite:///startup.db"
    assert environ["STARTUP_ENV"] == "dev"


def test_a_command_task_that_calls_a_verb_does_not_find_both_forms_of_the_address() -> None:
    settings = good(DATABASE_URL_FILE=write("secret", "postgresql://h/a"))
    assert load(settings.task_environ("seed", "post_start")).faults == []


def test_the_describe_verb_says_where_a_value_came_from() -> None:
    settings = good(STARTUP_DATABASE_URL_FILE=write("secret", "postgresql://u:hunter2@h/a"), STARTUP_NODE="n")
    assert settings.values["STARTUP_DATABASE_URL_FILE"] == "secret"
    assert "hunter2" not in str(settings.values)
    assert settings.origins["STARTUP_NODE"] == "environment" and settings.origins["STARTUP_ROLE"] == "default"


@pytest.mark.parametrize("name", ["STARTUP_NAMESPACE", "STARTUP_NODE", "STARTUP_RELEASE"])
@pytest.mark.parametrize(("value", "why"), [("é" * 501, "1000 bytes at most, not 1002"), ("a\udcff", "UTF-8")])
def test_what_a_database_could_not_keep_is_refused(name: str, value: str, why: str) -> None:
    (fault,) = load({name: value}).faults
    assert fault.startswith(f"{name} is '{value}'") and why in fault
    assert load({name: "é" * 500}).faults == []
