"""The settings: environment, dotenv files, secrets in files; read once, strictly, all faults at once.

Knows no database and no tasks. The contract's table of settings is :data:`DEFAULTS` below.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

from startup import log
from startup.errors import SettingError
from startup.ping.kinds import parse as parse_ping
from startup.ping.wait import Ping
from startup.settings.address import Address
from startup.settings.address import parse as parse_address

T = TypeVar("T")
POLICIES = ("always", "change", "release", "once", "local")

DEFAULTS: dict[str, str] = {
    "STARTUP_ENABLED": "true",
    "STARTUP_ENV": "prod",
    "STARTUP_DOTENV": "",
    "STARTUP_TASKS": "migrate",
    "STARTUP_PRE_START": "",
    "STARTUP_PRE_STOP": "",
    "STARTUP_POST_STOP": "",
    "STARTUP_SKIP_TASKS": "",
    "STARTUP_MODULE": "",
    "STARTUP_HOOKS_DIR": "/etc/startup/hooks",
    "STARTUP_TIMEOUT": "0",
    "STARTUP_ON_FAILURE": "stop",
    "STARTUP_PING": "auto",
    "STARTUP_PING_TIMEOUT": "300",
    "STARTUP_PING_INTERVAL": "1",
    "DATABASE_URL": "",
    "DATABASE_URL_FILE": "",
    "STARTUP_DATABASE_URL": "",
    "STARTUP_DATABASE_URL_FILE": "",
    "STARTUP_DATABASE_TIMEOUT": "60",
    "STARTUP_POOLER": "",
    "STARTUP_MIGRATIONS": "migrations",
    "STARTUP_TABLE_LOCK_TIMEOUT": "5",
    "STARTUP_DRIFT": "fail",
    "STARTUP_USERS": "seeds/users.csv",
    "STARTUP_USERS_TABLE": "users",
    "STARTUP_NAMESPACE": "default",
    "STARTUP_NODE": "",
    "STARTUP_ROLE": "auto",
    "STARTUP_RELEASE": "",
    "STARTUP_LOCK_TIMEOUT": "0",
    "STARTUP_FOLLOW_TIMEOUT": "600",
    "STARTUP_STOP_TIMEOUT": "10",
    "STARTUP_HOOK_TIMEOUT": "3",
    "STARTUP_SIGNAL_GROUP": "false",
    "STARTUP_STATE_DIR": "",
    "STARTUP_PYTHON": "",
    "STARTUP_LOG_FORMAT": "text",
    "STARTUP_LOG_LEVEL": "info",
}

#: Read by entrypoint.sh before any file is: a dotenv file cannot set these.
SHELLS_OWN = frozenset(
    {
        "STARTUP_ENABLED",
        "STARTUP_ENV",
        "STARTUP_DOTENV",
        "STARTUP_PRE_START",
        "STARTUP_STATE_DIR",
        "STARTUP_HOOKS_DIR",
        "STARTUP_PYTHON",
        "STARTUP_SIGNAL_GROUP",
    }
)

#: Set for command tasks, so not unknown where a task calls a verb.
GIVEN_TO_TASKS = frozenset({"STARTUP_TASK", "STARTUP_PHASE"})
DEVELOPMENT = ("dev", "test")
DEVELOPMENT_DATABASE = "sqlite:///startup.db"
_WORD = re.compile(r"[A-Za-z0-9_-]+")
#: Seconds; a good three years. What is longer is meant to be no limit, and timers would not take it.
LONGEST = 1e8
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Item:
    """A name on a list, with the policy that stands behind the @, if any."""

    name: str
    policy: str | None = None


@dataclass
class Settings:
    """What the run goes by. Times are seconds, 0 is no limit. ``origins`` says where each value came from."""

    env: str
    tasks: list[Item]
    pre_start: list[Item]
    pre_stop: list[Item]
    post_stop: list[Item]
    skip: frozenset[str]
    module: str
    hooks_dir: str
    timeout: float
    on_failure: str
    ping: Ping
    ping_timeout: float
    ping_interval: float
    database_url: str
    address: Address | None
    database_timeout: float
    pooler: str
    migrations: list[str]
    table_lock_timeout: float
    drift: str
    users: str
    users_table: str
    namespace: str
    node: str
    role: str
    release: str
    lock_timeout: float
    follow_timeout: float
    stop_timeout: float
    hook_timeout: float
    signal_group: bool
    state_dir: str
    log_format: str
    log_level: str
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
        return environ


def boolean(value: str) -> bool:
    """true|false|1|0|yes|no|on|off, nothing else."""
    if value in ("true", "1", "yes", "on"):
        return True
    if value in ("false", "0", "no", "off"):
        return False
    raise ValueError("it must be true, false, 1, 0, yes, no, on or off")


def seconds(value: str) -> float:
    """A number of seconds, fractions allowed, not negative."""
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", value, re.ASCII):
        raise ValueError("it must be a number of seconds, such as 30 or 0.5 (0: no limit)")
    if float(value) > LONGEST:
        raise ValueError(f"it must be at most {LONGEST:.0f} seconds; 0 is no limit")
    return float(value)


def choice(*words: str) -> Callable[[str], str]:
    """One of *words*."""

    def parse(value: str) -> str:
        if value not in words:
            shown = [word for word in words if word]
            raise ValueError(f"it must be {', '.join(shown[:-1])} or {shown[-1]}")
        return value

    return parse


def words(value: str) -> list[str]:
    """Words separated by spaces or commas; ``none`` is the empty list."""
    found = [word for word in re.split(r"[\s,]+", value) if word]
    return [] if found == ["none"] else found


def normal(name: str) -> str:
    """Task names are lower case, ``-`` and ``_`` alike; a reference to a function is left as it is."""
    return name if ":" in name else name.lower().replace("-", "_")


class PartlyRead(ValueError):
    """What is wrong with a list, and what could be read of it, in which more may be wrong."""

    def __init__(self, wrong: list[str], rest: list[Item]) -> None:
        super().__init__("; ".join(wrong))
        self.rest = rest


def items(value: str) -> list[Item]:
    """A list of tasks: ``migrate insert_users@once``."""
    found: list[Item] = []
    wrong: list[str] = []
    for word in words(value):
        name, at, policy = word.partition("@")
        if not (_WORD.fullmatch(name) or REFERENCE.fullmatch(name)):
            wrong.append(f"'{word}' is no task: a name is made of letters, digits, - and _, or is module:function")
            continue
        if at and policy not in POLICIES:
            wrong.append(f"'{word}' has no policy that is known: use {', '.join(POLICIES)}")
        item = Item(normal(name), policy if policy in POLICIES else None)
        if any(item.name == other.name for other in found):
            wrong.append(f"'{item.name}' is on the list twice")
        else:
            found.append(item)
    if wrong:
        raise PartlyRead(wrong, found)
    return found


def text(value: str) -> str:
    """Any text."""
    return value


def word(value: str) -> str:
    """One word, which may stand in a file's name."""
    if not re.fullmatch(r"[\w-][\w.-]*", value):
        raise ValueError("it must be a word, such as dev, test or prod")
    return value


def identifier(value: str) -> str:
    """A table's name, with its schema in front where that is meant."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)?", value):
        raise ValueError("it must be a table's name, such as users or app.users")
    return value


class Reader:
    """Reads values one by one, and remembers where each came from and what was wrong."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # Empty means unset, as compose's ${X:-} leaves it; other programs' variables are passed on as they are.
        self.environ = {name: value for name, value in environ.items() if value != "" or not _is_ours(name)}
        self.origins = dict.fromkeys(self.environ, "environment")
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self.values: dict[str, str] = {}
        self.address_faults: list[str] = []

    def get(self, name: str, parse: Callable[[str], T], default: str | None = None) -> T:
        """The value of *name*; where it cannot be read, a fault is noted and the default stands in."""
        fallback = DEFAULTS[name] if default is None else default
        value = self.environ.get(name, fallback)
        self.values[name] = value
        self.origins.setdefault(name, "default")
        try:
            return parse(value)
        except ValueError as error:
            self.faults.append(f"{name} is '{value}' ({self.origins[name]}): {error}")
            return cast("T", error.rest) if isinstance(error, PartlyRead) else parse(fallback)

    def read_dotenv(self, env: str) -> None:
        """FILE and FILE.$STARTUP_ENV beside it, the second winning; the real environment wins over both."""
        given = self.environ.get("STARTUP_DOTENV")
        self.values["STARTUP_DOTENV"] = given or (".env" if env in DEVELOPMENT else "")
        path = self.values["STARTUP_DOTENV"]
        if path in ("", "none"):
            return
        if given and not os.path.isfile(given):
            self.faults.append(f"STARTUP_DOTENV is '{given}': there is no such file")
        found: dict[str, tuple[str, str]] = {}
        for file in (path, f"{path}.{env}"):
            if os.path.isfile(file):
                parsed = self._parse_dotenv(file)
                for name, value in parsed.items():
                    if value and _other_form(name) not in parsed:
                        found.pop(_other_form(name), None)
                    found[name] = (value, file)
        real = set(self.environ)
        for name, (value, file) in found.items():
            if name in SHELLS_OWN:
                self.warnings.append(
                    f"{name} in {file} has no effect: it is read before any file is, so set it outside"
                )
            elif name not in real and _other_form(name) not in real and (value != "" or not _is_ours(name)):
                self.environ[name] = value
                self.origins[name] = file

    def _parse_dotenv(self, file: str) -> dict[str, str]:
        from dotenv.parser import parse_stream

        values: dict[str, str] = {}
        try:
            with open(file, encoding="utf-8") as stream:
                for binding in parse_stream(stream):
                    if binding.error:
                        self.faults.append(f"{file}, line {binding.original.line}: it must be NAME=VALUE, or a comment")
                    elif binding.key is not None and binding.value is not None:
                        values[binding.key] = binding.value
        except (OSError, UnicodeDecodeError) as error:
            self.faults.append(f"{file} cannot be read: {error}")
        return values

    def read_secret(self, name: str) -> tuple[str, str]:
        """The value of NAME or the content of NAME_FILE, and which of the two it was."""
        file = self.environ.get(f"{name}_FILE")
        self.values[name], self.values[f"{name}_FILE"] = self.environ.get(name, ""), file or ""
        if file is None:
            return self.environ.get(name, ""), name
        if name in self.environ:
            self.faults.append(f"{name} and {name}_FILE are both set: keep one of them")
        try:
            with open(file, encoding="utf-8") as stream:
                content = stream.read().removesuffix("\n")  # text mode has made a newline of CR LF
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.faults.append(f"{name}_FILE is '{file}': it cannot be read: {reason}")
            return "", f"{name}_FILE"
        log.hide(content)
        if not content.strip():
            self.faults.append(f"{name}_FILE is '{file}': the file is empty; it must hold a database address")
            return "", f"{name}_FILE"
        if not content.isprintable():
            self.faults.append(f"{name}_FILE is '{file}': the file must hold a database address, on one line")
            return "", f"{name}_FILE"
        self.origins[name] = f"file {file}"
        return content, f"{name}_FILE"

    def read_address(self, env: str) -> tuple[str, Address | None]:
        """The address in force: STARTUP_DATABASE_URL before DATABASE_URL."""
        before = len(self.faults)
        (own, own_source), (apps, apps_source) = (
            self.read_secret("STARTUP_DATABASE_URL"),
            self.read_secret("DATABASE_URL"),
        )
        address = self._parse_address("STARTUP_DATABASE_URL", own_source, own, self.faults)
        apps_address = self._parse_address("DATABASE_URL", apps_source, apps, [] if own else self.address_faults)
        if own:
            return own, address
        if apps or len(self.faults) > before or env not in DEVELOPMENT:
            return apps, apps_address
        self.values["DATABASE_URL"] = DEVELOPMENT_DATABASE
        self.origins.setdefault("DATABASE_URL", "default")
        return DEVELOPMENT_DATABASE, parse_address(DEVELOPMENT_DATABASE)

    def _parse_address(self, name: str, source: str, url: str, faults: list[str]) -> Address | None:
        """The address, shown masked from here on; None where there is none, or none that can be read."""
        if not url:
            return None
        try:
            address = parse_address(url)
        except ValueError as error:
            faults.append(f"{source} cannot be read: {error}")
            self.values[name] = log.MASK
            return None
        self.values[name] = address.masked
        return address

    def read_definitions(self) -> dict[str, str]:
        """The tasks that STARTUP_TASK_<NAME> define."""
        definitions: dict[str, str] = {}
        variables: dict[str, str] = {}
        for variable in sorted(self.environ):
            name = normal(variable.removeprefix("STARTUP_TASK_"))
            if not variable.startswith("STARTUP_TASK_") or not name:
                continue
            if not _WORD.fullmatch(name):
                self.faults.append(f"{variable} is no task's name: a name is made of letters, digits, - and _")
            elif name in variables:
                self.faults.append(f"{variables[name]} and {variable} define the same task, {name}: keep one of them")
            definitions[name], variables[name] = self.environ[variable], variable
        return definitions

    def warn_of_unknown(self) -> None:
        """An unknown STARTUP_* name is most likely a misspelt one."""
        for name in sorted(self.environ):
            in_a_task = self.environ.keys() >= GIVEN_TO_TASKS
            known = name in DEFAULTS or (in_a_task and name in GIVEN_TO_TASKS) or name.startswith("STARTUP_TASK_")
            if name.startswith("STARTUP_") and not known:
                self.warnings.append(f"{name} ({self.origins[name]}) is no setting: did you mean {_nearest(name)}?")


def _nearest(name: str) -> str:
    """The setting whose name is most like *name*; the prefix, which they share, is left out of it."""
    from difflib import SequenceMatcher

    own = name.removeprefix("STARTUP_").replace("_", "")
    if not own:
        return "STARTUP_TASKS"
    names = [known for known in DEFAULTS if known.startswith("STARTUP_")]

    def likeness(known: str) -> tuple[bool, float]:
        other = known.removeprefix("STARTUP_").replace("_", "")
        return other.startswith(own), SequenceMatcher(None, own, other).ratio()

    return max(names, key=likeness)


def _is_ours(name: str) -> bool:
    return name.startswith("STARTUP_") or name in DEFAULTS


def _other_form(name: str) -> str:
    """DATABASE_URL for DATABASE_URL_FILE and the other way round; '' for what has one form alone."""
    other = name.removesuffix("_FILE") if name.endswith("_FILE") else f"{name}_FILE"
    return other if name in DEFAULTS and other in DEFAULTS else ""


def load(environ: Mapping[str, str]) -> Settings:
    """Read all settings. Faults are collected in ``faults``: :func:`require` raises them."""
    reader = Reader(environ)
    get = reader.get
    # The app's own APP_ENV may be anything; a STARTUP_ENV is ours to check.
    own = "STARTUP_ENV" in reader.environ
    env = get("STARTUP_ENV", word if own else text, reader.environ.get("APP_ENV") or "prod")
    if not own and reader.environ.get("APP_ENV"):
        reader.origins["STARTUP_ENV"] = "APP_ENV"
    reader.read_dotenv(env)
    # The app does not see a dotenv file's PORT, so auto must not wait for it there.
    for_ping = {name: value for name, value in reader.environ.items() if name != "PORT" or name in environ}
    get("STARTUP_ENABLED", boolean)
    url, address = reader.read_address(env)
    settings = Settings(
        env=env,
        tasks=get("STARTUP_TASKS", items, "migrate insert_users" if env in DEVELOPMENT else None),
        pre_start=get("STARTUP_PRE_START", items),
        pre_stop=get("STARTUP_PRE_STOP", items),
        post_stop=get("STARTUP_POST_STOP", items),
        skip=frozenset(item.name for item in get("STARTUP_SKIP_TASKS", items)),
        module=get("STARTUP_MODULE", text),
        hooks_dir=get("STARTUP_HOOKS_DIR", text),
        timeout=get("STARTUP_TIMEOUT", seconds),
        on_failure=get("STARTUP_ON_FAILURE", choice("stop", "continue")),
        ping=get("STARTUP_PING", lambda value: parse_ping(value, for_ping)),
        ping_timeout=get("STARTUP_PING_TIMEOUT", seconds),
        ping_interval=get("STARTUP_PING_INTERVAL", seconds),
        database_url=url,
        address=address,
        database_timeout=get("STARTUP_DATABASE_TIMEOUT", seconds),
        pooler=get("STARTUP_POOLER", choice("", "none", "session")).replace("none", ""),
        migrations=get("STARTUP_MIGRATIONS", words),
        table_lock_timeout=get("STARTUP_TABLE_LOCK_TIMEOUT", seconds),
        drift=get("STARTUP_DRIFT", choice("fail", "warn")),
        users=get("STARTUP_USERS", text),
        users_table=get("STARTUP_USERS_TABLE", identifier),
        namespace=get("STARTUP_NAMESPACE", text),
        node=get("STARTUP_NODE", text, os.uname().nodename),
        role=get("STARTUP_ROLE", choice("auto", "follower")),
        release=get("STARTUP_RELEASE", text),
        lock_timeout=get("STARTUP_LOCK_TIMEOUT", seconds),
        follow_timeout=get("STARTUP_FOLLOW_TIMEOUT", seconds),
        stop_timeout=get("STARTUP_STOP_TIMEOUT", seconds),
        hook_timeout=get("STARTUP_HOOK_TIMEOUT", seconds),
        signal_group=get("STARTUP_SIGNAL_GROUP", boolean),
        state_dir=get("STARTUP_STATE_DIR", text),
        log_format=get("STARTUP_LOG_FORMAT", choice("text", "json")),
        log_level=get("STARTUP_LOG_LEVEL", choice("debug", "info", "warning", "error")),
        environ=reader.environ,
        address_faults=reader.address_faults,
        definitions=reader.read_definitions(),
    )
    get("STARTUP_PYTHON", text)
    reader.warn_of_unknown()
    settings.origins, settings.values = reader.origins, reader.values
    settings.faults, settings.warnings = reader.faults, reader.warnings
    return settings


def require(settings: Settings, database: bool = False) -> None:
    """Raise SettingError with every fault, when there is one; also with those of the address, where it is needed."""
    faults = settings.faults + (settings.address_faults if database else [])
    if faults:
        raise SettingError(*faults)
