"""Section 9 of the contract: one line an event with the same prefix, JSON when asked for, and no secret anywhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from startup import log
from startup.settings.address import parse

PASSWORD = "p@ss/w%rd#1 'q\""
ENCODED = "p%40ss%2Fw%25rd%231%20%27q%22"


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", set())
    monkeypatch.setattr(log, "_words", {})


def test_a_secret_is_masked_in_every_form_it_may_take() -> None:
    log.hide(ENCODED)
    for form in (PASSWORD, ENCODED, repr(PASSWORD), ENCODED.replace("%2F", "/"), ENCODED.replace("%20", "+")):
        assert "ss" not in log.redact(f"a {form} b"), form


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_secret_is_masked_as_json_writes_it(ascii_only: bool) -> None:
    log.hide('p"ss\\w\tü\U0001f600rd')
    written = json.dumps('p"ss\\w\tü\U0001f600rd', ensure_ascii=ascii_only)
    assert log.redact(f"a {written} b") == 'a "***" b'


def test_a_secret_that_is_part_of_another_leaves_nothing_of_it() -> None:
    log.hide("abc")
    log.hide("abcdef")
    assert log.redact("x abcdef y") == "x *** y"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:app@db/shop",
        "postgresql://shop:shop@db/app",
        "postgresql://a:b@c/d",
        "postgresql://a:password@c/d",
    ],
)
def test_a_password_that_is_a_name_or_a_letter_is_masked_where_a_password_stands(url: str) -> None:
    address = parse(url)
    assert ":***@" in address.masked
    password = address.conninfo["password"]
    assert (
        log.redact(f"x:{password}@y password={password} password='{password}'") == "x:***@y password=*** password='***'"
    )
    assert log.redact("the app answers; 2 applied; a shop, b") == "the app answers; 2 applied; a shop, b"


def test_a_password_that_is_a_word_is_masked_as_a_word() -> None:
    log.hide("apple")
    assert log.redact("x:apple@y, 'apple', applepie") == "x:***@y, '***', applepie"


@pytest.mark.parametrize("before", ["postgres://u:", "http://:", "x=postgresql+psycopg://a%40b:"])
def test_the_password_of_an_address_that_is_no_setting_is_hidden(before: str) -> None:
    assert log.redact(f"psql {before}s3cr:et@h/x failed") == f"psql {before}***@h/x failed"


@pytest.mark.parametrize(
    "text",
    ["tcp://a:1, me@x", "a:b@c", '"http://u:1","x@y"', "postgresql://u@h:1/x@y", "postgresql://USER:PASSWORD@HOST"],
)
def test_what_only_looks_like_a_password_in_an_address_stays(text: str) -> None:
    assert log.redact(text) == text


def test_of_a_long_value_nothing_behind_its_beginning_is_shown_and_it_takes_no_time() -> None:
    """As a JSON document in a column, in what a trigger says of it."""
    value = '{"key": "' + "\u2603 " * 50_000 + 'end"}'
    began = time.process_time()
    assert log.without(f"refused: {value} (by a trigger)", [value]) == f"refused: {log.MASK}"
    assert log.without(f"refused: {value[:3000]}", [value]) == f"refused: {log.MASK}"
    assert log.without("refused", [value]) == "refused"
    assert time.process_time() - began < 5, "it took a minute"


@pytest.mark.parametrize("name", ["PGUSER", "PGDATABASE"])
def test_a_password_that_is_the_users_name_too_masks_no_other_word(startup: Any, name: str) -> None:
    environ = {"DATABASE_URL": "postgresql://127.0.0.1:1", name: "postgres", "PGPASSWORD": "postgres"}
    done = startup("describe", **environ)
    assert "postgresql://127.0.0.1:1" in done.stdout, done.stdout


def test_no_secret_is_no_mask() -> None:
    log.hide("")
    assert log.redact("a b") == "a b"


def test_what_json_verbs_print_is_masked_all_the_way_down() -> None:
    log.hide("hunter2")
    assert log.redact_all({"a": ["hunter2", {"b": "x hunter2"}], "n": 1}) == {"a": ["***", {"b": "x ***"}], "n": 1}


# ------------------------------------------------------------------------------------------------------ the lines


def test_every_line_on_stderr_has_the_same_prefix(startup: Any, sqlite_url: str) -> None:
    startup.write("tasks.py", "def fail(context):\n    raise ValueError('one\\ntwo\\n\\nthree')\n")
    settings = {"STARTUP_TASKS": "ok tasks:fail", "STARTUP_TASK_OK": "true", "STARTUP_LOG_LEVEL": "debug"}
    done = startup("init", DATABASE_URL=sqlite_url, STARTUP_TIMOUT="1", **settings)
    assert done.returncode == 70
    assert [line for line in done.stderr.splitlines() if not line.startswith("startup: ")] == []
    assert "startup: warning: " in done.stderr and "startup: error: " in done.stderr
    assert done.stdout == ""


def test_nothing_is_coloured_where_no_terminal_is(startup: Any) -> None:
    assert "\033" not in startup("init", STARTUP_TIMEOUT="soon").stderr


def test_json_is_one_object_a_line_with_time_level_and_message(startup: Any, sqlite_url: str) -> None:
    startup.write("tasks.py", "def fail(context):\n    context.log('a \"b\"\\nc')\n    raise ValueError('one\\ntwo')\n")
    settings = {"STARTUP_TASKS": "tasks:fail", "STARTUP_LOG_FORMAT": "json", "STARTUP_NODE": "web-1"}
    done = startup("init", DATABASE_URL=sqlite_url, STARTUP_TIMOUT="1", **settings)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    for event in events:
        assert datetime.fromisoformat(event["@timestamp"].replace("Z", "+00:00"))
        assert event["log.level"] in ("info", "warning", "error") and event["message"]
        assert event["host.name"] == "web-1"
    assert any("one\ntwo" in event["message"] for event in events if event["log.level"] == "error")
    assert any(event.get("startup.task") == "tasks:fail" for event in events)


def test_faults_of_settings_are_json_too_where_json_is_asked_for(startup: Any) -> None:
    done = startup("init", STARTUP_LOG_FORMAT="json", STARTUP_TIMEOUT="soon", STARTUP_DRIFT="x")
    assert done.returncode == 78
    assert [json.loads(line)["log.level"] for line in done.stderr.splitlines()] == ["error", "error"]


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ("debug", ("ValueError", "warning: ", "starts", "Traceback")),
        ("info", ("ValueError", "warning: ", "starts")),
        ("warning", ("ValueError", "warning: ")),
        ("error", ("ValueError",)),
    ],
)
def test_a_level_lets_through_what_is_as_bad_or_worse(
    startup: Any, sqlite_url: str, level: str, words: tuple[str, ...]
) -> None:
    startup.write("tasks.py", "def fail(context):\n    raise ValueError('x')\n")
    settings = {"STARTUP_TASKS": "tasks:fail", "STARTUP_LOG_LEVEL": level, "STARTUP_TIMOUT": "1"}
    said = startup("init", DATABASE_URL=sqlite_url, **settings).stderr
    for word in ("ValueError", "warning: ", "starts", "Traceback"):
        assert (word in said) == (word in words), said


def test_long_work_says_which_task_of_how_many(startup: Any) -> None:
    settings = {"STARTUP_TASKS": "a@local b@local", "STARTUP_TASK_A": "true", "STARTUP_TASK_B": "true"}
    said = startup("init", **settings).stderr
    assert re.search(r"task 1 of 2, a,.*\n.*task 1 of 2, a, is done.*\n.*task 2 of 2, b,", said)


def test_a_closed_stderr_breaks_nothing(startup: Any) -> None:
    process = startup.start("health")  # for the command line alone
    done = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *process.args[:-1], "init"], env=startup.environ, cwd="/")
    assert done.returncode == 0


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_character_of_others_can_forge_a_line_or_move_the_cursor(startup: Any, form: str) -> None:
    """C0, DEL, C1, Unicode's line ends, its turns of direction, and bytes that are no UTF-8."""
    odd = [*map(chr, [*range(1, 32), *range(127, 160)]), "\u2028", "\u2029", "\u202e", "\u2066", "\udcff"]
    text = "".join(f"<{one}>startup: error: forged" for one in odd)
    environ = {"STARTUP_LOG_FORMAT": form, "STARTUP_NODE": text, "STARTUP_TASKS": "a:b", "STARTUP_RELEASE": text}
    for verb in ("init", "describe"):
        done = startup(verb, **environ, STARTUP_DRIFT=text)
        for line in (done.stderr + done.stdout).rstrip("\n").split("\n"):
            assert not line.startswith("startup: error: forged") and line.replace("\t", "").isprintable(), (verb, line)
            assert form == "text" or not line.startswith("{") or json.loads(line)


# ---------------------------------------------------------------------------------------------------- no secrets


#: What prints most of what is known; each verb opens the address in its own way.
VERBS = ("init", "plan", "describe --json", "status --json", "run nope")
ALL = (*VERBS, "run seed", "describe", "status", "ping", "health", "forget seed", "rollback", "lint")


def leaks(startup: Any, environ: dict[str, str], *secrets: str, verbs: tuple[str, ...] = VERBS) -> None:
    """Every verb at level debug: none of *secrets* in what it prints."""
    for verb in verbs:
        done = startup(*verb.split(), STARTUP_LOG_LEVEL="debug", **environ)
        for secret in secrets:
            assert secret not in done.stdout + done.stderr, (verb, secret)


SEED = {
    "STARTUP_TASKS": "seed tasks:fail",
    "STARTUP_TASK_SEED": "echo seeding",
    "STARTUP_DATABASE_TIMEOUT": "0.1",
    "STARTUP_PING": "http://user:hunter3@127.0.0.1:1/",
}
FAIL = "import os\ndef fail(context):\n    raise ValueError('cannot use ' + context.environ['DATABASE_URL'])\n"


def test_the_password_of_an_address_appears_nowhere(startup: Any, database_url: str) -> None:
    startup.write("tasks.py", FAIL)
    password = re.search(r":([^:@/]+)@", database_url)
    assert password
    leaks(startup, {"DATABASE_URL": database_url, **SEED}, password[1], "hunter3", verbs=ALL)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("DATABASE_URL", f"postgresql://app:{ENCODED}@127.0.0.1:1/app"),
        ("STARTUP_DATABASE_URL", "postgresql://app:hunter2@127.0.0.1:99999/app"),
        ("DATABASE_URL", "mysql://app:hunter2@db/app"),
        ("STARTUP_DATABASE_URL", "app:hunter2@db"),
    ],
)
def test_the_password_of_an_address_that_does_not_answer_or_cannot_be_read_appears_nowhere(
    startup: Any, name: str, address: str
) -> None:
    startup.write("tasks.py", FAIL)
    leaks(startup, {name: address, **SEED}, "hunter2", PASSWORD, ENCODED)


@pytest.mark.parametrize("content", ["postgresql://app:hunter2@127.0.0.1:1/app", "hunter2 is no address", "x\nhunter2"])
def test_the_content_of_a_file_appears_nowhere(startup: Any, content: str) -> None:
    startup.write("tasks.py", FAIL)
    file = startup.write("secret", content)
    leaks(startup, {"DATABASE_URL_FILE": str(file), **SEED}, "hunter2", content)


def test_no_process_has_the_password_on_its_command_line(
    startup: Any, database_url: str, wait_until: Any, tmp_path: Path
) -> None:
    password = re.search(r":([^:@/]+)@", database_url)
    assert password
    settings = {"STARTUP_TASKS": "wait", "STARTUP_TASK_WAIT": f"touch {tmp_path}/there; sleep 60"}
    process = startup.start("init", DATABASE_URL=database_url, **settings)
    wait_until(lambda: (tmp_path / "there").exists())
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getsid(int(pid)) == process.pid or int(pid) == process.pid:
                assert password[1] not in Path(f"/proc/{pid}/cmdline").read_text()
        except (ProcessLookupError, FileNotFoundError):
            continue


@pytest.mark.parametrize(
    "value", ["postgresql://u:Left7pw@h/d", "u:Left7pw@h", "host=h password=Left7pw", "//u:Left7pw@h"]
)
@pytest.mark.parametrize("name", ["DATABASE_URL_FILE", "STARTUP_DATABASE_URL_FILE"])
def test_an_address_where_the_path_of_its_file_belongs_is_not_shown(startup: Any, name: str, value: str) -> None:
    leaks(startup, {name: value, "STARTUP_TASKS": "migrate"}, "Left7pw")
    done = startup("init", **{name: value})
    assert done.returncode == 78 and f"{name} must be the path of a file" in done.stderr


@pytest.mark.parametrize("place", ["PGPASSFILE", "passfile", "HOME", "PGPASSWORD", "PGSERVICEFILE"])
def test_a_password_that_libpq_finds_outside_the_address_appears_nowhere(
    startup: Any, tmp_path: Path, place: str
) -> None:
    startup.write(".pgpass", "# of all\nh:*:*:*:Left7\\:x\\\\yz\n", 0o600)
    startup.write("services", "[it]\nhost=h\npassword=Left7:x\\yz\n")
    startup.write("tasks.py", "def fail(context):\n    raise ValueError('it is Left7:x\\\\yz')\n")
    file, environ = str(tmp_path / ".pgpass"), {"DATABASE_URL": "postgresql://127.0.0.1:1/d", "HOME": "/nowhere"}
    if place == "passfile":
        environ["DATABASE_URL"] += f"?passfile={file}"
    values = {"HOME": str(tmp_path), "PGPASSWORD": "Left7:x\\yz", "PGSERVICEFILE": str(tmp_path / "services")}
    environ |= {} if place == "passfile" else {place: values.get(place, file)}
    done = startup("init", **environ, STARTUP_TASKS="tasks:fail@local", STARTUP_DATABASE_TIMEOUT="0.1")
    assert "ValueError" in done.stderr and "Left7" not in done.stderr, done.stderr
