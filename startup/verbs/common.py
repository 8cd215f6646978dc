"""What verbs share: the settings, and a session for those that look into the database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from startup import log
from startup.settings import settings
from startup.settings.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.database.session import Session


def load(*, warn: bool = False, for_database: bool = False) -> Settings:
    """The settings, and the log as they want it. Faults are left to the plan, so that all are told at once.

    *for_database*: SettingError with all faults, those of the address too.
    """
    loaded = settings.load(os.environ)
    os.environ.update(loaded.environ)  # what dotenv files add, for Python tasks and the modules that they import
    log.configure(loaded.log_level, loaded.log_format, loaded.node)
    for warning in loaded.warnings if warn else ():
        log.warn(warning)
    if for_database:
        settings.require(loaded, database=True)
    return loaded


@contextmanager
def locked(loaded: Settings) -> Iterator[Session]:
    """A session that holds the lock. One try: a person is waiting, and can see who has it."""
    from startup.database.connect import connect
    from startup.errors import LockUnavailable, Unreachable

    with closing(connect(loaded)) as session:
        if not session.try_lock():
            if why := session.read_only:
                raise Unreachable(
                    f"nothing can be written: {why}; right would be STARTUP_DATABASE_URL with the primary's address"
                )
            whom = "another node holds it"
            if holder := session.holder():
                whom = f"{holder.node or 'another program'} holds it ({holder.detail})"
            raise LockUnavailable(f"the lock is not free: {whom}; try again when it is done")
        yield session
        session.unlock()
