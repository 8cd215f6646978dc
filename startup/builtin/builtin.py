"""What a built-in task is: one class and file in this room for each, and one line in ``registry``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from startup.settings.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.database.session import Session


class Builtin(ABC):
    """A task that comes with the tool, made anew for each plan. It works on the database, and takes no lock itself."""

    #: Part of the ledger's checksum, and what ``describe --json`` shows: it must stay.
    kind: str
    #: How often it runs, what else a list may say behind the @, and what is told to who says something else.
    policy: str = "change"
    policies: Sequence[str] = ("always", "change", "release", "once")
    refusal: str = "it works on the database, and the policy local does without; say always, change, release or once"
    #: Has it a row in the ledger, in one transaction with what it does? Else it remembers by itself what is done.
    ledgered: bool = True
    #: What a person should see, which ends nothing; filled by :meth:`prepare`.
    warnings: Sequence[str] = ()
    #: How many of its parts are pending, and were applied, as far as that is known.
    progress: tuple[int, int] | None = None
    #: What the policy ``change`` watches: a text, and files.
    definition: str = ""
    files: Sequence[str] = ()

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def prepare(self, asked_for: bool) -> str:
        """Load what it works on; why there is nothing to do for it, or ''. SettingError for what cannot be read.

        *asked_for*: did somebody name it, or is it on a default's list only?
        """

    @abstractmethod
    def run(self, session: Session, seconds_left: Callable[[], float] | None, warn: Callable[[str], None]) -> str:
        """Do it, on the session that holds the lock; a word on what was done. *seconds_left*: of a time limit's."""

    def is_done(self, session: Session, warn: Callable[[str], None]) -> bool:
        """Where it has no row: is there nothing to do? Asked with and without the lock."""
        raise NotImplementedError

    def pending(self, session: Session) -> list[str]:
        """Where it has no row: what it has yet to do, by name."""
        return []

    def examine(self, session: Session, warn: Callable[[str], None]) -> None:  # noqa: B027  # nothing, for most
        """Raise what running it now would be refused with, for ``plan``; changes nothing."""

    def preview(self, session: Session) -> tuple[bool, str, list[str]]:
        """Where it has no row: is anything to do, what running it would do now, for ``plan``, and lines of detail."""
        raise NotImplementedError
