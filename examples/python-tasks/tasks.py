"""A task of each policy. What each has done, and on which node, it writes into the table ``journal``.

The tasks run in their own virtual environment, where ``context.connection`` is a connection of psycopg 3: the app
needs no database driver for them.
"""

from __future__ import annotations

import csv
from pathlib import Path

from startup import Context, task


def note(context: Context) -> None:
    context.connection.execute("INSERT INTO journal (task, node) VALUES (%s, %s)", (context.task, context.node))


@task(policy="once", timeout=60)
def load_plans(context: Context) -> None:
    """Once for the database, exactly once: the rows and the ledger's row commit together."""
    context.connection.execute("INSERT INTO plans (name) VALUES ('free'), ('team')")
    note(context)


@task(policy="change", files=["prices.csv"])
def load_prices(context: Context) -> None:
    """Once for each content of prices.csv (and of this function), exactly once."""
    with open("prices.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            context.connection.execute("UPDATE plans SET cents = %s WHERE name = %s", (row["cents"], row["plan"]))
    note(context)


@task(policy="release")
def greet_release(context: Context) -> None:
    """Once for each STARTUP_RELEASE, exactly once."""
    context.log(f"welcome, release {context.release}")
    note(context)


@task(policy="once", transaction=False)
def index_journal(context: Context) -> None:
    """At least once: outside of a transaction, so it must bear being started again after a crash in its middle."""
    context.connection.execute("DROP INDEX CONCURRENTLY IF EXISTS journal_at")
    context.connection.execute("CREATE INDEX CONCURRENTLY journal_at ON journal (at)")
    note(context)


@task(policy="always", transaction=False)
def refresh_statistics(context: Context) -> None:
    """On every boot of every node, one after another."""
    context.connection.execute("ANALYZE plans")
    note(context)


@task(policy="local")
def warm_cache(context: Context) -> None:
    """On every boot of every node, all at the same time: no lock, no database."""
    Path("/tmp/cache").write_text(Path("prices.csv").read_text())
