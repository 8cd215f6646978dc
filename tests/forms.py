"""How SQL, shells, URLs and JSON write a secret: what the redaction must know, and what the suite looks for."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Callable
from urllib.parse import quote, quote_plus

from psycopg.conninfo import make_conninfo

Form = Callable[[str], str]


def _with_backslashes(characters: str) -> Form:
    return lambda secret: "".join(f"\\{one}" if one in characters else one for one in secret)


def _in_c_quotes(secret: str) -> str:
    """As ``$'...'`` of a shell has it, with what is no ASCII in octal."""
    octets = (chr(one) if 32 <= one < 127 else f"\\{one:03o}" for one in secret.encode())
    return "".join(f"\\{one}" if one in "'\\" else one for one in octets)


def _lower_hex(secret: str) -> str:
    return "".join(f"%{one:02x}" if not chr(one).isalnum() or one > 127 else chr(one) for one in secret.encode())


def _json_for_html(secret: str) -> str:
    """With the escapes that PHP and Go add."""
    text = json.dumps(secret)[1:-1].replace("/", "\\/")
    return "".join(f"\\u{ord(one):04X}" if one in "<>&'" else one for one in text)


FORMS: dict[str, Form] = {
    "as it is": str,
    "an SQL string": lambda secret: secret.replace("'", "''"),
    "an SQL string with E": _with_backslashes("'\\"),
    "an SQL name": lambda secret: secret.replace('"', '""'),
    "libpq's words": lambda secret: make_conninfo("", password=secret).removeprefix("password="),
    "single quotes of a shell": lambda secret: secret.replace("'", "'\\''"),
    "shlex": shlex.quote,
    "double quotes of a shell": _with_backslashes('"$`\\'),
    "backslashes of a shell": _with_backslashes("".join(map(chr, range(32, 48))) + ":;<=>?@[\\]^`{|}~"),
    "C quotes of a shell": _in_c_quotes,
    "a URL's path": quote,
    "a URL": lambda secret: quote(secret, safe=""),
    "a URL's form": quote_plus,
    "a URL in lower case": _lower_hex,
    "a URL by JavaScript": lambda secret: quote(secret, safe="!'()*~"),
    "JSON": lambda secret: json.dumps(secret)[1:-1],
    "JSON in UTF-8": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "JSON for HTML": _json_for_html,
    "repr": lambda secret: repr(secret)[1:-1],
    "HTML": html.escape,
    "JSON in JSON": lambda secret: json.dumps(json.dumps(secret))[3:-3],
    "cut": lambda secret: secret[: len(secret) // 2],
}
