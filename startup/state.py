"""The state directory: the phase for people and probes, and what entrypoint.sh must know when the module is gone."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping

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
            with open(f"{path}.new", "w", encoding="utf-8") as file:
                file.write(" ".join(log.redact(text).split()) + "\n")
            os.rename(f"{path}.new", path)
        except OSError as error:
            log.debug(f"the state file {path} could not be written: {error.strerror}")

    def read(self, name: str) -> str | None:
        """A file's line; None where there is none."""
        try:
            with open(os.path.join(self.directory, name), encoding="utf-8") as file:
                return file.readline().strip()
        except OSError:
            return None

    def phase(self, text: str) -> None:
        """What is going on now, for ``health``."""
        self.write("phase", text)


def find(environ: Mapping[str, str]) -> State | None:
    """The state of the entrypoint that runs in this container; the same search as in entrypoint.sh."""
    given = environ.get("STARTUP_STATE_DIR", "")
    candidates = [given or "/run/startup"]
    if not given:
        for parent in (environ.get("TMPDIR") or "/tmp", "/tmp", "/dev/shm"):
            candidates += sorted(glob.glob(os.path.join(glob.escape(parent), "startup-*")))
    return next((State(path) for path in candidates if _live(State(path))), None)


def _live(state: State) -> bool:
    """Does the process that wrote ``pid`` still run? Pids are used again, so its start time counts too (proc(5))."""
    pid, _, since = (state.read("pid") or "").partition(" ")
    try:
        with open(f"/proc/{int(pid)}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19] == since
    except (OSError, ValueError, IndexError):
        return False
