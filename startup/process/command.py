"""A command as a task: a process group of its own, its output on stderr, ended when it may not go on."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence

from startup.errors import LockLost, TaskFailed
from startup.ping.attempt import App, AppEnded
from startup.process.interrupts import Interrupts
from startup.spawn import end, kill_group, spawn

#: Seconds. A signal that comes just before the main thread falls asleep, or to another thread, is heeded after them.
_NAP = 0.1


class Command:
    """One command. stdout and stdin stay the app's: it writes to stderr and reads nothing."""

    def __init__(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        interrupts: Interrupts,
        stop_timeout: float,
        keep_open: Sequence[int] = (),
    ) -> None:
        self._argv = argv
        self._environ = environ
        self._interrupts = interrupts
        self._stop_timeout = stop_timeout
        self._keep_open = keep_open
        self._lost: LockLost | None = None
        #: Its pid, from when it is started until it was waited for.
        self._started: list[int] = []

    def wait(self) -> None:
        """Start it and wait for its end; TaskFailed unless with 0, LockLost when :meth:`lose` ended it.

        Started here and not before: nothing that is raised, from the first moment on, may leave it behind.
        """
        self._interrupts.groups = self._started
        try:
            try:
                code = self._run()
            except BaseException:
                self.stop()
                raise
        finally:
            end(self._started)  # again: a second signal may have cut stop() short
        if self._lost is not None:
            raise self._lost
        if code:
            raise TaskFailed(in_words(code))

    def _run(self) -> int:
        try:
            spawn(self._started, self._argv, self._environ, 2, self._keep_open)
        except OSError as error:
            raise TaskFailed(f"'{self._argv[0]}' could not be executed: {error.strerror}") from None
        if self._lost is not None:  # before there was anything to end
            raise self._lost
        _wait_for_end(self._started[0])
        _, status = os.waitpid(self._started[0], 0)
        self._started.clear()  # what it has left in the background may stay
        return os.waitstatus_to_exitcode(status)

    def stop(self) -> None:
        """TERM, then KILL after STARTUP_STOP_TIMEOUT, to the whole group."""
        self._terminate(self._stop_timeout or math.inf)
        end(self._started)

    def lose(self, reason: LockLost) -> None:
        """The lock is gone, so somebody else may start: end the group now. Called from the watching thread."""
        self._lost = reason
        self._terminate(self._stop_timeout)

    def _terminate(self, seconds: float) -> None:
        for pid in tuple(self._started):
            kill_group(pid, signal.SIGTERM)
            _wait_for_end(pid, seconds)
            kill_group(pid, signal.SIGKILL)


def _wait_for_end(pid: int, seconds: float = math.inf) -> None:
    """Returns when the process *pid* has ended, or after *seconds*."""
    until = time.monotonic() + seconds
    with App(pid) as process, contextlib.suppress(AppEnded):
        while (left := until - time.monotonic()) > 0:
            process.wait({}, min(left, _NAP))


def in_words(code: int) -> str:
    """How a process ended; *code* is negative for a signal, as subprocess has it."""
    if code < 0:
        what = " (out of memory, or kill -9)" if -code == signal.SIGKILL else ""
        return f"it was killed by {signal.Signals(-code).name}{what}"
    if code == 127:  # POSIX, Shell Command Language, 2.8.2
        path = os.environ.get("PATH", "not set")
        return f"it ended with exit code 127, a command was not found (PATH is {path}); its own output says which"
    return f"it ended with exit code {code}; its own output says why"
