"""STARTUP_PING: what can be read, and what a value that cannot is answered with. SPEC, sections 3 and 5."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from startup.ping import kinds
from startup.ping import wait as ping
from startup.ping.attempt import Attempt
from startup.ping.kinds import AutoListen, AutoPort, Command, File, Http, Nothing, Tcp, Unix


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("http://localhost/", Http),
        ("HTTP://localhost", Http),
        ("https://example.org:8443/health?full=1", Http),
        ("http://[::1]:8000/", Http),
        ("tcp://127.0.0.1:5432", Tcp),
        ("tcp://[::1]:5432/", Tcp),
        ("unix:///run/app.sock", Unix),
        ("file:///run/app.pid", File),
        ("cmd:pg_isready -q", Command),
        ("cmd: test -e /tmp/x", Command),
        ("none", Nothing),
        (" Auto ", AutoListen),
    ],
)
def test_every_kind_of_the_contract_is_read(value: str, kind: type[ping.Ping]) -> None:
    assert type(kinds.parse(value, {})) is kind


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("", "one of http://HOST:PORT/PATH"),
        ("localhost:8000", "one of http://HOST:PORT/PATH"),
        ("ftp://localhost/", "one of http://HOST:PORT/PATH"),
        ("http:/localhost", "one of http://HOST:PORT/PATH"),
        ("http:///path", "HOST is a name in ASCII or an address"),
        ("http://ex ample/", "HOST is a name in ASCII or an address"),
        ("http://exämple/", "HOST is a name in ASCII or an address"),
        ("http://h\r\nX: y/", "HOST is a name in ASCII or an address"),
        ("http://localhost:0/", "PORT is a number from 1 to 65535"),
        ("http://localhost:65536/", "PORT is a number from 1 to 65535"),
        ("http://localhost:${PORT}/", "PORT is a number from 1 to 65535"),
        ("http://localhost:٨٠/", "PORT is a number from 1 to 65535"),
        ("http://::1:8000/", "in brackets as in http://[::1]:PORT/PATH"),
        ("http://[::1/", "in brackets"),
        ("http://[::1]8000/", "in brackets"),
        ("tcp://localhost", "PORT is a number from 1 to 65535"),
        ("tcp://localhost:80/path", "without a path"),
        ("unix://run/app.sock", "three slashes: unix:///PATH"),
        ("file://ready", "three slashes: file:///PATH"),
        ("unix:///" + "x" * 107, "107 bytes at most"),
        ("cmd:", "a command line belongs after cmd:"),
        ("cmd", "one of http://HOST:PORT/PATH"),
    ],
)
def test_a_value_that_cannot_be_read_is_told_what_would_be_right(value: str, right: str) -> None:
    with pytest.raises(ValueError, match=re.escape(right)):
        kinds.parse(value, {})


@pytest.mark.parametrize(
    ("port", "kind"), [("8080", AutoPort), ("", AutoListen), ("http", AutoListen), ("0", AutoListen)]
)
def test_auto_heeds_PORT_and_ignores_one_that_is_no_port_number(port: str, kind: type[ping.Ping]) -> None:
    assert type(kinds.parse("auto", {"PORT": port})) is kind


def test_a_user_and_password_in_a_url_are_neither_sent_nor_shown() -> None:
    one = kinds.parse("http://user:p4ss@localhost:8000/x", {})
    assert str(one) == "http://localhost:8000/x"
    assert isinstance(one, Http) and b"p4ss" not in one._request


@pytest.mark.parametrize(
    ("value", "first", "host"),
    [
        ("http://localhost", "GET / HTTP/1.1", "localhost"),
        ("http://localhost:80/a", "GET /a HTTP/1.1", "localhost"),
        ("https://localhost:443/a", "GET /a HTTP/1.1", "localhost"),
        ("https://localhost:80/a", "GET /a HTTP/1.1", "localhost:80"),
        ("http://localhost:8000?x=1#part", "GET /?x=1 HTTP/1.1", "localhost:8000"),
        ("http://[::1]:8000/", "GET / HTTP/1.1", "[::1]:8000"),
        ("http://localhost/ü b\r\nX: y", "GET /%C3%BC%20b%0D%0AX:%20y HTTP/1.1", "localhost"),
    ],
)
def test_the_request_is_what_the_url_says(value: str, first: str, host: str) -> None:
    one = kinds.parse(value, {})
    assert isinstance(one, Http)
    assert one._request.decode().split("\r\n")[:2] == [first, f"Host: {host}"]


def test_auto_and_none_are_not_explicit() -> None:
    assert not kinds.parse("none", {}).explicit
    assert not kinds.parse("auto", {}).explicit
    assert not kinds.parse("auto", {"PORT": "80"}).explicit
    assert kinds.parse("tcp://localhost:80", {}).explicit


def imported(code: str) -> set[str]:
    """The modules that *code* imports, with startup.ping.kinds as ``kinds``."""
    setup = """
import sys
before = set(sys.modules)
sys.modules["startup"] = package = type(sys)("startup")  # without startup/__init__.py, which is another room
package.__path__ = ["startup"]
from startup.ping import kinds
"""
    root = __file__.rpartition("/tests/")[0]
    argv = [sys.executable, "-I", "-S", "-c", f"{setup}{code}\nprint(*(set(sys.modules) - before))"]
    return set(subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True).stdout.split())


HEAVY = {"asyncio", "http.client", "ssl", "subprocess", "typing", "urllib.request", "threading", "logging"}
HEAVY |= {"socket", "selectors", "enum", "contextlib", "functools", "collections"}


def test_reading_a_ping_imports_nothing_heavy() -> None:
    code = 'kinds.parse("https://localhost/", {}); kinds.parse("cmd:true", {})'
    assert not imported(code) & HEAVY


@pytest.mark.parametrize("value", ["http://localhost:1/", "tcp://127.0.0.1:1", "unix:///nowhere", "auto"])
@pytest.mark.parametrize("port", ["", "1"])
def test_asking_imports_nothing_heavy(value: str, port: str) -> None:
    assert not imported(f'kinds.parse({value!r}, {{"PORT": {port!r}}}).try_once(None)') & HEAVY


def test_no_time_is_negative() -> None:
    from startup.ping.attempt import App

    assert Attempt(App(None), -1).left() == 0
