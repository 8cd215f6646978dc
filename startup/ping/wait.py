"""The ping: is the app up? :func:`kinds.parse` reads one from STARTUP_PING, :func:`wait` asks it until it is answered.

Runs while the app boots, so it knows the standard library alone, and of that as little as possible.
"""

from __future__ import annotations

import time

from startup.ping.attempt import LIMIT, Answer, App, AppEnded, Ping

TYPE_CHECKING = False  # as mypy knows it; typing itself is a costly import
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ANSWERED", "DIED", "TIMED_OUT", "Answer", "Outcome", "Ping", "wait"]

ANSWERED, DIED, TIMED_OUT = "answered", "died", "timed out"

#: Seconds of a boot during which pings come fast; afterwards the pause grows to STARTUP_PING_INTERVAL.
_YOUNG = 10.0
_GROWTH = 1.5
#: The share of a core that this thread's tries may take, and the seconds of it that they may take in advance.
_SHARE, _ADVANCE = 0.04, 0.01
#: Seconds: what answers within the first is not worth a line; after that a line may follow each second, and one does
#: every ten.
_QUIET = 1.0
_LINE_EVERY = 10.0


class Outcome:
    """How a wait ended.

    ``result`` is ANSWERED, DIED (the app ended) or TIMED_OUT; ``answer`` is the last try's own; ``seconds`` is how long
    it took, and ``tries`` how often it was asked.
    """

    __slots__ = ("answer", "result", "seconds", "tries")

    def __init__(self, result: str, answer: Answer, seconds: float, tries: int) -> None:
        self.result = result
        self.answer = answer
        self.seconds = seconds
        self.tries = tries


def wait(
    ping: Ping,
    *,
    app: int | None,
    timeout: float,
    interval: float,
    report: Callable[[str], None],
    warn: Callable[[str], None],
) -> Outcome:
    """Ask until the app answers, ends, or *timeout* seconds (0: no limit) are over.

    Pauses grow from a few milliseconds to *interval* seconds (0: never longer than at first). *app* is its pid, None
    where it is not known; its end ends a pause and a try at once. ``auto`` takes "alive" for an answer at the time
    limit, with a warning, where the app is known.

    Lines: none in the first second; one to *report* when waiting starts, one at each change of answer (one a second at
    most), one every 10 s; and what to set when ``auto`` has had nothing for 10 s. Signals' handlers may raise.
    """
    started = time.monotonic()
    answer, tries = Answer(False, "it was not asked yet"), 0
    used, used_at = 0.0, started
    pause = min(ping.first_pause, interval or ping.first_pause)
    lines = _Lines(ping, started, report)
    with App(app) as watched:

        def outcome(result: str) -> Outcome:
            return Outcome(result, answer, time.monotonic() - started, tries)

        try:
            if watched.ended():
                return outcome(DIED)
            while True:
                rest = pause
                tries += 1
                if not ping.unchanged(watched):
                    before = time.thread_time()
                    left = started + timeout - time.monotonic() if timeout else LIMIT
                    answer = ping.attempt(watched, max(0.1, min(LIMIT, left)))
                    if answer.ok:
                        return outcome(ANSWERED)
                    now = time.monotonic()
                    used = max(0.0, used - _SHARE * (now - used_at)) + time.thread_time() - before
                    used_at = now
                    rest = max(pause, (used - _ADVANCE) / _SHARE)
                now = time.monotonic()
                if timeout and now - started >= timeout:
                    break
                lines.failed(answer, watched, now)
                watched.rest(min(rest, started + timeout - now) if timeout else rest)
                longest = ping.fast_pause if now - started < _YOUNG or not interval else interval
                pause = min(pause * _GROWTH, longest, interval or longest)
        except AppEnded:
            return outcome(DIED)
        if ping.explicit or app is None:
            return outcome(TIMED_OUT)
        hint = ping.hint(watched)
        warn(f"no sign of the app but that it is alive after {timeout:g} s, which is taken for an answer: {hint}")
        answer = Answer(True, "alive")
        return outcome(ANSWERED)


class _Lines:
    """What is said while waiting, and what is not."""

    def __init__(self, ping: Ping, started: float, report: Callable[[str], None]) -> None:
        self._ping = ping
        self._started = started
        self._report = report
        self._last: float | None = None
        self._state = ""
        self._hinted = False

    def failed(self, answer: Answer, app: App, now: float) -> None:
        """The app did not answer once more."""
        waited = now - self._started
        if self._last is None:
            if waited < _QUIET:
                return
            text = f"waiting for the app to answer ({self._ping}: {answer.text})"
        elif answer.state != self._state and now - self._last >= _QUIET:
            text = f"the app does not answer yet, but differently ({self._ping}: {answer.text})"
        elif now - self._last >= _LINE_EVERY:
            text = f"still waiting for the app to answer after {waited:.0f} s ({self._ping}: {answer.text})"
        else:
            text = ""
        if not self._hinted and waited >= _LINE_EVERY:
            self._hinted = True
            text = self._ping.hint(app) or text
        if text:
            self._report(text)
            self._last, self._state = now, answer.state
