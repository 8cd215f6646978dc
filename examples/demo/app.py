"""The demo: a web app that shows the users which the startup tasks have put into its database.

It knows nothing of ``startup``: it reads ``DATABASE_URL`` or ``DATABASE_URL_FILE``, and listens. It boots, and
answers ``/healthz``, also before its tables exist, because the tasks run after it has started.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from html import escape
from pathlib import Path

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

QUERY = "SELECT email, name, plan FROM users ORDER BY email"
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Users</title></head>
<body>
<h1>Users</h1>
<table>
<tr><th>Email</th><th>Name</th><th>Plan</th></tr>
{rows}
</table>
</body>
</html>
"""


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


def page(_: Request) -> Response:
    """GET /: a table of the users."""
    rows = ("".join(f"<td>{escape(value or '')}</td>" for value in user.values()) for user in users())
    return HTMLResponse(PAGE.format(rows="\n".join(f"<tr>{row}</tr>" for row in rows)))


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
