"""Starting a command: the one way for tasks, hooks and ``cmd:`` pings. Knows the standard library alone."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as mypy knows it; typing itself is a costly import
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence


def spawn(
    started: list[int], argv: Sequence[str], environ: Mapping[str, str], output: int, keep_open: Collection[int] = ()
) -> None:
    """Start *argv*, whose first word is a path, and append its pid to *started*. OSError where it cannot be executed.

    It leads a session, so a process group, of its own; reads nothing, and writes both streams to the descriptor
    *output*. It inherits *keep_open* and no other descriptor, no blocked signal, and none that is ignored by a shell
    that starts us with ``&`` (INT, QUIT; POSIX XCU 2.11) or by Python (PIPE, XFSZ).
    """
    import functools
    import signal

    start = functools.partial(
        os.posix_spawn,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, output, stream) for stream in (1, 2)),
            *((os.POSIX_SPAWN_DUP2, kept, kept) for kept in keep_open),  # takes its close-on-exec away
            *((os.POSIX_SPAWN_CLOSE, other) for other in _inherited() if other not in keep_open),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ],
    )
    # One call of C code starts it and notes it: no signal's handler, which may raise, runs in between. To block the
    # signals would not keep them from that, since Python runs handlers here whichever thread was struck.
    started.extend(map(start, [argv[0]], [list(argv)], [dict(environ)]))


def _inherited() -> Iterator[int]:
    """The descriptors above 2 that an exec does not close: what was handed to us (systemd's, a shell's)."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                yield int(name)
        except OSError:
            pass  # the one of this very list
