"""Reaching a PostgreSQL server: which answers mean "wait", which mean "never", and each of them in words."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from startup import log
from startup.errors import LockUnavailable, SettingError, Unreachable
from startup.records import dataclass
from startup.settings.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from startup.database.postgres.libpq import Library

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

    def __init__(self, connection: Any, seconds: float) -> None:
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
        import socket

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

    def advice_for(self, address: Address) -> str:
        """The advice, with where the parameters came from; with ``?``: only where that is not the address."""

        def place(found: re.Match[str]) -> str:
            origins = " and ".join(dict.fromkeys(origin(address, name) for name in found[1].split("+")))
            if not found[2]:
                return origins
            return f" of {origins}" if origins != address.source else ""

        return re.sub(r"{([\w+]+)(\??)}", place, self.advice)


_POOL = "is its pool (pool_size) large enough for the apps and the nodes?"
_REJECTED = ("the password was rejected, or is missing", "check user and password in {user+password}")
_NO_DATABASE = ("the database does not exist", "create it, or correct its name{dbname?}")
_NO_ROLE = ("the role does not exist, or may not log in", "create it, or correct the user in {user}")
_NOT_ADMITTED = (
    "the server does not admit this user from here",
    "see its pg_hba.conf, whether it asks for TLS (?sslmode=require), and the user's CONNECT privilege",
)
_STARTING = ("the server is starting up", "does it need longer than STARTUP_DATABASE_TIMEOUT?")
_FULL = (
    "the server has too many connections",
    "is the limit (max_connections, CONNECTION LIMIT) high enough for the apps and one more for each node?",
)
_PLACE = "is it running, are host and port of {host+port} right?"

#: By SQLSTATE (PostgreSQL manual, appendix A), where the server tells it: in whatever language its messages are.
_STATES = (("28P01", _REJECTED), ("28", _NO_ROLE), ("3D000", _NO_DATABASE), ("42501", _NOT_ADMITTED))
_STATES_THAT_PASS = (("57P", _STARTING), ("53300", _FULL))
#: Classes of SQLSTATE that may pass: the connection, resources, an operator's doing, the system, its inside.
_PASSING = ("08", "40", "53", "55", "57", "58", "XX", "F0")
#: Matched against libpq's own words, which are English where nothing calls setlocale(3), as Python does not, and the
#: server's: a connection that was never made has no SQLSTATE.
_FINAL = (
    (r"authentication failed|no password supplied|auth failed", _REJECTED),
    (r'database "" does not exist|no such database', _NO_DATABASE),
    (r'role "" does not exist|is not permitted to log in|no such user', _NO_ROLE),
    (r"pg_hba.conf|permission denied for database", _NOT_ADMITTED),
    (
        r"certificate|SSL was required|could not create SSL context|does not support SSL|"
        r"SSL error: (?!unexpected eof)|private key file",
        (
            "no TLS connection could be agreed on",
            "check sslmode{sslmode?}, sslrootcert{sslrootcert?} and the server's certificate",
        ),
    ),
)
_WAIT = (
    (r"is starting up|not yet accepting|is shutting down|recovery mode|recovery state", _STARTING),
    (r"too many clients|too many connections|connection slots are|no more connections allowed", _FULL),
    (
        r"session is read-only|hot standby mode|session is not read-only",
        (
            "no server with the wanted target_session_attrs is there (read-only, or a fail-over under way)",
            "is the primary among the hosts of {host}?",
        ),
    ),
    (
        r"translate host name|resolve|Name or service not known|name resolution|No address associated",
        ("the host name cannot be resolved", "is the host of {host} spelt right, and on this network?"),
    ),
    (
        r"Connection refused|No such file or directory|Connection reset by peer",
        ("the connection is refused", _PLACE),
    ),
    (
        r"time(d )?out|no answer|No route to host|unreachable|Host is down",
        (
            "there is no answer",
            "is it running, is the host of {host} right, does a firewall let its port through?",
        ),
    ),
    (
        r"closed the connection|EOF|eof|Broken pipe|could not receive|could not send",
        ("the server hangs up", "is that a PostgreSQL server, and what does its own log say?"),
    ),
)
#: A parameter's fault, in libpq's words: which one, where they do not name it themselves.
_SETTINGS = (
    (r"(?:definition of service|service file|in service)", "service"),
    (r'connection option "(\w+)"', ""),
    (r"^(?:.*failed: |connection is bad: )?invalid (\w+) value", ""),
    (r"channel binding", "channel_binding"),
    (r"authentication method requirement", "require_auth"),
    (r"requirepeer", "requirepeer"),
    (r"weak sslmode", "sslnegotiation"),
    (r"local user with ID", "user"),
    (r"^(?:.*failed: |connection is bad: )?(?:invalid|could not match|bad value)", "-"),
)
#: PostgreSQL's own parameters that libpq sends for an environment variable (libpq-envars).
_VARIABLES = {"timezone": "PGTZ", "datestyle": "PGDATESTYLE", "geqo": "PGGEQO"}


def explain(text: str) -> Failure:
    """What libpq's error *text* means, whatever the names in it are."""
    text = re.sub(r'"[^"]*"', '""', text)
    if "query_wait_timeout" in text:
        return Failure("the pooler has no server session to spare", _POOL, final=False, queued=True)
    for pattern, said in _FINAL:
        if re.search(pattern, text):
            return Failure(*said, final=True)
    for pattern, said in _WAIT:
        if re.search(pattern, text):
            return Failure(*said, final=False)
    return UNKNOWN


UNKNOWN = Failure("the connection failed", "is it running, and is {host} right?", final=False)


def explain_state(state: str) -> Failure:
    """What the server's SQLSTATE *state* means; UNKNOWN for none, and for what may pass."""
    for prefix, said in _STATES:
        if state.startswith(prefix):
            return Failure(*said, final=True)
    for prefix, said in _STATES_THAT_PASS:
        if state.startswith(prefix):
            return Failure(*said, final=False)
    if state and not state.startswith(_PASSING):
        return Failure(f"the server refuses the session (SQLSTATE {state})", "see its words", final=True)
    return UNKNOWN


def library() -> Library | None:
    """libpq without psycopg; None where it is not there, or Python was built without ctypes."""
    try:
        from startup.database.postgres import libpq
    except ImportError:
        return None
    return libpq.load()


@cache
def variables() -> dict[str, str]:
    """The parameters that libpq knows, each with its environment variable, if it has one."""
    if found := library():
        return {name: variable for name, variable, _ in found.options()}
    from psycopg.pq import Conninfo

    return {option.keyword.decode(): (option.envvar or b"").decode() for option in Conninfo.get_defaults()}


def of_the_statement(error: Exception) -> bool:
    """Does the server refuse what was asked, and not the asking (the connection, resources, an operator's doing)?"""
    state = getattr(error, "sqlstate", None) or ""
    return bool(state) and not state.startswith(("08", "53", "55", "57", "58"))


def sqlstate(connect_arguments: dict[str, Any], seconds: float) -> str:
    """The SQLSTATE with which the server refuses a session within *seconds*; empty where it tells none.

    libpq drops it, but traces it (PQtrace, from libpq 18 on). Asked for only where its words mean nothing to us.
    """

    def ask() -> str:
        from startup.database.postgres import libpq

        found = library()
        if found is None:
            return ""
        trace = libpq.Connection(found, connect_arguments).traced(time.monotonic() + seconds)
        states: list[bytes] = re.findall(rb'\tErrorResponse\t.*? C "(\w{5})"', trace)
        return states[-1].decode() if states else ""

    try:
        return on_thread(ask, seconds, lambda _: None)
    except Exception:  # no memfd, no tracing, no ctypes; what was refused before is refused again
        return ""


def origin(address: Address, parameter: str) -> str:
    """Where libpq took the *parameter* of a connection from, for a person: setting, PG variable or service file."""
    if parameter in address.conninfo:
        return address.source
    variable = variables().get(parameter, "")
    if variable and os.environ.get(variable):
        return variable
    for name, value in (("service", address.conninfo.get("service")), ("PGSERVICE", os.environ.get("PGSERVICE"))):
        if value and parameter != "service":
            return f"{address.source}, or the service file's {value} ({name})"
    return address.source


def misset(address: Address, text: str, state: str = "") -> str:
    """Which parameter the error *text* blames, in words, with where it came from; empty where it blames none.

    A parameter of the session is told by its name in *text*, which no language changes.
    """
    for pattern, parameter in _SETTINGS:
        if found := re.search(pattern, text):
            name = parameter or found[1]
            return _wrong(address, name, "" if name == "-" else origin(address, name))
    if state[:2] not in ("22", "42", "55"):
        return ""
    for name, variable in _VARIABLES.items():
        if os.environ.get(variable) and name in text.lower():
            return _wrong(address, name, variable)
    options = address.conninfo.get("options") or os.environ.get("PGOPTIONS", "")
    for name in re.findall(r"([\w.]+)=", options):
        if name.lower() in text.lower():
            return _wrong(address, f"{name} in options", origin(address, "options"))
    return ""


def _wrong(address: Address, parameter: str, place: str) -> str:
    if place in ("", address.source):
        return f"{address.source} is '{address.masked}'" + (f", whose {parameter} is wrong" if place else "")
    return f"{place} has a wrong {parameter} for the database at {address.masked}"


def one_line(error: object) -> str:
    """An error's text on one line, without libpq's preamble and without secrets."""
    lines = str(error).replace("connection failed: ", "").splitlines()
    return log.redact(" ".join(" ".join(dict.fromkeys(lines)).split()))  # libpq tells of each try, with TLS and without


def arguments(address: Address, node: str) -> dict[str, Any]:
    """What libpq gets: the address in its words, and how this program wants its sessions."""
    installed = variables().keys()
    unknown = sorted(set(address.conninfo) - installed)
    if dropped := [*address.dropped, *unknown]:
        log.debug(f"{address.source}: parameters that libpq does not know are left out: {', '.join(dropped)}")
    name = (APPLICATION + node).encode()[:NAME_BYTES].decode(errors="ignore")
    several = {"target_session_attrs": "read-write"} if "," in address.conninfo.get("host", "") else {}
    return {
        "tcp_user_timeout": str(DEAD_PEER * 1000),
        **{f"keepalives_{what}": str(value) for what, value in KEEPALIVES.items()},
        **several,
        **{keyword: text for keyword, text in address.conninfo.items() if keyword in installed},
        "application_name": name,
        "client_encoding": "UTF8",
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
        # what our own reading rests on, and no more: how the tasks' SQL is read, its dates and time zone, stays
        "datestyle": "ISO",  # the order of days and months is another part of it
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "standard_conforming_strings": "on",
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
    import queue

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


def limit(seconds: float | None) -> int:
    """Whole seconds for one try, of *seconds* that are left."""
    return TRY if seconds is None else max(1, min(TRY, round(seconds)))


def reach(
    attempt: Callable[[float | None], T],
    ask: Callable[[float], str],
    address: Address,
    timeout: float,
    report: log.Report,
    limit: float = 0.0,
    failed: Callable[[str, str], None] | None = None,
) -> T:
    """Call *attempt* (with the seconds that are left) until it succeeds: the database may still be starting.

    *ask* is asked, with its limit in seconds, for the SQLSTATE of a refusal whose words mean nothing to us.
    *timeout* is STARTUP_DATABASE_TIMEOUT, in seconds, 0 for ever; a pooler whose sessions are all at work is waited for
    beyond it. *limit* is what is left of STARTUP_LOCK_TIMEOUT, 0 for none: LockUnavailable then. One line when waiting
    starts, at each change, and every 10 s; *failed* instead gets words and error of each try. Raises Unreachable at
    once where waiting is no use, else when time is up; SettingError for a parameter that libpq cannot read.
    """
    start, tries = time.monotonic(), 0
    deadline = start + timeout if timeout else None
    last = start + limit if limit else None
    pause, told, told_at = 0.05, "", start
    blamed, states = "", dict[str, str]()
    cause: Exception | None = None
    while True:
        tries += 1
        ends = [end for end in (deadline, last) if end]
        left = max(min(ends) - time.monotonic(), 0.1) if ends else None
        try:
            return attempt(left)
        except Exception as error:
            if not (isinstance(error, TimeoutError) or hasattr(error, "sqlstate")):  # as the drivers' own have
                raise
            # A last try that was given little time says less than the one before it.
            cut_short = left is not None and left < min(TRY, timeout / 4)
            if cause is None or not (cut_short and isinstance(error, TimeoutError)):
                cause, text, blamed = error, one_line(error), ""
                failure = explain("query_wait_timeout" if isinstance(error, PoolIsFull) else str(error))
                if failure is UNKNOWN and not (blamed := misset(address, str(error))):
                    if text not in states:
                        states[text] = getattr(error, "sqlstate", None) or ask(TRY if left is None else min(left, TRY))
                    failure = explain_state(states[text])
                    blamed = misset(address, str(error), states[text])
            if failure.queued:
                deadline = time.monotonic() + timeout if timeout else None
            if blamed:
                raise SettingError(f"{blamed}: {text}") from None
        now = time.monotonic()
        where, advice = f"the database at {address.masked}", failure.advice_for(address)
        if failure.final:
            raise Unreachable(f"{where} cannot be reached: {failure.words}; {advice}. The error: {text}") from cause
        if last and now >= last:
            raise LockUnavailable(
                f"the lock could not be had within STARTUP_LOCK_TIMEOUT: {where} could not be asked any more: "
                f"{failure.words}; {advice} The last error: {text}"
            ) from cause
        if deadline and now >= deadline:
            raise Unreachable(
                f"{where} could not be reached within {timeout:g} s (STARTUP_DATABASE_TIMEOUT): {failure.words}; "
                f"{advice} The last error: {text}"
            ) from cause
        with log.about(attempt=tries):
            if failed:
                failed(failure.words, text)
            elif failure.words != told:
                report(f"waiting for {where}: {failure.words}")
                told, told_at = failure.words, now
            elif now - told_at >= PROGRESS:
                report(f"still waiting for {where} after {now - start:.0f} s: {failure.words} ({text})")
                told_at = now
        import random

        pause = min(pause * 1.6, 1.0)
        time.sleep(max(0, min(pause * random.uniform(0.75, 1.25), deadline - now if deadline else pause)))
