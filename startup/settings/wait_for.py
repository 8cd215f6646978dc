"""The list of STARTUP_WAIT_FOR. Most boots have none, and do not load this."""

from __future__ import annotations

import re

from startup.log import MASK
from startup.ping import kinds
from startup.ping.attempt import Ping
from startup.settings.parsers import PartlyRead
from startup.settings.settings import DATABASE

#: Pings that mean nothing here, and why.
_REFUSED = {
    "auto": "auto looks at the app, which is started only afterwards",
    "none": "none empties the list, so it stands alone",
    "cmd:": "a command may hold spaces, which separate pings here: make it a task of STARTUP_PRE_START",
}
_ALLOWED = {scheme: kind for scheme, kind in kinds.KINDS.items() if scheme not in _REFUSED}
_COMMA = re.compile(rf",(?:$|{'|'.join(kinds.KINDS)}|{DATABASE}$)", re.IGNORECASE)


def parse(value: str) -> list[Ping | str]:
    """Pings and the word ``database``, each once; PartlyRead says what is wrong with the others."""
    found: dict[str, Ping | str] = {}
    wrong: list[str] = []
    command = False  # are these the words of one?
    for word in value.split():
        scheme = _scheme(word.lower())
        command = scheme == "cmd:" or (command and not scheme and word != DATABASE)
        if command and not scheme:
            continue
        try:
            found.setdefault(word, word if word == DATABASE else _ping(word, scheme))
        except ValueError as error:
            wrong.append(f"'{_shown(word, scheme)}': {error}" if "@" in value else f"'{word}': {error}")
    if wrong:
        raise PartlyRead("; ".join(wrong), list(found.values()))
    return list(found.values())


def _scheme(word: str) -> str:
    return next((one for one, kind in kinds.KINDS.items() if word == one or (kind.form and word.startswith(one))), "")


def _ping(word: str, scheme: str) -> Ping:
    if _COMMA.search(word):
        raise ValueError("spaces separate pings here, since a URL may hold a comma")
    if scheme in _REFUSED:
        raise ValueError(_REFUSED[scheme])
    if not scheme:
        forms = ", ".join(one + kind.form for one, kind in _ALLOWED.items())
        raise ValueError(f"right would be {forms}, or the word {DATABASE}")
    return kinds.parse(word, {})


def _shown(word: str, scheme: str) -> str:
    """What can be shown of a word that cannot be read: a password may be in it, or it be a part of one."""
    _, at, host = word.rpartition("@")
    if scheme and not scheme.startswith("redis") and not at:
        return word
    return f"{scheme}{MASK}{at}{host}" if at else f"{scheme}{MASK}"
