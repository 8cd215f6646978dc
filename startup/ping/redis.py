"""``redis://`` and ``rediss://``: PING is answered. RESP is that of redis.io's "Redis serialization protocol".

An error is no answer: whoever is loading, has lost its primary or wants another password (-LOADING, -MASTERDOWN,
-NOAUTH, -WRONGPASS ...) does not serve the app either. Access is even checked before the data is there.
"""

from __future__ import annotations

from startup.ping.attempt import Answer, Attempt, Ping
from startup.ping.kinds import Request, read_address, received

TYPE_CHECKING = False  # as mypy knows it; typing itself is a costly import
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterator, Mapping

#: Bytes of a line that are read before it is taken for something else, and characters of it that are shown.
_LINE_LIMIT, _SHOWN = 1 << 16, 200
#: After an unknown command, with a password whose cut part nobody would recognize.
_GIVEN_BACK = b", with args beginning with"
_CURES = {
    b"NOAUTH": "; give the password in its address: redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST",
    b"WRONGPASS": "; correct user and password in its address",
    b"NOPERM": "; allow its user +ping",
}


class Redis(Request):
    """PING, after AUTH where the address has a password. The number of a database is for other clients."""

    def __init__(self, name: str, host: str, port: int, tls: bool, credentials: tuple[str, ...]) -> None:
        super().__init__(name, host, port, tls)
        self._commands = [("AUTH", *credentials), ("PING",)] if credentials else [("PING",)]

    @classmethod
    def parse(cls, scheme: str, rest: str, environ: Mapping[str, str]) -> Ping:
        from urllib.parse import unquote

        form = f"{scheme}USER:PASSWORD@HOST:PORT/NUMBER"
        try:
            authority, host, port, target = read_address(rest, form, "6379")
        except ValueError as error:
            encode = "; / ? # and % in a password are written as %2F %3F %23 and %25" if "@" in rest else ""
            raise ValueError(f"{error}{encode}") from None
        path = target.partition("?")[0]
        if not (path.strip("/") or "0").isdecimal():
            raise ValueError(f"it should be {form}; NUMBER is the database's, and may be left out")
        userinfo, at, _ = rest.replace("?", "/").replace("#", "/").partition("/")[0].rpartition("@")
        user, colon, password = map(unquote, userinfo.partition(":"))
        if at and not colon:
            raise ValueError(f"is that a user or a password before the @? It should be {form}, or without USER")
        credentials = (user, password) if user else (password,) if password else ()
        return cls(scheme + authority + path, host, port, scheme == "rediss://", credentials)

    def ask(self, connection: _socket.socket, empty: type[OSError], attempt: Attempt) -> Answer:
        connection.sendall(b"".join(map(_encoded, self._commands)))  # a fresh connection's buffer holds it whole
        lines = _lines(received(connection, empty, attempt))
        for name, *_ in self._commands:
            if not (line := next(lines, b"")):
                return Answer(False, "the connection was closed without an answer")
            if line.startswith(b"-"):
                told = line[1:].partition(_GIVEN_BACK)[0]
                text = told[:_SHOWN].decode(errors="replace").rstrip(".")
                return Answer(False, f"the answer to {name} is {text}{_CURES.get(line[1:].partition(b' ')[0], '')}")
            if line != (b"+PONG" if name == "PING" else b"+OK"):
                return Answer(False, f"not an answer of Redis: {line[:40]!r}")
        return Answer(True, "PONG")


def _encoded(words: tuple[str, ...]) -> bytes:
    encoded = [word.encode("utf-8", "surrogateescape") for word in words]
    return b"".join([b"*%d\r\n" % len(encoded), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)])


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The lines that arrive, without their ends; one that does not end, as far as it was read."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.rstrip(b"\r") for line in (whole if len(rest) <= _LINE_LIMIT else [*whole, rest]))
