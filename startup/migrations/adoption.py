"""Tells of a database that another tool has made, before anything is applied on top of that: a hint, and no refusal."""

from __future__ import annotations

from contextlib import suppress

from startup.database.session import Session

#: The tables in which other tools remember what they have applied.
TOOLS = {
    "alembic_version": "Alembic",
    "django_migrations": "Django",
    "flyway_schema_history": "Flyway",
    "schema_migrations": "dbmate, golang-migrate, Rails or Ecto",
    "_prisma_migrations": "Prisma",
}


def hints(session: Session) -> list[str]:
    """For a database to which none of our migrations is applied. One that cannot be looked at has no hints."""
    with suppress(Exception):  # of a session that is gone the next statement tells
        return [
            f"the database has the table {table} of {TOOLS[table]}, with rows: if that has made what the pending "
            "migrations make, startup baseline ID takes those up to ID for applied, without running them"
            for table in session.with_rows(*TOOLS)
        ]
    return []
