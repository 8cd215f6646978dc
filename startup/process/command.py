"""A command as a task: a process group of its own, its output on stderr, ended when it may not go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

from startup.errors import LockLost, TaskFailed
from startup.process.interrupts import Interrupts


class Command:
    """One command, running. stdout and stdin stay the app's: it writes to stderr and reads nothing."""

    def __init__(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        interrupts: Interrupts,
        stop_timeout: float,
        keep_open: Sequence[int] = (),
    ) -> None:
        self._interrupts = interrupts
        self._stop_timeout = stop_timeout
        self._lost: LockLost | None = None
        interrupts.hold()
        try:
            self._process = subprocess.Popen(
                argv, env=environ, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True, pass_fds=keep_open
            )
        except OSError as error:
            interrupts.release()
            raise TaskFailed(f"'{argv[0]}' could not be executed: {error.strerror}") from None
        interrupts.groups.add(self._process.pid)

    def wait(self) -> None:
        """Until it has ended; TaskFailed unless with 0, LockLost when :meth:`lose` ended it.

        What would end it is held back since it was started, and heeded in here: no signal may leave it behind.
        """
        try:
            self._interrupts.release()
            code = self._process.wait()
        except BaseException:
            self.stop()
            raise
        finally:
            self._interrupts.groups.discard(self._process.pid)
        if self._lost is not None:
            raise self._lost
        if code:
            raise TaskFailed(in_words(code))

    def stop(self) -> None:
        """TERM, then KILL after STARTUP_STOP_TIMEOUT, to the whole group."""
        self._kill(signal.SIGTERM)
        try:
            self._process.wait(self._stop_timeout or None)
        except subprocess.TimeoutExpired:
            pass
        self._kill(signal.SIGKILL)
        self._process.wait()

    def lose(self, reason: LockLost) -> None:
        """The lock is gone, so somebody else may start: end the group now. Called from the watching thread."""
        self._lost = reason
        self._kill(signal.SIGTERM)
        killer = threading.Timer(self._stop_timeout, self._kill, (signal.SIGKILL,))
        killer.daemon = True
        killer.start()

    def _kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def in_words(code: int) -> str:
    """How a process ended; *code* is negative for a signal, as subprocess has it."""
    if code < 0:
        what = " (out of memory, or kill -9)" if -code == signal.SIGKILL else ""
        return f"it was killed by {signal.Signals(-code).name}{what}"
    return f"it ended with exit code {code}; its own output says why"
