"""A proxy between a node and PostgreSQL that counts what the node sends, and strikes at one point of it."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import threading
from typing import Literal

_SO_ATTACH_FILTER = 26


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction))]


def cut(one: socket.socket) -> None:
    """Drop every packet that arrives, and so acknowledge none: a cable that was pulled (bpf(4): ``ret #0``)."""
    drop = (_Instruction * 1)(_Instruction(6, 0, 0, 0))
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(_Program(1, drop)))


class Proxy:
    """Forwards to *port*. A *request* is what a client sends up to a Query or Sync message.

    At request number *at* (from 1 on) it stops once, *before* it forwards that, or *after* the server's whole reply
    has come, before it forwards this; ``struck`` is set then, and it goes on when ``go_on`` is. ``count`` is the number
    of requests so far.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.count = 0
        self.at = 0
        self.when: Literal["before", "after"] = "before"
        self.struck = threading.Event()
        self.go_on = threading.Event()
        self.stuck = False
        self.requests: list[str] = []
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                if self._listener.fileno() < 0:
                    return
                client.close()
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            if self.stuck:
                cut(client)
                continue
            pair = _Pair(self, client, server)
            threading.Thread(target=pair.upstream, daemon=True).start()
            threading.Thread(target=pair.downstream, daemon=True).start()

    def next_request(self, text: str) -> int:
        """Count one."""
        with self._lock:
            self.count += 1
            self.requests.append(text)
            return self.count

    def do_strike(self) -> None:
        """Once."""
        if not self.struck.is_set():
            self.struck.set()
            self.go_on.wait(60)

    def cut_all(self) -> None:
        """Forward nothing any more, close nothing, answer nothing."""
        self.stuck = True
        for one in list(self._sockets):
            cut(one)

    def close(self) -> None:
        """Close everything."""
        self.stuck = True
        for one in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class _Pair:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._strike_after = False

    def upstream(self) -> None:
        with contextlib.suppress(OSError):
            self._startup()
            pending, words = b"", []
            while True:
                kind, message = _message(self._client)
                pending += message
                if kind in b"QP":
                    words.append(message[5:].strip(b"\0").partition(b"\0")[0])
                if kind == b"X":
                    break
                if kind not in b"QSpdcf":
                    continue
                if kind in b"QS":
                    number = self._proxy.next_request(" ".join(word.decode(errors="replace") for word in words))
                    words = []
                    if number == self._proxy.at:
                        if self._proxy.when == "before":
                            self._proxy.do_strike()
                        else:
                            self._strike_after = True
                if self._proxy.stuck:
                    return
                self._server.sendall(pending)
                pending = b""
        self._end(self._server)

    def _startup(self) -> None:
        """The first message has no type; a cancel request is one of these, and all there is."""
        size = _exactly(self._client, 4)
        self._server.sendall(size + _exactly(self._client, struct.unpack("!I", size)[0] - 4))

    def downstream(self) -> None:
        with contextlib.suppress(OSError):
            waiting = b""
            while True:
                kind, message = _message(self._server)
                waiting += message
                if kind == b"Z" and self._strike_after:
                    self._strike_after = False
                    self._proxy.do_strike()
                if self._proxy.stuck:
                    return
                if not self._strike_after or kind == b"Z":
                    self._client.sendall(waiting)
                    waiting = b""
        self._end(self._client)

    def _end(self, other: socket.socket) -> None:
        if not self._proxy.stuck:
            with contextlib.suppress(OSError):
                other.shutdown(socket.SHUT_WR)


def _exactly(one: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = one.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def _message(one: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(one, 5)
    return head[:1], head + _exactly(one, struct.unpack("!I", head[1:])[0] - 4)
