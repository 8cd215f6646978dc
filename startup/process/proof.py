"""Proof that a process ended as it meant to. A task may end it from inside (os._exit, exec, a kill), with any code.

The last act is a mark, which the parent looks for and alone believes: for entrypoint.sh a file in the state directory;
``init`` and ``run`` outside the flow have a parent that is forked here, before any heavy import (SPEC section 2).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without signal's enums, whose import takes longer than all else here

#: fcntl(2); Python does not name it everywhere.
_F_SETSIG = 10
#: What a supervisor passes on to its child; the others here mean something to that alone, or nothing.
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_HEARD = (*_PASSED_ON, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)
#: Seconds for what tasks have registered with atexit: one that hangs must not hold up the end.
_TIDYING = 2.0
_nothing: Callable[[], None] = lambda: None  # noqa: E731
_mark = _nothing


def mark_by(mark: Callable[[], None]) -> None:
    """From here on *mark* is the last act."""
    global _mark
    _mark = mark


def supervise() -> None:
    """Go on as a child of a parent that only waits, passes signals on, and looks for the mark; it does not return here.

    The child is killed when its parent is: the other end of a pipe is closed then (fcntl(2), F_SETSIG).
    """
    import fcntl

    marks, mark = os.pipe()
    life, lives = os.pipe()
    os.set_blocking(marks, False)  # a process that a task left behind may hold the other end
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where that is ignored nobody is told of a child's end
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    if child := os.fork():
        os.close(life)
        os._exit(_wait(child, marks))
    os.close(lives)
    with suppress(OSError):  # a kernel that does not know that (gVisor)
        fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(life, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    mark_by(lambda: suppressed_write(mark))


def suppressed_write(descriptor: int) -> None:
    """A mark, unless a task has closed what it is written to: then there is none."""
    with suppress(OSError):
        os.write(descriptor, b"+")


def _wait(child: int, marks: int) -> int:
    """The exit code of *child*, 70 without its mark. As the first process of a container, it reaps the others too."""
    passed_on = set()
    while True:
        information = signal.sigwaitinfo(_HEARD)
        number = information.si_signo
        if number in _PASSED_ON:
            passed_on.add(number)
            if information.si_code <= 0:  # what the terminal sends reaches the child by itself
                with suppress(ProcessLookupError):
                    os.kill(child, number)
        if number != signal.SIGCHLD:
            continue
        ended = 0
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == child:
                    ended, code = child, os.waitstatus_to_exitcode(found[1])
        if ended:
            if -code in passed_on:  # before it was ready to heed that
                return 128 - code
            return code if _is_there(marks) else _unproved(code)


def _is_there(marks: int) -> bool:
    try:
        return os.read(marks, 1) == b"+"
    except BlockingIOError:
        return False


def _unproved(code: int) -> int:
    from startup import log
    from startup.errors import TASK_FAILED

    log.configure(os.environ.get("STARTUP_LOG_LEVEL", "info"), os.environ.get("STARTUP_LOG_FORMAT", "text"))
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    log.fail(
        f"the process of the startup tasks was ended {how} before they were done: by a task (os._exit, exec), by "
        "kill -9, or for want of memory; see its last line",
        exit_code=TASK_FAILED,
    )
    return TASK_FAILED


@contextmanager
def alone() -> Iterator[None]:
    """Around others' code: a child that it forks ends with it, and uses nothing that is its parent's."""
    from startup import log

    ours = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != ours:
            os._exit(0)
        log.reopen()


def leave(code: int, tidy: bool = True) -> None:
    """End this process now, whatever threads tasks have left, with *code* and the mark. Does not return.

    *tidy*: run what was registered with atexit, as the interpreter would.
    """
    import threading

    left = [one.name for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    if left:
        from startup import log

        log.warn(f"threads that a task has left end with this process: {', '.join(left)}")
    if tidy:
        import atexit

        tidying = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
        with suppress(RuntimeError):  # at the pids limit there is no thread to be had
            tidying.start()
            tidying.join(_TIDYING)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):  # nobody reads it any more: that is no failure of a task
            stream.flush()
    leave_at_once(code)


def leave_at_once(code: int) -> None:
    """The same, without a look at anything."""
    _mark()
    os._exit(code)
