"""Reaching a PostgreSQL server: which answers mean "wait", which mean "never", and each of them in words."""

from __future__ import annotations

import os
import queue
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from startup import log
from startup.errors import LockUnavailable, SettingError, Unreachable
from startup.settings.address import Address

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

#: NAMEDATALEN - 1: what PostgreSQL keeps of an application_name.
NAME_BYTES = 63
APPLICATION = "startup/"
#: A peer that vanished without a word is noticed by then, in seconds (tcp(7): TCP_USER_TIMEOUT, TCP_KEEPIDLE ...).
DEAD_PEER = 30
KEEPALIVES = {"idle": 10, "interval": 5, "count": 3}
#: The longest time for one try, in seconds.
TRY = 10
#: How often a wait says that it is still one, in seconds.
PROGRESS = 10


class PoolIsFull(TimeoutError):
    """The pooler has let us in, and has no server session for us: others are at work."""


class Silence:
    """In the block a connection whose server is silent for *seconds* is broken off, since libpq itself never would."""

    def __init__(self, connection: psycopg.Connection[Any], seconds: float) -> None:
        self.seconds = seconds
        self.broken = False
        self._descriptor = os.dup(connection.fileno())
        self._timer = threading.Timer(seconds, self._break)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        self._timer.join()
        os.close(self._descriptor)

    def _break(self) -> None:
        self.broken = True
        with socket.socket(fileno=os.dup(self._descriptor)) as beneath, suppress(OSError):
            beneath.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Failure:
    """Why a try failed, in words, and whether another one may succeed."""

    words: str
    advice: str
    final: bool
    #: Nothing is wrong: it is others' turn.
    queued: bool = False


#: Matched against libpq's and the server's own words: a connection that was never made has no SQLSTATE.
_FINAL = (
    (
        r"authentication failed|no password supplied|auth failed",
        "the password was rejected, or is missing",
        "check user and password in DATABASE_URL",
    ),
    (r'database "" does not exist|no such database', "the database does not exist", "create it, or correct its name"),
    (
        r'role "" does not exist|is not permitted to log in|no such user',
        "the role does not exist, or may not log in",
        "create it, or correct the user in DATABASE_URL",
    ),
    (
        r"pg_hba.conf|permission denied for database",
        "the server does not admit this user from here",
        "see its pg_hba.conf, whether it asks for TLS (?sslmode=require), and the user's CONNECT privilege",
    ),
    (
        r"certificate|SSL was required|does not support SSL|SSL error: (?!unexpected eof)|private key file",
        "no TLS connection could be agreed on",
        "check sslmode, sslrootcert and the server's certificate",
    ),
)
_POOL = "is its pool (pool_size) large enough for the apps and the nodes?"
_PLACE = "is it running, are host and port of DATABASE_URL right?"
_WAIT = (
    (
        r"is starting up|not yet accepting|is shutting down|recovery mode|recovery state",
        "the server is starting up",
        "does it need longer than STARTUP_DATABASE_TIMEOUT?",
    ),
    (
        r"too many clients|too many connections|connection slots are|no more connections allowed",
        "the server has too many connections",
        "is the limit (max_connections, CONNECTION LIMIT) high enough for the apps and one more for each node?",
    ),
    (
        r"session is read-only|hot standby mode|session is not read-only",
        "no server with the wanted target_session_attrs is there (read-only, or a fail-over under way)",
        "is the primary among the hosts of DATABASE_URL?",
    ),
    (
        r"translate host name|resolve|Name or service not known|name resolution|No address associated",
        "the host name cannot be resolved",
        "is the host of DATABASE_URL spelt right, and on this network?",
    ),
    (r"Connection refused|No such file or directory|Connection reset by peer", "the connection is refused", _PLACE),
    (
        r"time(d )?out|no answer|No route to host|unreachable|Host is down",
        "there is no answer",
        "is it running, is the host of DATABASE_URL right, does a firewall let its port through?",
    ),
    (
        r"closed the connection|EOF|eof|Broken pipe|could not receive|could not send",
        "the server hangs up",
        "is that a PostgreSQL server, and what does its own log say?",
    ),
)
_SETTING = (
    r"^(?:.*failed: |connection is bad: )?(invalid|could not match|definition of service|service file|bad value|weak)"
)


def explain(text: str) -> Failure:
    """What libpq's error *text* means, whatever the names in it are."""
    text = re.sub(r'"[^"]*"', '""', text)
    if "query_wait_timeout" in text:
        return Failure("the pooler has no server session to spare", _POOL, final=False, queued=True)
    for pattern, words, advice in _FINAL:
        if re.search(pattern, text):
            return Failure(words, advice, final=True)
    for pattern, words, advice in _WAIT:
        if re.search(pattern, text):
            return Failure(words, advice, final=False)
    return Failure("the connection failed", "is it running, and is DATABASE_URL right?", final=False)


def one_line(error: object) -> str:
    """An error's text on one line, without libpq's preamble and without secrets."""
    return log.redact(" ".join(str(error).replace("connection failed: ", "").split()))


def arguments(address: Address, node: str) -> dict[str, Any]:
    """What psycopg.connect() gets: the address in libpq's words, and how this program wants its sessions."""
    import psycopg

    installed = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    unknown = sorted(set(address.conninfo) - installed)
    if dropped := [*address.dropped, *unknown]:
        log.debug(f"DATABASE_URL: parameters that libpq does not know are left out: {', '.join(dropped)}")
    log.hide(os.environ.get("PGPASSWORD", ""))
    name = (APPLICATION + node).encode()[:NAME_BYTES].decode(errors="ignore")
    several = {"target_session_attrs": "read-write"} if "," in address.conninfo.get("host", "") else {}
    return {
        "tcp_user_timeout": str(DEAD_PEER * 1000),
        **{f"keepalives_{what}": str(value) for what, value in KEEPALIVES.items()},
        **several,
        **{keyword: text for keyword, text in address.conninfo.items() if keyword in installed},
        "application_name": name,
        "client_encoding": "UTF8",
        "autocommit": True,
        "prepare_threshold": None,
    }


def session_settings(server_version: int, connect_arguments: dict[str, Any], schema: str | None) -> dict[str, str]:
    """What is SET on a session, whatever the role's and the database's own defaults are.

    The first group lets the server notice a peer that vanished (and give its locks back) as soon as this end would;
    the second keeps an idle or long session alive: the limits are the settings' business, not the server's.
    """
    settings = {
        "application_name": connect_arguments["application_name"],
        "client_encoding": "UTF8",
        **{f"tcp_keepalives_{what}": str(connect_arguments[f"keepalives_{what}"]) for what in KEEPALIVES},
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "default_transaction_isolation": "read committed",
        "datestyle": "ISO",  # its output alone, which is what we read: the order of days and months stays
    }
    if server_version >= 120000:
        settings["tcp_user_timeout"] = str(connect_arguments["tcp_user_timeout"])
    if server_version >= 140000:
        settings["client_connection_check_interval"] = "2s"
        settings["idle_session_timeout"] = "0"
    if server_version >= 170000:
        settings["transaction_timeout"] = "0"
    if schema:
        settings["search_path"] = '"' + schema.replace('"', '""') + '"'
    return settings


def dead_peer_seconds(host: str, parameters: dict[str, Any]) -> float:
    """How long a client may take to notice that its server vanished; 0 over a socket file.

    *host* and *parameters* are the connection's own: they may come from PGHOST, a service file or the like.
    """
    if host.startswith(("/", "@")) and not parameters.get("hostaddr"):
        return 0
    user_timeout = int(parameters.get("tcp_user_timeout", 0)) / 1000
    if user_timeout > 0:
        return user_timeout
    return 925  # tcp(7): tcp_retries2, 15 retransmissions, at least 924.6 s


def on_thread(function: Callable[[], T], seconds: float | None, discard: Callable[[T], None]) -> T:
    """The result of *function*, or TimeoutError after *seconds*; a result that comes too late is *discard*\\ ed.

    On a thread of its own: the C library's resolver heeds neither a signal nor a time limit, this wait heeds both.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    given_up = threading.Event()

    def work() -> None:
        try:
            result = function()
        except BaseException as error:
            answers.put((None, error))
            return
        answers.put((result, None))
        if given_up.is_set():
            discard(result)

    threading.Thread(target=work, name="startup-connect", daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no answer within {seconds:.1f} s") from None
    except BaseException:
        given_up.set()
        raise
    if error is not None:
        raise error.with_traceback(None)
    return result  # type: ignore[return-value]


def dial(connect_arguments: dict[str, Any], seconds: float | None) -> psycopg.Connection[tuple[Any, ...]]:
    """One try to connect, of at most *seconds* (None: until psycopg gives up). Raises psycopg.Error, TimeoutError."""
    import psycopg

    limit = TRY if seconds is None else max(1, min(TRY, round(seconds)))
    return on_thread(
        lambda: psycopg.connect(**{"connect_timeout": limit, **connect_arguments}),
        seconds,
        lambda connection: connection.close(),
    )


def reach(
    attempt: Callable[[float | None], T], address: Address, timeout: float, report: log.Report, limit: float = 0.0
) -> T:
    """Call *attempt* (with the seconds that are left) until it succeeds: the database may still be starting.

    *timeout* is STARTUP_DATABASE_TIMEOUT, in seconds, 0 for ever; a pooler whose sessions are all at work is waited for
    beyond it. *limit* is what is left of STARTUP_LOCK_TIMEOUT, 0 for none: LockUnavailable then. One line when waiting
    starts, at each change, and every 10 s. Raises Unreachable at once where waiting is no use, else when time is up;
    SettingError for a parameter that libpq cannot read.
    """
    import psycopg

    start, tries = time.monotonic(), 0
    deadline = start + timeout if timeout else None
    last = start + limit if limit else None
    pause, told, told_at = 0.05, "", start
    cause: Exception | None = None
    while True:
        tries += 1
        ends = [end for end in (deadline, last) if end]
        left = max(min(ends) - time.monotonic(), 0.1) if ends else None
        try:
            return attempt(left)
        except (psycopg.OperationalError, psycopg.ProgrammingError, TimeoutError) as error:
            # A last try that was given little time says less than the one before it.
            cut_short = left is not None and left < min(TRY, timeout / 4)
            if cause is None or not (cut_short and isinstance(error, (TimeoutError, psycopg.errors.ConnectionTimeout))):
                cause, text = error, one_line(error)
                failure = explain("query_wait_timeout" if isinstance(error, PoolIsFull) else str(error))
            if failure.queued:
                deadline = time.monotonic() + timeout if timeout else None
            if re.search(_SETTING, str(error)):
                raise SettingError(f"DATABASE_URL is '{address.masked}': {text}") from None
        now = time.monotonic()
        where = f"the database at {address.masked}"
        if failure.final:
            raise Unreachable(
                f"{where} cannot be reached: {failure.words}; {failure.advice}. The error: {text}"
            ) from cause
        if last and now >= last:
            raise LockUnavailable(
                f"the lock could not be had within STARTUP_LOCK_TIMEOUT: {where} could not be asked any more: "
                f"{failure.words}; {failure.advice} The last error: {text}"
            ) from cause
        if deadline and now >= deadline:
            raise Unreachable(
                f"{where} could not be reached within {timeout:g} s (STARTUP_DATABASE_TIMEOUT): {failure.words}; "
                f"{failure.advice} The last error: {text}"
            ) from cause
        with log.about(attempt=tries):
            if failure.words != told:
                report(f"waiting for {where}: {failure.words}")
                told, told_at = failure.words, now
            elif now - told_at >= PROGRESS:
                report(f"still waiting for {where} after {now - start:.0f} s: {failure.words} ({text})")
                told_at = now
        pause = min(pause * 1.6, 1.0)
        time.sleep(max(0, min(pause * random.uniform(0.75, 1.25), deadline - now if deadline else pause)))
