"""What may end the work early: a signal, a time limit, the app's end, a check that fails.

The first three become exceptions in the main thread, for which psycopg cancels the running statement on the server. A
thread does what the main thread cannot while it is in C code: cancel a statement, which SQLite's need, and obey the
second signal at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from startup import log
from startup.errors import TASK_FAILED, AppEnded, Interrupted, LockLost, TimedOut, Unreachable
from startup.ping import attempt
from startup.ping.attempt import App
from startup.process import proof
from startup.spawn import kill_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without signal's enums, as in process/proof.py

_APP_ENDED = signal.SIGUSR2
_AGAIN = signal.SIGUSR1
#: Seconds after which what was swallowed is raised again: the callback that swallowed it is over by then, or soon.
_MOMENT = 0.01
_MARGIN = 1.0
#: Seconds between two looks at the app while what could be long is done before its ping.
_LOOK = 0.1
#: Seconds within which two of the same stop signal are one: sent to the group, and passed on by its first process.
_TOGETHER = 0.1
#: Seconds to wait for a cancel that is under way, and what asks the watching thread for a word when it is over.
_UNDER_WAY = 10.0
_MARK = 0
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
#: What ends the statement that the main thread is in.
_ENDS = (*_STOP, signal.SIGALRM, _APP_ENDED)


class Interrupts:
    """Installed once a process, from its main thread."""

    def __init__(self) -> None:
        #: The process group that runs, if one does: killed should this process have to end at once.
        self.groups: list[int] = []
        #: Called, from another thread, to end a statement that the main thread is in.
        self.cancel: Callable[[], None] | None = None
        self._raised: Interrupted | None = None
        self._swallowed: Interrupted | None = None
        self._late = False
        self._wakeup = -1
        self._settled = threading.Event()

    def install(self) -> None:
        """From here on TERM and INT raise Interrupted. What was ignored (POSIX: a background child's INT) stays so."""
        for number in _STOP:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_stop)
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.signal(_APP_ENDED, self._on_app_ended)
        signal.signal(_AGAIN, self._on_again)
        sys.unraisablehook = self._on_unraisable
        reader, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True, name="signals").start()

    def settle(self) -> None:
        """Returns when no cancel is under way any more: a late one would strike the next statement.

        The mark stands behind every signal that has come, and the thread that cancels reads them in turn.
        """
        self._settled.clear()
        os.write(self._wakeup, bytes([_MARK]))
        self._settled.wait(_UNDER_WAY)

    @contextlib.contextmanager
    def limit(self, seconds: float, grace: float, what: str) -> Iterator[None]:
        """TimedOut after *seconds* (0: none); what does not heed it ends with the process after *grace* more.

        A little later than that, so that a command that was killed after *grace* is still told of in the usual way.
        """
        if not seconds:
            yield
            return
        import signal  # a task runs: from here on the whole of it is worth its price

        hard = threading.Timer(seconds + grace + _MARGIN, self._give_up, (seconds, what)) if grace else None
        if hard:
            hard.daemon = True
            hard.start()
        signal.setitimer(signal.ITIMER_REAL, seconds)
        self._late = False
        try:
            try:
                yield
                if self._late:  # it has swallowed that
                    raise TimedOut(TASK_FAILED)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)  # where the alarm may still strike
        finally:
            self._late = False
            if hard:
                hard.cancel()

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """What fails in here after a signal came is that signal's: sqlite3 clears what is raised in its callbacks."""
        try:
            yield
        except (Interrupted, LockLost, Unreachable):
            raise
        except BaseException as error:
            if self._raised is not None:
                raise self._raised from error
            raise

    def heed(self) -> None:
        """At a task's end, or a batch's: a signal or time limit that it has swallowed is raised again."""
        if self._raised is not None:
            raise self._raised
        if self._late:
            raise TimedOut(TASK_FAILED)

    def _give_up(self, seconds: float, what: str) -> None:
        log.fail(f"{what} was not done within {seconds:.3g} s, its time limit, and did not end when it was told to")
        self.exit_at_once(TASK_FAILED)

    def watch_app(self, pid: int) -> None:
        """AppEnded in the main thread as soon as the process *pid* is gone (pidfd_open(2))."""
        threading.Thread(target=self._wait_for_app, args=(pid,), daemon=True, name="app").start()

    @contextlib.contextmanager
    def while_lives(self, pid: int) -> Iterator[None]:
        """AppEnded in the main thread if the process *pid* (0: none) ends meanwhile, whatever is being imported."""

        def look() -> None:
            if app.ended():
                raise attempt.AppEnded

        main = threading.main_thread().ident or 0
        with App(pid or None) as app, watching(look, lambda: signal.pthread_kill(main, _APP_ENDED), _LOOK):
            yield

    def exit_at_once(self, code: int) -> None:
        """Kill what was started, and this process: the server then ends our session by itself."""
        for group in tuple(self.groups):
            kill_group(group, signal.SIGKILL)
        proof.leave_at_once(code)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._raise(Interrupted(128 + number))

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        self._late = True
        if self._raised is None:
            raise TimedOut(TASK_FAILED)

    def _on_app_ended(self, number: int, frame: FrameType | None) -> None:
        self._raise(AppEnded(0))

    def _on_unraisable(self, told: sys.UnraisableHookArgs) -> None:
        """A weak reference's callback (importlib has some) and a __del__ swallow what a signal's handler raises."""
        if not isinstance(told.exc_value, Interrupted):
            sys.__unraisablehook__(told)
            return
        self._swallowed = told.exc_value
        main = threading.main_thread().ident or 0
        threading.Timer(_MOMENT, signal.pthread_kill, (main, _AGAIN)).start()

    def _on_again(self, number: int, frame: FrameType | None) -> None:
        swallowed, self._swallowed = self._swallowed, None
        if swallowed is not None:
            raise swallowed

    def _raise(self, reason: Interrupted) -> None:
        if self._raised is None:
            self._raised = reason
            raise reason

    def _watch(self, reader: int) -> None:
        stops, first, first_number = 0, 0.0, 0
        while True:
            for number in os.read(reader, 64):
                if number == _MARK:
                    self._settled.set()
                if number in _STOP:
                    if not stops:
                        first, first_number = time.monotonic(), number
                    stops += stops == 0 or number != first_number or time.monotonic() - first > _TOGETHER
                    if stops > 1:
                        self.exit_at_once(128 + number)
                if number in _ENDS and self.cancel is not None:
                    with contextlib.suppress(Exception):
                        self.cancel()

    def _wait_for_app(self, pid: int) -> None:
        with App(pid) as app, contextlib.suppress(attempt.AppEnded):
            while True:
                app.wait({}, 3600)
        signal.pthread_kill(threading.main_thread().ident or 0, _APP_ENDED)


@contextlib.contextmanager
def watching(check: Callable[[], object], on_failure: Callable[[], None], every: float) -> Iterator[None]:
    """Call *check* every so many seconds; the first time that it raises, call *on_failure* and look no more."""
    over = threading.Event()

    def look() -> None:
        try:
            while not over.wait(every):
                check()
        except Exception as error:
            log.debug(f"the watch ends: {error}")
            if not over.is_set():
                on_failure()

    thread = threading.Thread(target=look, name="startup-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)  # a check on a dead network may hang for longer; the thread ends with the process
