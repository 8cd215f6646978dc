"""``auto``: whoever listens among the app's processes, found in /proc and connected to by nobody. SPEC, section 5."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from startup.ping import kinds, sockets
from startup.ping import wait as ping
from startup.ping.attempt import App

ROOT = __file__.rpartition("/tests/")[0]
#: Listens on a port of the kernel's choice, after some generations of children, and writes the port to a file.
LISTEN = """
import os, socket, sys, time
path, family, host, generations = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
for _ in range(generations):
    if os.fork():
        os.wait()
        os._exit(0)
with open("/proc/self/comm", "w") as name:
    name.write(") R 1 1 (")  # proc_pid_stat(5): the name may hold anything
with socket.socket(family) as listener:
    listener.bind((host, 0))
    listener.listen()
    with open(path + ".new", "w") as file:
        file.write(str(listener.getsockname()[1]))
    os.rename(path + ".new", path)
    time.sleep(90)
"""

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """``start(argv)``: an app in a session of its own, killed with all that is in it."""
    running: list[subprocess.Popen[bytes]] = []

    def one(*argv: str, **options: object) -> subprocess.Popen[bytes]:
        running.append(subprocess.Popen(argv, start_new_session=True, **options))  # type: ignore[call-overload]
        return running[-1]

    yield one
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def auto(app: int | None, **environ: str) -> ping.Answer:
    return kinds.parse("auto", environ).try_once(app)


@pytest.mark.parametrize("generations", [0, 1, 2])
@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, ""), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")],
)
def test_the_app_or_any_process_under_it_listens(
    start: Start, tmp_path: Path, wait_until: Callable[..., object], family: int, host: str, generations: int
) -> None:
    path = tmp_path / "port"
    app = start(sys.executable, "-I", "-S", "-c", LISTEN, str(path), str(int(family)), host, str(generations))
    wait_until(path.exists)
    answer = auto(app.pid)
    assert (answer.ok, answer.text) == (True, f"listens on port {path.read_text()}")


def test_somebody_else_listening_is_no_answer(start: Start) -> None:
    app = start("sleep", "93")
    with socket.create_server(("127.0.0.1", 0)):
        answer = auto(app.pid)
    assert (answer.ok, answer.text) == (False, "it does not listen on a TCP port")


def test_a_udp_or_unix_socket_is_not_a_tcp_port(
    start: Start, tmp_path: Path, wait_until: Callable[..., object]
) -> None:
    code = """
import socket, sys, time
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.bind(("127.0.0.1", 0))
two = socket.socket(socket.AF_UNIX); two.bind(sys.argv[1]); two.listen()
three = socket.socket(); three.bind(("127.0.0.1", 0))  # bound, but it does not listen
open(sys.argv[1] + ".ready", "w").close(); time.sleep(90)"""
    app = start(sys.executable, "-I", "-S", "-c", code, str(tmp_path / "s"))
    wait_until((tmp_path / "s.ready").exists)
    assert not auto(app.pid).ok


def test_with_PORT_whoever_accepts_there_answers_over_ipv4_and_ipv6(start: Start, free_port: int) -> None:
    app = start("sleep", "92")
    answer = auto(app.pid, PORT=str(free_port))
    assert (answer.ok, answer.text) == (False, f"nothing accepts on port {free_port} ($PORT)")
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((host, 0), family=family) as listener:
            assert auto(app.pid, PORT=str(listener.getsockname()[1])).ok


def test_with_PORT_listening_elsewhere_is_no_answer_and_is_told(
    start: Start, tmp_path: Path, wait_until: Callable[..., object], free_port: int
) -> None:
    path = tmp_path / "port"
    app = start(sys.executable, "-I", "-S", "-c", LISTEN, str(path), "2", "0.0.0.0", "1")
    wait_until(path.exists)
    one = kinds.parse("auto", {"PORT": str(free_port)})
    assert not one.try_once(app.pid).ok
    with App(app.pid) as watched:
        hint = one.hint(watched)
    assert f"PORT is {free_port}, but the app listens on tcp://127.0.0.1:{path.read_text()}" in hint
    assert hint.endswith(f"set STARTUP_PING=tcp://127.0.0.1:{path.read_text()}")


def test_without_PORT_the_hint_says_what_to_set() -> None:
    with App(None) as app:
        hint = kinds.parse("auto", {}).hint(app)
    assert "STARTUP_PING=none" in hint and "STARTUP_PING=unix:///PATH" in hint


def test_an_app_that_is_not_known_is_any_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer = auto(None)
        assert answer.ok and str(listener.getsockname()[1]) in answer.text


def test_a_zombie_is_no_process_whose_files_may_not_be_read(start: Start, wait_until: Callable[..., object]) -> None:
    code = "import os, time\nif os.fork() == 0: os._exit(0)\ntime.sleep(90)"
    app = start(sys.executable, "-I", "-S", "-c", code)
    children = Path(f"/proc/{app.pid}/task/{app.pid}/children")
    wait_until(lambda: children.read_text().strip())
    child = int(children.read_text())
    wait_until(lambda: b" Z " in Path(f"/proc/{child}/stat").read_bytes())
    assert sockets.family(app.pid) == [app.pid]


def test_the_kernel_and_proc_tell_the_same() -> None:
    with contextlib.ExitStack() as stack:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")):
            stack.enter_context(socket.create_server((host, 0), family=family))
        stack.enter_context(socket.create_server(("127.0.0.11", 0)))  # Docker's own DNS server's address
        mine = set(sockets._sockets(os.getpid()))
        tables = sockets.from_kernel(), sockets._from_proc(None)
        kernel, proc = ({inode: row for inode, row in rows.items() if inode in mine} for rows in tables)
    assert kernel == proc
    hosts = [url.rpartition(":")[0] for url in sockets.urls(kernel)]
    assert hosts == ["tcp://127.0.0.1", "tcp://127.0.0.1", "tcp://[::1]"]


def test_a_kernel_that_does_not_list_its_sockets_is_told_from_one_where_nobody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockets, "_TCPDIAG_GETSOCK", 19)  # DCCP's: an empty list with an error, as without tcp_diag
    with pytest.raises(OSError, match="does not list"):
        sockets.from_kernel()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert listener.getsockname()[1] in sockets.ports(sockets.listening())


# What needs namespaces or another user


def container(code: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python *code* as PID 1 of a container of sorts: its own processes, files of /proc and network."""
    if shutil.which("unshare") is None:
        pytest.skip("the unshare command is not there: no namespace for this test")
    unshare = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid():
        unshare[1:1] = ["--user", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not allowed here")
    setup = f"import sys; sys.path.insert(0, {ROOT!r})\n" + SETUP
    argv = [*unshare, *command, sys.executable, "-I", "-c", setup + code]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


SETUP = """
import fcntl, os, socket, struct, subprocess, time
from startup.ping import kinds
from startup.ping.attempt import App
with socket.socket() as s: fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x49))  # SIOCSIFFLAGS: up
LISTEN = "import socket, time; s = socket.create_server(('127.0.0.1', 4000)); time.sleep(90)"
def within(seconds, app):
    end = time.monotonic() + seconds
    one = kinds.parse("auto", {})
    while not (answer := one.try_once(app)).ok and time.monotonic() < end: time.sleep(0.02)
    return answer.text
"""


def test_a_daemon_that_left_the_app_for_pid_1_is_the_apps() -> None:
    done = container("""
daemonise = f"import os\\nif os.fork(): os._exit(0)\\nos.setsid()\\nif os.fork(): os._exit(0)\\n" + LISTEN
app = subprocess.Popen(["sh", "-c", '"$0" -I -c "$1"; sleep 90', sys.executable, daemonise])
print(within(10, app.pid))
""")
    assert done.stdout == "listens on port 4000\n", done.stderr


def test_what_listened_before_the_app_was_started_is_not_the_apps() -> None:
    done = container("""
other = subprocess.Popen([sys.executable, "-I", "-c", LISTEN])
print(within(10, other.pid))
time.sleep(0.05)  # the clock of /proc/PID/stat has ticks of 10 ms
app = subprocess.Popen(["sleep", "90"])
print(within(0.5, app.pid))
""")
    assert done.stdout == "listens on port 4000\nit does not listen on a TCP port\n", done.stderr


def test_a_socket_that_is_handed_to_the_app_is_found_although_the_list_stays_the_same() -> None:
    done = container("""
receive = "import socket, time; s = socket.socket(fileno=0); socket.recv_fds(s, 1, 1); s.send(b'.'); time.sleep(90)"
ours, theirs = socket.socketpair()
app = subprocess.Popen([sys.executable, "-I", "-c", receive], stdin=theirs)
listener = socket.create_server(("127.0.0.1", 4000))
one = kinds.parse("auto", {})
print(one.try_once(app.pid).text)
socket.send_fds(ours, [b"x"], [listener.fileno()])
ours.recv(1)
end = time.monotonic() + 10
with App(app.pid) as watched:
    while one.unchanged(watched) and time.monotonic() < end: time.sleep(0.02)
print(one.try_once(app.pid).text)
""")
    assert done.stdout == "it does not listen on a TCP port\nlistens on port 4000\n", done.stdout + done.stderr


def test_auto_is_unchanged_until_another_socket_listens() -> None:
    done = container("""
app = subprocess.Popen(["sleep", "90"])
one = kinds.parse("auto", {})
with App(app.pid) as watched:
    print(one.unchanged(watched), end=" ")
    for port in (4000, 4001):
        one.attempt(watched)
        print(one.unchanged(watched), end=" ")
        listener = socket.create_server(("127.0.0.1", port))  # the other one is closed
        print(one.unchanged(watched), end=" ")
    one.attempt(watched)
    listener.close()
    print(one.unchanged(watched), end=" ")
""")
    assert done.stdout == "False True False True False True ", done.stdout + done.stderr


def test_dockers_own_dns_server_is_no_answer_where_files_may_not_be_read() -> None:
    done = container("""
dns = socket.create_server(("127.0.0.11", 0))
print(kinds.parse("auto", {}).try_once(None).text)
listener = socket.create_server(("127.0.0.1", 4000))
print(kinds.parse("auto", {}).try_once(None).text)
""")
    assert done.stdout == "it does not listen on a TCP port\nlistens on port 4000\n", done.stderr


GOSU = """
app = subprocess.Popen(["setpriv", "--reuid=1000", "--clear-groups", "sleep", "90"])
while os.stat(f"/proc/{app.pid}").st_uid != 1000: time.sleep(0.01)
try: os.readlink(f"/proc/{app.pid}/fd/0"); print("readable")
except PermissionError: print("hidden")
print(within(0.2, app.pid))
listener = socket.create_server(("127.0.0.1", 4000))
print(within(5, app.pid))
"""


def test_where_files_may_not_be_read_whatever_listens_in_the_namespace_is_an_answer() -> None:
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv: an app of another user")
    # Without CAP_SYS_PTRACE, as root is under Docker.
    done = container(GOSU, "setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    assert done.stdout == "hidden\nit does not listen on a TCP port\nlistens on port 4000\n", done.stdout + done.stderr


def test_where_proc_hides_the_app_whatever_listens_in_the_namespace_is_an_answer() -> None:
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv: a ping of another user")
    done = container("""
app = subprocess.Popen(["sleep", "90"])
subprocess.run(["mount", "-o", "remount,hidepid=2", "/proc"], check=True)
listener = socket.create_server(("127.0.0.1", 4000))
os.setgroups([]); os.setgid(1000); os.setuid(1000)
print(os.path.exists(f"/proc/{app.pid}"), within(5, app.pid))
""")
    assert done.stdout == "False listens on port 4000\n", done.stdout + done.stderr
