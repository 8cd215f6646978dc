"""Opens the session that an address asks for: the one place that knows all homes of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from startup import log
from startup.database.session import Dialect, Session
from startup.errors import SettingError
from startup.settings.settings import Settings

#: What an address may lead to. Each module has a ``connect``, and is imported where it is needed.
_MODULES = {"postgresql": "startup.database.postgres.session", "sqlite": "startup.database.sqlite"}
_DIALECTS = {"postgresql": "startup.database.postgres.dialect:POSTGRESQL", "sqlite": "startup.database.sqlite:SQLITE"}
#: Where a session that can only be asked costs less.
_LOOKS = {"postgresql": "startup.database.postgres.look"}


def dialect(name: str) -> Dialect:
    """The dialect of that name, for reading SQL without a session."""
    module, _, attribute = _DIALECTS[name].partition(":")
    found: Dialect = getattr(importlib.import_module(module), attribute)
    return found


def connect(
    settings: Settings,
    reads_only: bool = False,
    again: float | None = None,
    looks_only: bool = False,
    failed: Callable[[str, str], None] | None = None,
) -> Session:
    """A session for the tasks, or one that *reads_only*; *again*: what is left of STARTUP_LOCK_TIMEOUT, not at first.

    *looks_only*: it may be one that can only be asked (:attr:`Session.only_looks`), where that costs less. *failed* is
    told of each try that was in vain, in words and by its error; without it the log is. Unreachable (69) after
    STARTUP_DATABASE_TIMEOUT, or at once where waiting is no use.
    """
    if settings.address is None:
        raise SettingError("no database is set: set DATABASE_URL, such as postgresql://user:password@host/name")
    modules = _MODULES | _LOOKS if looks_only else _MODULES
    session: Session = importlib.import_module(modules[settings.address.dialect]).connect(
        settings.address,
        namespace=settings.namespace,
        node=settings.node,
        timeout=settings.database_timeout,
        pooler=settings.pooler == "session",
        reads_only=reads_only or settings.role == "follower",
        lock_timeout=settings.lock_timeout,
        again=again,
        report=log.say,
        failed=failed,
    )
    return session
