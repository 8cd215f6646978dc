"""A person at a terminal: a command on a pseudo-terminal of its own, what is typed there and what is shown."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

CTRL_C, CTRL_BACKSLASH, CTRL_Z = b"\x03", b"\x1c", b"\x1a"
DETACH = b"\x10\x11"  # docker's Ctrl-P Ctrl-Q


class Terminal:
    """*command* leads the session of the terminal, as a login shell does, or the first process of a container."""

    def __init__(self, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self._ours, theirs = pty.openpty()
        self._shown = b""
        self.resize(24, 80)
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                block = os.read(self._ours, 65536)
            except OSError:  # EIO: nobody has the other end any more
                return
            self._shown += block

    @property
    def shown(self) -> str:
        """Everything so far, without colours and carriage returns."""
        return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|\r", "", self._shown.decode(errors="replace"))

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    @property
    def is_raw(self) -> bool:
        """Keys go to the program as they are: docker has attached."""
        return not termios.tcgetattr(self._ours)[3] & termios.ICANON

    def resize(self, rows: int, columns: int) -> None:
        """As when the window is pulled: the foreground process group gets SIGWINCH."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_for(self, condition: Callable[[], object], what: str, timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}; the terminal shows:\n{self.shown}"
            time.sleep(0.02)

    def wait_until_shown(self, text: str, times: int = 1) -> None:
        self.wait_for(lambda: self.shown.count(text) >= times, f"{text!r} shown {times} times")

    def wait(self, timeout: float = 20) -> int:
        """The command's exit code, 128 + n for a signal."""
        self.wait_for(lambda: self.process.poll() is not None, "its end", timeout)
        code = self.process.wait()
        return 128 - code if code < 0 else code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._ours)
