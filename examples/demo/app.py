"""The demo: a web app that shows the users which the startup tasks have put into its database, and the last run.

It reads ``DATABASE_URL`` or ``DATABASE_URL_FILE``, and listens. It boots, and answers ``/healthz``, also before its
tables exist, because the tasks run after it has started. It knows one command of ``startup``: ``status --json``.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
from contextlib import closing
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

QUERY = "SELECT email, name, plan FROM users ORDER BY email"
HERE = Path(__file__).parent
#: Seconds for the command that draws the last run; the page goes without where it takes longer.
PATIENCE = 10


def address() -> str:
    """Where the database is; a secret is mounted as a file."""
    if file := os.environ.get("DATABASE_URL_FILE"):
        return Path(file).read_text().rstrip("\n")
    return os.environ.get("DATABASE_URL") or "sqlite:///startup.db"


def users() -> list[dict[str, str | None]]:
    """All users, read on a connection of this request's own; psycopg.Error or sqlite3.Error when that fails."""
    url = address()
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
            rows = database.execute(QUERY).fetchall()
    else:
        with psycopg.connect(url, connect_timeout=5) as connection:
            rows = connection.execute(QUERY).fetchall()
    return [dict(zip(("email", "name", "plan"), row, strict=True)) for row in rows]


def last_run() -> list[dict[str, Any]]:
    """The nodes of the last run, each with its spans, by the public form of ``startup status``; none where it fails."""
    command = ["startup", "status", "--json"]
    try:
        told = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return []
    nodes: list[dict[str, Any]] = json.loads(told.stdout)["nodes"]
    return nodes


def drawn(nodes: list[dict[str, Any]]) -> str:
    """The last run as bars of HTML: a row a node, a bar for each ping, wait and task."""
    spans = [span for node in nodes for span in node["spans"]]
    if not spans:
        return "<p>Nothing has been run yet.</p>"
    left = min(_start(span) for span in spans)
    width = max(max(_start(span) + span["seconds"] for span in spans) - left, 0.001)
    rows = []
    for node in nodes:
        bars = "".join(
            _bar(span, 100 * (_start(span) - left) / width, 100 * span["seconds"] / width) for span in node["spans"]
        )
        name, state = escape(node["node"]), escape(node["state"])
        rows.append(
            f'<div class="row"><b>{name}</b><span class="bars">{bars}</span><i class="{state}">{state}</i></div>'
        )
    return "\n".join(rows)


def _start(span: dict[str, Any]) -> float:
    return datetime.fromisoformat(f"{span['started_at'][:26]}").timestamp()


def _bar(span: dict[str, Any], left: float, width: float) -> str:
    kind = "failed" if span["failed"] else escape(span["kind"])
    words = escape(f"{span['kind']} {span['name']} {span['seconds']:.2f} s".replace("  ", " "))
    style = f"left: {left:.2f}%; width: max({width:.2f}%, 2px)"
    return f'<span class="bar {kind}" style="{style}" title="{words}"></span>'


def page(_: Request) -> Response:
    """GET /: a table of the users, which node answered, and the last run as bars."""
    rows = ("".join(f"<td>{escape(value or '')}</td>" for value in user.values()) for user in users())
    html = (HERE / "page.html").read_text()
    html = html.replace("<!--node-->", escape(platform.node())).replace("<!--bars-->", drawn(last_run()))
    return HTMLResponse(html.replace("<!--users-->", "\n".join(f"<tr>{row}</tr>" for row in rows)))


def as_json(_: Request) -> Response:
    """GET /users: the same as JSON."""
    return JSONResponse(users())


def healthz(_: Request) -> Response:
    """GET /healthz: the process answers; the database is not asked."""
    return PlainTextResponse("ok\n")


def unavailable(_: Request, error: Exception) -> Response:
    """503 for a database that cannot be read: most likely the migrations have not run."""
    return PlainTextResponse(f"the users cannot be read: {error}\n", status_code=503)


app = Starlette(
    routes=[Route("/", page), Route("/users", as_json), Route("/healthz", healthz)],
    exception_handlers={psycopg.Error: unavailable, sqlite3.Error: unavailable},
)
