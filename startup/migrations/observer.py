"""Watching migrations while they run: who is in the way of one, for how long, and how far it is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from startup.database.session import Session

#: Seconds between two lines about a migration that takes long (SPEC section 9).
EVERY = 10.0


class Watch:
    """Of one migration: since when, when to look again, and what has been seen."""

    def __init__(self, what: str, soon: float) -> None:
        self.what = what
        self.started = time.monotonic()
        self.line = self.started + EVERY
        self.due = min(self.started + soon, self.line)
        self.told = ""
        #: The last answer that named any.
        self.blockers: list[str] = []


class Observer:
    """One thread for all the migrations of a run: a thread for each would cost a short one more than its commit.

    While one runs: say every 10 s that it does, for whom it waits, and how far an index build is. Who is in the way is
    asked sooner and more often, so that a wait that ends by the limit for table locks (in seconds) has been seen.
    """

    def __init__(self, session: Session, table_lock_timeout: float, report: Callable[[str], None]) -> None:
        self._session = session
        self._soon = min(2.0, table_lock_timeout / 3) if table_lock_timeout else 2.0
        self._report = report
        self._watch: Watch | None = None
        #: Held while a line is said, so that none is once its migration is over.
        self._saying = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join(5)

    @contextlib.contextmanager
    def watching(self, what: str) -> Iterator[Watch]:
        """While the block runs, *what* does."""
        self._watch = Watch(what, self._soon)
        try:
            yield self._watch
        finally:
            with self._saying:
                self._watch = None

    def _loop(self) -> None:
        pause = 0.0
        while not self._end.wait(pause):
            watch = self._watch
            if watch is not None and time.monotonic() >= watch.due:
                self._look(watch)
            at_most = min(self._soon, EVERY)
            left = watch.due - time.monotonic() if watch is not None else at_most
            pause = max(0.01, min(left, at_most))

    def _look(self, watch: Watch) -> None:
        blockers: list[str] = []
        with contextlib.suppress(Exception):
            blockers = self._session.blockers()
            watch.blockers = blockers or watch.blockers
        now = "; ".join(blockers)
        if now and now.split(",")[0] != watch.told.split(",")[0]:
            self._say(watch, f"{watch.what} waits for {now}")
            watch.told = now
        if time.monotonic() >= watch.line:
            watch.line += EVERY
            parts = [f"{watch.what} has been running for {round(time.monotonic() - watch.started)} s"]
            parts += [f"for {now}"] if now else []
            with contextlib.suppress(Exception):  # a part less is better than a migration that ends because of it
                parts += self._session.progress()
            self._say(watch, "; ".join(parts))
        watch.due = min(time.monotonic() + self._soon, watch.line)

    def _say(self, watch: Watch, line: str) -> None:
        with self._saying:
            if self._watch is watch:
                self._report(line)
