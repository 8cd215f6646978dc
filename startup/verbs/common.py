"""What verbs share: the settings, and a session for those that look into the database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from startup import log
from startup.settings import settings
from startup.settings.parsers import normal
from startup.settings.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.database.session import Session
    from startup.process.interrupts import Interrupts


def load(*, warn: bool = False, for_database: bool = False) -> Settings:
    """The settings, and the log as they want it. Faults are left to the plan, so that all are told at once.

    *for_database*: SettingError with all faults, those of the address too.
    """
    loaded = settings.load(os.environ)
    # what dotenv files add, for Python tasks and the modules that they import; to set another anew would make it known
    # to OpenSSL again (roots.py)
    os.environ.update({name: value for name, value in loaded.environ.items() if os.environ.get(name) != value})
    log.configure(loaded.log_level, loaded.log_format, loaded.node)
    for warning in loaded.warnings if warn else ():
        log.warn(warning)
    if for_database:
        settings.require(loaded, database=True)
    return loaded


def meant(word: str, verbs: Sequence[str]) -> str:
    """What somebody may have meant who gave *word* for a verb: one of *verbs*, or a task."""
    from difflib import get_close_matches

    from startup.builtin.registry import BUILT_IN

    loaded = settings.load(os.environ)
    lists = (loaded.tasks, loaded.pre_start, loaded.pre_stop, loaded.post_stop, loaded.failed, loaded.before_migrate)
    tasks = {*BUILT_IN, *loaded.definitions, *(item.name for one in lists for item in one)}
    name = normal(word)
    if name in tasks:
        return f"; to run a task: startup run {word}"
    near = get_close_matches(word.lower(), verbs, 3, 0.6) or get_close_matches(name, tasks, 1)
    near.sort(key=lambda one: sorted(one) != sorted(word.lower()))  # letters that have changed places come first
    hint = f"; did you mean {near[0] if near[0] in verbs else f'run {near[0]}'}?" if near else ""
    return f"{hint}; a task is run by: startup run NAME, and an app of the name startup is called by its path"


@contextmanager
def locked(loaded: Settings, interrupts: Interrupts, patience: float = 0.0) -> Iterator[Session]:
    """A session that holds the lock, and that a signal ends. One try: a person is waiting, and can see who has it.

    With *patience*, in seconds, it waits so long. Raises LockUnavailable, and Unreachable where nothing can be written.
    """
    from startup.database.connect import connect
    from startup.errors import LockUnavailable, Unreachable
    from startup.patience import Announcer, Stopwatch, poll

    announcer, waited = Announcer(log.say), Stopwatch(running=True)
    with closing(connect(loaded)) as session:
        for _ in poll():
            if session.try_lock():
                break
            if why := session.read_only:
                raise Unreachable(
                    f"nothing can be written: {why}; right would be STARTUP_DATABASE_URL with the primary's address"
                )
            whom = "another node holds it"
            if holder := session.holder():
                whom = f"{holder.node or 'another program'} holds it ({holder.detail})"
            if not patience:
                raise LockUnavailable(f"the lock is not free: {whom}; try again when it is done")
            if waited.over(patience):
                raise LockUnavailable(f"the lock was not free within {patience:g} s (STARTUP_LOCK_TIMEOUT): {whom}")
            announcer.say(whom, f"waiting for the lock: {whom}")
        interrupts.cancel = session.cancel
        try:
            yield session
        finally:
            interrupts.cancel = None
        session.unlock()
