"""docs/schemas: valid, met by what is written (tests/schemas.py, at every verb that a test runs), and on the page."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from tests import schemas
from tests.schemas import ROOT, check_verb, schema, validator


@pytest.mark.parametrize("name", schemas.NAMES)
def test_each_is_a_schema_and_lets_later_versions_add_fields(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    assert 'additionalProperties": false' not in json.dumps(schema(name))


def test_the_page_has_a_row_for_each_field_of_a_line_and_no_other() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    table = page.partition("| field | what it is |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == {*schema("line")["properties"]}


def reports(startup: Any, url: str) -> tuple[dict[str, Any], dict[str, Any]]:
    settings = {"DATABASE_URL": url, "STARTUP_TASKS": "migrate a", "STARTUP_TASK_A": "true"}
    startup.write("migrations/0001_a.sql", "CREATE TABLE a (n int);")
    assert startup("init", **settings, STARTUP_LOG_FORMAT="json").returncode == 0
    return tuple(json.loads(startup(name, "--json", **settings).stdout) for name in ("status", "describe"))


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there are objects with fields of their own in *value*."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    here = [at] if isinstance(value, dict) and at not in (("settings",), ("tasks",)) else []
    return here + [path for name, one in inside for path in paths(one, (*at, name))]


def test_one_field_more_or_less_is_seen_wherever_it_is(startup: Any, sqlite_url: str) -> None:
    for name, report in zip(("status", "describe"), reports(startup, sqlite_url), strict=True):
        assert len(paths(report)) > 5
        for path in paths(report):
            other = json.loads(json.dumps(report))
            inner = other
            for step in path:
                inner = inner[step]
            inner["more"] = 1
            with pytest.raises(ValidationError):
                check_verb((name, "--json"), json.dumps(other), "")
            del inner["more"]
            inner.pop(next(iter(inner)))
            with pytest.raises(ValidationError):
                check_verb((name, "--json"), json.dumps(other), "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"more": 1},
        {"log.level": "fatal"},
        {"@timestamp": "2026-01-01 00:00:00"},
        {"trace.id": "x"},
        {"event.duration": 0.5},
        {"startup.attempt": 0},
    ],
)
def test_a_line_that_is_another_is_seen(wrong: dict[str, Any]) -> None:
    line = {"@timestamp": "2026-01-01T00:00:00.000Z", "log.level": "info", "message": "", "host.name": "a"}
    validator("line").validate({**line, "event.dataset": "startup"})
    with pytest.raises(ValidationError):
        check_verb(("init",), "", json.dumps({**line, "event.dataset": "startup", **wrong}))
