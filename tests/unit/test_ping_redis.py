"""``redis://`` and ``rediss://``: Debian's redis-server, and sockets that answer what it rarely does."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from startup.ping import kinds
from startup.ping.attempt import Answer, App
from tests.conftest import PASSWORD

Redis = Callable[..., int]


def ask(value: str, limit: float = 5.0) -> Answer:
    with App(None) as nobody:
        return kinds.parse(value, {}).attempt(nobody, limit)


def commands(value: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = vars(kinds.parse(value, {}))["_commands"]
    return found


@contextlib.contextmanager
def server(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server whose connections are given to *handle*; its address, HOST:PORT."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        handle(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def answering(*answers: bytes) -> Callable[[socket.socket], None]:
    """Answers each command that comes by the next of *answers*, and closes then."""

    def handle(connection: socket.socket) -> None:
        got = b""
        while got.count(b"*") < len(answers):
            got += connection.recv(4096)
        connection.sendall(b"".join(answers))

    return handle


# ------------------------------------------------------------------------------------------- what it is asked for


@pytest.mark.parametrize(
    ("value", "name", "port", "auth"),
    [
        ("redis://cache", "redis://cache", 6379, ()),
        ("REDIS://cache:7000/", "redis://cache:7000/", 7000, ()),
        ("rediss://cache:6380/2?ssl_cert_reqs=none", "rediss://cache:6380/2", 6380, ()),
        ("redis://:pw@cache/0", "redis://cache/0", 6379, ("pw",)),
        ("redis://app:pw@[::1]:7000", "redis://[::1]:7000", 7000, ("app", "pw")),
        ("redis://app:p%40%2Fw%25:x@cache", "redis://cache", 6379, ("app", "p@/w%:x")),
        ("redis://app:a@h:1@cache", "redis://cache", 6379, ("app", "a@h:1")),
        ("redis://app:@cache", "redis://cache", 6379, ("app", "")),
        ("redis://:@cache", "redis://cache", 6379, ()),
    ],
)
def test_an_address_is_read_as_redis_clients_read_it(value: str, name: str, port: int, auth: tuple[str, ...]) -> None:
    one = kinds.parse(value, {})
    assert str(one) == name and vars(one)["port"] == port
    assert commands(value) == ([("AUTH", *auth)] if auth else []) + [("PING",)]


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("redis://", "HOST is a name in ASCII or an address"),
        ("redis://cache:0", "PORT is a number from 1 to 65535"),
        ("redis://cache/first", "NUMBER is the database's"),
        ("redis://word@cache", "a user or a password"),
        ("redis://:p/w@cache", "/ ? # and % in a password are written as %2F %3F %23 and %25"),
        ("redis://:p#w@cache:1", "/ ? # and % in a password are written as %2F %3F %23 and %25"),
    ],
)
def test_an_address_that_cannot_be_read_is_told_what_would_be_right(value: str, right: str) -> None:
    with pytest.raises(ValueError, match=re.escape(right)) as error:
        kinds.parse(value, {})
    assert "p/w" not in str(error.value) and "p#w" not in str(error.value) and "word@" not in str(error.value)


# ---------------------------------------------------------------------------------------------------- a real Redis


def test_ping_is_answered(redis: Redis) -> None:
    port = redis()
    assert repr(ask(f"redis://127.0.0.1:{port}/3")) == repr(Answer(True, "PONG"))


def test_a_server_with_a_password_answers_with_it_alone(redis: Redis) -> None:
    port = redis("--requirepass", PASSWORD)
    assert ask(f"redis://:{PASSWORD}@127.0.0.1:{port}").ok
    assert ask(f"redis://default:{PASSWORD}@localhost:{port}/0").ok
    without, wrong = ask(f"redis://127.0.0.1:{port}"), ask(f"redis://:wrong@127.0.0.1:{port}")
    assert not without.ok and without.text.startswith("the answer to PING is NOAUTH Authentication required; give the")
    assert not wrong.ok and wrong.text.startswith("the answer to AUTH is WRONGPASS ")
    assert "wrong" not in wrong.text.partition("WRONGPASS")[2].partition(";")[0]


def test_a_password_for_a_server_without_one_is_told_since_clients_would_fail_too(redis: Redis) -> None:
    answer = ask(f"redis://:{PASSWORD}@127.0.0.1:{redis()}")
    assert not answer.ok and answer.text.startswith("the answer to AUTH is ERR AUTH <password> called without any")


def test_an_acl_user_answers_and_one_that_may_not_ping_is_told_what_to_allow(redis: Redis) -> None:
    port = redis(*f"--user app on >{PASSWORD} +ping --user other on >{PASSWORD} -@all +get".split())
    assert ask(f"redis://app:{PASSWORD}@127.0.0.1:{port}").ok
    answer = ask(f"redis://other:{PASSWORD}@127.0.0.1:{port}")
    assert not answer.ok and "NOPERM" in answer.text and answer.text.endswith("allow its user +ping")
    assert not ask(f"redis://nobody:{PASSWORD}@127.0.0.1:{port}").ok


def test_a_replica_without_its_primary_that_does_not_serve_is_no_answer(redis: Redis, free_port: int) -> None:
    port = redis("--replicaof", f"127.0.0.1 {free_port}", "--replica-serve-stale-data", "no")
    answer = ask(f"redis://127.0.0.1:{port}")
    assert not answer.ok and "MASTERDOWN" in answer.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for another host, and its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not there: no certificate for the rediss tests")
    file = tmp_path_factory.mktemp("redis") / "cert.pem"
    words = ("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=elsewhere.test", "-newkey", "rsa:2048")
    subprocess.run(
        [*words, "-keyout", str(file.with_suffix(".key")), "-out", str(file)], capture_output=True, check=True
    )
    return file


def test_tls_its_certificate_is_not_checked_on_loopback_and_is_elsewhere(
    redis: Redis, certificate: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ("--tls-port", str(free_port), "--tls-auth-clients", "no", "--requirepass", PASSWORD)
    redis(*tls, "--tls-cert-file", str(certificate), "--tls-key-file", str(certificate.with_suffix(".key")))
    address = f"rediss://:{PASSWORD}@127.0.0.1:{free_port}"
    assert ask(address).ok
    assert not ask(address.replace("rediss", "redis"), limit=0.5).ok
    monkeypatch.setattr(kinds, "_is_loopback", lambda host: False)
    answer = ask(address)
    assert not answer.ok and answer.text.startswith("its certificate is not valid: self")


# -------------------------------------------------------------------------------- what a server may answer else


@pytest.mark.parametrize(
    "error",
    [
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        b"-MISCONF Errors writing to the AOF file: No space left on device\r\n",
        b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n",
        b"-ERR max number of clients reached\r\n",
        b"-NOPERM this user has no permissions to run the 'ping' command\r\n",
    ],
)
def test_an_error_is_told_and_is_no_answer(error: bytes) -> None:
    with server(answering(error)) as address:
        answer = ask(f"redis://{address}")
    assert not answer.ok
    assert answer.text.startswith(f"the answer to PING is {error[1:].decode().strip().rstrip('.')}")


@pytest.mark.parametrize("shown", [200, 128, 20])
def test_a_password_that_a_server_without_auth_gives_back_is_not_shown_also_not_cut(shown: int) -> None:
    password = "".join(f"{number:x}" for number in range(100))
    error = f"-ERR unknown command 'AUTH', with args beginning with: 'user' '{password[:shown]}' \r\n"
    with server(answering(error.encode(), b"+PONG\r\n")) as address:
        answer = ask(f"redis://user:{password}@{address}")
    assert answer.text == "the answer to AUTH is ERR unknown command 'AUTH'"


def test_a_pong_after_an_auth_that_failed_is_no_answer() -> None:
    with server(answering(b"-WRONGPASS no\r\n", b"+PONG\r\n")) as address:
        answer = ask(f"redis://:x@{address}")
    assert not answer.ok and answer.text.startswith("the answer to AUTH is WRONGPASS no; ")


@pytest.mark.parametrize(
    "other",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"$4\r\nPONG\r\n",
        b"+OK\r\n",
        b"+PONGO\r\n",
        b"\x15\x03\x01\x00\x02\x02\x0a\n",
        b"x" * 70000,
    ],
)
def test_what_speaks_another_protocol_is_not_redis(other: bytes) -> None:
    with server(answering(other)) as address:
        answer = ask(f"redis://{address}")
    assert not answer.ok and answer.text.startswith("not an answer of Redis: ") and len(answer.text) < 250


@pytest.mark.parametrize("sent", [b"", b"+PON"])
def test_a_connection_that_is_closed_before_the_answers_end_is_no_answer(sent: bytes) -> None:
    with server(answering(sent)) as address:
        answer = ask(f"redis://{address}")
    assert (answer.ok, answer.text) == (False, "the connection was closed without an answer")


def test_the_answer_may_come_in_pieces() -> None:
    def handle(connection: socket.socket) -> None:
        for one in b"+OK\r\n+PONG\r\n":
            connection.sendall(bytes([one]))

    with server(handle) as address:
        assert ask(f"redis://u:p@{address}").ok


def test_a_server_that_drips_bytes_for_ever_has_the_tries_time_and_no_more() -> None:
    over = threading.Event()

    def handle(connection: socket.socket) -> None:
        while not over.wait(0.02):
            connection.sendall(b"+")

    with server(handle) as address:
        began = time.monotonic()
        answer = ask(f"redis://{address}", limit=0.5)
        took = time.monotonic() - began
        over.set()
    assert (answer.ok, answer.text) == (False, "no answer within 0.5 s")
    assert took < 3


def test_a_server_that_says_nothing_in_tls_either_has_the_tries_time_and_no_more() -> None:
    def handle(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    with server(handle) as address:
        assert ask(f"redis://{address}", limit=0.3).text == "no answer within 0.3 s"
        assert ask(f"rediss://{address}", limit=0.3).text == "no answer within 0.3 s"


def test_its_own_module_is_loaded_by_its_own_addresses_alone() -> None:
    code = """
import sys
from startup.ping import kinds
kinds.parse(sys.argv[1], {})
print("startup.ping.redis" in sys.modules)"""
    for value, loaded in (("http://h/", "False"), ("redis://h", "True")):
        done = subprocess.run([sys.executable, "-c", code, value], capture_output=True, text=True, cwd=os.getcwd())
        assert done.stdout.strip() == loaded, done.stderr


def test_no_descriptor_is_left_whatever_came(redis: Redis) -> None:
    port = redis("--requirepass", PASSWORD)
    addresses = [f"redis://:{one}@127.0.0.1:{port}" for one in (PASSWORD, "wrong")] + [f"rediss://127.0.0.1:{port}"]
    ask(addresses[2], limit=0.1)  # OpenSSL keeps what it has read
    before = len(os.listdir("/proc/self/fd"))
    for address in addresses:
        ask(address, limit=0.3)
    assert len(os.listdir("/proc/self/fd")) == before
