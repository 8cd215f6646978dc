"""The passwords that stand outside of a database's address: in what libpq reads, and in pings. Hidden from the log."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from startup import log
from startup.settings.address import SECRET, Address


def of_libpq(address: Address, environ: Mapping[str, str]) -> Iterator[str]:
    """PGPASSWORD, and what stands in password files and service files (PostgreSQL manual, 32.16 and 32.17)."""
    import re

    yield environ.get("PGPASSWORD", "")
    home = environ.get("HOME") or "/nonexistent"
    for line in _lines(address.conninfo.get("passfile") or environ.get("PGPASSFILE") or f"{home}/.pgpass"):
        fields = re.split(r"(?<!\\):", line, maxsplit=4)
        if len(fields) == 5:
            yield re.sub(r"\\(.)", r"\1", fields[4])
    user_file = environ.get("PGSERVICEFILE") or f"{home}/.pg_service.conf"
    for line in (
        *_lines(user_file),
        *_lines(f"{environ.get('PGSYSCONFDIR', '/etc/postgresql-common')}/pg_service.conf"),
    ):
        name, _, value = line.partition("=")
        if name.strip() in SECRET:
            yield value.strip()


def hide_in_pings(value: str) -> None:
    """The passwords of ``redis://`` addresses, also of such that cannot be read: those with a space or a slash."""
    if "@" not in value:
        return
    import re

    for user, colon, rest in re.findall(r"(?is)rediss?://([^:@]*)(:?)((?:(?!\s\w+://).)*)@", value):
        secret = rest if colon else user + rest
        log.hide(secret, user if colon else "")
        for word in secret.split() if " " in secret else ():
            log.hide(word)


def _lines(path: str) -> list[str]:
    try:
        if not os.path.isfile(path):  # a FIFO would be waited for
            return []
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
