"""One way to start a command, for tasks, hooks and ``cmd:`` pings. The standard library alone, as in ping/."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as mypy knows it; typing itself is a costly import
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
else:
    import _signal as signal  # without signal's enums, whose import takes longer than all else here

#: What a shell that starts us with `&` ignores, and what Python does.
_IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ)


_SHELL = "/bin/sh"
#: The bundle's, beside lib/packages/startup; elsewhere nothing is there.
_BUNDLED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "bin", "sh")


def shell() -> str:
    """``/bin/sh``; where the image has none (scratch, distroless), the bundle's own."""
    own = os.path.normpath(_BUNDLED)
    return own if not os.path.exists(_SHELL) and os.access(own, os.X_OK) else _SHELL


def spawn(
    started: list[int], argv: Sequence[str], environ: Mapping[str, str], output: int, keep_open: Sequence[int] = ()
) -> None:
    """Start *argv*, whose first word is a path, and append its pid to *started*: to be given to :func:`end` at last.

    ``/bin/sh`` is :func:`shell`.

    It leads a session, and so a process group, of its own, blocks no signal and ignores none that it need not. It reads
    /dev/null, writes to *output*, and of our other descriptors it gets *keep_open* alone.

    :raises OSError: it cannot be executed.
    """
    from functools import partial

    actions: list[tuple[object, ...]] = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    for kept in keep_open:  # by way of 0: onto itself, dup2(2) would leave it to be closed (glibc before 2.29)
        actions += [(os.POSIX_SPAWN_DUP2, kept, 0), (os.POSIX_SPAWN_DUP2, 0, kept)]
    actions.append((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0))
    actions += [(os.POSIX_SPAWN_CLOSE, other) for other in _open() - {0, 1, 2, *keep_open}]
    program = shell() if argv[0] == _SHELL else argv[0]
    start = partial(os.posix_spawn, program, tuple(argv), file_actions=actions, setsigmask=(), setsigdef=_IGNORED)
    # A signal's handler runs in the main thread between two bytecodes, whichever thread the signal has reached, so that
    # no mask keeps it off. Here is no bytecode between the child's start and the note of it, nor is the GIL let go.
    try:
        started.extend(map(partial(start, setsid=True), [environ]))
    except NotImplementedError:  # a Python that was built for an older C library
        started.extend(map(partial(start, setpgroup=0), [environ]))


def _open() -> set[int]:
    """All descriptors that are open; without /proc those up to 255, as few images are so bare."""
    try:
        return set(map(int, os.listdir("/proc/self/fd")))
    except OSError:
        return {number for number in range(256) if _is_open(number)}


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def kill_group(pid: int, number: int) -> None:
    """Send a signal to the process group of *pid*, if there is one of ours."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def end(started: Sequence[int]) -> None:
    """Kill the process group of each child that was not waited for, and wait for it. Can be done twice."""
    for pid in started:
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # still ours: the number is nobody else's
            kill_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass  # done before
