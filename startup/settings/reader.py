"""Reads settings from the environment, dotenv files and secrets in files; knows where each value came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence

from startup import log
from startup.records import dataclass
from startup.settings.parsers import WORD, PartlyRead, normal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")
DEVELOPMENT = ("dev", "test")
#: Set for command tasks, so not unknown where a task calls a verb; the others for those of the phase failed alone.
GIVEN_TO_TASKS = frozenset({"STARTUP_TASK", "STARTUP_PHASE"})
GIVEN_TO_FAILED = frozenset({"STARTUP_FAILURE", "STARTUP_EXIT_CODE", "STARTUP_FAILED_HERE"})
#: Who reads a setting: entrypoint.sh, before any file is read; what looks for the dotenv files; the Python module.
SHELL, FILES, MODULE = "entrypoint.sh", "dotenv files", "module"


@dataclass(frozen=True)
class Entry:
    """A setting: its default and parser, a line on what it means, who reads it, and its default as a page tells it."""

    default: str
    parse: Callable[[str], Any]
    meaning: str
    reader: str
    shown: str
    name: str


class Reader:
    """Reads values one by one, and remembers where each came from and what was wrong."""

    def __init__(self, environ: Mapping[str, str], table: Mapping[str, Entry], secrets: Sequence[str]) -> None:
        self._table = table
        self._secrets = secrets
        # Empty means unset, as compose's ${X:-} leaves it; other programs' variables are passed on as they are.
        self.environ = {name: value for name, value in environ.items() if value != "" or not self._is_ours(name)}
        self.origins = dict.fromkeys(self.environ, "environment")
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self.values: dict[str, str] = {}
        self.address_faults: list[str] = []

    def get(self, name: str, parse: Callable[[str], T], default: str | None = None) -> T:
        """The value of *name*; where it cannot be read, a fault is noted and the default stands in."""
        fallback = default or self._table[name].default
        value = self.environ.get(name, fallback)
        self.values[name] = value
        self.origins.setdefault(name, "default")
        try:
            return parse(value)
        except ValueError as error:
            self.faults.append(f"{name} is '{value}' ({self.origins[name]}): {error}")
            if isinstance(error, PartlyRead):
                rest: T = error.rest
                return rest
            return parse(fallback)

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
                parsed = self._parse_dotenv(file, bool(given))
                for name, value in parsed.items():
                    if value and self._other_form(name) not in parsed:
                        found.pop(self._other_form(name), None)
                    found[name] = (value, file)
        real = set(self.environ)
        for name, (value, file) in found.items():
            if name in self._table and self._table[name].reader != MODULE:
                self.warnings.append(
                    f"{name} in {file} has no effect: it is read before any file is, so set it outside"
                )
            elif name not in real and self._other_form(name) not in real and (value != "" or not self._is_ours(name)):
                self.environ[name] = value
                self.origins[name] = file

    def _parse_dotenv(self, file: str, given: bool) -> dict[str, str]:
        """What *file* sets. What is wrong is a fault where it was *given*, a warning in what is no dotenv file."""
        from dotenv.parser import parse_stream

        values: dict[str, str] = {}
        wrong = []
        try:
            with open(file, encoding="utf-8-sig") as stream:
                for binding in parse_stream(stream):
                    if binding.error:
                        wrong.append(f"{file}, line {binding.original.line}: it must be NAME=VALUE, or a comment")
                    elif "\0" in binding.original.string:
                        wrong.append(f"{file}, line {binding.original.line}: it holds a NUL byte: is this UTF-8 text?")
                    elif binding.key is not None and binding.value is not None:
                        values[binding.key] = binding.value
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            wrong.append(f"{file} cannot be read: {reason}")
        if given or (values and "STARTUP_ENV" in self.environ):
            self.faults += wrong
        elif wrong:  # the app's own APP_ENV may mean nothing to us, and its file be something else
            self.warnings.append(f"{wrong[0]}; STARTUP_DOTENV=none, if it is no dotenv file")
        return values

    def read_secret(self, name: str) -> tuple[str, str]:
        """The value of NAME or the content of NAME_FILE, and which of the two it was."""
        file = self.environ.get(f"{name}_FILE")
        self.values[name], self.values[f"{name}_FILE"] = self.environ.get(name, ""), file or ""
        if file is None:
            return self.environ.get(name, ""), name
        if name in self.environ:
            self.faults.append(f"{name} and {name}_FILE are both set: keep one of them")
        import re

        if re.search(r"://|@|\s|password", file) and not os.path.isfile(file):  # an address: nothing of it is shown
            log.hide(file)
            log.hide(file.rpartition("@")[0].rpartition(":")[2])
            self.values[f"{name}_FILE"] = log.MASK
            self.faults.append(
                f"{name}_FILE must be the path of a file that holds the address, and what it is looks like an address "
                f"itself: put that into {name}"
            )
            return "", f"{name}_FILE"
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

    def read_definitions(self) -> dict[str, str]:
        """The tasks that STARTUP_TASK_<NAME> define."""
        definitions: dict[str, str] = {}
        variables: dict[str, str] = {}
        for variable in sorted(self.environ):
            name = normal(variable.removeprefix("STARTUP_TASK_"))
            if not variable.startswith("STARTUP_TASK_") or not name:
                continue
            import re

            if not re.fullmatch(WORD, name):
                self.faults.append(f"{variable} is no task's name: a name is made of letters, digits, - and _")
            elif name in variables:
                self.faults.append(f"{variables[name]} and {variable} define the same task, {name}: keep one of them")
            definitions[name], variables[name] = self.environ[variable], variable
        return definitions

    def _is_ours(self, name: str) -> bool:
        return name.startswith("STARTUP_") or name.removesuffix("_FILE") in self._secrets

    def _other_form(self, name: str) -> str:
        """DATABASE_URL for DATABASE_URL_FILE and the other way round; '' for what has one form alone."""
        if name in self._secrets:
            return f"{name}_FILE"
        return name.removesuffix("_FILE") if name.removesuffix("_FILE") in self._secrets else ""

    def warn_of_unknown(self, names: Collection[str]) -> None:
        """An unknown STARTUP_* name is most likely a misspelt one."""
        for name in sorted(self.environ):
            in_a_task = self.environ.keys() >= GIVEN_TO_TASKS
            given = in_a_task and name in GIVEN_TO_TASKS | GIVEN_TO_FAILED
            known = name in names or given or name.startswith("STARTUP_TASK_")
            if name.startswith("STARTUP_") and not known and not _is_service_link(name, self.environ):
                self.warnings.append(
                    f"{name} ({self.origins[name]}) is no setting: did you mean {_nearest(name, names)}?"
                )


def _is_service_link(name: str, environ: Mapping[str, str]) -> bool:
    """What Kubernetes and Docker's links set for a service called ``startup`` or ``startup-...``: none is a setting."""
    import re

    link = r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?|NAME|ENV_\w+)"
    services = (one.removesuffix("PORT") for one in environ if re.fullmatch(r"STARTUP_(\w+_)?PORT", one))
    found = [one for one in services if re.match(r"(tcp|udp|sctp)://", environ[f"{one}PORT"])]
    return any(name.startswith(one) and re.fullmatch(link, name.removeprefix(one)) for one in found)


def _nearest(name: str, names: Collection[str]) -> str:
    """The setting whose name is most like *name*; the prefix, which they share, is left out of it."""
    from difflib import SequenceMatcher

    own = name.removeprefix("STARTUP_").replace("_", "")
    if not own:
        return "STARTUP_TASKS"

    def likeness(known: str) -> tuple[bool, float]:
        other = known.removeprefix("STARTUP_").replace("_", "")
        return other.startswith(own), SequenceMatcher(None, own, other).ratio()

    return max((known for known in names if known.startswith("STARTUP_")), key=likeness)
