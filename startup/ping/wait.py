"""The ping: is the app up? Read one from STARTUP_PING with :func:`parse`, ask it once or :func:`wait` for it.

Runs while the app boots, so it knows the standard library alone, and of that as little as possible.
"""

from __future__ import annotations

import time

from startup.ping.attempt import LIMIT, Answer, App, AppEnded, Ping
from startup.ping.kinds import AutoListen, AutoPort, Command, File, Http, Nothing, Tcp, Unix

TYPE_CHECKING = False  # as mypy knows it; typing itself is a costly import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ANSWERED", "DIED", "GAVE_UP", "TIMED_OUT", "Answer", "Outcome", "Ping", "parse", "wait"]

KINDS = (
    "http://HOST:PORT/PATH, https://HOST:PORT/PATH, tcp://HOST:PORT, unix:///PATH, file:///PATH, cmd:COMMAND, "
    "none or auto"
)
ANSWERED, DIED, TIMED_OUT, GAVE_UP = "answered", "died", "timed out", "gave up"

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

    ``result`` is ANSWERED, DIED (the app ended), TIMED_OUT or GAVE_UP; ``answer`` is the last try's own; ``seconds`` is
    how long it took, and ``tries`` how often it was asked.
    """

    __slots__ = ("answer", "result", "seconds", "tries")

    def __init__(self, result: str, answer: Answer, seconds: float, tries: int) -> None:
        self.result = result
        self.answer = answer
        self.seconds = seconds
        self.tries = tries

    def __repr__(self) -> str:
        return f"Outcome({self.result!r}, {self.answer!r}, {self.seconds:.3f})"


def parse(value: str, environ: Mapping[str, str]) -> Ping:
    """The ping that STARTUP_PING's *value* asks for.

    *environ* gives ``auto`` its PORT (one that is no port number is as good as none) and a command its environment.
    Paths after ``unix://`` and ``file://`` are taken as they are; a user and password in a URL are left out, since 401
    is an answer.

    :raises ValueError: it cannot be read; the text says what would be right.
    """
    value = value.strip()
    if value.lower() == "none":
        return Nothing("none")
    if value.lower() == "auto":
        port = environ.get("PORT", "").strip()
        return AutoPort(int(port)) if _is_port(port) else AutoListen()
    scheme, colon, rest = value.partition(":")
    scheme = scheme.lower()
    if scheme == "cmd" and colon:
        if not rest.strip() or "\0" in rest:
            raise ValueError("a command line belongs after cmd:, as in cmd:pg_isready -q")
        return Command(f"the command {rest.strip()!r}", rest.strip(), environ)
    if scheme not in ("http", "https", "tcp", "unix", "file") or not rest.startswith("//"):
        raise ValueError(f"a ping is one of {KINDS}")
    rest = rest[2:]
    if scheme in ("unix", "file"):
        if not rest.startswith("/") or "\0" in rest:
            raise ValueError(
                f"an absolute path belongs after {scheme}://, so that there are three slashes: {scheme}:///PATH"
            )
        if scheme == "file":
            return File(value, rest)
        if len(rest.encode("utf-8", "surrogateescape")) > 107:  # unix(7): sun_path
            raise ValueError("the path of a unix socket has 107 bytes at most")
        return Unix(value, rest)
    return _parse_address(scheme, rest)


def _parse_address(scheme: str, rest: str) -> Ping:
    end = min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest))
    authority, target = rest[:end].rpartition("@")[2], rest[end:].partition("#")[0]
    bracketed = authority.startswith("[")
    if bracketed:
        host, closed, port = authority[1:].partition("]")
        wrong = not closed or ":" not in host or (port != "" and not port.startswith(":"))
        port = port[1:]
    else:
        host, _, port = authority.partition(":")
        wrong = False
    form = "tcp://HOST:PORT" if scheme == "tcp" else f"{scheme}://HOST:PORT/PATH"
    if wrong or ":" in port:
        raise ValueError(f"it should be {form}, an IPv6 address in brackets as in {form.replace('HOST', '[::1]')}")
    if not host or not host.isascii() or not host.isprintable() or " " in host:
        raise ValueError(f"it should be {form}; HOST is a name in ASCII or an address")
    if port == "" and scheme != "tcp":
        port = "443" if scheme == "https" else "80"
    if not _is_port(port):
        raise ValueError(f"it should be {form}; PORT is a number from 1 to 65535")
    name = f"{scheme}://{authority}"
    if scheme == "tcp":
        if target not in ("", "/"):
            raise ValueError(f"it should be {form}, without a path")
        return Tcp(name, host, int(port))
    target = target if target.startswith("/") else "/" + target
    # RFC 3986, 2.1: what may not stand in a request line as it is, above all spaces and line ends, is percent-encoded.
    encoded = "".join(chr(b) if 32 < b < 127 else f"%{b:02X}" for b in target.encode("utf-8", "surrogateescape"))
    return Http(name + target, host, int(port), encoded, tls=scheme == "https")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535


def wait(
    ping: Ping,
    *,
    app: int | None,
    timeout: float,
    interval: float,
    report: Callable[[str], None],
    warn: Callable[[str], None],
    give_up: Callable[[], bool] | None = None,
) -> Outcome:
    """Ask until the app answers, ends, or *timeout* seconds (0: no limit) are over.

    Pauses grow from a few milliseconds to *interval* seconds (0: never longer than at first). *app* is its pid, None
    where it is not known; its end ends a pause and a try at once. ``auto`` takes "alive" for an answer at the time
    limit, with a warning, where the app is known. *give_up* is asked before each try.

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
                if give_up is not None and give_up():
                    return outcome(GAVE_UP)
                before = time.thread_time()
                left = started + timeout - time.monotonic() if timeout else LIMIT
                tries += 1
                answer = ping.attempt(watched, max(0.1, min(LIMIT, left)))
                if answer.ok:
                    return outcome(ANSWERED)
                now = time.monotonic()
                used = max(0.0, used - _SHARE * (now - used_at)) + time.thread_time() - before
                used_at = now
                if timeout and now - started >= timeout:
                    break
                lines.failed(answer, watched)
                rest = max(pause, (used - _ADVANCE) / _SHARE)
                watched.pause(min(rest, started + timeout - now) if timeout else rest)
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

    def failed(self, answer: Answer, app: App) -> None:
        """The app did not answer once more."""
        now = time.monotonic()
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
