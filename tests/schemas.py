"""docs/schemas against what is really written: every JSON that a test's verbs and lines have, with no field more."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[1]
NAMES = ("status", "describe", "line")


def schema(name: str) -> dict[str, Any]:
    """One of docs/schemas, as it is published."""
    found: dict[str, Any] = json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text())
    return found


def strict(value: Any) -> Any:
    """The same, but no object may have a field that is not named: what users get may grow, its page with it."""
    if isinstance(value, list):
        return [strict(one) for one in value]
    if not isinstance(value, dict):
        return value
    closed = {name: strict(one) for name, one in value.items()}
    return {"additionalProperties": False, **closed} if "properties" in value and "type" in value else closed


@cache
def validator(name: str) -> Draft202012Validator:
    """Of one of docs/schemas, made strict."""
    return Draft202012Validator(strict(schema(name)))


def check(name: str, text: str) -> None:
    """ValidationError unless *text* is what the page promises."""
    validator(name).validate(json.loads(text))


def check_lines(text: str) -> None:
    """The same of each line of ours in *text*, which may have lines of others."""
    for one in text.splitlines():
        if one.startswith('{"@timestamp"'):
            check("line", one)


def check_verb(verb: tuple[str, ...], out: str, err: str) -> None:
    """The same of what a verb has printed."""
    if "--json" in verb and verb[0] in NAMES and out:
        check(verb[0], out)
    check_lines(err)
