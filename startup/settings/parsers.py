"""How the values of settings are read: each parser raises ValueError in words that say what would be right."""

from __future__ import annotations

from collections.abc import Callable

from startup.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLICIES = ("always", "change", "release", "once", "local")
WORD = r"[A-Za-z0-9_-]+"
#: Seconds; a good three years. What is longer is meant to be no limit, and timers would not take it.
LONGEST = 1e8
REFERENCE = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"


@dataclass(frozen=True)
class Item:
    """A name on a list, with the policy that stands behind the @, if any."""

    name: str
    policy: str | None = None


def boolean(value: str) -> bool:
    """true|false|1|0|yes|no|on|off, nothing else."""
    if value in ("true", "1", "yes", "on"):
        return True
    if value in ("false", "0", "no", "off"):
        return False
    raise ValueError("it must be true, false, 1, 0, yes, no, on or off")


def seconds(value: str) -> float:
    """A number of seconds, fractions allowed, not negative."""
    digits = value.replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("it must be a number of seconds, such as 30 or 0.5 (0: no limit)")
    if float(value) > LONGEST:
        raise ValueError(f"it must be at most {LONGEST:.0f} seconds; 0 is no limit")
    return float(value)


def count(value: str) -> int:
    """A whole number, not negative."""
    if not (value.isascii() and value.isdigit() and len(value) <= 6):
        raise ValueError("it must be a whole number, such as 3 (0: none; 999999 at most)")
    return int(value)


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
    found = value.replace(",", " ").split()
    return [] if found == ["none"] else found


def normal(name: str) -> str:
    """Task names are lower case, ``-`` and ``_`` alike; a reference to a function is left as it is."""
    return name if ":" in name else name.lower().replace("-", "_")


class PartlyRead(ValueError):
    """What is wrong with a list, and what could be read of it, in which more may be wrong."""

    def __init__(self, wrong: str, rest: Any) -> None:
        super().__init__(wrong)
        self.rest = rest


def _is_task(name: str) -> bool:
    import re

    return bool(re.fullmatch(WORD, name) or re.fullmatch(REFERENCE, name))


def items(value: str) -> list[Item]:
    """A list of tasks: ``migrate insert_users@once``."""
    found: list[Item] = []
    wrong: list[str] = []
    for word in words(value):
        name, at, policy = word.partition("@")
        if not _is_task(name):
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
        raise PartlyRead("; ".join(wrong), found)
    return found


def text(value: str) -> str:
    """Any text."""
    return value


def label(value: str) -> str:
    """What databases keep of us: an index takes no longer one, and a text column no other encoding."""
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("it must be UTF-8 text") from None
    if length > 1000:
        raise ValueError(f"it must have 1000 bytes at most, not {length}")
    return value


def word(value: str) -> str:
    """One word, which may stand in a file's name."""
    import re

    if not re.fullmatch(r"[\w-][\w.-]*", value):
        raise ValueError("it must be a word, such as dev, test or prod")
    return value


def identifier(value: str) -> str:
    """A table's name, with its schema in front where that is meant."""
    parts = value.split(".")
    if len(parts) > 2 or not all(one.replace("_", "a").isalnum() and not one[0].isdecimal() for one in parts):
        raise ValueError("it must be a table's name, such as users or app.users")
    return value


def names(value: str) -> frozenset[str]:
    """A list of tasks, of which the names alone count."""
    try:
        return frozenset(item.name for item in items(value))
    except PartlyRead as error:
        raise PartlyRead(str(error), frozenset(item.name for item in error.rest)) from None
