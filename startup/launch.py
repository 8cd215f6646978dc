"""Execute the app as if no shell had been in between. Used where GNU env cannot do it.

    python -I -S launch.py LAUNCHING SHELL_PID IGNORED TERMINAL GROUP COMMAND [ARGUMENT ...]

The word LAUNCHING tells the shell that the app is still to come. IGNORED is the mask of the signals up to 31 that were
ignored before us (field 33 of proc_pid_stat(5)); the shell still ignores them and the real-time ones. All of these stay
so, all others get their default. With TERMINAL `leader` the app becomes the
terminal's foreground process group, so that Ctrl-C reaches it once; with GROUP `true` it gets a process group of its
own. The environment is the one that the shell was started with, from /proc, since shells add variables of their own
and drop names such as `spring.datasource.url`.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn
else:
    import _signal as signal  # without signal's enums, whose import takes as long as all the rest of Python's start

#: What shells set for themselves, and Python does (PEP 538).
_ADDED = b"IFS LINENO OLDPWD OPTIND PPID PS1 PS2 PS4 PWD SHLVL _ LC_CTYPE".split()
_NOT_THERE = (FileNotFoundError, NotADirectoryError)


def of_process(pid: str, name: str) -> bytes:
    """What the kernel tells of the process *pid*; nothing where there is no /proc."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def given(process: str) -> dict[bytes, bytes]:
    """The environment that *process* was started with; nothing where there is no /proc."""
    pairs = (entry.partition(b"=") for entry in of_process(process, "environ").split(b"\0"))
    return {name: value for name, equals, value in pairs if name and equals}


def environment(shell: str) -> dict[bytes, bytes]:
    """The environment that the process *shell* was started with, without the tasks' own database address."""
    found = given(shell) or dict(os.environb)
    for name in [name for name in found if name.startswith(b"STARTUP_LD_")]:  # as release/bundle.sh has it: no /proc
        found[name.partition(b"_")[2]] = found.pop(name)
    found.pop(b"STARTUP_DATABASE_URL", None)
    return found


def undo_changes_since(process: str) -> None:
    """Give this process, for the tasks, the environment of *process*, but for what a STARTUP_PYTHON that wraps one set.

    A shell has changed its own variables, which are in lower case, and dropped what it takes for no name.
    """
    before, now = given(process), os.environb
    for name in _ADDED:
        if before and name not in before:
            now.pop(name, None)
    for name, value in before.items():
        if name in _ADDED or name not in now or name != name.upper():
            now[name] = value


def take_the_terminal() -> None:
    """Become the foreground process group of the controlling terminal (tcsetpgrp(3))."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        os.tcsetpgrp(terminal, os.getpgrp())
    except OSError:
        pass  # it was taken away meanwhile: the app is told by a hang-up, as without us


def ignored_in(status: bytes) -> int:
    """The mask of the signals that are ignored, from proc_pid_status(5); 0 where the kernel does not tell (gVisor)."""
    words = status.partition(b"\nSigIgn:")[2].split(None, 1)
    return int(words[0], 16) if words else 0


def restore_signals(ignored: int) -> None:
    """Default for every signal that is not in the mask *ignored*; Python itself has ignored SIGPIPE and SIGXFSZ."""
    if ignored & 2:  # bash and busybox always ignore SIGQUIT: what is known of SIGINT is taken for both
        ignored |= 4
    else:
        ignored &= ~4
    for number in range(1, signal.NSIG):
        if number in (signal.SIGKILL, signal.SIGSTOP, 32, 33):  # the last two are the C library's
            continue
        signal.signal(number, signal.SIG_IGN if ignored >> (number - 1) & 1 else signal.SIG_DFL)


def execute(command: list[bytes], environ: dict[bytes, bytes]) -> NoReturn:
    """execvp(3), which Python's own differs from in that a script without `#!` is not given to sh.

    :raises OSError: it cannot be executed; the first one but for "not there".
    """
    path = [b""] if b"/" in command[0] else environ.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    failures = []
    for file in (os.path.join(directory, command[0]) for directory in path):
        try:
            os.execve(file, command, environ)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execve(b"/bin/sh", [b"/bin/sh", file, *command[1:]], environ)
            failures.append(error)
    raise next((error for error in failures if not isinstance(error, _NOT_THERE)), failures[0])


def main() -> int:
    """Returns only when the app could not be executed: 127 where it was not found, 126 otherwise (POSIX XCU 2.8.2)."""
    _, shell, ignored, terminal, group, *command = sys.argv[1:]
    environ = environment(shell)
    if terminal == "leader" or group == "true":
        os.setpgid(0, 0)
    if terminal == "leader":
        take_the_terminal()
    restore_signals(int(ignored) | ignored_in(of_process(shell, "status")))
    try:
        execute([os.fsencode(word) for word in command], environ)
    except OSError as error:
        if sys.stderr is not None:  # else print() would take stdout, which is the app's
            print(f"startup: error: the app could not be executed: '{command[0]}': {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, _NOT_THERE) else 126


if __name__ == "__main__":
    sys.exit(main())
