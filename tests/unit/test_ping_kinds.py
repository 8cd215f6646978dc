"""Each kind of ping against a real server, file or process. SPEC, section 5."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from startup.ping import kinds, sockets
from startup.ping import wait as ping
from startup.ping.attempt import App, Attempt

Handler = Callable[[socket.socket], None]
ROOT = __file__.rpartition("/tests/")[0]


def ask(value: str, limit: float = 5.0, app: int | None = None) -> ping.Answer:
    with App(app) as watched:
        return kinds.parse(value, dict(os.environ)).attempt(watched, limit)


@contextlib.contextmanager
def server(handle: Handler, family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> Iterator[int]:
    """A server on loopback, each connection in a thread of its own; its port."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)  # type: ignore[arg-type]
    listener.listen()

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            handle(connection)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1] if family != socket.AF_UNIX else 0
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def read_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        piece = connection.recv(4096)
        if not piece:
            break
        request += piece
    return request


def replying(*pieces: bytes, pause: float = 0) -> Handler:
    def handle(connection: socket.socket) -> None:
        read_request(connection)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)

    return handle


def silent(connection: socket.socket) -> None:
    """Accepts, reads, and says nothing until the other side closes."""
    while connection.recv(4096):
        pass


def status(line: str) -> Handler:
    return replying(f"HTTP/1.1 {line}\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:1/\r\n\r\n".encode())


# http


@pytest.mark.parametrize("line", ["200 OK", "204 No Content", "302 Found", "399 X"])
def test_http_a_status_below_400_answers(line: str) -> None:
    with server(status(line)) as port:
        answer = ask(f"http://127.0.0.1:{port}/")
    assert (answer.ok, answer.text) == (True, f"status {line[:3]}")


@pytest.mark.parametrize("line", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "499 X"])
def test_http_a_status_from_400_answers_and_is_mentioned(line: str) -> None:
    with server(status(line)) as port:
        answer = ask(f"http://127.0.0.1:{port}/")
    assert answer.ok and answer.text == f"status {line[:3]}, an answer but not a success"


@pytest.mark.parametrize("line", ["500 Internal Server Error", "503 Service Unavailable", "599"])
def test_http_a_status_from_500_does_not_answer(line: str) -> None:
    with server(status(line)) as port:
        answer = ask(f"http://127.0.0.1:{port}/")
    assert (answer.ok, answer.text) == (False, f"status {line[:3]}")


def test_http_gets_the_path_with_the_host_of_the_url() -> None:
    seen: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        seen.append(read_request(connection))
        connection.sendall(b"HTTP/1.0 200\r\n\r\n")

    with server(handle) as port:
        assert ask(f"http://localhost:{port}/health?full=1").ok
    lines = seen[0].decode().split("\r\n")
    assert lines[0] == "GET /health?full=1 HTTP/1.1"
    assert f"Host: localhost:{port}" in lines


def test_http_over_ipv6_in_brackets() -> None:
    with server(status("200 OK"), socket.AF_INET6, ("::1", 0)) as port:
        assert ask(f"http://[::1]:{port}/").ok
        assert ask(f"http://localhost:{port}/").ok


def test_a_short_form_of_an_address_is_no_name() -> None:
    with server(status("200 OK")) as port:
        assert ask(f"http://127.1:{port}/").ok


def test_http_localhost_is_found_where_only_ipv4_listens() -> None:
    with server(status("200 OK")) as port:
        assert ask(f"http://localhost:{port}/").ok


def test_http_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port}")
    with server(status("200 OK")) as port:
        assert ask(f"http://127.0.0.1:{port}/").ok


def test_http_an_interim_status_is_not_the_answer() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    with server(replying(early, early + b"HTTP/1.1 ", b"503 Busy\r\n\r\n", pause=0.05)) as port:
        assert ask(f"http://127.0.0.1:{port}/").text == "status 503"


def test_http_an_endless_body_is_not_waited_for() -> None:
    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with server(handle) as port:
        started = time.monotonic()
        assert ask(f"http://127.0.0.1:{port}/").ok
        assert time.monotonic() - started < 4


def test_http_no_more_than_a_quarter_of_a_megabyte_of_a_body_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        with theirs, App(None) as app:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            theirs.setblocking(False)
            ours.setblocking(False)
            sent = read = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += theirs.send(b"x" * 65536)
            kinds._drain(ours, BlockingIOError, Attempt(app, 5))
            with contextlib.suppress(BlockingIOError):
                while True:
                    read += len(ours.recv(65536))
    assert sent > 1 << 19
    assert read > 1 << 17


def test_http_a_short_body_is_read_so_that_the_server_sees_no_broken_connection() -> None:
    ends: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        ends.append(connection.recv(1))  # ConnectionResetError when the other side closed with data unread

    with server(handle) as port:
        assert ask(f"http://127.0.0.1:{port}/").ok
        deadline = time.monotonic() + 5
        while not ends and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ends == [b""]


@pytest.mark.parametrize("dribble", [b"H", b"HTTP/1.1 200 OK with a very long reason", b""])
def test_http_a_server_that_sends_a_byte_now_and_then_is_cut_at_the_limit(dribble: bytes) -> None:
    stop = threading.Event()

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        for number in range(len(dribble)):
            connection.sendall(dribble[number : number + 1])
            stop.wait(0.1)
        stop.wait(30)

    with server(handle) as port:
        started = time.monotonic()
        answer = ask(f"http://127.0.0.1:{port}/", limit=0.5)
        assert time.monotonic() - started < 4
        stop.set()
    assert (answer.ok, answer.text) == (False, "no answer within 0.5 s")


def test_the_limit_of_a_try_is_5_seconds() -> None:
    with server(silent) as port:
        started = time.monotonic()
        answer = kinds.parse(f"http://127.0.0.1:{port}/", {}).try_once(None)
        took = time.monotonic() - started
    assert 4.9 <= took < 15
    assert (answer.ok, answer.text) == (False, "no answer within 5 s")


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ((b"SSH-2.0-OpenSSH_9.2\r\n",), "not an HTTP answer: b'SSH-2.0-OpenSSH_9.2'"),
        ((b"\x00\x00\x12\x04",), "not an HTTP answer"),
        ((b"HTTP/1.1 abc\r\n",), "not an HTTP answer"),
        ((b"x" * 100_000,), "not an HTTP answer"),
        ((b"HTTP/1.1 " + b"2" * 100_000,), "status 222"),
        ((), "the connection was closed without an answer"),
    ],
)
def test_http_what_is_no_http_is_said(pieces: tuple[bytes, ...], text: str) -> None:
    with server(replying(*pieces)) as port:
        answer = ask(f"http://127.0.0.1:{port}/", limit=2)
    assert text in answer.text


# https


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for another host, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not there: no certificate for the https tests")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=elsewhere.test"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", str(path), "-out", f"{path}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    with path.open("a") as file:
        file.write(Path(f"{path}.crt").read_text())
    return path


def encrypted(certificate: Path, handle: Handler) -> Handler:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def outer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inner:
            handle(inner)

    return outer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_https_a_certificate_is_not_checked_on_loopback(certificate: Path, host: str) -> None:
    with server(encrypted(certificate, status("200 OK"))) as port:
        assert ask(f"https://{host}:{port}/").text == "status 200"


def test_https_a_certificate_is_checked_elsewhere(certificate: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: which address of ours would be used?
        except OSError:
            pytest.skip("this machine has no address but loopback")
        here = probe.getsockname()[0]
    with server(encrypted(certificate, status("200 OK")), address=(here, 0)) as port:
        answer = ask(f"https://{here}:{port}/")
    assert not answer.ok
    assert answer.text.startswith("its certificate is not valid: self")


def test_https_the_handshake_is_cut_at_the_limit() -> None:
    with server(silent) as port:
        assert ask(f"https://127.0.0.1:{port}/", limit=0.3).text == "no answer within 0.3 s"


def test_https_against_plain_http_is_said() -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with server(handle) as port:
        assert ask(f"https://127.0.0.1:{port}/", limit=2).text.startswith("no TLS connection: ")


def test_https_a_body_without_end_is_not_waited_for(certificate: Path) -> None:
    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with server(encrypted(certificate, handle)) as port:
        started = time.monotonic()
        assert ask(f"https://127.0.0.1:{port}/").ok
        assert time.monotonic() - started < 4


# tcp, unix, file


def test_tcp_an_accepted_connection_answers() -> None:
    with server(lambda connection: None) as port:
        assert ask(f"tcp://127.0.0.1:{port}").ok
        assert ask(f"tcp://localhost:{port}").ok
    with server(lambda connection: None, socket.AF_INET6, ("::1", 0)) as port:
        assert ask(f"tcp://[::1]:{port}").ok


@pytest.mark.parametrize(
    "value", ["tcp://127.0.0.1:{}", "tcp://localhost:{}", "http://127.0.0.1:{}/", "https://[::1]:{}"]
)
def test_a_refused_connection_is_told(value: str, free_port: int) -> None:
    answer = ask(value.format(free_port))
    assert (answer.ok, answer.text) == (False, "connection refused")


@pytest.mark.parametrize("value", ["tcp://127.0.0.1:{}", "tcp://localhost:{}", "tcp://[::1]:{}", "auto"])
@pytest.mark.parametrize("where", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_refusal_on_loopback_stands_until_somebody_listens_there(value: str, where: str, free_port: int) -> None:
    one = kinds.parse(value.format(free_port), {"PORT": str(free_port)})
    reached = where == "::" or value == "auto" or "localhost" in value or ("[" in value) == (":" in where)
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    with App(None) as app:
        assert not one.unchanged(app)  # it was not asked yet
        assert not one.attempt(app).ok and one.unchanged(app)
        with socket.create_server((where, free_port), family=family, dualstack_ipv6=where == "::"):
            assert one.unchanged(app) != reached
            assert one.attempt(app).ok == reached
        assert not one.attempt(app).ok and one.unchanged(app)


@pytest.mark.parametrize("value", ["tcp://127.0.0.1:{}", "auto"])
def test_where_the_kernel_does_not_tell_who_listens_each_try_is_a_connection(
    value: str, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_TCPDIAG_GETSOCK", 19)  # DCCP's: the kernel finds nobody, as it does without tcp_diag
    one = kinds.parse(value.format(free_port), {"PORT": str(free_port)})
    with App(None) as app:
        assert not one.attempt(app).ok and not one.unchanged(app)
        monkeypatch.undo()
        assert not one.attempt(app).ok and one.unchanged(app)
        monkeypatch.setattr(sockets, "_NETLINK_SOCK_DIAG", 31)  # a protocol that the kernel does not have
        assert not one.unchanged(app)


@pytest.mark.parametrize("value", ["tcp://127.0.0.1:{}", "auto"])
def test_a_connection_is_tried_now_and_then_although_nobody_listens(
    value: str, free_port: int, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., object]
) -> None:
    monkeypatch.setattr(kinds, "_RECHECK", 0.2)  # a firewall may lead it to where somebody does
    one = kinds.parse(value.format(free_port), {"PORT": str(free_port)})
    with App(None) as app:
        assert not one.attempt(app).ok
        wait_until(lambda: not one.unchanged(app))


def test_tcp_a_listener_whose_queue_is_full_is_cut_at_the_limit() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):  # loopback drops what does not fit, so these wait for ever
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        assert ask(f"tcp://127.0.0.1:{address[1]}", limit=0.3).text == "no answer within 0.3 s"


def in_namespace(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Python *code* as root of namespaces of its own (unshare(1)), with a network of loopback alone."""
    setup = f"import os, subprocess, sys; sys.path.insert(0, {ROOT!r}); from startup.ping import kinds\n"
    setup += "import fcntl, socket, struct, time\n"
    setup += (
        "with socket.socket() as s: fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 0x49))  # SIOCSIFFLAGS: up\n"
    )
    command = ["unshare", "--user", "--map-root-user", "--net", *options, sys.executable, "-I", "-c", setup + code]
    if shutil.which("unshare") is None:
        pytest.skip("the unshare command is not there: no namespace for this test")
    if subprocess.run([*command[:4], *options, "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not allowed here")
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_tcp_a_connection_with_itself_is_no_answer() -> None:
    # The kernel may pick the port that is asked as our own, and TCP then connects to itself: here it always does.
    done = in_namespace("""
open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40000")
with socket.socket() as plain: plain.connect(("127.0.0.1", 40000)); print("it is so here")
print(kinds.parse("tcp://127.0.0.1:40000", {}).try_once(None))
print(kinds.parse("auto", {"PORT": "40000"}).try_once(None))
""")
    if "it is so here" not in done.stdout:
        pytest.skip(f"no connection with itself on this kernel: {done.stderr}")
    assert done.stdout.count("ok=False") == 2, done.stdout + done.stderr


def test_a_name_that_cannot_be_resolved_is_told() -> None:
    done = in_namespace('print(kinds.parse("http://app.invalid:80/", {}).try_once(None).text)')
    assert done.stdout.startswith("the name app.invalid cannot be resolved ("), done.stdout + done.stderr


def test_a_name_server_that_does_not_answer_is_cut_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    done = in_namespace(
        f"""
for name in ("resolv.conf", "nsswitch.conf"):
    subprocess.run(["mount", "--bind", {str(tmp_path)!r} + "/" + name, os.path.realpath("/etc/" + name)], check=True)
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
from startup.ping.attempt import App
started = time.monotonic()
print(kinds.parse("tcp://app.invalid:80", {{}}).attempt(App(None), 0.5).text)
print(time.monotonic() - started)
""",
        "--mount",
    )
    assert done.stdout, done.stderr
    text, took = done.stdout.splitlines()
    assert text == "the name app.invalid was not resolved within 0.5 s"
    assert float(took) < 1.5


def test_unix_a_socket_that_accepts_answers(tmp_path: Path) -> None:
    path = tmp_path / "app%20 socket"
    assert ask(f"unix://{path}").text == "no such file or directory"
    with server(lambda connection: None, socket.AF_UNIX, str(path)):
        assert ask(f"unix://{path}").ok
    assert ask(f"unix://{path}").text == "connection refused"


def test_unix_a_socket_whose_queue_is_full_does_not_hang(tmp_path: Path) -> None:
    path = str(tmp_path / "full")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket(socket.AF_UNIX))
            filler.setblocking(False)
            filler.connect_ex(path)
        assert ask(f"unix://{path}").text == "its queue of connections is full"


def test_file_answers_when_the_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "ready %41"
    assert (ask(f"file://{path}").ok, ask(f"file://{path}").text) == (False, "no such file or directory")
    path.touch()
    assert ask(f"file://{path}").ok


# cmd


def test_cmd_answers_when_it_exits_0() -> None:
    answer = ask("cmd: test -n \"$PATH\" && echo 'quotes; and pipes' | grep -q pipes")
    assert (answer.ok, answer.text) == (True, "exit status 0")


def test_cmd_a_failure_is_told_with_the_last_line_of_its_output() -> None:
    answer = ask("cmd: echo first; printf '\\033[31mred alert\\033[0m\\n\\n' >&2; exit 7")
    assert (answer.ok, answer.state) == (False, "exit status 7")
    assert answer.text == "exit status 7: [31mred alert[0m"


def test_cmd_a_signal_and_a_missing_command_are_told() -> None:
    assert ask("cmd: kill -TERM $$").text == "killed by signal 15"
    assert ask("cmd: no-such-command-here").text.startswith("exit status 127: ")


def test_cmd_reads_nothing_and_writes_nothing_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    assert ask("cmd: cat; echo out; echo err >&2").ok
    assert capfd.readouterr() == ("", "")


def test_cmd_gets_the_environment_that_was_given() -> None:
    with App(None) as app:
        environ = {"PATH": os.environ["PATH"], "ONLY_HERE": "yes"}
        assert kinds.parse('cmd: test "$ONLY_HERE" = yes', environ).attempt(app).ok


def test_cmd_more_output_than_a_pipe_holds_does_not_block_it() -> None:
    assert ask("cmd: head -c 1000000 /dev/zero").ok


def group_of(path: Path) -> int:
    return int(path.read_text().split()[0])


def is_gone(group: int) -> bool:
    """No process of the group is left, zombies aside."""
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            fields = Path(f"/proc/{int(name)}/stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
                return False
    return True


@pytest.mark.parametrize("with_pidfd", [True, False])
def test_cmd_over_its_time_is_killed_with_its_grandchildren(
    tmp_path: Path, with_pidfd: bool, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., object]
) -> None:
    if not with_pidfd:
        monkeypatch.delattr(os, "pidfd_open")  # Linux before 5.3
    mark = tmp_path / "group"
    started = time.monotonic()
    answer = ask(f"cmd: echo $$ > {mark}; (trap '' TERM; sh -c 'sleep 97' & wait) & sleep 98", limit=0.5)
    assert time.monotonic() - started < 4
    assert (answer.ok, answer.text) == (False, "it did not end within 0.5 s")
    wait_until(lambda: is_gone(group_of(mark)))


def test_cmd_leaves_nothing_in_the_background(tmp_path: Path, wait_until: Callable[..., object]) -> None:
    mark = tmp_path / "group"
    started = time.monotonic()
    assert ask(f"cmd: echo $$ > {mark}; sleep 96 & exit 0").ok
    assert time.monotonic() - started < 4  # the output that the child holds open is not waited for
    wait_until(lambda: is_gone(group_of(mark)))


def test_cmd_runs_in_a_process_group_of_its_own(tmp_path: Path) -> None:
    assert ask(f"cmd: cut -d' ' -f5 /proc/$$/stat > {tmp_path}/group; echo $$ > {tmp_path}/pid").ok
    assert (tmp_path / "group").read_text() == (tmp_path / "pid").read_text()


@pytest.mark.parametrize("value", ["http://127.0.0.1:{}/", "cmd: sleep 95"])
@pytest.mark.parametrize("with_pidfd", [True, False])
def test_a_try_ends_with_the_app(value: str, with_pidfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_pidfd:
        monkeypatch.delattr(os, "pidfd_open")  # Linux before 5.3
    app = subprocess.Popen(["sleep", "0.3"])
    try:
        with server(silent) as port:
            started = time.monotonic()
            answer = kinds.parse(value.format(port), dict(os.environ)).try_once(app.pid)
            assert time.monotonic() - started < 4
        assert (answer.ok, answer.text) == (False, "the app has ended")
    finally:
        app.kill()
        app.wait()


def test_none_answers_while_the_app_lives() -> None:
    app = subprocess.Popen(["sleep", "94"])
    try:
        assert kinds.parse("none", {}).try_once(app.pid).ok
    finally:
        app.kill()
        app.wait()
    assert not kinds.parse("none", {}).try_once(app.pid).ok
    assert kinds.parse("none", {}).try_once(None).ok
