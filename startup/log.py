"""Lines on stderr: one an event, each with the same prefix; JSON when asked for.

JSON lines use the field names of the Elastic Common Schema (``@timestamp``, ``log.level``, ``message``,
``event.dataset``, ``event.duration``, ``host.name``, ``process.exit_code``, ``trace.id``,
``span.id``); what ECS has no name for stands under ``startup.*``: ``phase``, ``task``, ``position`` and ``total``
(task k of n), ``attempt``.
entrypoint.sh writes the same.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from typing import Any, TextIO

#: What may never be printed: passwords and the contents of ``_FILE`` settings. Filled by the settings.
_secrets: set[str] = set()
#: Those that are ordinary words, too, as what of them is masked: `app` must not be masked in "the app answers".
_words: dict[str, re.Pattern[str]] = {}
MASK = "***"
#: The password in a URL that no setting told us of: in a task's command line, in an error, in STARTUP_PING.
_PASSWORD = r"""(://[^\s/:@]*:)(?!PASSWORD@|password@)[^\s'"]+@"""
#: The least of a secret's beginning that is masked where a line was cut within it.
_CUT = 4
#: So many characters of a value are looked for: each has some ten forms.
_LONG = 100
#: What lines have in JSON as long as it holds: those of every thread (see always()), those of one (see about()).
_always: dict[str, object] = {}
_about: ContextVar[dict[str, object] | None] = ContextVar("about", default=None)
DEBUG, INFO, WARNING, ERROR = LEVELS = ("debug", "info", "warning", "error")


def hide(secret: str, *public: str) -> None:
    """Keep *secret* out of every line from now on: raw, percent-encoded, and as repr(), json and libpq quote it.

    One that is among the *public* parts of its address, the user's name or the database's, or has three characters
    at most, is masked where a password stands, ``:SECRET@`` and ``password=SECRET``; a short word as a word alone.
    """
    if not secret:
        return
    import re

    plain = secret
    if "%" in secret:
        from urllib.parse import unquote

        plain = unquote(secret)
    pattern = re.escape(plain)
    if plain in (*public, "password") or len(plain) < 4:
        _words[plain] = re.compile(rf"(?<=:){pattern}(?=@)|(?<=password=){pattern}|(?<=password='){pattern}(?=')")
        return
    if len(plain) < 8 and plain.isalpha():
        _words[plain] = re.compile(rf"\b{pattern}\b")
        return
    _secrets.update((secret, plain))


def redact(text: str) -> str:
    """*text* without any secret that is known, the longest first, and without the password of any URL."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if any(hint in text for hint in _hints(secret)):  # to make the pattern takes milliseconds
            text = _forms(secret).sub(MASK, text)
    for pattern in _words.values():
        text = pattern.sub(MASK, text)
    if "://" not in text:
        return text
    import re

    return re.sub(_PASSWORD, rf"\1{MASK}@", text)


def without(text: str, values: Iterable[str]) -> str:
    """*text* without *values*, in whatever form; one of a few letters or digits as a word alone."""
    import re

    for value in sorted(filter(None, values), key=len, reverse=True):
        if len(value) < _CUT and value.isalnum():
            pattern = re.compile(rf"\b{value}\b")
        elif len(value) <= _LONG:
            pattern = _forms.__wrapped__(value)
        else:  # whatever stands behind the beginning of such a one
            pattern = re.compile(rf"(?:{_forms.__wrapped__(value[:_LONG]).pattern})[\s\S]*", re.MULTILINE)
        text = pattern.sub(MASK, text)
    return text


@cache
def _hints(secret: str) -> tuple[str, str]:
    """Of which one is in every form of *secret*, and in what was cut within it."""
    import re

    runs = re.findall(r"[A-Za-z0-9]+", secret) or [secret]
    return max(runs, key=len), runs[0][:_CUT]


@cache
def _forms(secret: str) -> re.Pattern[str]:
    """The pattern of all forms of *secret*.

    Letters and digits stand for themselves, in SQL, shells, URLs and JSON; of all else each form that one of these
    gives it. A line may have been cut within it: the server cuts statements, and so do others.
    """
    import re

    if not re.search(r"[A-Za-z0-9]", secret):
        return re.compile(re.escape(secret))
    parts = [one if one.isascii() and one.isalnum() else _character(one) for one in secret]
    least = max(_CUT, len(secret) // 4)
    cut = ""
    for part in reversed(parts[least : least + 60]):
        cut = f"(?:{part}{cut})?"
    begins = rf"{''.join(parts[:least])}{cut}(?:[\\%&][\\\w#;%]{{0,14}})?(?=\W{{0,4}}$)"
    return re.compile(f"{''.join(parts)}|{begins}", re.MULTILINE)


def _character(one: str) -> str:
    """The pattern of a character that is neither letter nor digit, in all its forms."""
    import re

    octets = one.encode("utf-8", "surrogateescape")
    units = one.encode("utf-16-be", "surrogatepass")
    code = ord(one)
    forms = {
        "".join(f"%{octet:02x}" for octet in octets),
        "".join(rf"\\+u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2)),
        "".join(rf"\\+x{octet:02x}" for octet in octets),
        "".join(rf"\\+{octet:03o}" for octet in octets),
        rf"\\+x{code:02x}",
        rf"&\#0*{code};|&\#x0*{code:x};",
        r"\\{1,4}" + re.escape(one.encode("unicode_escape").decode().lstrip("\\") or "\\"),
        {" ": r"\+", "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"}.get(one, "%00"),
        # quotes are doubled, preceded by a backslash, or put into quotes of the other kind
        r"""[\\'"]{1,8}""" if one in "'\"" else r"\\{1,8}" if one == "\\" else rf"\\{{0,4}}{re.escape(one)}",
    }
    return f"(?i:{'|'.join(sorted(forms, key=len, reverse=True))})"


#: What would move a terminal's cursor, forge a line, or turn the order of letters around; half a surrogate pair.
_CONTROL = r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


def plain(text: str) -> str:
    """*text* on one line: control characters of others, and bytes that are no UTF-8, as Python escapes them."""
    if text.isprintable():  # as most are
        return text
    import re

    return re.sub(_CONTROL, lambda found: found[0].encode("unicode_escape").decode(), text)


def plain_lines(text: str) -> str:
    """The same for a text of several lines, which stay apart."""
    return "\n".join(map(plain, text.splitlines()))


def each_text(value: object, change: Callable[[str], str]) -> Any:
    """Every text in *value* (dicts and lists, as json knows them) as *change* makes it."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: each_text(one, change) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [each_text(one, change) for one in value]
    return value


def redact_all(value: object) -> object:
    """Every text in *value* without any secret."""
    return each_text(value, redact)


class _Patient(io.FileIO):
    """stderr, ours and the tasks': what cannot be written (a full disk, pipe; no reader) is given up, not the app."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data) or len(data)
        return len(data)


class Text:
    """``startup: message``, with the level where it is not the usual one."""

    _colours = {WARNING: "33", ERROR: "31", DEBUG: "2"}

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def line(self, level: str, message: str, fields: dict[str, object]) -> str:
        """One event."""
        shown = "" if level == INFO else f"{level}: "
        # each line of a longer text has the prefix too, so that a reader of mixed output knows whose it is
        lines = "\nstartup:   ".join(map(plain, redact(message).splitlines()))
        line = f"startup: {shown}{lines}"
        return f"\033[{self._colours[level]}m{line}\033[0m" if self._colour and level in self._colours else line


#: W3C Trace Context, traceparent: version, trace-id, parent-id, flags; neither id may be all zeros.
_TRACEPARENT = r"(?!ff)[0-9a-f]{2}-(?!0+-)([0-9a-f]{32})-(?!0+-)([0-9a-f]{16})-[0-9a-f]{2}"


def trace(traceparent: str) -> dict[str, object]:
    """What JSON lines say of the trace that TRACEPARENT names; nothing of one that is not valid."""
    import re

    found = re.fullmatch(_TRACEPARENT, traceparent)
    return {"trace.id": found[1], "span.id": found[2]} if found else {}


class Json:
    """One object a line, in the field names of the Elastic Common Schema."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._trace = trace(os.environ.get("TRACEPARENT", ""))

    def line(self, level: str, message: str, fields: dict[str, object]) -> str:
        """One event."""
        import json
        import re
        from datetime import datetime, timezone

        moment = datetime.fromtimestamp(time.time(), timezone.utc)
        event: dict[str, object] = {
            "@timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "log.level": level,
            "message": redact(message),
            "host.name": self._node,
            "event.dataset": "startup",
            **self._trace,
        }
        for name, value in fields.items():
            if name == "exit_code":
                event["process.exit_code"] = value
            elif name == "seconds" and isinstance(value, int | float):
                event["event.duration"] = round(value * 1e9)  # ECS: in nanoseconds
            elif value is not None:
                event[f"startup.{name}"] = redact_all(value)
        line = json.dumps(event, ensure_ascii=False, default=str)
        return re.sub(_CONTROL, lambda found: f"\\u{ord(found[0]):04x}" if found[0] < "\ud800" else "\ufffd", line)


class _Log:
    """Where lines go, from which level on, and in which form. To import logging takes longer than all lines."""

    def __init__(self) -> None:
        self.stream: TextIO | None = None  # None: sys.stderr, whatever that is
        self.least = WARNING
        self.form: Text | Json = Text(colour=False)
        self._lock = threading.RLock()  # a signal's handler may write while a line is written

    def write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if LEVELS.index(level) < LEVELS.index(self.least):
            return
        with self._lock, suppress(Exception):  # it may be closed, or there may be none: a line ends nothing
            (self.stream or sys.stderr).write(f"{self.form.line(level, message, fields)}\n")


_log = _Log()


def configure(level: str = INFO, form: str = "text", node: str = "") -> None:
    """Send lines to stderr: *level* and *form* as in STARTUP_LOG_LEVEL and _LOG_FORMAT.

    Bears any value: a wrong one is the settings' to tell, and the default stands in until then.
    """
    if sys.stderr is not None and sys.stderr is sys.__stderr__:  # None: closed
        raw = _Patient(2, "w", closefd=False)
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
    colour = sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    node = node or os.environ.get("STARTUP_NODE") or os.uname().nodename
    _log.stream, _log.form = sys.stderr, Json(node) if form == "json" else Text(colour)
    _log.least = level if level in LEVELS else INFO


def reopen() -> None:
    """After others' code, which may have closed a stream: what is written goes to descriptors 1 and 2 again."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None and stream.closed:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
            if number == 2:
                _log.stream = sys.stderr


def always(**fields: object) -> None:
    """From here on every line has *fields* in JSON; None takes one away."""
    _always.update(fields)


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Every line that this thread writes in here has *fields* in JSON."""
    token = _about.set({**(_about.get() or {}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def say(message: str, level: str = INFO, **fields: object) -> None:
    """One event: a line in words; *fields* stand beside it in JSON only (``task``, ``phase``, ``seconds`` ...)."""
    _log.write(level, message, {**_always, **(_about.get() or {}), **fields})


def warn(message: str, **fields: object) -> None:
    """Something the person should see, which does not end the run."""
    say(message, WARNING, **fields)


def fail(message: str, **fields: object) -> None:
    """Why the run ends."""
    say(message, ERROR, **fields)


def debug(message: str, **fields: object) -> None:
    """A detail, for STARTUP_LOG_LEVEL=debug."""
    say(message, DEBUG, **fields)


Report = Callable[[str], None]
