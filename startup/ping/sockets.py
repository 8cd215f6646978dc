"""Who listens on TCP ports: sock_diag(7), proc_pid_net(5), proc_pid_fd(5), proc_pid_stat(5)."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as mypy knows it; typing itself is a costly import
if TYPE_CHECKING:
    import _socket
    from typing import Any

    #: Where to connect: the family, and what connect(2) takes.
    Addresses = list[tuple[int, tuple[Any, ...]]]
    #: Listening sockets by their inode: the address as inet_pton(3) packs it, and the port.
    Rows = dict[int, tuple[bytes, int]]

#: Docker's own DNS server stands in every container of a user-defined network, at this address alone.
_DOCKER_DNS = b"\x7f\x00\x00\x0b"
#: The state of a socket that listens (include/net/tcp_states.h).
_LISTEN = 10
#: linux/netlink.h and linux/sock_diag.h
_NETLINK_SOCK_DIAG, _TCPDIAG_GETSOCK, _ONE, _DUMP = 4, 18, 0x001, 0x301
#: Of struct inet_diag_sockid: the loopback interface, and the cookie of any socket.
_LOOPBACK, _ANY = 1, -1
#: The answer when there is no such socket: NLMSG_ERROR, ENOENT.
_NOBODY = 2, -2
_AF_INET = 2
_READ = 1 << 16


def listening(pid: int | None = None) -> Rows:
    """The TCP sockets that listen in the network namespace of *pid* (None: in ours). Empty where nothing can tell.

    The kernel is asked directly, since /proc/net/tcp walks through the whole table of connections: milliseconds on a
    machine with much memory. Where it does not answer (gVisor, no tcp_diag), or the namespace is another, /proc is.
    """
    try:
        if pid is not None and os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"):
            return _from_proc(pid)
    except OSError:
        pass  # not ours to see: in a container there is only one
    try:
        return from_kernel()
    except OSError:
        return _from_proc(pid)


def from_kernel() -> Rows:
    """The TCP sockets that listen in our network namespace.

    :raises OSError: the kernel does not list them.
    """
    import struct

    rows: Rows = {}
    kernel = _ask(_request(_DUMP))
    try:
        while True:
            answer = kernel.recv(_READ)
            start = 0
            while start < len(answer):
                length, kind, error = struct.unpack_from("=IH10xi", answer, start)
                if kind == _TCPDIAG_GETSOCK:  # struct inet_diag_msg
                    size = 4 if answer[start + 16] == _AF_INET else 16
                    (port,) = struct.unpack_from("!H", answer, start + 20)
                    (inode,) = struct.unpack_from("=I", answer, start + 84)
                    _add(rows, inode, answer[start + 24 : start + 24 + size], port)
                elif error:  # NLMSG_ERROR, or NLMSG_DONE with an error
                    raise OSError("the kernel does not list its sockets")
                else:
                    return rows
                start += (length + 3) & ~3
    finally:
        kernel.close()


class Doors:
    """Addresses of loopback, asked again and again whether anybody listens at one of them.

    :raises OSError: the kernel does not tell; where it cannot, it finds nobody anywhere.
    """

    def __init__(self, addresses: Addresses) -> None:
        import _socket
        import struct

        from_kernel()
        self._request = b"".join(
            _request(_ONE, family, _socket.inet_pton(family, host), port) for family, (host, port, *_) in addresses
        )
        self._all = range(len(addresses))
        self._error = struct.Struct("=4xH10xi").unpack_from

    def closed(self) -> bool:
        """Nobody listens. The kernel looks each address up as it does for a connection."""
        kernel = _ask(self._request)
        try:
            return all(self._error(kernel.recv(_READ)) == _NOBODY for _ in self._all)
        finally:
            kernel.close()


def _request(flags: int, family: int = 0, host: bytes = b"", port: int = 0) -> bytes:
    """Which sockets listen: all, or the one that a connection to *host* by way of loopback would reach."""
    import struct

    # struct nlmsghdr, then struct inet_diag_req with its struct inet_diag_sockid (linux/inet_diag.h). It is the older
    # of two requests, and the one that asks for IPv4 and IPv6 at once.
    return (
        struct.pack("=IHHIIB3x", 76, _TCPDIAG_GETSOCK, flags, 1, 0, family)
        + struct.pack("!H2x16s16x", port, host)
        + struct.pack("=IqII", _LOOPBACK, _ANY, 1 << _LISTEN, 0)
    )


def _ask(request: bytes) -> _socket.socket:
    """What the kernel's answers are read from. It has answered when the request is sent: nothing is waited for."""
    import _socket

    kernel = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)
    try:
        kernel.send(request)
    except OSError:
        kernel.close()
        raise
    return kernel


def _from_proc(pid: int | None) -> Rows:
    rows: Rows = {}
    for table in ("tcp", "tcp6"):
        content = _read(f"/proc/{pid}/net/{table}") if pid is not None else None
        if content is None:
            content = _read(f"/proc/self/net/{table}") or b""
        for line in content.splitlines()[1:]:
            columns = line.split(None, 10)
            if len(columns) > 9 and int(columns[3], 16) == _LISTEN:
                host, port = columns[1].decode().split(":")
                words = (int(host[start : start + 8], 16) for start in range(0, len(host), 8))
                packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
                _add(rows, int(columns[9]), packed, int(port, 16))
    return rows


def _add(rows: Rows, inode: int, host: bytes, port: int) -> None:
    if host != _DOCKER_DNS:
        rows[inode] = host, port


def ports(rows: Rows) -> list[int]:
    """The ports of *rows*, each once, in order."""
    return sorted({port for _, port in rows.values()})


def urls(rows: Rows) -> list[str]:
    """Each of *rows* as a ``tcp://`` address that this host can connect to."""
    import _socket

    found = set()
    for packed, port in rows.values():
        host = _socket.inet_ntop(_AF_INET if len(packed) == 4 else _socket.AF_INET6, packed)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        found.add(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
    return sorted(found)


def family(app: int) -> list[int]:
    """The app and every process under it, zombies left out.

    In a container (PID 1 is the app's parent or grandparent) what the app left to PID 1 counts too: a daemon's parent
    is gone, so it is told by being younger than the app.
    """
    parents: dict[int, int] = {}
    births: dict[int, int] = {}
    zombies: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        content = _read(f"/proc/{name}/stat")
        if not content:
            continue
        fields = content.rpartition(b")")[2].split()
        pid = int(name)
        parents[pid] = int(fields[1])
        births[pid] = int(fields[19])
        if fields[0] in (b"Z", b"X"):
            zombies.add(pid)
    found = {app}
    parent = parents.get(app, 0)
    if app in births and 1 in (parent, parents.get(parent, 0)):
        found.update(pid for pid, above in parents.items() if above == 1 and births[pid] >= births[app])
    children: dict[int, list[int]] = {}
    for pid, above in parents.items():
        children.setdefault(above, []).append(pid)
    queue = list(found)
    while queue:
        for pid in children.get(queue.pop(), []):
            if pid not in found:
                found.add(pid)
                queue.append(pid)
    return sorted(found - zombies)


def of_process(pid: int | None, rows: Rows) -> Rows:
    """Those *rows* that the process itself has open, as far as it can be seen: cheaper than :func:`of_app`."""
    try:
        return {inode: rows[inode] for inode in _sockets(pid) if inode in rows} if rows and pid is not None else {}
    except OSError:
        return {}


def of_app(app: int | None, rows: Rows) -> Rows:
    """Those *rows* that belong to the app or to a process under it.

    All of them where that cannot be seen: the app is not known, or the files of one of its processes may not be read
    (another user's, as after gosu) and none of the others owns a row.
    """
    if app is None or not rows:
        return rows
    owned: set[int] = set()
    hidden = False
    for pid in family(app):
        try:
            owned.update(_sockets(pid))
        except PermissionError:
            hidden = True
        except (FileNotFoundError, ProcessLookupError):
            hidden = hidden or pid == app  # hidepid hides another user's process as a whole
    mine = {inode: row for inode, row in rows.items() if inode in owned}
    return rows if hidden and not mine else mine


def _sockets(pid: int) -> list[int]:
    """The inodes of the sockets that a process has open."""
    inodes = []
    directory = f"/proc/{pid}/fd"
    for descriptor in os.listdir(directory):
        try:
            target = os.readlink(f"{directory}/{descriptor}")
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            inodes.append(int(target[8:-1]))
    return inodes


def _read(path: str) -> bytes | None:
    """A file of /proc, None when it cannot be read: the process is gone, or there is no IPv6."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return None
