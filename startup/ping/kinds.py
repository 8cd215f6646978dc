"""The kinds of ping: a class for each, and its line in :data:`KINDS`, at the end.

What only one kind needs is imported where it asks, so that the others do not pay for it; of sockets the part in C,
since the rest of the module imports for longer than all else here.
"""

from __future__ import annotations

import os
import select
import time

from startup.ping import sockets
from startup.ping.attempt import Answer, App, Attempt, Ping

TYPE_CHECKING = False  # as mypy knows it; typing itself is a costly import
if TYPE_CHECKING:
    import _socket
    import ssl
    from collections.abc import Iterator, Mapping
    from typing import Any

    from startup.ping.sockets import Addresses

#: Bytes of an HTTP answer, up to its status line, that are read before it is taken for something else.
_HEAD_LIMIT = 1 << 16
#: Bytes and seconds spent on the rest of an HTTP answer, so that most servers do not see the connection break.
_REST_LIMIT = 1 << 18
_REST_SECONDS = 0.05
#: Bytes of a command's output that are kept, and characters of its last line that are shown.
_TAIL = 4096
_SHOWN = 200
#: Seconds between looks at a command where the kernel does not tell of its end (no pidfd: before Linux 5.3).
_LOOK = 0.02
#: Seconds until what need not have changed is asked again: whose the sockets are that listen, a refused connection.
_RECHECK = 2.0


class Nothing(Ping):
    """``none``: the app's process is alive. An app that ends before even that was asked has not failed to answer."""

    explicit = False

    def answer(self, attempt: Attempt) -> Answer:
        return Answer(True, "alive")


class File(Ping):
    """``file:///PATH``: the file is there. The path is taken as it is."""

    form = "/PATH"

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.path = path

    @classmethod
    def parse(cls, scheme: str, rest: str, environ: Mapping[str, str]) -> Ping:
        if not rest.startswith("/") or "\0" in rest:
            raise ValueError(
                f"an absolute path belongs after {scheme}, so that there are three slashes: {scheme}{cls.form}"
            )
        return cls(scheme + rest, rest)

    def answer(self, attempt: Attempt) -> Answer:
        os.stat(self.path)
        return Answer(True, "the file is there")


class Unix(File):
    """``unix:///PATH``: the socket accepts."""

    @classmethod
    def parse(cls, scheme: str, rest: str, environ: Mapping[str, str]) -> Ping:
        if len(rest.encode("utf-8", "surrogateescape")) > 107:  # unix(7): sun_path
            raise ValueError("the path of a unix socket has 107 bytes at most")
        return super().parse(scheme, rest, environ)

    def answer(self, attempt: Attempt) -> Answer:
        import _socket

        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(self.path)
        except BlockingIOError:  # unix(7): EAGAIN, and nothing to poll for
            return Answer(False, "its queue of connections is full")
        finally:
            connection.close()
        return Answer(True, "connection accepted")


class _Refusal:
    """Connections to loopback were refused. So are the next ones, until somebody listens there.

    To ask the kernel costs a third of a connection in vain. Every few seconds one is tried all the same: a firewall's
    rule can lead it to another port.
    """

    def __init__(self) -> None:
        self._doors: sockets.Doors | None = None
        self._until = 0.0

    def note(self, addresses: Addresses) -> None:
        """Each of these refused just now."""
        self._doors = None
        if all(host == "::1" or host.startswith("127.") for _, (host, *_) in addresses):
            try:
                self._doors = sockets.Doors(addresses)
            except OSError:
                return
            self._until = time.monotonic() + _RECHECK

    def stands(self) -> bool:
        """Would they refuse again?"""
        try:
            return self._doors is not None and time.monotonic() < self._until and self._doors.closed()
        except OSError:
            return False  # no descriptor was left, say


class Tcp(Ping):
    """``tcp://HOST:PORT``: the connection is accepted."""

    form = "HOST:PORT"

    def __init__(self, name: str, host: str, port: int) -> None:
        super().__init__(name)
        self.host = host
        self.port = port
        self._refusal = _Refusal()

    @classmethod
    def parse(cls, scheme: str, rest: str, environ: Mapping[str, str]) -> Ping:
        authority, host, port, target = read_address(rest, scheme + cls.form, "")
        if target not in ("", "/"):
            raise ValueError(f"it should be {scheme}{cls.form}, without a path")
        return cls(scheme + authority, host, port)

    def advice(self, app: App) -> str:
        rows = sockets.of_app(app.pid, sockets.listening(app.pid))
        if not rows:
            return f"the app listens on no TCP port; {super().advice(app)}"
        if self.port not in sockets.ports(rows):
            return f"the app listens on {', '.join(sockets.urls(rows))}, so ping that"
        return super().advice(app)

    def unchanged(self, app: App) -> bool:
        return self._refusal.stands()

    def connect(self, attempt: Attempt) -> _socket.socket:
        """A connection to the first of the host's addresses that accepts."""
        addresses = _resolve(self.host, self.port, attempt)
        try:
            return _connect(addresses, attempt)
        except ConnectionRefusedError:
            self._refusal.note(addresses)
            raise

    def answer(self, attempt: Attempt) -> Answer:
        self.connect(attempt).close()
        return Answer(True, "connection accepted")


class Request(Tcp):
    """Something is asked over the connection, encrypted or not. Certificates are not checked on loopback."""

    def __init__(self, name: str, host: str, port: int, tls: bool) -> None:
        super().__init__(name, host, port)
        self.tls = tls
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def ask(self, connection: _socket.socket, empty: type[OSError], attempt: Attempt) -> Answer:
        """Ask on a *connection* that is open; it raises *empty* where there is nothing to read yet."""
        raise NotImplementedError

    def answer(self, attempt: Attempt) -> Answer:
        plain = self.connect(attempt)
        try:
            return self._ask_encrypted(plain, attempt) if self.tls else self.ask(plain, BlockingIOError, attempt)
        finally:
            plain.close()

    def _ask_encrypted(self, plain: _socket.socket, attempt: Attempt) -> Answer:
        import ssl

        from startup import roots

        try:
            with self._encrypt(plain) as connection:
                _shake_hands(connection, attempt)
                return self.ask(connection, ssl.SSLWantReadError, attempt)
        except ssl.SSLCertVerificationError as error:
            why = "" if any(ssl.get_default_verify_paths()[:2]) or roots.find()[1] else f"; {roots.MISSING}"
            return Answer(False, f"its certificate is not valid: {error.verify_message}{why}")
        except ssl.SSLError as error:
            return Answer(False, f"no TLS connection: {(error.reason or str(error)).lower().replace('_', ' ')}")

    def _encrypt(self, plain: _socket.socket) -> ssl.SSLSocket:
        import socket
        import ssl

        from startup import roots

        local = _is_loopback(plain.getpeername()[0])
        if local not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if local else ssl.create_default_context()
            if local:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            else:
                roots.add_to(context)
            self._contexts[local] = context
        outer = socket.socket(fileno=plain.detach())
        outer.setblocking(False)
        return self._contexts[local].wrap_socket(outer, server_hostname=self.host, do_handshake_on_connect=False)


class Http(Request):
    """``http://`` and ``https://``: any status below 500. Redirects are not followed, proxies not used.

    The body is not needed: a server that never ends it has answered with its status line. A user and password in the
    URL are left out, since 401 is an answer.
    """

    form = "HOST:PORT/PATH"

    def __init__(self, name: str, host: str, port: int, target: str, tls: bool) -> None:
        super().__init__(name, host, port, tls)
        shown = f"[{host}]" if ":" in host else host
        if port != (443 if tls else 80):
            shown += f":{port}"
        lines = (f"GET {target} HTTP/1.1", f"Host: {shown}", "User-Agent: startup-ping", "Accept: */*")
        self._request = "\r\n".join((*lines, "Connection: close", "", "")).encode("ascii")

    @classmethod
    def parse(cls, scheme: str, rest: str, environ: Mapping[str, str]) -> Ping:
        tls = scheme == "https://"
        authority, host, port, target = read_address(rest, scheme + cls.form, "443" if tls else "80")
        if not target.startswith("/"):
            target = "/" + target
        # RFC 3986, 2.1: what may not stand in a request line as it is, above all spaces and line ends, is encoded.
        encoded = "".join(chr(b) if 32 < b < 127 else f"%{b:02X}" for b in target.encode("utf-8", "surrogateescape"))
        return cls(scheme + authority + target, host, port, encoded, tls)

    def ask(self, connection: _socket.socket, empty: type[OSError], attempt: Attempt) -> Answer:
        connection.sendall(self._request)  # a fresh connection's buffer holds it whole
        pieces = received(connection, empty, attempt)
        line = _status_line(pieces)
        if not line:
            return Answer(False, "the connection was closed without an answer")
        if not line.startswith(b"HTTP/") or not line[9:12].isdigit():
            return Answer(False, f"not an HTTP answer: {line[:40]!r}")
        _drain(connection, empty, attempt)
        code = int(line[9:12])
        if code >= 500:
            return Answer(False, f"status {code}")
        return Answer(True, f"status {code}" + (", an answer but not a success" if code >= 400 else ""))


class Redis(Ping):
    """``redis://`` and ``rediss://``: PING is answered, in :mod:`startup.ping.redis`."""

    form = "HOST:PORT"

    @classmethod
    def parse(cls, scheme: str, rest: str, environ: Mapping[str, str]) -> Ping:
        from startup.ping import redis

        return redis.Redis.parse(scheme, rest, environ)


class Command(Ping):
    """``cmd:COMMAND LINE``: it exits 0. Run by ``sh -c`` in a process group of its own, of which nothing remains.

    Its environment is *environ*; stdin is empty, and the last line of its output is part of the answer.
    """

    form = "COMMAND"
    first_pause = 0.1
    fast_pause = 1.0

    def __init__(self, name: str, line: str, environ: Mapping[str, str]) -> None:
        super().__init__(name)
        self.line = line
        self.environ = dict(environ)

    @classmethod
    def parse(cls, scheme: str, rest: str, environ: Mapping[str, str]) -> Ping:
        line = rest.strip()
        if not line or "\0" in line:
            raise ValueError("a command line belongs after cmd:, as in cmd:pg_isready -q")
        return cls(f"the command {line!r}", line, environ)

    def answer(self, attempt: Attempt) -> Answer:
        from startup.spawn import end, spawn

        ends = os.pipe()
        started: list[int] = []
        with open(ends[0], "rb", buffering=0) as reader, open(ends[1], "wb", buffering=0) as writer:
            try:
                try:
                    spawn(started, ("/bin/sh", "-c", self.line), self.environ, ends[1])
                    writer.close()
                    tail, ended = _watch(started[0], reader.fileno(), attempt)
                finally:
                    end(started)
            finally:
                end(started)  # again: the handler may have raised in the first
        if ended is None:
            return Answer(False, f"it did not end within {attempt.limit:.2g} s")
        if ended.si_code != os.CLD_EXITED:
            state = f"killed by signal {ended.si_status}"
        elif ended.si_status:
            state = f"exit status {ended.si_status}"
        else:
            return Answer(True, "exit status 0")
        last = _last_line(tail)
        return Answer(False, f"{state}: {last}" if last else state, state)


class Auto(Ping):
    """``auto``: what can be known of an app without being told. A PORT that is no port number is as good as none."""

    explicit = False

    @classmethod
    def parse(cls, scheme: str, rest: str, environ: Mapping[str, str]) -> Ping:
        port = environ.get("PORT", "").strip()
        return AutoPort(int(port)) if _is_port(port) else AutoListen()


class AutoPort(Auto):
    """``auto`` where ``$PORT`` is set: something accepts there on loopback, IPv4 or IPv6."""

    def __init__(self, port: int) -> None:
        super().__init__("auto")
        self.port = port
        self._refusal = _Refusal()

    def unchanged(self, app: App) -> bool:
        return self._refusal.stands()

    def answer(self, attempt: Attempt) -> Answer:
        import _socket

        answer = Answer(False, f"nothing accepts on port {self.port} ($PORT)")
        addresses: Addresses = [(_socket.AF_INET, ("127.0.0.1", self.port)), (_socket.AF_INET6, ("::1", self.port))]
        for family, address in addresses:
            try:
                _open(family, address, attempt, attempt.limit / 2).close()
                return Answer(True, f"port {self.port} accepts")
            except TimeoutError:
                answer = Answer(False, attempt.overdue())
            except OSError:
                pass  # refused, or no IPv6 here
        self._refusal.note(addresses)
        return answer

    def hint(self, app: App) -> str:
        others = sockets.urls(sockets.of_app(app.pid, sockets.listening(app.pid)))
        if others:
            return f"PORT is {self.port}, but the app listens on {', '.join(others)}; set STARTUP_PING={others[0]}"
        return f"PORT is {self.port}, but the app listens on no TCP port; {_ADVICE}"


class AutoListen(Auto):
    """``auto`` without ``$PORT``: the app, or any process under it, listens on a TCP port.

    Nothing is connected to. The list of sockets is read each time; whose they are is looked up when there are new ones,
    and every few seconds, because a socket can be handed on. Where the app itself listens, its children's ports are
    not looked for.
    """

    def __init__(self) -> None:
        super().__init__("auto")
        self._seen: sockets.Rows = {}
        self._until = 0.0

    def unchanged(self, app: App) -> bool:
        return time.monotonic() < self._until and sockets.listening(app.pid).keys() <= self._seen.keys()

    def answer(self, attempt: Attempt) -> Answer:
        pid = attempt.app.pid
        self._seen = rows = sockets.listening(pid)
        self._until = time.monotonic() + _RECHECK
        ports = sockets.ports(sockets.of_process(pid, rows) or sockets.of_app(pid, rows))
        if ports:
            word = "port" if len(ports) == 1 else "ports"
            return Answer(True, f"listens on {word} {', '.join(map(str, ports))}")
        return Answer(False, "it does not listen on a TCP port")

    def hint(self, app: App) -> str:
        return f"the app listens on no TCP port yet; {_ADVICE}"


_ADVICE = (
    "where it never will, set STARTUP_PING=none; where it says in another way that it is up, "
    "STARTUP_PING=unix:///PATH, file:///PATH or cmd:COMMAND"
)

#: What a ping begins with, and what reads the rest of it.
KINDS: dict[str, type[Ping]] = {
    "http://": Http,
    "https://": Http,
    "tcp://": Tcp,
    "unix://": Unix,
    "file://": File,
    "redis://": Redis,
    "rediss://": Redis,
    "cmd:": Command,
    "none": Nothing,
    "auto": Auto,
}


def parse(value: str, environ: Mapping[str, str]) -> Ping:
    """The ping that STARTUP_PING's *value* asks for; *environ* gives ``auto`` its PORT, and a command all that it gets.

    :raises ValueError: it cannot be read; the text says what would be right.
    """
    value = value.strip()
    for scheme, kind in KINDS.items():
        start, rest = value[: len(scheme)], value[len(scheme) :]
        if start.lower() == scheme and (kind.form or not rest):
            return kind.parse(scheme, rest, environ)
    *others, last = (scheme + kind.form for scheme, kind in KINDS.items())
    raise ValueError(f"a ping is one of {', '.join(others)} or {last}")


def read_address(rest: str, form: str, default_port: str) -> tuple[str, str, int, str]:
    """HOST:PORT as it stands there, the host, the port, and the path with its query; ValueError with *form* in it."""
    end = min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest))
    authority, target = rest[:end].rpartition("@")[2], rest[end:].partition("#")[0]
    if authority.startswith("["):
        host, closed, port = authority[1:].partition("]")
        wrong = not closed or ":" not in host or (port != "" and not port.startswith(":"))
        port = port[1:]
    else:
        host, _, port = authority.partition(":")
        wrong = False
    if wrong or ":" in port:
        raise ValueError(f"it should be {form}, an IPv6 address in brackets as in {form.replace('HOST', '[::1]')}")
    if not host or not host.isascii() or not host.isprintable() or " " in host:
        raise ValueError(f"it should be {form}; HOST is a name in ASCII or an address")
    port = port or default_port
    if not _is_port(port):
        raise ValueError(f"it should be {form}; PORT is a number from 1 to 65535")
    return authority, host, int(port), target


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535


def _is_loopback(host: str) -> bool:
    return host == "::1" or host.startswith(("127.", "::ffff:127."))


def _connect(addresses: Addresses, attempt: Attempt) -> _socket.socket:
    """A connection to the first of the addresses that accepts. Each has its share of the time."""
    failure: OSError = TimeoutError()
    for tried, (family, address) in enumerate(addresses):
        try:
            return _open(family, address, attempt, attempt.left() / (len(addresses) - tried))
        except OSError as error:
            failure = error
    raise failure


def _open(family: int, address: tuple[Any, ...], attempt: Attempt, seconds: float) -> _socket.socket:
    """A connection in non-blocking mode; OSError when it is not accepted within *seconds*."""
    import _socket
    import errno

    connection = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        code = connection.connect_ex(address)
        if code == errno.EINPROGRESS:
            attempt.wait(connection.fileno(), select.POLLOUT, seconds)
            code = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if code == 0 and connection.getsockname()[1] == address[1]:
            # Nobody listens, and the kernel gave us the very port that we ask: TCP's simultaneous open, with ourselves.
            code = errno.ECONNREFUSED
        if code:
            raise OSError(code, os.strerror(code))
        return connection
    except BaseException:
        connection.close()
        raise


def _resolve(host: str, port: int, attempt: Attempt) -> Addresses:
    """The addresses of *host*. A name is looked up in a thread: getaddrinfo(3) knows no time limit, nor our signals."""
    import _socket

    if host.lower() == "localhost":  # RFC 6761, 6.3: loopback without asking anybody; some images have no /etc/hosts
        return [(_socket.AF_INET6, ("::1", port)), (_socket.AF_INET, ("127.0.0.1", port))]
    name = host.encode("ascii")  # as str it would cost the import of the idna codec
    try:
        return _addresses(name, port, _socket.AI_NUMERICHOST)  # short forms (127.1) and scopes (fe80::1%eth0), too
    except _socket.gaierror:
        pass
    import threading

    found: Addresses = []
    problem: list[str] = []
    reader, writer = os.pipe()

    def look_up() -> None:
        try:
            found.extend(_addresses(name, port, 0))
        except OSError as error:
            problem.append(error.strerror or str(error))
        finally:
            os.close(writer)  # here, not there: the thread may outlive the try

    try:
        threading.Thread(target=look_up, daemon=True).start()
        try:
            attempt.wait(reader, select.POLLIN)
        except TimeoutError:
            raise OSError(f"the name {host} was not resolved within {attempt.limit:.2g} s") from None
    finally:
        os.close(reader)
    if problem:
        raise OSError(f"the name {host} cannot be resolved ({problem[0]})")
    return found


def _addresses(name: bytes, port: int, flags: int) -> Addresses:
    import _socket

    answers = _socket.getaddrinfo(name, port, type=_socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in answers]


def _shake_hands(connection: ssl.SSLSocket, attempt: Attempt) -> None:
    import ssl

    while True:
        try:
            return connection.do_handshake()
        except ssl.SSLWantReadError:
            attempt.wait(connection.fileno(), select.POLLIN)
        except ssl.SSLWantWriteError:
            attempt.wait(connection.fileno(), select.POLLOUT)


def received(connection: _socket.socket, empty: type[OSError], attempt: Attempt) -> Iterator[bytes]:
    """What arrives, piece by piece, until the other side closes. *empty* is raised when nothing has arrived yet."""
    while True:
        try:
            piece = connection.recv(_HEAD_LIMIT)
        except empty:
            attempt.wait(connection.fileno(), select.POLLIN)
            continue
        if not piece:
            return
        yield piece


def _status_line(pieces: Iterator[bytes]) -> bytes:
    """The status line of an HTTP answer; what there is where it is none, and nothing where nothing came."""
    head = b""
    for piece in pieces:
        head += piece
        while head[:7] == b"HTTP/1." and head[8:10] == b" 1":
            # RFC 9110, 15.2: interim answers may come before the real one, whether asked for or not.
            _, end, rest = head.partition(b"\r\n\r\n")
            if not end:
                break
            head = rest
        else:
            if b"\n" in head or not b"HTTP/".startswith(head[:5]):
                return head.partition(b"\n")[0].rstrip()
        if len(head) > _HEAD_LIMIT:
            return head
    return b""


def _drain(connection: _socket.socket, empty: type[OSError], attempt: Attempt) -> None:
    """Read the rest of a short answer, so that closing does not break the server's connection and fill its log."""
    rest = Attempt(attempt.app, min(_REST_SECONDS, attempt.left()))
    size = 0
    try:
        for piece in received(connection, empty, rest):
            size += len(piece)
            if size > _REST_LIMIT or not rest.left():
                return
    except OSError:
        pass  # too slow or broken: it has answered


def _watch(pid: int, output: int, attempt: Attempt) -> tuple[bytes, os.waitid_result | None]:
    """Wait for the child *pid*: the end of what it wrote, and how it ended, None: not in time. It is not reaped."""
    tail = b""
    os.set_blocking(output, False)
    wanted = {output: select.POLLIN}
    try:
        pidfd = os.pidfd_open(pid)
        wanted[pidfd] = select.POLLIN
    except (AttributeError, OSError):
        pidfd = -1
    try:
        while True:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            try:
                chunk = os.read(output, _HEAD_LIMIT)
                tail = (tail + chunk)[-_TAIL:]
                if not chunk:
                    wanted.pop(output, None)
            except BlockingIOError:
                pass
            if ended or not attempt.left():
                return tail, ended
            attempt.app.wait(wanted, attempt.left() if pidfd >= 0 else min(_LOOK, attempt.left()))
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _last_line(output: bytes) -> str:
    """The last line that is not empty, fit for a log."""
    for line in reversed(output.decode(errors="replace").splitlines()):
        line = "".join(character for character in line if character.isprintable()).strip()
        if line:
            return line[:_SHOWN]
    return ""
