"""The state directory: the phase for people and probes, and what entrypoint.sh must know when the module is gone."""

from __future__ import annotations

import contextlib
import os

from startup import log


class State:
    """Files of one line each. Without a directory nothing is kept, and nothing fails."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def write(self, name: str, text: str = "") -> None:
        """Replace a file atomically (rename(2)): a probe never sees half a line."""
        if not self.directory:
            return
        path = os.path.join(self.directory, name)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}.new")
            # made anew: where others may write, a link must not be followed
            with open(f"{path}.new", "x", encoding="utf-8", errors="replace") as file:
                file.write(log.plain(" ".join(log.redact(text).split())) + "\n")
            os.rename(f"{path}.new", path)
        except OSError as error:
            log.debug(f"the state file {path} could not be written: {error.strerror}")

    def read(self, name: str) -> str | None:
        """What *name* holds; None where it is not there, or no file: a FIFO would be waited for."""
        path = os.path.join(self.directory, name)
        if not self.directory or not os.path.isfile(path):
            return None
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError:
            return None

    def phase(self, text: str) -> None:
        """What is going on now, for ``health``."""
        self.write("phase", text)
