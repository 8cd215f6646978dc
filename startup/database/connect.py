"""Opens the session that an address asks for: the one place that knows both homes of it."""

from __future__ import annotations

from startup.database.session import Session
from startup.errors import SettingError
from startup.settings.settings import Settings


def connect(settings: Settings) -> Session:
    """A session for the tasks; Unreachable (69) after STARTUP_DATABASE_TIMEOUT, or at once where waiting is no use."""
    from startup import log

    if settings.address is None:
        raise SettingError("no database is set: set DATABASE_URL, such as postgresql://user:password@host/name")
    if settings.address.dialect == "sqlite":
        from startup.database import sqlite

        return sqlite.connect(settings.address, node=settings.node)
    from startup.database.postgres import session as postgres

    return postgres.connect(
        settings.address,
        namespace=settings.namespace,
        node=settings.node,
        timeout=settings.database_timeout,
        pooler=settings.pooler == "session",
        report=log.say,
    )
