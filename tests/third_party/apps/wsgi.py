"""For gunicorn: answers with the file ``answer``; a POST shows by the file ``at-work`` that it waits for its body."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWER = Path("answer").read_bytes()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    if environ["REQUEST_METHOD"] == "POST":
        Path("at-work").touch()
        environ["wsgi.input"].read(1)
    start_response("200 OK", [("Content-Length", str(len(ANSWER)))])
    return [ANSWER]
