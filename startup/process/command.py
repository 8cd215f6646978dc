"""A command as a task: a process group of its own, its output on stderr, ended when it may not go on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence

from startup.errors import LockLost, TaskFailed
from startup.process.interrupts import Interrupts
from startup.spawn import spawn

#: Seconds between two looks at a command that was told to end.
_LOOK = 0.02


class Command:
    """One command, to be run once. stdout and stdin stay the app's: it writes to stderr and reads nothing."""

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
        self._groups = interrupts.groups
        self._stop_timeout = stop_timeout
        self._keep_open = keep_open
        self._started: list[int] = []
        self._lost: LockLost | None = None

    def run(self) -> None:
        """Start it, and wait until it has ended; TaskFailed unless with 0, LockLost when :meth:`lose` ended it.

        Whatever this raises, nothing of the command is left behind.
        """
        try:
            try:
                spawn(self._started, self._argv, self._environ, output=2, keep_open=self._keep_open)
            except OSError as error:
                raise TaskFailed(f"'{self._argv[0]}' could not be executed: {error.strerror}") from None
            self._groups.update(self._started)
            if self._lost is not None:  # before it was started
                self.lose(self._lost)
            os.waitid(os.P_PID, self._started[0], os.WEXITED | os.WNOWAIT)
        except BaseException:
            self._stop()
            raise
        finally:
            self._groups.difference_update(self._started)
        code = os.waitstatus_to_exitcode(os.waitpid(self._started[0], 0)[1])
        if self._lost is not None:
            raise self._lost
        if code:
            raise TaskFailed(in_words(code))

    def _stop(self) -> None:
        """TERM, then KILL after STARTUP_STOP_TIMEOUT (0: as late as it likes), to the whole group."""
        self._kill(signal.SIGTERM)
        end = time.monotonic() + self._stop_timeout
        for pid in self._started:
            while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                if self._stop_timeout and time.monotonic() >= end:
                    break
                time.sleep(_LOOK)
            self._kill(signal.SIGKILL)  # before it is reaped, so the number is nobody else's
            os.waitpid(pid, 0)

    def lose(self, reason: LockLost) -> None:
        """The lock is gone, so somebody else may start: end the group now. Called from the watching thread."""
        self._lost = reason
        self._kill(signal.SIGTERM)
        killer = threading.Timer(self._stop_timeout, self._kill, (signal.SIGKILL,))
        killer.daemon = True
        killer.start()

    def _kill(self, number: int) -> None:
        for pid in self._started:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


def in_words(code: int) -> str:
    """How a process ended; *code* is negative for a signal, as os.waitstatus_to_exitcode() has it."""
    if code < 0:
        what = " (out of memory, or kill -9)" if -code == signal.SIGKILL else ""
        return f"it was killed by {signal.Signals(-code).name}{what}"
    return f"it ended with exit code {code}; its own output says why"
