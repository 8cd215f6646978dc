"""The settings: one table, from which their values, ``describe``, hints and docs/settings.md come.

Another one is a field of :class:`Settings`, and nothing else. Knows no database and no tasks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from startup import log
from startup.errors import SettingError
from startup.ping.attempt import Ping
from startup.ping.kinds import parse as parse_ping
from startup.records import dataclass, field, fields
from startup.settings import passwords
from startup.settings.address import Address, for_commands
from startup.settings.address import parse as parse_address
from startup.settings.parsers import (
    Item,
    boolean,
    choice,
    count,
    identifier,
    items,
    label,
    names,
    seconds,
    text,
    word,
    words,
)
from startup.settings.reader import DEVELOPMENT, FILES, MODULE, SHELL, Entry, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")
DEV_DATABASE = "sqlite:///startup.db"
#: In STARTUP_WAIT_FOR: the one whose address is in force.
DATABASE = "database"


def setting(
    default: str, parse: Callable[[str], T], meaning: str, *, name: str = "", reader: str = MODULE, shown: str = ""
) -> T:
    """A field that is read from STARTUP_FIELD, or from *name*; *shown* is its default as a page tells it."""
    found: T = field(metadata={"entry": Entry(default, parse, meaning, reader, shown, name)})
    return found


def _ping(value: str) -> Ping:
    return parse_ping(value, {})


def _wait_for(value: str) -> list[Ping | str]:
    if value in ("", "none"):
        return []
    from startup.settings import wait_for

    return wait_for.parse(value)


def _pooler(value: str) -> str:
    return choice("", "none", "session")(value).replace("none", "")


@dataclass(kw_only=True, repr=False)  # it holds the password
class Settings:
    """What the run goes by. Times are seconds, 0 is no limit. ``origins`` says where each value came from."""

    enabled: bool = setting("true", boolean, "`false`: exec the app, nothing else", reader=SHELL)
    env: str = setting("prod", word, "`dev`, `test`, `prod` or any word", reader=FILES, shown="`$APP_ENV`, else `prod`")
    dotenv: str = setting("", text, "this file, and `FILE.$STARTUP_ENV`", reader=FILES, shown="`.env` in `dev`, `test`")
    tasks: list[Item] = setting("migrate", items, "once the app answers; in `dev`, `test` `insert_users`, too")
    pre_start: list[Item] = setting("", items, "the tasks before the app is started", reader=SHELL)
    pre_stop: list[Item] = setting("", items, "the tasks before a stop signal reaches the app")
    post_stop: list[Item] = setting("", items, "the tasks when the app has ended after a stop signal")
    wait_for: list[Ping | str] = setting(
        "", _wait_for, "what must be there before anything begins: pings, separated by spaces, and the word `database`"
    )
    wait_timeout: float = setting("60", seconds, "how long it may take until all of that is there")
    failed: list[Item] = setting("", items, "the tasks when the startup has failed, before the app is stopped")
    before_migrate: list[Item] = setting(
        "", items, "tasks (a backup) before migrations: once for the same pending ones"
    )
    skip: frozenset[str] = setting("", names, "names left out, whatever list they are on", name="STARTUP_SKIP_TASKS")
    module: str = setting("", text, "a Python module with `@task` functions")
    hooks_dir: str = setting("/etc/startup/hooks", text, "it has a directory for each phase, `PHASE.d`", reader=SHELL)
    timeout: float = setting("0", seconds, "the limit for each task")
    retries: int = setting("0", count, "how often a task that failed is tried again, after 1, 2, 4 ... s")
    on_failure: str = setting("stop", choice("stop", "continue"), "`continue`: the app stays up, its health check red")
    ping: Ping = setting("auto", _ping, "how the app is asked whether it is up")
    ping_timeout: float = setting("300", seconds, "how long it may take until the app answers")
    ping_interval: float = setting("1", seconds, "the longest pause between pings")
    database_url: str = setting(
        "", text, "the database", name="DATABASE_URL", shown=f"in `dev`, `test` `{DEV_DATABASE}`"
    )
    own_database_url: str = setting(
        "", text, "one for the tasks alone, say more privileged", name="STARTUP_DATABASE_URL"
    )
    database_timeout: float = setting("60", seconds, "how long to wait for the database to accept connections")
    pooler: str = setting("", _pooler, "`session`: the pooler in between keeps one server session per client")
    migrations: list[str] = setting("migrations", words, "one directory or several")
    table_lock_timeout: float = setting("5", seconds, "how long a migration may wait for a table, before the next try")
    lint: str = setting(
        "off", choice("off", "warn", "fail"), "what squawk finds in pending migrations is named, or stops the run"
    )
    drift: str = setting(
        "fail", choice("fail", "warn"), "of an applied migration that was edited; `warn`: names it only"
    )
    users: str = setting("seeds/users.csv", text, "for `insert_users`: CSV with a header, or JSON")
    users_table: str = setting("users", identifier, "the table that they go to")
    namespace: str = setting("default", label, "apps that share a database, but not their tasks")
    node: str = setting(os.uname().nodename, label, "this node's name, for logs and the ledger", shown="the host name")
    role: str = setting("auto", choice("auto", "follower"), "`follower`: waits until others have run the tasks")
    release: str = setting("", label, "this image's version, for the ledger and the policy `release`")
    lock_timeout: float = setting("0", seconds, "how long to wait for the node that holds the lock")
    follow_timeout: float = setting("600", seconds, "how long a follower waits while nobody runs what it needs")
    stop_timeout: float = setting("10", seconds, "from TERM to KILL, for what the entrypoint itself stops")
    hook_timeout: float = setting("3", seconds, "for all tasks of a stop phase together, and for all `failed` ones")
    signal_group: bool = setting("false", boolean, "`true`: signals go to the app's whole process group", reader=SHELL)
    state_dir: str = setting(
        "", text, "phase, ready mark, result", reader=SHELL, shown="`/run/startup`, or a private one"
    )
    python: str = setting(
        "",
        text,
        "it runs the tasks; with the bundle: the app's own, where a `@task` imports the app's packages",
        reader=SHELL,
        shown="the one it was installed with, or `python3`",
    )
    metrics_file: str = setting("", text, "a Prometheus text file, written once when ready or failed")
    log_format: str = setting("text", choice("text", "json"), "`json`: one object a line")
    log_level: str = setting("info", choice("debug", "info", "warning", "error"), "the least that is worth a line")

    #: The address in force, taken apart.
    address: Address | None
    environ: dict[str, str]
    #: What is wrong with the app's own DATABASE_URL: a fault where something needs the database, else none of ours.
    address_faults: list[str] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def given(self, name: str) -> bool:
        """Was *name* set by somebody, or does its default stand?"""
        return self.origins.get(name, "default") != "default"

    def task_environ(self, name: str, phase: str) -> dict[str, str]:
        """The environment of a command task: the settings, and the database address in force."""
        environ = {**self.environ, "STARTUP_ENV": self.env, "STARTUP_TASK": name, "STARTUP_PHASE": phase}
        if self.database_url:
            environ["DATABASE_URL"] = self.database_url
            environ.pop("DATABASE_URL_FILE", None)
        if self.address is not None and self.address.dialect == "postgresql":
            environ["STARTUP_DATABASE_URL"] = self.database_url  # as it was written, for tools that read ?schema=
            environ.pop("STARTUP_DATABASE_URL_FILE", None)
            environ["DATABASE_URL"], options = for_commands(self.database_url, self.address)
            if options:
                environ["PGOPTIONS"] = f"{environ.get('PGOPTIONS', '')} {options}".strip()
        return environ


def _table() -> dict[str, tuple[str, Entry]]:
    found = {}
    for one in fields(Settings):
        if entry := one.metadata.get("entry"):
            found[entry.name or f"STARTUP_{one.name.upper()}"] = (one.name, entry)
    return found


#: Each setting's field and entry, by its name in the environment, in the order in which faults are told.
TABLE = _table()
SECRETS = ("STARTUP_DATABASE_URL", "DATABASE_URL")
#: The names of all settings: a secret's has another form, NAME_FILE.
NAMES = [*TABLE, *(f"{name}_FILE" for name in SECRETS)]


def load(environ: Mapping[str, str]) -> Settings:
    """Read all settings. Faults are collected in ``faults``: :func:`require` raises them."""
    reader = Reader(environ, {name: entry for name, (_, entry) in TABLE.items()}, SECRETS)
    # The app's own APP_ENV may be anything; a STARTUP_ENV is ours to check.
    own = "STARTUP_ENV" in reader.environ
    app_env = None if own else reader.environ.get("APP_ENV")
    env = reader.get("STARTUP_ENV", word if own else text, app_env)
    if app_env:
        reader.origins["STARTUP_ENV"] = "APP_ENV"
    reader.read_dotenv(env)
    # The app does not see a dotenv file's PORT, so auto must not wait for it there.
    for_ping = {name: value for name, value in reader.environ.items() if name != "PORT" or name in environ}
    url, address = _read_address(reader, env)
    values: dict[str, Any] = {"env": env, "dotenv": reader.values["STARTUP_DOTENV"], "database_url": url}
    values["own_database_url"] = reader.environ.get("STARTUP_DATABASE_URL", "")
    for name, (attribute, entry) in TABLE.items():
        if attribute in values:
            continue
        parse = (lambda value: parse_ping(value, for_ping)) if attribute == "ping" else entry.parse
        passwords.hide_in_pings(reader.environ.get(name, "") if attribute in ("ping", "wait_for") else "")
        default = "migrate insert_users" if attribute == "tasks" and env in DEVELOPMENT else None
        values[attribute] = reader.get(name, parse, default)
    if DATABASE in values["wait_for"]:
        reader.faults += _faults_of_database(reader, url)
    definitions = reader.read_definitions()
    reader.warn_of_unknown(NAMES)
    return Settings(
        **values,
        address=address,
        environ=reader.environ,
        address_faults=reader.address_faults,
        origins=reader.origins,
        values=reader.values,
        definitions=definitions,
        faults=reader.faults,
        warnings=reader.warnings,
    )


def _read_address(reader: Reader, env: str) -> tuple[str, Address | None]:
    """The address in force: STARTUP_DATABASE_URL before DATABASE_URL."""
    before = len(reader.faults)
    own, own_source = reader.read_secret("STARTUP_DATABASE_URL")
    apps, apps_source = reader.read_secret("DATABASE_URL")
    address = _parse_address(reader, "STARTUP_DATABASE_URL", own_source, own, reader.faults)
    apps_address = _parse_address(reader, "DATABASE_URL", apps_source, apps, [] if own else reader.address_faults)
    if own:
        return own, address
    if apps or len(reader.faults) > before or env not in DEVELOPMENT:
        return apps, apps_address
    reader.values["DATABASE_URL"] = DEV_DATABASE
    reader.origins.setdefault("DATABASE_URL", "default")
    return DEV_DATABASE, parse_address(DEV_DATABASE)


def _parse_address(reader: Reader, name: str, source: str, url: str, faults: list[str]) -> Address | None:
    """The address, shown masked from here on; None where there is none, or none that can be read."""
    if not url:
        return None
    try:
        address = parse_address(url, source)
    except ValueError as error:
        faults.append(f"{source} cannot be read: {error}")
        reader.values[name] = log.MASK
        return None
    if address.dialect == "postgresql":
        variables = {"user": "PGUSER", "dbname": "PGDATABASE"}
        public = [address.conninfo.get(one) or reader.environ.get(name, "") for one, name in variables.items()]
        for password in passwords.of_libpq(address, reader.environ):
            log.hide(password, *public)
    reader.values[name] = address.masked
    return address


def _faults_of_database(reader: Reader, url: str) -> list[str]:
    """What keeps the word ``database`` of STARTUP_WAIT_FOR from having a meaning."""
    if url or reader.address_faults or any("DATABASE_URL" in fault for fault in reader.faults):
        return reader.address_faults
    return ["STARTUP_WAIT_FOR names the database, but no address is set: set DATABASE_URL, or take the word out"]


def require(settings: Settings, database: bool = False) -> None:
    """Raise SettingError with every fault, when there is one; also with those of the address, where it is needed."""
    faults = settings.faults + (settings.address_faults if database else [])
    if faults:
        raise SettingError(*faults)
