"""libpq by ctypes, as far as a look needs it: psycopg's import alone costs a boot more than all else that it does.

No call here blocks: a signal's handler does not run during one. What is waited for is waited for in poll(2), but for
the connecting (a name's lookup, TLS, Kerberos), which is to be done on a thread. The names are psycopg's, so that one
kind of session works on both. See the PostgreSQL manual, chapter "libpq".
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ctypes import c_char_p, c_int, c_void_p
from functools import cache
from importlib.machinery import PathFinder

from startup.database.session import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: ConnStatusType, PostgresPollingStatusType, ExecStatusType, and what PQresultErrorField() is asked for.
_BAD = 1
_POLL_FAILED, _POLL_READING, _POLL_WRITING = 0, 1, 2
_NO_ERROR = (1, 2)  # PGRES_COMMAND_OK, PGRES_TUPLES_OK
_LOCAL, _SEVERITY, _SQLSTATE, _MESSAGE = map(ord, "SVCM")


def _moment(text: str) -> object:
    """A timestamptz, as DateStyle ISO has it."""
    from datetime import datetime

    found = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d+))?([+-]\d\d)(:\d\d)?", text)
    if found is None:  # infinity, before Christ
        return text
    day_and_time, fraction, hours, minutes = found.groups("")
    return datetime.fromisoformat(f"{day_and_time}.{fraction:0<6}{hours}{minutes or ':00'}")


#: Types that are no text for Python, by their oid (pg_type.dat).
_READ: Mapping[int, Callable[[str], object]] = {
    16: lambda text: text == "t",
    **dict.fromkeys((20, 21, 23, 26), int),  # int8, int2, int4, oid
    **dict.fromkeys((700, 701), float),
    1184: _moment,
}
_FUNCTIONS: Mapping[str, tuple[Any, Sequence[Any]]] = {
    "PQbackendPID": (c_int, [c_void_p]),
    "PQcancel": (c_int, [c_void_p, c_char_p, c_int]),
    "PQclear": (None, [c_void_p]),
    "PQconndefaults": (c_void_p, []),
    "PQconnectPoll": (c_int, [c_void_p]),
    "PQconnectStartParams": (c_void_p, [c_void_p, c_void_p, c_int]),
    "PQconninfo": (c_void_p, [c_void_p]),
    "PQconninfoFree": (None, [c_void_p]),
    "PQconsumeInput": (c_int, [c_void_p]),
    "PQerrorMessage": (c_char_p, [c_void_p]),
    "PQfinish": (None, [c_void_p]),
    "PQflush": (c_int, [c_void_p]),
    "PQfreeCancel": (None, [c_void_p]),
    "PQftype": (c_int, [c_void_p, c_int]),
    "PQgetCancel": (c_void_p, [c_void_p]),
    "PQgetResult": (c_void_p, [c_void_p]),
    "PQgetisnull": (c_int, [c_void_p, c_int, c_int]),
    "PQgetvalue": (c_char_p, [c_void_p, c_int, c_int]),
    "PQhost": (c_char_p, [c_void_p]),
    "PQisBusy": (c_int, [c_void_p]),
    "PQnfields": (c_int, [c_void_p]),
    "PQntuples": (c_int, [c_void_p]),
    "PQresultErrorField": (c_char_p, [c_void_p, c_int]),
    "PQresultErrorMessage": (c_char_p, [c_void_p]),
    "PQresultStatus": (c_int, [c_void_p]),
    "PQsendQueryParams": (c_int, [c_void_p, c_char_p, c_int, *[c_void_p] * 4, c_int]),
    "PQserverVersion": (c_int, [c_void_p]),
    "PQsetNoticeReceiver": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "PQsetnonblocking": (c_int, [c_void_p, c_int]),
    "PQsocket": (c_int, [c_void_p]),
    "PQstatus": (c_int, [c_void_p]),
    "PQtrace": (None, [c_void_p, c_void_p]),
}
_Receiver = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)


class _Option(ctypes.Structure):
    """PQconninfoOption"""

    _fields_ = [
        *((name, c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")),
        ("dispsize", c_int),
    ]


class Error(Exception):
    """What libpq says, or the server, whose SQLSTATE is told then."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class Notice:
    """What the server says beside its results."""

    def __init__(self, severity: str, sqlstate: str, message: str) -> None:
        self.severity_nonlocalized, self.sqlstate, self.message_primary = severity, sqlstate, message


class Library:
    """A libpq that is loaded, with the types of its functions."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def options(self, connection: int | None = None) -> list[tuple[str, str, str]]:
        """Each parameter with its environment variable and its value: of a *connection*, or by default."""
        found = []
        first = self.PQconninfo(connection) if connection else self.PQconndefaults()
        try:
            options = ctypes.cast(first, ctypes.POINTER(_Option))
            for number in range(1000):
                if not options[number].keyword:
                    break
                found.append(
                    (_text(options[number].keyword), _text(options[number].envvar), _text(options[number].val))
                )
        finally:
            self.PQconninfoFree(first)
        return found


@cache
def load() -> Library | None:
    """The libpq that psycopg itself would use, without its import; None where there is none.

    psycopg's own is found by way of the compiled module that needs it, wherever that has it from; else the system's.
    """
    for package in ("psycopg_binary", "psycopg_c"):
        found = PathFinder.find_spec(package)
        module = PathFinder.find_spec("pq", found.submodule_search_locations) if found else None
        if module is not None and module.origin is not None:
            with suppress(OSError, AttributeError):
                return Library(module.origin)
    with suppress(OSError, AttributeError):
        return Library("libpq.so.5")
    return None


class Connection:
    """One connection, which is asked one thing at a time."""

    def __init__(self, library: Library, parameters: Mapping[str, str]) -> None:
        """Begin to connect; :meth:`complete` goes on. Looks names up, and so may take long."""
        self._library = library
        self._handler: Callable[[Notice], None] | None = None
        self._lock = threading.Lock()  # another thread may end it
        self._receiver = _Receiver(self._notice)  # kept for as long as libpq may call it
        keywords = (c_char_p * (len(parameters) + 1))(*(name.encode() for name in parameters), None)
        values = (c_char_p * (len(parameters) + 1))(*(text.encode() for text in parameters.values()), None)
        self._pointer: int | None = library.PQconnectStartParams(keywords, values, 0)
        if not self._pointer:
            raise MemoryError
        library.PQsetNoticeReceiver(self._pointer, self._receiver, None)
        if library.PQstatus(self._pointer) == _BAD:
            raise self._failed("connection is bad: ")

    def complete(self, until: float) -> None:
        """Connect; TimeoutError after *until* (``time.monotonic()``), Error when it is refused."""
        library, started = self._library, time.monotonic()
        status = _POLL_WRITING
        while status in (_POLL_READING, _POLL_WRITING):
            if not self._wait(select.POLLIN if status == _POLL_READING else select.POLLOUT, until):
                self.close()
                raise TimeoutError(f"no answer within {time.monotonic() - started:.1f} s")
            status = library.PQconnectPoll(self._pointer)  # nobody else knows this connection yet
        if status == _POLL_FAILED:
            raise self._failed("connection failed: ")
        library.PQsetnonblocking(self._pointer, 1)

    def traced(self, until: float) -> bytes:
        """Connect, and what passes meanwhile, as PQtrace() tells it: of errors the SQLSTATE, from libpq 18 on."""
        libc = ctypes.CDLL(None)
        libc.fdopen.restype, libc.fdopen.argtypes = c_void_p, [c_int, c_char_p]
        libc.fclose.argtypes = [c_void_p]
        trace = os.memfd_create("trace")
        file = libc.fdopen(os.dup(trace), b"w")
        try:
            self._library.PQtrace(self._pointer, file)
            with suppress(Error, TimeoutError):
                self.complete(until)
            self.close()
            libc.fclose(file)
            return os.pread(trace, 1 << 20, 0)
        finally:
            os.close(trace)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """The rows of one statement, with ``%s`` for its *parameters*. What interrupts it cancels it."""
        first, *rest = sql.split("%s")
        numbered = first + "".join(f"${number}{text}" for number, text in enumerate(rest, 1))
        values = (c_char_p * max(1, len(parameters)))(*map(_value, parameters))
        if not self._call("PQsendQueryParams", numbered.encode(), len(parameters), None, values, None, None, 0):
            raise self._broken()
        try:
            return self._receive()
        except (Error, OSError):
            raise
        except BaseException:
            self.cancel_safe()
            raise

    def _receive(self) -> list[Row]:
        library = self._library
        while (left := self._call("PQflush")) > 0:
            self._wait(select.POLLIN | select.POLLOUT)
            self._call("PQconsumeInput")
        if left < 0:
            raise self._broken()
        rows: list[Row] = []
        error: Error | None = None
        while result := self._result():
            try:
                if library.PQresultStatus(result) in _NO_ERROR:
                    rows = self._rows(result)
                else:
                    severity, state = (_text(library.PQresultErrorField(result, one)) for one in (_LOCAL, _SQLSTATE))
                    message = _text(library.PQresultErrorMessage(result)).strip().removeprefix(f"{severity}:  ")
                    error = Error(message, state or None)
            finally:
                library.PQclear(result)
        if error is not None:
            raise error
        return rows

    def _result(self) -> int | None:
        while self._call("PQisBusy"):
            self._wait(select.POLLIN)
            if not self._call("PQconsumeInput"):
                raise self._broken()
        found: int | None = self._call("PQgetResult")
        return found

    def _rows(self, result: int) -> list[Row]:
        library = self._library
        width = range(library.PQnfields(result))
        read = [_READ.get(library.PQftype(result, column), str) for column in width]
        value, is_null = library.PQgetvalue, library.PQgetisnull
        return [
            tuple(
                read[column](text.decode()) if (text := value(result, row, column)) or not is_null(result, row, column)
                else None
                for column in width
            )
            for row in range(library.PQntuples(result))
        ]  # fmt: skip

    def _wait(self, events: int, until: float | None = None) -> bool:
        poll = select.poll()
        poll.register(self.fileno(), events)
        return bool(poll.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000))

    def _failed(self, what: str) -> Error:
        """The error of a connection that was not made, in psycopg's words, and its end."""
        message = _text(self._library.PQerrorMessage(self._pointer)).strip()
        self.close()
        if lookup := re.fullmatch(r'could not translate host name "(.*)" to address: (.*)', message):
            return Error(f"failed to resolve host {lookup[1]!r}: {lookup[2]}")
        return Error(what + message)

    def _broken(self) -> Error:
        return Error(_text(self._call("PQerrorMessage")).strip())

    def _call(self, name: str, *arguments: Any) -> Any:
        """A function that does not block; to libpq a connection that was closed meanwhile is NULL, which it bears."""
        with self._lock:
            return getattr(self._library, name)(self._pointer, *arguments)

    def _notice(self, _: int | None, result: int) -> None:
        if self._handler is not None:
            field = self._library.PQresultErrorField
            self._handler(Notice(*(_text(field(result, one)) for one in (_SEVERITY, _SQLSTATE, _MESSAGE))))

    def add_notice_handler(self, handler: Callable[[Notice], None]) -> None:
        """Who is told what the server says beside its results."""
        self._handler = handler

    def cancel_safe(self, timeout: float = 5.0) -> None:
        """End the statement that runs now; waits for that, *timeout* seconds at most. From any thread."""
        from startup.database.postgres.reach import on_thread

        library = self._library
        with self._lock:
            cancel = library.PQgetCancel(self._pointer) if self._pointer else None

        def work() -> None:
            try:
                library.PQcancel(cancel, ctypes.create_string_buffer(256), 256)
            finally:
                library.PQfreeCancel(cancel)

        if cancel:
            with suppress(TimeoutError):
                on_thread(work, timeout, lambda _: None)

    def close(self) -> None:
        """End it."""
        with self._lock:
            pointer, self._pointer = self._pointer, None
            if pointer:
                self._library.PQfinish(pointer)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Is it at its end, by whichever side?"""
        return bool(self._call("PQstatus") == _BAD)

    def fileno(self) -> int:
        """Its socket's descriptor."""
        descriptor = int(self._call("PQsocket"))
        if descriptor < 0:
            raise self._broken()
        return descriptor

    @property
    def info(self) -> Connection:
        """Where psycopg has what follows."""
        return self

    @property
    def backend_pid(self) -> int:
        return int(self._call("PQbackendPID"))

    @property
    def server_version(self) -> int:
        return int(self._call("PQserverVersion"))

    @property
    def host(self) -> str:
        return _text(self._call("PQhost"))

    def get_parameters(self) -> dict[str, str]:
        """What is in force, wherever it came from, but for passwords."""
        return {name: text for name, _, text in self._library.options(self._pointer) if text and name != "password"}


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _value(value: object) -> bytes | None:
    """A parameter as PostgreSQL reads it, of the type that the statement wants there."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        quoted = (one.replace("\\", "\\\\").replace('"', '\\"') for one in value)
        return ("{" + ",".join(f'"{one}"' for one in quoted) + "}").encode()
    return str(value).encode()
