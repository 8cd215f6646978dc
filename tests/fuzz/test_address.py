"""Addresses against libpq's own parser: what it understands we understand alike, and nothing secret is shown."""

from __future__ import annotations

import random
from collections.abc import Mapping
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from startup import log
from startup.settings.address import for_commands, parse

PIECES = ("a", "Z9", "%41", "%2F", "%C3%A9", "%", "%zz", *":@/?#&=[] +,'é", "")

ODD = "aZ9 /?#@:%&=+'\"\\é☃"


def text(rng: random.Random) -> str:
    return "".join(rng.choices(PIECES, weights=[9, 9, 3, 2, 2, *[1] * (len(PIECES) - 5)], k=rng.randrange(1, 5)))


def an_address(rng: random.Random) -> str:
    """With a marked password."""
    places = ["db", "127.0.0.1:5433", "[::1]:1", "%2Frun%2Fpg", ""]
    hosts = ",".join(rng.choices(places, k=rng.choice([1, 1, 2])))
    pairs = [f"sslmode={text(rng)}", "connect_timeout=3", "options=-c%20geqo%3Doff", f"sslpassword=Left7{text(rng)}"]
    query = "&".join(rng.choices(pairs, k=rng.choice([0, 0, 1, 2])))
    return f"postgresql://{text(rng)}:Left7{text(rng)}@{hosts}/{text(rng)}{'?' if query else ''}{query}"


def without_commas(conninfo: Mapping[str, object]) -> dict[str, str]:
    """Several hosts of which nothing is said are as good as none."""
    return {k: str(v) for k, v in conninfo.items() if str(v).strip("," if k in ("host", "port") else "")}


def test_an_address_is_understood_as_libpq_does_or_refused_unshown(rng: random.Random, cases: int) -> None:
    read, shown = 0, list[tuple[str, str]]()
    for _ in range(cases):
        url = an_address(rng)
        log._secrets.clear()
        try:
            address = parse(url)
        except ValueError as error:
            written = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
            shown.append((url, str(error) + log.redact(f"x {written} y")))
            continue
        assert "Left7" not in address.masked, url
        try:
            theirs = conninfo_to_dict(url)
        except (psycopg.ProgrammingError, UnicodeDecodeError):
            continue  # libpq says what is wrong
        assert without_commas(address.conninfo) == without_commas(theirs), url
        read += 1
    assert [url for url, words in shown if "Left7" in words] == []
    assert read > cases // 20, "too few were read to prove a thing"


def test_what_is_percent_encoded_is_read_back_exactly_and_given_to_commands(rng: random.Random, cases: int) -> None:
    for _ in range(cases):
        user, password, database = ("".join(rng.choices(ODD, k=rng.randrange(1, 9))) for _ in range(3))
        url = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@db/{quote(database, safe='')}?schema=s"
        address = parse(url)
        assert (address.conninfo["user"], address.conninfo["password"]) == (user, password)
        command, options = for_commands(url, address)
        assert conninfo_to_dict(command) == {"user": user, "password": password, "host": "db", "dbname": database}
        assert options == '-c search_path="s"'
