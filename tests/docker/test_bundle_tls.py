"""TLS from images of all kinds, to PostgreSQL and to what an https:// ping asks: with a CA of one's own, by name."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from startup.roots import DIRECTORIES, FILES, MISSING

from .conftest import wait_for
from .first_process import BUNDLE
from .images import ALL, Built

if TYPE_CHECKING:
    from .conftest import Build, Container, Docker

VERB = f"{BUNDLE}/bin/startup"
PASSWORD = "s3cr3t-Pa55"
#: In the server's certificate are the first and the second; all of them lead to it.
NAMES = ("db", "web", "elsewhere")
POSTGRES = (
    "install -o postgres -m 600 /tls/server.key /server.key; exec docker-entrypoint.sh postgres -c fsync=off "
    "-c ssl=on -c ssl_cert_file=/tls/server.crt -c ssl_key_file=/server.key"
)
WEB = """
import http.server, ssl
server = http.server.ThreadingHTTPServer(("", 8443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/server.crt", "/tls/server.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@dataclass
class Servers:
    """PostgreSQL and a web server, whose certificate *tls*/ca.crt has signed; other.crt has signed none."""

    docker: Docker
    network: str
    tls: Path

    def trust(self, ca: str, place: str) -> tuple[str, ...]:
        """What ``docker run`` gets so that the CA's certificate is at *place*."""
        return (f"--network={self.network}", f"--volume={self.tls / ca}:{place}:ro")

    def psql(self, sql: str, database: str = "postgres") -> str:
        words = ("psql", "--username=postgres", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet")
        return self.docker("exec", f"{self.network}-db", *words, f"--dbname={database}", f"--command={sql}").stdout


def wait_until_ready(container: Container) -> None:
    def ready() -> bool:
        assert container.state["Running"], container.logs
        return container.exec(VERB, "health", check=False).stdout == "ready\n"

    wait_for(ready, "ready")


def openssl(directory: Path, name: str, *options: str) -> None:
    words = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    files = ("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt")
    subprocess.run([*words, *files, *options], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def servers(engine: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    tls = tmp_path_factory.mktemp("tls")
    tls.chmod(0o755)
    for authority in ("ca", "other"):
        openssl(tls, authority, "-addext", "keyUsage=critical,keyCertSign")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE")
    openssl(tls, "server", *signed, "-addext", "subjectAltName=DNS:db,DNS:web")
    (tls / "hashed").mkdir()
    (tls / "hashed" / "ca.pem").write_bytes((tls / "ca.crt").read_bytes())
    subprocess.run(["openssl", "rehash", "hashed"], cwd=tls, check=True)
    network = engine.new_name()
    one = Servers(engine, network, tls)
    engine("network", "create", network)
    try:
        run = ("run", "--detach", "--network", network, f"--volume={tls}:/tls:ro")
        names = ("--network-alias=db", "--network-alias=elsewhere")
        db = ("--tmpfs=/var/lib/postgresql/data", f"--env=POSTGRES_PASSWORD={PASSWORD}", "--entrypoint=sh")
        engine(*run, "--name", f"{network}-db", *names, *db, "postgres:17-trixie", "-c", POSTGRES)
        web = ("--network-alias=web", "--network-alias=elsewhere", "python:3.13-slim-trixie", "python3", "-c", WEB)
        engine(*run, "--name", f"{network}-web", *web)
        ready = ("exec", f"{network}-db", "pg_isready", "--quiet", "--host=127.0.0.1")
        wait_for(lambda: engine(*ready, check=False).returncode == 0, "PostgreSQL", timeout=60)
        up = ("exec", f"{network}-web", "python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8443))")
        wait_for(lambda: engine(*up, check=False).returncode == 0, "the web server", timeout=60)
        yield one
    finally:
        engine("rm", "--force", "--volumes", f"{network}-db", f"{network}-web", check=False)
        engine("network", "rm", network, check=False)


@dataclass(frozen=True)
class TlsDatabase:
    """A fresh one, asked for under the server's name *host*."""

    servers: Servers
    name: str

    def address(self, roots: str, host: str = "db") -> str:
        query = f"sslmode=verify-full&sslrootcert={roots}"
        return f"--env=DATABASE_URL=postgresql://postgres:{PASSWORD}@{host}/{self.name}?{query}"

    @property
    def price(self) -> str:
        """What the migration has written."""
        return self.servers.psql("SELECT price FROM shop", self.name).strip()


@pytest.fixture
def database(servers: Servers) -> TlsDatabase:
    name = f"test_{uuid.uuid4().hex[:8]}"
    servers.psql(f"CREATE DATABASE {name}")
    return TlsDatabase(servers, name)


@pytest.fixture(params=list(ALL))
def built(request: pytest.FixtureRequest, build: Build) -> Built:
    return build(request.param)


@pytest.fixture
def scratch(build: Build) -> Built:
    return build("scratch")


# ------------------------------------------------------------------------------------------------------ PostgreSQL


@pytest.mark.parametrize(("place", "roots"), [("/ca.crt", "/ca.crt"), (FILES[0], "system")])
def test_migrations_run_over_tls_by_a_ca_of_ones_own(
    docker: Docker, servers: Servers, built: Built, database: TlsDatabase, place: str, roots: str
) -> None:
    options = (*servers.trust("ca.crt", place), database.address(roots))
    done = docker.run(*built.words(*options), "startup", "init")
    assert (done.returncode, database.price) == (0, "42"), done.stderr


@pytest.mark.parametrize(("ca", "host"), [("ca.crt", "elsewhere"), ("other.crt", "db")])
@pytest.mark.parametrize(("place", "roots"), [("/ca.crt", "/ca.crt"), (FILES[0], "system")])
def test_another_ca_or_another_name_is_refused(
    docker: Docker, servers: Servers, built: Built, database: TlsDatabase, ca: str, host: str, place: str, roots: str
) -> None:
    options = (*servers.trust(ca, place), database.address(roots, host))
    done = docker.run(*built.words(*options), "startup", "init")
    why = "does not match host name" if host == "elsewhere" else "certificate verify failed"
    assert (done.returncode, why in done.stderr) == (69, True), done.stderr
    assert (
        "no TLS connection could be agreed on; check sslmode, sslrootcert and the server's certificate" in done.stderr
    )


@pytest.mark.parametrize("place", [*FILES, *DIRECTORIES])
def test_the_systems_roots_are_found_wherever_a_distribution_keeps_them(
    docker: Docker, servers: Servers, scratch: Built, database: TlsDatabase, place: str
) -> None:
    options = servers.trust("hashed" if place in DIRECTORIES else "ca.crt", place)
    done = docker.run(*scratch.words(*options, database.address("system")), "startup", "init")
    assert (done.returncode, database.price) == (0, "42"), done.stderr
    pinged = docker.run(*scratch.words(*options, "--env=STARTUP_PING=https://web:8443/"), "startup", "ping")
    assert (pinged.returncode, pinged.stdout) == (0, "https://web:8443/: status 200\n"), pinged.stderr


def test_where_there_are_no_roots_the_cure_is_named(
    docker: Docker, servers: Servers, scratch: Built, database: TlsDatabase
) -> None:
    network = f"--network={servers.network}"
    done = docker.run(*scratch.words(network, database.address("system")), "startup", "init")
    assert (done.returncode, f"with sslrootcert=system, and {MISSING}" in done.stderr) == (78, True), done.stderr
    assert PASSWORD not in done.stderr
    pinged = docker.run(*scratch.words(network, "--env=STARTUP_PING=https://web:8443/"), "startup", "ping")
    assert pinged.returncode == 1
    assert "its certificate is not valid: " in pinged.stdout
    assert pinged.stdout.endswith(f"; {MISSING}\n")


#: As an image has it that also wants old ciphers; the module is not there for the bundle's OpenSSL.
LEGACY = """
openssl_conf = init
[init]
providers = providers
[providers]
default = default
legacy = legacy
[default]
activate = 1
[legacy]
activate = 1
"""


@pytest.mark.parametrize("file", ["/there.cnf", "/not/there.cnf"])
def test_an_openssl_conf_that_is_for_the_app_does_no_harm(
    docker: Docker, servers: Servers, scratch: Built, database: TlsDatabase, tmp_path: Path, file: str
) -> None:
    (tmp_path / "openssl.cnf").write_text(LEGACY)
    conf = (f"--volume={tmp_path}/openssl.cnf:/there.cnf:ro", f"--env=OPENSSL_CONF={file}")
    options = (*conf, *servers.trust("ca.crt", FILES[0]), database.address("system"))
    done = docker.run(*scratch.words(*options), "startup", "init")
    assert (done.returncode, database.price) == (0, "42"), done.stderr
    pinged = docker.run(*scratch.words(*options, "--env=STARTUP_PING=https://web:8443/"), "startup", "ping")
    assert (pinged.returncode, pinged.stdout) == (0, "https://web:8443/: status 200\n"), pinged.stderr
    told = "--env=STARTUP_TASK_SAY=echo told of $OPENSSL_CONF"
    done = docker.run(*scratch.words(*options, told), "startup", "run", "say@local")
    assert f"\ntold of {file}\n" in done.stderr


# ---------------------------------------------------------------------------------------------------------- https://


def test_an_https_ping_checks_the_certificate_of_another_machine(
    docker: Docker, servers: Servers, built: Built
) -> None:
    def ping(ca: str, host: str) -> tuple[int, str]:
        options = (*servers.trust(ca, FILES[0]), f"--env=STARTUP_PING=https://{host}:8443/")
        done = docker.run(*built.words(*options), "startup", "ping")
        return done.returncode, done.stdout.partition(": ")[2] + done.stderr

    assert ping("ca.crt", "web") == (0, "status 200\n")
    code, said = ping("other.crt", "web")
    assert (code, said) == (1, "its certificate is not valid: unable to get local issuer certificate\n")
    code, said = ping("ca.crt", "elsewhere")
    assert code == 1
    assert "its certificate is not valid: Hostname mismatch, certificate is not valid for 'elsewhere'" in said


def test_the_app_is_ready_when_another_machine_answers_over_tls(
    docker: Docker, servers: Servers, scratch: Built
) -> None:
    options = (*servers.trust("ca.crt", FILES[0]), "--env=STARTUP_PING=https://web:8443/", "--env=STARTUP_TASKS=none")
    container = docker.start(*scratch.words(*options))
    wait_until_ready(container)
    assert "https://web:8443/: status 200" in container.logs


def test_a_bad_certificate_is_named_until_the_time_is_up(docker: Docker, servers: Servers, scratch: Built) -> None:
    limits = ("--env=STARTUP_PING=https://web:8443/", "--env=STARTUP_PING_TIMEOUT=0.5", "--env=STARTUP_TASKS=none")
    done = docker.run(*scratch.words(*servers.trust("other.crt", FILES[0]), *limits))
    assert done.returncode == 124, done.stderr
    assert "its certificate is not valid: unable to get local issuer certificate" in done.stderr.splitlines()[-1]


# ----------------------------------------------------------------------------------------------------- SSL_CERT_FILE

SEEN = "sees ${SSL_CERT_FILE-nothing} ${SSL_CERT_DIR-nothing}"
TASKS = """
import os, ssl, startup, urllib.request

@startup.task
def fetch(context: startup.Context) -> None:
    print("fetched with", urllib.request.urlopen("https://web:8443/").status)
    print("Python sees", *(os.environ.get(name, "nothing") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")))
"""


@pytest.fixture
def watching(servers: Servers, database: TlsDatabase, tmp_path: Path) -> tuple[str, ...]:
    """Options for a start with TLS everywhere, in which the app, a task, a hook and a Python task say what they see."""
    (tmp_path / "fetching.py").write_text(TASKS)
    hook = tmp_path / "10-peek.local.sh"
    hook.write_text(f"#!/bin/sh\necho hook {SEEN}\n")
    hook.chmod(0o755)
    return (
        f"--volume={tmp_path}/fetching.py:/app/fetching.py:ro",
        f"--volume={hook}:/etc/startup/hooks/post_start.d/{hook.name}:ro",
        *("--env=STARTUP_MODULE=fetching", "--env=STARTUP_PING=https://web:8443/", database.address("system")),
        *("--env=STARTUP_TASKS=migrate look@local fetch@local", f"--env=STARTUP_TASK_LOOK=echo command {SEEN}"),
    )


def seen(docker: Docker, built: Built, *options: str) -> set[str]:
    """What the four have told."""
    container = docker.start(*built.words(*options), f"{BUNDLE}/bin/sh", "-c", f"echo app {SEEN}; exec sleep 60")
    wait_until_ready(container)
    return {line for line in container.logs.splitlines() if " sees " in line or line.startswith("fetched")}


@pytest.mark.parametrize("which", ["scratch", "a Python of its own"])
@pytest.mark.parametrize(("ca", "place"), [("ca.crt", FILES[0]), ("hashed", DIRECTORIES[0])])
def test_nobody_sees_a_variable_that_the_user_has_not_set(
    docker: Docker, servers: Servers, build: Build, watching: tuple[str, ...], which: str, ca: str, place: str
) -> None:
    told = seen(docker, build(which), *servers.trust(ca, place), *watching)
    who = ("app", "command", "hook", "Python")
    assert told == {"fetched with 200", *(f"{one} sees nothing nothing" for one in who)}


@pytest.mark.parametrize("which", ["scratch", "a Python of its own"])
def test_a_python_tasks_own_https_finds_the_images_roots(
    docker: Docker, servers: Servers, build: Build, watching: tuple[str, ...], which: str
) -> None:
    options = (*servers.trust("ca.crt", FILES[0]), *watching)
    done = docker.run(*build(which).words(*options), "startup", "run", "fetch@local")
    assert (done.returncode, "fetched with 200" in done.stderr) == (0, True), done.stderr


def test_what_the_user_has_set_counts_and_is_seen(
    docker: Docker, servers: Servers, scratch: Built, watching: tuple[str, ...]
) -> None:
    wrong = servers.trust("other.crt", FILES[0])
    told = seen(docker, scratch, *wrong, *servers.trust("ca.crt", "/mine")[1:], *watching, "--env=SSL_CERT_FILE=/mine")
    who = ("app", "command", "hook", "Python")
    assert told == {"fetched with 200", *(f"{one} sees /mine nothing" for one in who)}
