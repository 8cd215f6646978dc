"""Watching a migration while it runs: who is in its way, for how long, and how far it is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType

from startup.database.session import Session

#: Seconds between two lines about a migration that takes long (SPEC section 9).
EVERY = 10.0


class Observer:
    """While the block runs: say every 10 s that it does, for whom it waits, and how far an index build is.

    Who is in the way is asked sooner and more often, *soon* seconds apart, so that a wait that ends by the limit
    for table locks has been seen; ``blockers`` is the last answer that named any.
    """

    def __init__(self, session: Session, what: str, soon: float, report: Callable[[str], None]) -> None:
        self._session = session
        self._what = what
        self._soon = soon
        self._report = report
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self.blockers: list[str] = []

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join(5)

    def _loop(self) -> None:
        started = time.monotonic()
        line = started + EVERY
        told = ""
        while not self._end.wait(max(0.01, min(self._soon, line - time.monotonic()))):
            blockers = self._look_for_blockers()
            now = "; ".join(blockers)
            if now and now.split(",")[0] != told.split(",")[0] and not self._end.is_set():
                self._report(f"{self._what} waits for {now}")
                told = now
            if time.monotonic() >= line and not self._end.is_set():
                line += EVERY
                parts = [f"{self._what} has been running for {round(time.monotonic() - started)} s"]
                parts += [f"for {now}"] if now else []
                with contextlib.suppress(Exception):  # a part less is better than a migration that ends because of it
                    parts += self._session.progress()
                self._report("; ".join(parts))

    def _look_for_blockers(self) -> list[str]:
        blockers: list[str] = []
        with contextlib.suppress(Exception):
            blockers = self._session.blockers()
            self.blockers = blockers or self.blockers
        return blockers
