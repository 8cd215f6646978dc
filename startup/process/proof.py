"""Proof that a process ended as it meant to. A task may end it from inside (os._exit, exec, a kill), with any code.

The last act is a mark, which the parent looks for and alone believes: for entrypoint.sh a file in the state directory;
``init`` and ``run`` outside the flow have a parent that is forked here, before any heavy import (SPEC section 2). When
they have failed it starts one more child, for the ``failed`` tasks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any
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
#: The file of note() and noted(); -1: none.
_notes = -1
#: The exit codes of a startup that has failed: ``startup.errors`` has their names.
FAILURES = (69, 70, 75, 78, 124)


def mark_by(mark: Callable[[], None]) -> None:
    """From here on *mark* is the last act."""
    global _mark
    _mark = mark


def supervise(words: list[str]) -> list[str]:
    """Go on as a child of a parent that only waits, passes signals on, and looks for the mark; it does not return here.

    The child is killed when its parent is: the other end of a pipe is closed then (fcntl(2), F_SETSIG).
    What it returns is the command line of this child: *words*, and after their failure another's, that of _phase.
    """
    import fcntl

    global _notes
    marks, mark = os.pipe()
    life, lives = os.pipe()
    with suppress(OSError, AttributeError):  # a kernel, a C library that does not know that
        _notes = os.memfd_create("startup")
    os.set_blocking(marks, False)  # a process that a task left behind may hold the other end
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where that is ignored nobody is told of a child's end
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    if child := os.fork():
        code, stopped = _wait(child, marks)
        if code not in FAILURES or stopped:
            os._exit(code)
        words = ["_phase", "failed", f"--code={code}"]
        try:
            child = os.fork()
        except OSError:  # at the pids limit
            os._exit(code)
        if child:
            _wait(child, marks, "failed tasks", held_back=1)
            os._exit(code)
    os.close(lives)
    with suppress(OSError):  # a kernel that does not know that (gVisor)
        fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(life, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    mark_by(lambda: suppressed_write(mark))
    return words


def note(**facts: object) -> None:
    """For the child that comes after a failed one, by way of a file that they share."""
    import json

    if _notes >= 0:
        os.ftruncate(_notes, 0)
        os.pwrite(_notes, json.dumps(facts).encode(), 0)


def noted() -> Mapping[str, Any]:
    """What was noted; nothing where nobody could."""
    import json

    text = os.pread(_notes, os.fstat(_notes).st_size, 0) if _notes >= 0 else b""
    found: Mapping[str, Any] = json.loads(text or b"{}")
    return found


def suppressed_write(descriptor: int) -> None:
    """A mark, unless a task has closed what it is written to: then there is none."""
    with suppress(OSError):
        os.write(descriptor, b"+")


def _wait(child: int, marks: int, what: str = "startup tasks", held_back: int = 0) -> tuple[int, bool]:
    """The exit code of *child*, 70 without its mark, and whether it was told to stop.

    The first signals, *held_back* of them, are not passed on. As the first process of a container, it reaps the others.
    """
    passed_on = set()
    while True:
        information = signal.sigwaitinfo(_HEARD)
        number = information.si_signo
        if number in _PASSED_ON and held_back:
            held_back -= 1
        elif number in _PASSED_ON:
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
                return 128 - code, True
            return code if _is_there(marks) else _unproved(code, what), bool(passed_on)


def _is_there(marks: int) -> bool:
    try:
        return os.read(marks, 1) == b"+"
    except BlockingIOError:
        return False


def _unproved(code: int, what: str) -> int:
    from startup import log
    from startup.errors import TASK_FAILED

    log.configure(os.environ.get("STARTUP_LOG_LEVEL", "info"), os.environ.get("STARTUP_LOG_FORMAT", "text"))
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    reason = (
        f"the process of the {what} was ended {how} before they were done: by a task (os._exit, exec), by "
        "kill -9, or for want of memory; see its last line"
    )
    note(reason=reason)
    log.fail(reason, exit_code=TASK_FAILED)
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
