"""The errors that end a run, each with the exit code that the contract gives it."""

from __future__ import annotations

from collections.abc import Sequence

#: The codes are those of sysexits.h, and what timeout(1) exits with. This one is EX_SOFTWARE.
TASK_FAILED = 70
#: For entrypoint.sh alone: the app ended while tasks were left, having answered its ping or not.
APP_ENDED, APP_ENDED_UNANSWERED = 3, 4


class StartupError(Exception):
    """What happened, in words for the person who reads the log; ``code`` is the exit code."""

    code = TASK_FAILED

    def __init__(self, *faults: str) -> None:
        self.faults: Sequence[str] = faults
        super().__init__("\n".join(faults))


class TaskFailed(StartupError):
    """A task raised, exited with another code than 0, or ran out of time."""


class AwaitedFailed(TaskFailed):
    """A task failed on the node that this one was waiting for."""


class SettingError(StartupError):
    """One or more settings are wrong. Each fault names the variable, its value and what would be right."""

    code = 78  # EX_CONFIG


class Unreachable(StartupError):
    """The database did not accept a connection in time, or refused it for good."""

    code = 69  # EX_UNAVAILABLE


class Busy(Unreachable):
    """SQLite: somebody else's transaction keeps us out, readers too once it has outgrown its cache."""


class LockUnavailable(StartupError):
    """The lock could not be had in time."""

    code = 75  # EX_TEMPFAIL


class LockLost(StartupError):
    """The session that holds the lock, or the lock itself, is gone."""

    code = 75  # EX_TEMPFAIL


class EndedInside(TaskFailed):
    """What ran in a transaction committed it or rolled it back by itself."""


class PingTimeout(StartupError):
    """The app never answered its explicit ping."""

    code = 124


class NotThere(StartupError):
    """Something that STARTUP_WAIT_FOR names was not there in time."""

    code = 124


class Interrupted(SystemExit):
    """A signal, a time limit or the app's end stops what this process is doing; ``code`` is its exit code.

    A SystemExit, since psycopg cancels the running statement on the server for that (psycopg.Connection.wait), and
    since a task's ``except Exception`` must not swallow it.
    """


class TimedOut(Interrupted):
    """The time limit of a task was reached."""


class AppEnded(Interrupted):
    """The app is gone: nothing is left to do for it."""
