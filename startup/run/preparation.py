"""Looking at the database while the app boots, so that little is left to do when it answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


class Preparation:
    """Calls *look* on a thread that yields to the app."""

    NICE = 10  # setpriority(2); on Linux a thread has its own

    def __init__(self, look: Callable[[], bool]) -> None:
        self._look = look
        self._answer = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="prepare")
        self._thread.start()

    def _run(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self.NICE)
            self._answer = self._look()
        except BaseException as error:
            self._error = error

    def result(self) -> bool:
        """What *look* answered or raised. A signal may end the wait."""
        while self._thread.is_alive():
            self._thread.join(0.5)
        if self._error is not None:
            raise self._error
        return self._answer
