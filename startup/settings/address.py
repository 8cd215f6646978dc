"""The address of a database, as other tools write it, in the words of libpq or as an SQLite file.

The grammar is libpq's connection URI (PostgreSQL manual, 34.1.1.2), with what SQLAlchemy, Django, Prisma and
yoyo add to it: ``dialect+driver://``, ``?schema=``, and parameters of their own, which libpq would refuse.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping

from startup import log
from startup.records import dataclass, field, replace

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
#: Other drivers' words for libpq's sslmode: JDBC's and SQLAlchemy's true, node-postgres' no-verify.
_SSL = {**{mode: mode for mode in SSL_MODES}, "true": "require", "1": "require", "no-verify": "require"}
_NO_SSL = ("", "false", "0")
#: Other tools' words for the schema that tables are in: yoyo's and Prisma's, JDBC's, SQLAlchemy's and asyncpg's.
_SCHEMA = ("schema", "currentSchema", "current_schema", "search_path")
#: What people keep for their app, and what is no reason to go without a lock.
_OTHERS = (
    "mysql mysql2 mariadb mssql sqlserver oracle mongodb cockroachdb redshift clickhouse db2 firebird duckdb".split()
)


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
    #: The setting that it was read from.
    source: str = field(default="DATABASE_URL", compare=False)


def parse(value: str, source: str = "DATABASE_URL") -> Address:
    """Read a database URL, the setting *source*; every password in it is hidden from the log from now on.

    Raises ValueError, in words that say what would be right and never hold a password.
    """
    scheme, separator, rest = value.partition("://")
    try:
        if separator and (parser := SCHEMES.get(scheme.lower().partition("+")[0])):
            return replace(parser(rest), source=source)
        if scheme.lower().partition("+")[0] in _OTHERS:
            raise ValueError(
                f"it begins with '{scheme}://', which is not supported: {RIGHT}. Keep it for the app, and let a "
                "command do the migrations, with STARTUP_TASK_MIGRATE='...' and STARTUP_TASKS=migrate@local (no lock)"
            )
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
    if value.lower().startswith(("psql://", "postgis://")):  # django-environ's names
        value = f"postgresql{value[value.index(':') :]}"
    head, _, query = value.partition("?")
    given = {_decode(pair.partition("=")[0]): pair for pair in query.split("&") if pair}
    kept = {name: pair for name, pair in given.items() if name in LIBPQ}
    differ = ["sslmode"] if "sslmode" in address.conninfo else []
    if query.count("host=") > 1:  # SQLAlchemy's way to name several
        differ += [name for name in ("host", "port") if name in address.conninfo]
    kept |= {name: f"{name}={quote(address.conninfo[name], safe='/:,')}" for name in differ}
    options = ""
    if address.schema:
        quoted = '"' + address.schema.replace('"', '""') + '"'
        options = "-c search_path=" + quoted.replace("\\", "\\\\").replace(" ", "\\ ")
    if options and "options" in kept:  # an address's own hide those of PGOPTIONS
        kept["options"], options = f"options={quote(address.conninfo['options'] + ' ' + options)}", ""
    if given == kept and len(given) == query.count("&") + bool(query):
        return value, options
    return head + ("?" if kept else "") + "&".join(kept.values()), options


def quote(text: str, safe: str = "/") -> str:
    """Percent-encoding, which few addresses need."""
    import re

    if re.fullmatch(rf"[A-Za-z0-9_.~{re.escape(safe)}-]*", text):
        return text
    from urllib import parse

    return parse.quote(text, safe)


def _decode(text: str) -> str:
    """Percent-decoding as libpq does it: ``+`` is a plus, and what is no %XX an error."""
    import re

    if re.search(r"%(?![0-9A-Fa-f]{2})|\s", text):
        raise ValueError(f"it holds a % that is no percent-encoding, or a space: {ENCODE}")
    return _decode_path(text)


def _decode_path(text: str) -> str:
    if "%" not in text and "\0" not in text:
        return text
    from urllib.parse import unquote

    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("it holds a percent-encoding that is no UTF-8") from None
    if "\0" in decoded:
        raise ValueError("it holds %00, which no part of an address may")
    return decoded


def _parameters(query: str, decode: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in filter(None, query.split("&")):
        name, _, text = pair.partition("=")
        found.setdefault(decode(name), []).append(decode(text))
    return found


def _postgresql(rest: str) -> Address:
    authority_and_path, _, query = rest.partition("?")
    authority, _, database = authority_and_path.partition("/")
    others = [pair for pair in query.split("&") if pair.partition("=")[0] not in (*LIBPQ, *_SCHEMA)]
    if "@" in database or "@" in "".join(others) or (authority and "@" in query and "@" not in authority):
        raise ValueError(f"a user name or password ends before its last @: {ENCODE}")
    userinfo, _, hosts = authority.rpartition("@")
    if "@" in userinfo:  # libpq would take what follows the first one for the host
        raise ValueError(f"a user name or password ends before its last @: {ENCODE}")
    user, _, password = userinfo.partition(":")
    conninfo = {"user": _decode(user), "password": _decode(password), "dbname": _decode(database)}
    log.hide(password, conninfo["user"], conninfo["dbname"])
    conninfo.update(_hosts(hosts.split(","), bare_ipv6=False, decode=_decode))

    parameters = _parameters(query, _decode)
    for name in SECRET:
        for secret in parameters.get(name, ()):
            log.hide(secret)
    if "host" in parameters:
        # libpq has one host=, with commas; SQLAlchemy repeats it, each with its port.
        conninfo.update(_hosts(",".join(parameters.pop("host")).split(","), bare_ipv6=True, port=conninfo["port"]))
    schema = _schema(parameters)
    ssl = parameters.pop("ssl", [""])[-1].lower()
    if ssl in _SSL:
        conninfo["sslmode"] = _SSL[ssl]
    elif ssl not in _NO_SSL:
        raise ValueError(f"its ssl is '{ssl}': right would be sslmode= with one of {', '.join(SSL_MODES)}")
    conninfo.update({name: values[-1] for name, values in parameters.items() if name in LIBPQ})
    conninfo = {name: text for name, text in conninfo.items() if text}
    return Address(
        dialect="postgresql",
        masked=_masked(conninfo, schema),
        conninfo=conninfo,
        schema=schema or None,
        dropped=tuple(sorted(set(parameters) - LIBPQ)),
    )


def _schema(parameters: dict[str, list[str]]) -> str:
    """The schema that is asked for, by whichever name; it says where data lands, so it is never left out in silence."""
    import re

    given = {name: parameters.pop(name)[-1] for name in _SCHEMA if name in parameters}
    wanted = {text for text in given.values() if text}
    if len(wanted) > 1:
        raise ValueError(f"it asks for several schemas, by {' and '.join(given)}: keep one of them")
    schema = wanted.pop() if wanted else ""
    name = next((name for name, text in given.items() if text), "")
    if name != "schema" and re.fullmatch(r'"[^"]+"', schema):
        schema = schema[1:-1]
    if "," in schema or (name != "schema" and re.search(r"[\s\"$]", schema)):
        raise ValueError(
            f"its {name} is '{schema}', which is no one schema's name: right would be ?schema=NAME; a search_path of "
            "several names is given by ?options=-c%20search_path%3Da,b"
        )
    return schema


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
    parameters = _parameters(query, _decode_path)
    path = _decode_path(path)
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
    "psql": _postgresql,
    "postgis": _postgresql,
    "sqlite": _sqlite,
}
