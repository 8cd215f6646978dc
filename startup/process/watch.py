"""Looking at something every so often, on a thread, while something else goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from startup import log


@contextmanager
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
