"""The address of a database, as other tools write it, in the words of libpq or as an SQLite file.

The grammar is libpq's connection URI (PostgreSQL manual, 34.1.1.2), with what SQLAlchemy, Django, Prisma and
yoyo add to it: ``dialect+driver://``, ``?schema=``, and parameters of their own, which libpq would refuse.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from startup import log

RIGHT = "right would be postgresql://USER:PASSWORD@HOST:5432/NAME or sqlite:///FILE"
ENCODE = "a character like / ? # @ or % in a user name or password is written as %2F %3F %23 %40 %25"

#: PQconndefaults() of PostgreSQL 18, without ``replication`` and the names that the session gives itself.
_KEYWORDS = """
    service user password passfile channel_binding connect_timeout dbname host hostaddr port options keepalives
    keepalives_idle keepalives_interval keepalives_count tcp_user_timeout sslmode sslnegotiation sslcompression sslcert
    sslkey sslcertmode sslpassword sslrootcert sslcrl sslcrldir sslsni requirepeer require_auth min_protocol_version
    max_protocol_version ssl_min_protocol_version ssl_max_protocol_version gssencmode krbsrvname gsslib gssdelegation
    target_session_attrs load_balance_hosts scram_client_key scram_server_key oauth_issuer oauth_client_id
    oauth_client_secret oauth_scope
"""
LIBPQ = frozenset(_KEYWORDS.split())
SECRET = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class Address:
    """Where the database is: ``conninfo`` for a server, ``path`` (absolute) for a file."""

    #: The name under which :mod:`startup.database.connect` knows what is there.
    dialect: str
    #: The address without passwords, for a person to read.
    masked: str
    #: libpq's keywords, decoded. Several hosts are one comma-separated value, as libpq wants them.
    conninfo: Mapping[str, str] = field(default_factory=dict, repr=False)
    path: str = ""
    #: The schema that tables are made and looked for in; None: what the server's search_path says.
    schema: str | None = None
    #: Names of parameters that are other tools' own.
    dropped: tuple[str, ...] = ()


def parse(value: str) -> Address:
    """Read a database URL; every password in it is hidden from the log from now on.

    Raises ValueError, in words that say what would be right and never hold a password.
    """
    scheme, separator, rest = value.partition("://")
    try:
        if separator and (parser := SCHEMES.get(scheme.lower().partition("+")[0])):
            return parser(rest)
        if separator and scheme.replace("+", "").isalnum():
            raise ValueError(f"it begins with '{scheme}://': {RIGHT}")
        raise ValueError(f"it is not an address: {RIGHT}")
    except ValueError:
        log.hide(rest.rpartition("@")[0].partition(":")[2])
        raise


def for_commands(value: str, address: Address) -> tuple[str, str]:
    """The address *value* as libpq's programs take it, and what stands for its schema in PGOPTIONS ('' without one).

    Whatever is not a parameter that only other tools know stays as it is written, the scheme with a driver too.
    """
    if not (address.schema or address.dropped):
        return value, ""
    head, _, query = value.partition("?")
    kept = "&".join(pair for pair in query.split("&") if _decode(pair.partition("=")[0]) in LIBPQ)
    options = ""
    if address.schema:
        quoted = '"' + address.schema.replace('"', '""') + '"'
        options = "-c search_path=" + quoted.replace("\\", "\\\\").replace(" ", "\\ ")
    return head + (f"?{kept}" if kept else ""), options


def _decode(text: str) -> str:
    """Percent-decoding as libpq does it: ``+`` is a plus."""
    decoded = unquote(text)
    if "\0" in decoded:
        raise ValueError("it holds %00, which no part of an address may")
    return decoded


def _parameters(query: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in filter(None, query.split("&")):
        name, _, text = pair.partition("=")
        found.setdefault(_decode(name), []).append(_decode(text))
    return found


def _postgresql(rest: str) -> Address:
    authority_and_path, _, query = rest.partition("?")
    authority, _, database = authority_and_path.partition("/")
    if "@" in database or any("@" in pair.partition("=")[0] for pair in query.split("&")):
        raise ValueError(f"a user name or password ends before its last @: {ENCODE}")
    userinfo, _, hosts = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    conninfo = {"user": _decode(user), "password": _decode(password), "dbname": _decode(database)}
    log.hide(password, conninfo["user"], conninfo["dbname"])
    conninfo.update(_hosts(hosts.split(","), bare_ipv6=False, decode=_decode))

    parameters = _parameters(query)
    for name in SECRET:
        for secret in parameters.get(name, ()):
            log.hide(secret)
    if "host" in parameters:
        # libpq has one host=, with commas; SQLAlchemy repeats it, each with its port.
        conninfo.update(_hosts(",".join(parameters.pop("host")).split(","), bare_ipv6=True, port=conninfo["port"]))
    ssl = parameters.pop("ssl", [""])[-1].lower()  # JDBC says true, asyncpg says libpq's words
    if ssl in ("true", "1"):
        conninfo["sslmode"] = "require"
    elif ssl in SSL_MODES:
        conninfo["sslmode"] = ssl
    schema = parameters.pop("schema", [""])[-1]
    conninfo.update({name: values[-1] for name, values in parameters.items() if name in LIBPQ})
    conninfo = {name: text for name, text in conninfo.items() if text}
    return Address(
        dialect="postgresql",
        masked=_masked(conninfo, schema),
        conninfo=conninfo,
        schema=schema or None,
        dropped=tuple(sorted(set(parameters) - LIBPQ)),
    )


def _hosts(entries: list[str], bare_ipv6: bool, port: str = "", decode: Callable[[str], str] = str) -> dict[str, str]:
    """``host:port`` entries as libpq's ``host`` and ``port``; *port* is for hosts that have none.

    *decode* is for names that are still percent-encoded: a socket's directory may have a port behind it there.
    """
    names, ports = [], []
    for entry in entries:
        name, own_port = entry, ""
        if entry.startswith("["):
            name, bracket, own_port = entry[1:].partition("]")
            if not bracket or (own_port and not own_port.startswith(":")):
                raise ValueError("it has an IPv6 host without both brackets: right would be [::1]:5432")
            own_port = own_port[1:]
        elif not entry.startswith("/") and not (bare_ipv6 and entry.count(":") > 1):
            name, _, own_port = entry.partition(":")
        if own_port and not (own_port.isascii() and own_port.isdigit() and 0 < int(own_port) < 65536):
            raise ValueError(f"its port is no number from 1 to 65535: {RIGHT}; {ENCODE}")
        names.append(decode(name))
        ports.append(own_port)
    if not any(ports):
        return {"host": ",".join(names), "port": port}
    return {"host": ",".join(names), "port": ",".join(ports)}


def _masked(conninfo: Mapping[str, str], schema: str) -> str:
    """The address again, from what was understood of it."""
    shown = {name: text for name, text in conninfo.items() if name not in ("user", "password", "dbname")}
    names, ports = shown.get("host", "").split(","), shown.get("port", "").split(",")
    hosts = ""
    if len(names) == len(ports) and not any(name.startswith("/") for name in names):
        brackets = [f"[{name}]" if ":" in name else name for name in names]
        hosts = ",".join(f"{name}:{port}" if port else name for name, port in zip(brackets, ports, strict=True))
        shown = {name: text for name, text in shown.items() if name not in ("host", "port")}
    if schema:
        shown["schema"] = schema
    user = quote(conninfo.get("user", ""), safe="") + (f":{log.MASK}" if "password" in conninfo else "")
    query = "&".join(
        f"{name}={log.MASK if name in SECRET else quote(text, safe='/:,')}" for name, text in shown.items()
    )
    database = quote(conninfo.get("dbname", ""), safe="")
    return f"postgresql://{user}{'@' if user else ''}{hosts}/{database}{'?' if query else ''}{query}"


def _sqlite(rest: str) -> Address:
    location, _, query = rest.partition("?")
    host, slash, path = location.partition("/")
    parameters = _parameters(query)
    path = _decode(path)
    if "@" in location:
        raise ValueError("it has a user or a password, which SQLite does not know: right would be sqlite:///FILE")
    if host:
        raise ValueError(
            f"it has only two slashes: right would be sqlite:///{host}{slash}{path} (from the working directory) "
            f"or sqlite:////{host}{slash}{path} (from the root)"
        )
    if path in ("", ":memory:") or "memory" in parameters.get("mode", ()):
        raise ValueError("it is a database in memory, which ends with its process: right would be sqlite:///FILE")
    if path.startswith("file:"):
        raise ValueError("it is an SQLite URI: right would be sqlite:///FILE")
    if path.endswith("/"):
        raise ValueError(f"it names a directory, {path}: right would be sqlite:///FILE")
    path = os.path.abspath(path)
    return Address(dialect="sqlite", masked=f"sqlite:///{path}", path=path, dropped=tuple(sorted(parameters)))


#: What an address may begin with, a ``+driver`` aside.
SCHEMES: Mapping[str, Callable[[str], Address]] = {
    "postgresql": _postgresql,
    "postgres": _postgresql,
    "sqlite": _sqlite,
}
