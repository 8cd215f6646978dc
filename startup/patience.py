"""Waiting for what no time is known of: polls with a backoff, a stopwatch, and lines that say why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from startup.records import dataclass

#: Seconds between two polls: short at first, for a run that is over soon, then easy on the server.
FIRST_PAUSE, LONGEST_PAUSE = 0.025, 1.0
#: Seconds until a wait that goes on unchanged is mentioned again.
LINE_EVERY = 10.0


def poll(at_least: Callable[[], float] = float) -> Iterator[None]:
    """Again and again, with a backoff in between that nobody else has, too; *at_least*: seconds, on the average."""
    import random

    pause = FIRST_PAUSE
    while True:
        yield
        time.sleep(max(pause, at_least()) * random.uniform(0.5, 1.5))
        pause = min(pause * 2, LONGEST_PAUSE)


@dataclass
class Stopwatch:
    """Seconds for which something has been so without a break; 0 while it is not so."""

    running: bool = False

    def __post_init__(self) -> None:
        self._since = time.monotonic()

    def run(self, is_so: bool) -> None:
        """It is so, still or from now on; or it is not."""
        if is_so and not self.running:
            self._since = time.monotonic()
        self.running = is_so

    @property
    def seconds(self) -> float:
        """What it shows."""
        return time.monotonic() - self._since if self.running else 0.0

    def over(self, limit: float) -> bool:
        """Has it run for *limit* seconds? 0 is no limit."""
        return 0 < limit <= self.seconds


class Announcer:
    """Says why there is a wait: when the reason changes, and every 10 s."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._reason: object = None
        self._waited = Stopwatch(running=True)
        self._silent = Stopwatch(running=True)

    def due(self, reason: object) -> bool:
        """Is it time for a line?"""
        return reason != self._reason or self._silent.over(LINE_EVERY)

    def say(self, reason: object, text: str) -> None:
        """The line, if it is time for one."""
        if not self.due(reason):
            return
        if reason != self._reason:
            self._reason, self._waited = reason, Stopwatch(running=True)
        self._silent = Stopwatch(running=True)
        waited = round(self._waited.seconds)
        self._say(f"{text} (waiting for {waited} s)" if waited else text)
